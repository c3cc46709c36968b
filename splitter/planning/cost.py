"""The one definition of the objective: planner, baselines, alternatives and tests all price with it.

For a head H (a closed set of nodes), its tail and the tensors X that cross::

    head_s    base_s + sum node_s + sum over X of crossing_s, on the device     (0 where H is empty)
    encode_s  sum over X of the codec's seconds on the device
    link_s    wire bytes of X / up + one round trip + bytes of outputs made in the tail / down
    decode_s  sum over X of the codec's seconds on the server
    tail_s    as head_s, on the server

``work`` adds these up, and ``layout`` makes the terms of them: latency, the bottleneck of a stream, energy
and money. The objective is a weighted sum of terms, and ``bytes_weight`` for each byte.

With an empty tail everything but ``head_s`` is 0. A tail that reads nothing still pays the round trip.
The losses of what crosses add up, and never exceed the problem's limit where the codecs are chosen here.
A tensor crosses once, whatever the number of its readers; a model input that the tail reads crosses too.
Outputs come back uncompressed; one whose size is not known counts 0 bytes, and a model output that is
itself an input costs nothing. Seconds are additive and never clamped, so that the solver and this module
always agree on the sum, also for a caller whose ``node_s`` is negative somewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from splitter.errors import InfeasibleError, PlanError
from splitter.graph.cut import Cut, cut_of
from splitter.graph.values import Node
from splitter.planning.knapsack import Allowance, Front, cheapest
from splitter.planning.layout import Layout, Loads, Target, two_tiers
from splitter.planning.records import CodecCost, Latency, Problem
from splitter.planning.terms import Terms
from splitter.planning.ways import Way, bounds_of, choose, exceeded, keeps
from splitter.planning.work import Placed, Work, returned_bytes


@dataclass(frozen=True)
class Price:
    """What a cut costs, with the codec of each crossing tensor."""

    cut: Cut
    codecs: Mapping[str, CodecCost]
    latency: Latency
    up_bytes: int
    down_bytes: int
    objective: float
    loss: float
    """Of its codecs, added up."""
    terms: Terms = Terms()

    @property
    def head(self) -> frozenset[str]:
        """The nodes on the device."""
        return self.cut.head

    @property
    def identity(self) -> tuple[frozenset[str], frozenset[tuple[str, str]]]:
        """What tells plans apart: the head, and the codecs by name."""
        return self.head, frozenset((name, codec.codec) for name, codec in self.codecs.items())


def price(
    problem: Problem, head: Collection[str], codecs: Mapping[str, CodecCost] | None = None
) -> Price:
    """Price a cut, in the best codecs that the limits allow unless they are given.

    Raises
    ------
    CutError
        The head is not closed.
    PlanError
        A tensor that crosses has no codec.
    InfeasibleError
        No codecs of what crosses keep the loss, or a term, within its limit.
    """
    layout = two_tiers(problem)
    placed = placed_at(problem, layout, head)

    def work_of(chosen: Mapping[str, CodecCost]) -> Work:
        return placed.work({tensor: {0: chosen[tensor]} for tensor in placed.crossing})

    if codecs is None:
        codecs = Choosing(problem).best(placed.crossing, lambda chosen: work_of(chosen).loads)
    work = work_of(codecs)
    loads = work.loads
    terms = layout.terms(loads)
    return Price(
        Cut(frozenset(head), tuple(placed.crossing)),
        codecs,
        latency_of(problem, work, terms.latency_s),
        work.up_bytes[0],
        work.down_bytes[0],
        target_of(problem, layout).at(loads),
        work.loss,
        terms,
    )


def latency(
    problem: Problem, head: Collection[str], codecs: Mapping[str, CodecCost] | None = None
) -> Latency:
    """Predict one request, term by term; raises as ``price`` does."""
    return price(problem, head, codecs).latency


def objective(
    problem: Problem, head: Collection[str], codecs: Mapping[str, CodecCost] | None = None
) -> float:
    """What is minimised, bytes included at their weight; raises as ``price`` does."""
    return price(problem, head, codecs).objective


def placed_at(problem: Problem, layout: Layout, head: Collection[str]) -> Placed:
    """Place a head on the device and the rest on the server; raises CutError where it is not closed."""
    cut = cut_of(problem.graph, head)
    places = {node.name: int(node.name not in cut.head) for node in problem.graph.nodes}
    return Placed(problem, layout, places)


def target_of(problem: Problem, layout: Layout) -> Target:
    """What is minimised, by loads; raises PlanError where the objective needs what is not known."""
    for term in problem.objective.weights:
        if not layout.forms(term):
            Terms().of(term)  # says what is missing
    return layout.target(problem.objective, problem.bytes_weight)


def best_codecs(problem: Problem, crossing: Iterable[str]) -> dict[str, CodecCost]:
    """Choose the cheapest codecs of tensors that cross together, exactly, within the accuracy budget.

    At equal cost a tensor takes the codec of less loss, then the one listed first. The other limits, and
    an objective that is no plain sum, need the whole cut: see ``price``.

    Raises
    ------
    PlanError
        A tensor cannot travel: it has no codec.
    InfeasibleError
        One tensor, or all of them together, lose more than is allowed in any codec; the message names them.
    """
    allowance = Allowance.of(problem)
    return _cheapest(problem, fronts_of(problem, crossing, allowance), allowance)


def fronts_of(problem: Problem, tensors: Iterable[str], allowance: Allowance) -> dict[str, Front]:
    """Give the ways of sending each tensor worth having; none where it may not cross."""
    linear = target_of(problem, two_tiers(problem)).linear
    encode, decode, up = *linear.busy_s, linear.up[0]
    return {
        tensor: allowance.front(
            tensor,
            [
                (encode * c.encode_s + c.wire_bytes * up + decode * c.decode_s, c)
                for c in problem.codecs.get(tensor, ())
            ],
        )
        for tensor in tensors
    }


def returning(problem: Problem, node: Node, weight: float) -> float:
    """What the outputs of a node add to the objective where it runs on the server, at a weight a byte."""
    return returned_bytes(problem, node) * weight


class Choosing:
    """Codecs of what crosses together, by all that they share; what it works out once serves many cuts."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.layout = problem, two_tiers(problem)
        self.target = target_of(problem, self.layout)
        self.bounds = bounds_of(self.layout, problem.limits)
        self.allowance = Allowance.of(problem)
        self._fronts: dict[str, Front] = {}

    def best(
        self, crossing: Iterable[str], loads_of: Callable[[Mapping[str, CodecCost]], Loads]
    ) -> Mapping[str, CodecCost]:
        """Choose by the loads of the whole cut; raises as ``price`` does."""
        chosen = self.within_budget(crossing)
        if not self.target.largest and (not self.bounds or keeps(loads_of(chosen), self.bounds)):
            return chosen
        free = CodecCost(codec="", wire_bytes=0, encode_s=0.0, decode_s=0.0)
        start = loads_of(dict.fromkeys(chosen, free))
        if not chosen:
            if keeps(start, self.bounds):
                return {}
            raise InfeasibleError(exceeded(start, self.bounds))
        ways = {tensor: _ways(self.problem, tensor) for tensor in chosen}
        found = choose(ways, start, (self.target, self.bounds, self.allowance))
        if found is None:
            raise InfeasibleError("no codecs of what crosses keep every limit")
        return {tensor: way.codecs[0] for tensor, way in found.items()}

    def within_budget(self, crossing: Iterable[str]) -> dict[str, CodecCost]:
        """Choose by cost and loss alone, as ``best_codecs`` does."""
        return _cheapest(self.problem, self.fronts(crossing), self.allowance)

    def fronts(self, tensors: Iterable[str]) -> dict[str, Front]:
        """Give the ways of sending each that are worth having, as ``fronts_of`` does."""
        names = list(tensors)
        new = [tensor for tensor in names if tensor not in self._fronts]
        if new:
            self._fronts |= fronts_of(self.problem, new, self.allowance)
        return {name: self._fronts[name] for name in names}


