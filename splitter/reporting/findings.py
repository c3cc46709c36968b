"""What a plan, a calibration or a comparison says, in a sentence with its number: titles and conclusions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from statistics import fmean, median

from splitter.calibration.records import Calibration, CodecResult, TensorResult
from splitter.planning.budget import Budget
from splitter.planning.candidates import ON_DEVICE, ON_SERVER
from splitter.planning.records import Candidate, Latency, Plan
from splitter.planning.terms import Term
from splitter.planning.verify import Verification
from splitter.reporting.calibration import is_encoding
from splitter.reporting.text import listed
from splitter.reporting.tradeoff import SHOWN, TITLES
from splitter.reporting.units import rate, seconds, size
from splitter.serving.device.simulation import Comparison

NEAR = 0.10
"""A prediction this close, as a part of what was measured, is called right."""


def rivals_of(plan: Plan) -> list[Candidate]:
    """Those that can be carried out."""
    return [item for item in plan.baselines if item.feasible]


def best_split(plan: Plan) -> Candidate | None:
    """The planned cut where it is one, else the best of the alternatives that is; None where none is."""
    found = (plan.predicted, *plan.alternatives)
    return next((item for item in found if item.head_nodes and item.tail_nodes), None)


def plan_finding(plan: Plan) -> str:
    """The decision, and what it saves beside the next best kind of answer."""
    best, split = plan.predicted, best_split(plan)
    if plan.decision == "split":
        rival = min(rivals_of(plan), key=lambda item: item.total_s, default=None)
        words = f"Over {plan.link.name}, split after {_sent(best)}: {seconds(best.total_s)}"
        if rival is None:
            return f"{words}; nothing else is possible."
        return (
            f"{words}, {_less(best, rival)} than the better rival ({rival.name}, "
            f"{seconds(rival.total_s)})."
        )
    where = "run it all on the device" if plan.decision == "device" else "send the input"
    words = f"Over {plan.link.name}, do not split: {where}, {seconds(best.total_s)}"
    if split is None:
        return f"{words}."
    return f"{words}; the best split, after {_sent(split)}, would take {seconds(split.total_s)}."


def margin_finding(plan: Plan) -> str:
    """How close the next best plan is."""
    others = [item for item in plan.alternatives if item.total_s >= plan.predicted.total_s]
    if not others:
        return f"{_does(plan).capitalize()}: no other cut is possible."
    second = min(others, key=lambda item: item.total_s)
    longer = second.total_s / plan.predicted.total_s - 1
    return (
        f"The next best plan ({_sent(second)}) takes {longer:.1%} longer than the best "
        f"({_sent(plan.predicted)})"
    )


def crossing_finding(plan: Plan) -> str:
    """At how many places less crosses than the input is."""
    whole, *inner = (cut for cut in plan.order if cut.crossing)
    fewer = sum(cut.up_bytes < whole.up_bytes for cut in inner)
    return (
        f"{fewer} of the {len(inner)} cuts along the order send less than the input does "
        f"({size(whole.up_bytes)} as {whole.crossing[0].codec})"
    )


def links_finding(plans: Mapping[str, Plan]) -> str:
    """Over which links a split wins, and by how much over the better rival."""
    gains = {name: _gain(plan) for name, plan in plans.items() if plan.decision == "split"}
    words = f"A split is best over {len(gains)} of {len(plans)} links"
    if gains:
        words += f" ({_and([f'{name} by {gain:.0%}' for name, gain in gains.items()])})"
    others = [
        f"{title} over {_and(names)}"
        for title, kind in ((ON_DEVICE, "device"), (ON_SERVER, "server"))
        if (names := [name for name, plan in plans.items() if plan.decision == kind])
    ]
    return "; ".join([words, *others]) + "."


def bits_finding(calibration: Calibration, budget: Budget) -> str:
    """How many bits an element the tensors take within a budget; the model's inputs do not count."""
    inner = _inner(calibration)
    found = sorted((_bits(t, one), t.tensor) for t in inner if (one := budget.smallest(t)))
    if not found:
        return f"With {budget}, no tensor can be sent."
    lossless = [_bits(t, one) for t in inner if (one := _lossless(t))]
    (least, first), (most, last) = found[0], found[-1]
    return (
        f"With {budget}, tensors take {least:.2g} ({first}) to {most:.2g} ({last}) bits an element, "
        f"{median(bits for bits, _ in found):.2g} in the median of {len(found)}, in the place of 32; "
        f"without loss {min(lossless):.2g} to {max(lossless):.2g}."
    )


