"""A plan in a few sentences: where it is cut, what that buys, why, and when another plan is better."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from splitter.planning.cuts import CrossingTensor
from splitter.planning.records import Candidate, Plan, Range
from splitter.planning.table import Pieces
from splitter.reporting.reasons import value_of
from splitter.reporting.text import elided, listed
from splitter.reporting.units import rate, seconds, size

WIDEST = 48
"""Characters of a name in a sentence."""
WHAT = {
    "head": "on the device",
    "encode": "encoding",
    "link": "on the link",
    "decode": "decoding",
    "tail": "on the server",
}


@dataclass(frozen=True)
class Headline:
    """The answer, and what stands behind it: a title and a sentence or two for each question."""

    title: str
    lines: tuple[tuple[str, str], ...]
    """Pairs of a question (``Where``, ``What it buys``, ``Why``, ``Until when``) and its answer."""


def headline(plan: Plan) -> Headline:
    """Say it for somebody who has never seen the project."""
    lines = [("Where", _where(plan)), ("What it buys", _buys(plan))]
    why = " ".join(_against(plan, rival) for rival in _rivals(plan))
    if why:
        lines.append(("Why", why))
    lines.append(("Until when", " ".join(_until(plan))))
    return Headline(_title(plan), tuple(lines))


def short(name: str) -> str:
    """A name that fits into a sentence."""
    return elided(name, WIDEST)


def _title(plan: Plan) -> str:
    if plan.solver.name == "none":
        return f"A cut at {_names(plan.cut.crossing)}, priced and not chosen"
    if plan.decision == "device":
        return "Do not split: run it all on the device"
    if plan.decision == "server":
        return "Do not split: send the input to the server"
    if not plan.cut.crossing:
        return "Split, with nothing to send"
    return f"Split after {_names(plan.cut.crossing)}{_operator(plan)}"


def _operator(plan: Plan) -> str:
    """What makes the one tensor that is sent: its name alone may say nothing."""
    if plan.graph is None or len(plan.cut.crossing) != 1:
        return ""
    sent = plan.cut.crossing[0].tensor
    makers = (node.op_type for node in plan.graph.nodes if sent in node.makes)
    return "".join(f" ({elided(maker, WIDEST)})" for maker in makers)


def _names(crossing: Sequence[CrossingTensor]) -> str:
    return listed([short(item.tensor) for item in crossing])


def _where(plan: Plan) -> str:
    best = plan.predicted
    device, server = f"the device, {plan.device.name},", f"the server, {plan.server.name},"
    if plan.stages:
        parts = [
            f"the {stage.role}, {stage.tier}, runs {len(stage.nodes)} nodes"
            + (f" and sends {_sent(stage.sends)}" if stage.sends else "")
            for stage in plan.stages
        ]
        return _capital(f"{'; '.join(parts)}.")
    if not best.tail_nodes:
        sent = (
            f"{_sent(best.crossing)} goes to {plan.server.name}"
            if best.crossing
            else "nothing is sent"
        )
        return f"All {best.head_nodes} nodes run on {device} and {sent}."
    sent = f"{_sent(best.crossing)} over {plan.link.name}"
    if not best.head_nodes:
        return f"{_capital(device)} sends {sent}; {server} runs all {best.tail_nodes} nodes."
    nodes = best.head_nodes + best.tail_nodes
    return (
        f"{_capital(device)} runs {best.head_nodes} of the {nodes} nodes and sends {sent}; "
        f"{server} runs the other {best.tail_nodes}."
    )


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _sent(crossing: Sequence[CrossingTensor]) -> str:
    if not crossing:
        return "nothing but the request"
    raw, wire = sum(i.nbytes for i in crossing), sum(i.wire_bytes for i in crossing)
    codecs = _codecs(crossing)
    if raw == wire:
        return f"{_names(crossing)}, {size(raw)} ({codecs})"
    return f"{_names(crossing)}, {size(raw)} that travel as {size(wire)} ({codecs})"


def _codecs(crossing: Sequence[CrossingTensor], word: str = "") -> str:
    names = dict.fromkeys(item.codec for item in crossing)
    return listed(["uncompressed" if name == "raw" else f"{word}{name}" for name in names])


def _buys(plan: Plan) -> str:
    best = plan.predicted
    text = f"One request takes {seconds(best.total_s)}, as predicted"
    parts = [_compared(best, rival) for rival in _rivals(plan)]
    text += f": {' and '.join(parts)}." if parts else "."
    closest = _closest_split(plan)
    if plan.decision != "split" and plan.solver.name != "none":
        text += " That is a good answer"
        if closest is not None:
            more = value_of(closest.objective - best.objective, plan.objective)
            text += (
                f": the best true split, after {_names(closest.crossing)}, would cost {more} more"
            )
        text += "."
    if plan.objective.unit != "s" or plan.bytes_weight:
        text += f" What is minimised is {plan.objective}"
        text += f", and {plan.bytes_weight:g} for each byte sent." if plan.bytes_weight else "."
    return text


def _compared(best: Candidate, rival: Candidate) -> str:
    name = f"{short(rival.name)} ({seconds(rival.total_s)})"
    if not rival.total_s or abs(best.total_s - rival.total_s) <= 5e-4 * rival.total_s:
        return f"as long as {name}"
    part = best.total_s / rival.total_s
    return f"{abs(1 - part):.0%} {'less' if part < 1 else 'more'} than {name}"


def _closest_split(plan: Plan) -> Candidate | None:
    splits = (item for item in plan.alternatives if item.head_nodes and item.tail_nodes)
    return min(splits, key=lambda item: item.objective, default=None)


def _rivals(plan: Plan) -> list[Candidate]:
    best = plan.predicted
    return [item for item in plan.baselines if item.feasible and item.name != best.name]


def _against(plan: Plan, rival: Candidate) -> str:
    """What the plan saves and pays in the rival's stead, the largest first."""
    saves: list[tuple[float, str]] = []
    pays: list[tuple[float, str]] = []
    for term, what in WHAT.items():
        more = getattr(rival, f"{term}_s") - getattr(plan.predicted, f"{term}_s")
        if abs(more) >= 0.02 * plan.predicted.total_s:
            (saves if more > 0 else pays).append((abs(more), f"{seconds(abs(more))} {what}"))
    saved, paid = (
        " and ".join(text for _, text in sorted(x, reverse=True)[:2]) for x in (saves, pays)
    )
    name = "running it all on the device" if not rival.tail_nodes else "sending the input"
    if saved and paid:
        return f"Against {name} it saves {saved}, and pays {paid}."
    return f"Against {name} it {'saves ' + saved if saved else 'pays ' + (paid or 'nothing')}."


