"""A plan over more than two tiers: its stages, and the same records that a plan of two has.

Its ``cut`` is the device's: the head is what runs there, the tail all the rest. Of several devices it is that
of all together: the head is what runs on any of them, and what crosses is what any of them sends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from splitter.errors import InfeasibleError, PlanError
from splitter.planning.candidates import ON_DEVICE, ON_SERVER, SPLIT, crossing_of, members_of
from splitter.planning.cuts import CrossingTensor, PlannedCut
from splitter.planning.layout import chain, side_by_side
from splitter.planning.limits import forbids
from splitter.planning.memory import memory_of
from splitter.planning.pins import tier_roles
from splitter.planning.placed import place
from splitter.planning.placement import Placement, faults, price_placement
from splitter.planning.records import Candidate, Problem, Stage
from splitter.planning.search import SolverChoice
from splitter.planning.terms import Term
from splitter.planning.work import Placed


def next_placements(
    problem: Problem, best: Placement, count: int, choice: SolverChoice
) -> list[Placement]:
    """Find the best placements after one, cheapest first; fewer where no more exist or time runs out."""
    excluded = [best]
    while len(excluded) <= count:
        try:
            found = place(problem, choice, excluded=excluded)
        except PlanError:  # every placement has been found, or the time ran out
            break
        if not found.proven:
            break
        excluded.append(found.best)
    return excluded[1:]


def stages_of(problem: Problem, placement: Placement) -> tuple[Stage, ...]:
    """What each tier in use does, from the device on; a device without a part still sends."""
    layout, work = placement.layout, placement.work
    roles = tier_roles(problem)
    found = []
    for place_, tier in enumerate(layout.tiers):
        nodes = {name for name, where in placement.place_of.items() if where == place_}
        found.append(
            Stage(
                tier=tier.name or roles[layout.numbers[place_]],
                role=roles[layout.numbers[place_]],
                nodes=members_of(problem, nodes),
                sends=_sends(problem, placement, place_),
                seconds=work.part_s[place_] + work.encode_s[place_] + work.decode_s[place_],
            )
        )
    return tuple(found)


def devices_cut(problem: Problem, placement: Placement) -> PlannedCut:
    """What runs on devices against all the rest."""
    devices = placement.layout.devices
    nodes = {name for name, where in placement.place_of.items() if where in devices}
    head = members_of(problem, nodes)
    everything = members_of(problem, problem.graph.node_of)
    sends = tuple(item for hop in devices for item in _sends(problem, placement, hop))
    return PlannedCut(crossing=sends, head=head, tail_nodes=len(everything) - len(head))


def placed_candidate(problem: Problem, placement: Placement, name: str = "") -> Candidate:
    """Record a placement: ``head_s`` is the device's part, ``tail_s`` the sum of all others.

    Of several devices, which work at the same time, seconds are those of the one that is last.
    """
    work, cut = placement.work, devices_cut(problem, placement)
    devices, total_s = placement.layout.devices, placement.terms.latency_s
    last = _last_device(placement)
    aside = [place_ for place_ in devices if place_ != last]
    encode_s = sum(work.encode_s) - sum(work.encode_s[k] for k in aside)
    decode_s = sum(work.decode_s)
    tail_s = sum(work.part_s[len(devices) :])
    return Candidate(
        name=name or _name(placement),
        crossing=cut.crossing,
        head_nodes=len(cut.head),
        tail_nodes=cut.tail_nodes,
        up_bytes=sum(work.up_bytes[: len(devices)]),
        down_bytes=sum(work.down_bytes[: len(devices)]),
        objective=placement.objective,
        head_s=work.part_s[last],
        encode_s=encode_s,
        link_s=max(total_s - work.part_s[last] - encode_s - decode_s - tail_s, 0.0),
        decode_s=decode_s,
        tail_s=tail_s,
        total_s=total_s,
        loss=work.loss,
        terms=placement.terms,
        memory_bytes=memory_of(problem, placement.layout, placement.place_of),
    )


def placed_title(placement: Placement) -> str:
    """A name for an alternative: what the device sends, and what the last tier is sent."""
    name = _name(placement)
    if name != SPLIT:
        return name
    hops: dict[int, list[str]] = {}
    for tensor, codecs in placement.sent.items():
        for hop in codecs:
            hops.setdefault(hop, []).append(tensor)
    return "; then ".join(", ".join(names) for _, names in sorted(hops.items())) or "no tensor"


def placed_baselines(problem: Problem) -> tuple[Candidate, ...]:
    """All on the device, and the inputs sent to the server, over the relays' links.

    Of several devices only the latter, as no one has all inputs. One that cannot be carried out is left out.
    """
    if problem.sources:
        return _all_sent(problem)
    last = len(problem.tiers) - 1
    found = []
    for name, numbers in ((ON_DEVICE, (0,)), (ON_SERVER, (0, last))):
        layout = chain(problem, numbers)
        places = dict.fromkeys(problem.graph.node_of, len(numbers) - 1)
        if any(_unsupported(problem, numbers[-1])):
            continue
        try:
            priced = price_placement(problem, layout, places)
        except InfeasibleError:
            continue
        if not faults(problem, priced):
            found.append(placed_candidate(problem, priced, name))
    return tuple(found)


def _all_sent(problem: Problem) -> tuple[Candidate, ...]:
    layout = side_by_side(problem)
    places = dict.fromkeys(problem.graph.node_of, len(layout.tiers) - 1)
    try:
        priced = price_placement(problem, layout, places)
    except (InfeasibleError, PlanError):  # a limit, or an input that cannot travel
        return ()
    if forbids(problem, Placed(problem, layout, places)) or faults(problem, priced):
        return ()
    return (placed_candidate(problem, priced, ON_SERVER),)


def _last_device(placement: Placement) -> int:
    """The device whose part of the answer is there last; the first where none waits for another."""
    layout, loads = placement.layout, placement.work.loads
    if not layout.is_star:
        return 0
    each = [form.at(loads) for form in layout.forms(Term.LATENCY)]
    return each.index(max(each))


def _unsupported(problem: Problem, number: int) -> Iterable[str]:
    return problem.tiers[number].unsupported


def _name(placement: Placement) -> str:
    places = set(placement.place_of.values())
    if places <= set(placement.layout.devices):
        return ON_DEVICE
    return ON_SERVER if places == {len(placement.layout.tiers) - 1} else SPLIT


def _sends(problem: Problem, placement: Placement, hop: int) -> tuple[CrossingTensor, ...]:
    return tuple(_sent(problem, placement, hop))


def _sent(problem: Problem, placement: Placement, hop: int) -> Iterator[CrossingTensor]:
    for tensor, codecs in placement.sent.items():
        if hop in codecs:
            yield crossing_of(problem, tensor, codecs[hop])