def sizes_finding(calibration: Calibration, budget: Budget) -> str:
    """What part of their bytes the tensors take, within a budget and without loss."""
    inner = _inner(calibration)
    kept = [one.wire_bytes / t.nbytes for t in inner if (one := budget.smallest(t))]
    lossless = [one.wire_bytes / t.nbytes for t in inner if (one := _lossless(t))]
    if not kept:
        return f"With {budget}, no tensor can be sent"
    return (
        f"With {budget}, tensors take {min(kept):.0%} to {max(kept):.0%} of their bytes; without loss "
        f"{min(lossless):.0%} to {max(lossless):.0%}"
    )


def codecs_finding(lossless: Plan, plan: Plan) -> str:
    """What lossy codecs are worth: the best plan without and with them."""
    before, after = lossless.predicted, plan.predicted
    saved = 1 - after.total_s / before.total_s
    answer = plan.calibration.answer if plan.calibration is not None else None
    words = (
        f"Over {plan.link.name}, codecs that lose something bring the best plan from "
        f"{seconds(before.total_s)} ({_does(lossless)}) to {seconds(after.total_s)} ({_does(plan)}), "
        f"{saved:.0%} less"
    )
    if saved < 0.005:
        words = (
            f"Over {plan.link.name}, codecs that lose something change nothing: {_does(plan)}, "
            f"{seconds(after.total_s)}"
        )
    if answer is None:
        return f"{words}."
    if answer.agreement is None:
        return f"{words}, at a relative error of {answer.error:.2g}."
    return f"{words}, with {answer.agreement:.1%} of {answer.samples} answers the whole model's."


def envelope_finding(plan: Plan) -> str:
    """How many cuts are best somewhere, and where the plan's own is."""
    assert plan.table is not None
    pieces = plan.table.up_bytes_per_s.pieces
    here = plan.table.up_bytes_per_s.at_value(plan.link.up_bytes_per_s)
    cuts = len({piece.cut for piece in pieces})
    if len(pieces) == 1:
        return f"One cut is best at every bandwidth: {_does(plan)}."
    ends = [f"from {rate(here.low)}"] if here.low else []
    ends += (
        [f"to {rate(here.high)}" if here.low else f"up to {rate(here.high)}"] if here.high else []
    )
    return (
        f"{cuts} cuts are best, each at some bandwidth; that of the plan ({_does(plan)}) "
        f"{' '.join(ends)}."
    )


def following_finding(found: Mapping[str, Comparison]) -> str:
    """What following the link costs over knowing it, beside the best that never switches."""
    rows = {name: each.over_oracle() for name, each in found.items()}
    session, fixed, device, server = (
        fmean(row[key] for row in rows.values()) for key in ("session", "fixed", "device", "server")
    )
    worst = max(rows, key=lambda name: rows[name]["session"])
    many = f"{len(rows)} traces" if len(rows) > 1 else worst
    most = f" ({rows[worst]['session'] - 1:.1%} on the worst, {worst})" if len(rows) > 1 else ""
    return (
        f"Over {many}, following the link takes {session - 1:.1%} more than an oracle{most}, "
        f"{abs(session / fixed - 1):.1%} {'less' if session < fixed else 'more'} than the best fixed cut in "
        f"hindsight; {ON_DEVICE} takes {device:.2f} times the oracle's, {ON_SERVER} {server:.2f}."
    )


def run_finding(found: Comparison) -> str:
    """One trace: requests, switches, and the mean beside the oracle's."""
    session = found.session
    return (
        f"{len(session.cuts)} requests, {session.switches} switches ({found.oracle.switches} by the "
        f"oracle): {seconds(session.mean_s)} in the mean, {seconds(found.oracle.mean_s)} by the oracle"
    )