def _until(plan: Plan) -> Iterator[str]:
    if plan.validity is None:
        yield "How far it holds is not known" + (
            f": {plan.reasons.note}." if plan.reasons and plan.reasons.note else "."
        )
        return
    yield _bandwidth(plan, plan.validity.up_bytes_per_s)
    for title, found, unit in (
        ("the round trip", plan.validity.rtt_s, seconds),
        ("the server's slowdown", plan.validity.server_slowdown, lambda x: f"{x:.3g}x"),
    ):
        ends = _ends(found, unit)
        if ends:
            yield f"It also stays best while {title} is {ends} (now {unit(found.at)})."


def _bandwidth(plan: Plan, found: Range) -> str:
    ends = _ends(found, rate)
    if not ends:
        return f"No bandwidth changes it (now {rate(found.at)} up)."
    text = f"It stays best while the uplink is {ends} (now {rate(found.at)})."
    pieces = plan.table.up_bytes_per_s if plan.table else None
    for value, word, is_above in ((found.low, "Below", False), (found.high, "Above", True)):
        if value is not None:
            after = _beyond(plan, pieces, found.at, is_above=is_above)
            text += f" {word} {rate(value)}, {after}." if after else ""
    return text


def _ends(found: Range, unit: Callable[[float], str]) -> str:
    if found.low is not None and found.high is not None:
        return f"between {unit(found.low)} and {unit(found.high)}"
    if found.low is not None:
        return f"above {unit(found.low)}"
    return f"below {unit(found.high)}" if found.high is not None else ""


def _beyond(plan: Plan, pieces: Pieces | None, at: float, *, is_above: bool) -> str:
    """What is better there, where the plan knows: from its table, or from its reasons."""
    if pieces is not None and plan.table is not None:
        index = pieces.pieces.index(pieces.at_value(at)) + (1 if is_above else -1)
        if 0 <= index < len(pieces.pieces):
            cut = plan.table.cuts[pieces.pieces[index].cut]
            if cut.cut.head == plan.cut.head:
                return f"the same cut, sent {_codecs(cut.cut.crossing, 'as ')}, is better"
            return f"{_does(cut.name)} is better"
    for item in plan.reasons.sensitivities if plan.reasons else ():
        name = item.above if is_above else item.below
        if item.name == "uplink" and name:
            return f"{_does(name)} is better"
    return "another plan is better"


def _does(name: str) -> str:
    known = {
        "all on the device": "running it all on the device",
        "input sent to the server": "sending the input to the server",
    }
    if name in known:
        return known[name]
    return short(name) if name.startswith("this cut") else f"a cut after {short(name)}"