def _cheapest(
    problem: Problem, fronts: Mapping[str, Front], allowance: Allowance
) -> dict[str, CodecCost]:
    for tensor, ways in fronts.items():
        if not problem.codecs.get(tensor):
            raise PlanError(f"tensor {tensor!r} cannot travel: it has no codec; cut elsewhere")
        if not ways:
            raise InfeasibleError(f"tensor {tensor!r} cannot travel within the loss allowed")
    chosen = cheapest(fronts, allowance)
    if chosen is None:
        names = ", ".join(repr(tensor) for tensor in fronts)
        raise InfeasibleError(f"tensors {names} cannot travel together within the loss allowed")
    return {tensor: option.codec for tensor, option in chosen.items()}


def _ways(problem: Problem, tensor: str) -> list[Way]:
    return [
        Way((c.encode_s, c.decode_s, c.wire_bytes, 0.0, 0.0), (c.loss,), {0: c})
        for c in problem.codecs[tensor]
    ]


def latency_of(problem: Problem, work: Work, total_s: float) -> Latency:
    """Split the latency of a cut into its terms, whose sum the caller knows."""
    link = (problem.link, *problem.via)
    up, down = work.up_bytes[0], work.down_bytes[0]
    return Latency(
        head_s=work.part_s[0],
        encode_s=work.encode_s[0],
        link_s=sum(hop.transfer_s(up, down) for hop in link) if work.used[0] else 0.0,
        decode_s=work.decode_s[1],
        tail_s=work.part_s[1],
        total_s=total_s,
    )