def verification_finding(found: Verification) -> str:
    """How far heads and tails are from their prediction, and what the choice cost."""
    errors = [
        abs(predicted / measured - 1)
        for row in found.rows
        for predicted, measured in _parts(row.predicted, row.measured)
    ]
    right = sum(error <= NEAR for error in errors)
    words = (
        f"Of {len(errors)} heads and tails, {right} were predicted within {NEAR:.0%} (median "
        f"{median(errors):.1%}, worst {max(errors):.1%})"
    )
    if found.regret <= 0:
        return f"{words}; the planned cut was the fastest of {len(found.rows)} by the clock, too."
    return (
        f"{words}; by the clock, {found.best} was the fastest of {len(found.rows)} cuts, and the "
        f"planned one {found.regret:.1%} slower."
    )


def front_finding(plan: Plan) -> str:
    """How many plans are worth having, and what the last of them gains and costs beside the first."""
    assert plan.tradeoff is not None
    terms, plans = plan.tradeoff.terms, plan.tradeoff.candidates
    names = [TITLES.get(term, term.value) for term in terms]
    first, last = plans[0], plans[-1]
    if len(plans) == 1:
        return f"Over {plan.link.name}, {_sent(first)} is best in {_and(names)}: {_values(first, terms)}."
    return (
        f"Over {plan.link.name}, {len(plans)} plans are beaten by none in {_and(names)}: from "
        f"{_values(first, terms)} ({_sent(first)}) to {_values(last, terms)} ({_sent(last)})."
    )


def memory_finding(plans: Sequence[Plan]) -> str:
    """What plans with less and less of the device's memory cost in latency."""
    most, least = plans[0].predicted, plans[-1].predicted
    words = (
        f"Over {plans[0].link.name}, the best plan takes {seconds(most.total_s)} and "
        f"{size(most.memory_bytes[0])} of the device's memory ({_sent(most)})"
    )
    if len(plans) == 1:
        return f"{words}; none takes less memory."
    return (
        f"{words}; the best of those with the least, {size(least.memory_bytes[0])}, takes "
        f"{seconds(least.total_s)} ({_sent(least)}), {least.total_s / most.total_s:.2g} times as long."
    )


def _gain(plan: Plan) -> float:
    """Of the plan over its better rival, as a part of that."""
    rivals = [item.total_s for item in rivals_of(plan)]
    return 1 - plan.predicted.total_s / min(rivals) if rivals else 0.0


def _less(item: Candidate, rival: Candidate) -> str:
    return f"{1 - item.total_s / rival.total_s:.0%} less"


def _does(plan: Plan) -> str:
    words = {"device": ON_DEVICE, "server": ON_SERVER}
    return words.get(plan.decision, f"split after {_sent(plan.predicted)}")


def _sent(item: Candidate) -> str:
    """What a cut sends, and in what; a cut without a tail by its name."""
    if not item.head_nodes or not item.tail_nodes:
        return item.name if not item.crossing else f"{item.name} as {item.crossing[0].codec}"
    return listed([f"{one.tensor} as {one.codec}" for one in item.crossing])


def _parts(predicted: Latency, measured: Latency) -> list[tuple[float, float]]:
    """Heads and tails that there are."""
    pairs = [(predicted.head_s, measured.head_s), (predicted.tail_s, measured.tail_s)]
    return [pair for pair in pairs if pair[1] > 0]


def _values(item: Candidate, terms: Sequence[Term]) -> str:
    return _and([_value(term, item.terms.of(term)) for term in terms])


def _value(term: Term, value: float) -> str:
    """Money of one request is too little to be read."""
    return f"{1e6 * value:.3g} a million" if term is Term.MONEY else SHOWN[term](value)


def _bits(tensor: TensorResult, result: CodecResult) -> float:
    return 8 * result.wire_bytes / max(1, prod(tensor.shape))


def _lossless(tensor: TensorResult) -> CodecResult | None:
    found = (result for result in tensor.results if result.codec.is_lossless)
    return min(found, key=lambda result: result.wire_bytes, default=None)


def _inner(calibration: Calibration) -> list[TensorResult]:
    """Those that are no photos or sounds: not the model's inputs."""
    return [t for t in calibration.tensors if not any(is_encoding(r.codec) for r in t.results)]


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
