"""Placements on a layout, priced: of three tiers, of several devices, and of two where limits are shared."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from splitter.errors import InfeasibleError, PlanError
from splitter.planning.cost import target_of
from splitter.planning.knapsack import Allowance
from splitter.planning.layout import Form, Layout, Loads, Target
from splitter.planning.memory import memory_of
from splitter.planning.records import CodecCost, Problem
from splitter.planning.terms import Terms
from splitter.planning.ways import Way, allowed, bounds_of, choose, exceeded, keeps
from splitter.planning.work import Placed, Sent, Work

Bound = tuple[Form, float, str]

MEMORY = ("device_memory_bytes", "server_memory_bytes")
"""Limits of memory."""


@dataclass(frozen=True)
class Placement:
    """Where each node runs, how each tensor crosses each hop, and what that costs."""

    layout: Layout
    place_of: Mapping[str, int]
    """By node: an index of the layout's tiers."""
    sent: Sent
    work: Work
    terms: Terms
    objective: float

    @property
    def head(self) -> frozenset[str]:
        """The nodes that do not run on the last tier."""
        last = len(self.layout.tiers) - 1
        return frozenset(name for name, place in self.place_of.items() if place < last)

    @property
    def tier_of(self) -> Mapping[str, int]:
        """By node: a number of ``Problem.tiers``, or of the devices and the server."""
        return {name: self.layout.numbers[place] for name, place in self.place_of.items()}


def price_placement(
    problem: Problem, layout: Layout, place_of: Mapping[str, int], sent: Sent | None = None
) -> Placement:
    """Price a placement, in the best codecs that the limits allow unless they are given.

    Raises
    ------
    InfeasibleError
        No codecs of what crosses keep the loss, or a term, within its limit.
    PlanError
        A tensor goes back to an earlier tier, or has no codec.
    """
    _demand_forward(problem, layout, place_of)
    placed = Placed(problem, layout, place_of)
    chosen = best_ways(placed) if sent is None else sent
    work = placed.work(chosen)
    loads = work.loads
    objective = target_of(problem, layout).at(loads)
    return Placement(layout, place_of, chosen, work, layout.terms(loads), objective)


def best_ways(placed: Placed) -> Sent:
    """Choose the codecs of all hops by everything that they share."""
    problem, layout = placed.problem, placed.layout
    bounds, allowance = bounds_of(layout, problem.limits), Allowance.of(problem)
    free = CodecCost(codec="", wire_bytes=0, encode_s=0.0, decode_s=0.0)
    nothing = {tensor: dict.fromkeys(hops, free) for tensor, hops in placed.crossing.items()}
    start = placed.work(nothing).loads
    ways = {}
    for tensor, hops in placed.crossing.items():
        if not problem.codecs.get(tensor):
            raise PlanError(f"tensor {tensor!r} cannot travel: it has no codec; cut elsewhere")
        options = product(problem.codecs[tensor], repeat=len(hops))
        mine = [_way(placed, tensor, dict(zip(hops, option, strict=True))) for option in options]
        base = _way(placed, tensor, nothing[tensor]).added
        ways[tensor] = [
            Way(tuple(a - b for a, b in zip(w.added, base, strict=True)), w.losses, w.codecs)
            for w in mine
        ]
    if not ways and not keeps(start, bounds):
        raise InfeasibleError(exceeded(start, bounds))
    target = target_of(problem, layout)
    cheap = {tensor: min(some, key=lambda way: _cost(target, way)) for tensor, some in ways.items()}
    if not target.largest and _is_allowed(placed, cheap, bounds):
        return {tensor: way.codecs for tensor, way in cheap.items()}
    found = choose(ways, start, (target, bounds, allowance))
    if found is None:
        raise InfeasibleError("no codecs of what crosses keep every limit")
    return {tensor: way.codecs for tensor, way in found.items()}


def faults(problem: Problem, placement: Placement) -> list[str]:
    """Limits of numbers that a placement breaks, by the fields of ``Limits``; ``loss_limit`` for accuracy."""
    loads = placement.work.loads
    bounds = bounds_of(placement.layout, problem.limits)
    found = [name for form, value, name in bounds if form.at(loads) > allowed(value)]
    if not _keeps_budget(problem, placement.sent, placement.work.loss):
        found.append("loss_limit")
    wanted = [name for name in MEMORY if getattr(problem.limits, name) is not None]
    if wanted:
        taken = memory_of(problem, placement.layout, placement.place_of)
        for name in wanted:
            tiers = remembering(problem, placement.layout, name)
            if any(taken[place] > getattr(problem.limits, name) for place in tiers):
                found.append(name)
    return list(dict.fromkeys(found))


def remembering(problem: Problem, layout: Layout, name: str) -> Sequence[int]:
    """Places of a layout whose memory a limit bounds: every device, or the server where it is used."""
    if name == "device_memory_bytes":
        return layout.devices
    server = 1 + len(problem.relays) + len(problem.sources)
    return [place for place, number in enumerate(layout.numbers) if number == server]


def quantity(problem: Problem, placement: Placement, name: str) -> float:
    """What a limit bounds: a field of ``Limits``, or ``loss_limit``."""
    if name == "loss_limit":
        return placement.work.loss
    if name in MEMORY:
        taken = memory_of(problem, placement.layout, placement.place_of)
        places = remembering(problem, placement.layout, name)
        return max((taken[place] for place in places), default=0)
    loads = placement.work.loads
    return max(form.at(loads) for form in placement.layout.forms(name))


def _keeps_budget(problem: Problem, sent: Sent, loss: float) -> bool:
    allowance = Allowance.of(problem)
    worst = {tensor: max(c.loss for c in codecs.values()) for tensor, codecs in sent.items()}
    return loss <= allowance.limit and not any(
        all(worst.get(tensor, -1.0) >= least for tensor, least in combination.items())
        for combination in allowance.combinations
    )


def _cost(target: Target, way: Way) -> tuple[float, float]:
    weights = target.linear.weights
    return sum(w * a for w, a in zip(weights, way.added, strict=True)), way.loss


def _is_allowed(placed: Placed, ways: Mapping[str, Way], bounds: Sequence[Bound]) -> bool:
    sent = {tensor: way.codecs for tensor, way in ways.items()}
    work = placed.work(sent)
    return keeps(work.loads, bounds) and _keeps_budget(placed.problem, sent, work.loss)


def _way(placed: Placed, tensor: str, codecs: Mapping[int, CodecCost]) -> Way:
    tiers, hops = len(placed.layout.tiers), len(placed.layout.hops)
    busy, up, losses = [0.0] * tiers, [0.0] * hops, []
    for step in placed.steps(tensor, codecs):
        busy[step.hop] += step.encode_s + step.sender_s
        busy[step.receiver] += step.decode_s + step.receiver_s
        up[step.hop] += step.choice.wire_bytes
        losses.append(step.loss)
    nothing = [0.0] * hops
    return Way(Loads(busy, up, nothing, nothing).values, tuple(losses), codecs)


def _demand_forward(problem: Problem, layout: Layout, place_of: Mapping[str, int]) -> None:
    for node in problem.graph.nodes:
        for name in node.inputs:
            producer = problem.graph.producer_of.get(name)
            if producer is None:
                continue
            made, read = place_of[producer.name], place_of[node.name]
            sideways = layout.is_star and made != read and read < len(layout.tiers) - 1
            if made > read or sideways:
                raise PlanError(f"node {node.name!r} reads {name!r}, which no earlier tier makes")


def places_of_head(problem: Problem, head: Collection[str]) -> dict[str, int]:
    """On two tiers."""
    return {name: int(name not in head) for name in problem.graph.node_of}
