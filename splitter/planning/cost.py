"""The one definition of the objective: planner, baselines, alternatives and tests all price with it.

For a head H (a closed set of nodes), its tail and the tensors X that cross::

    head_s    base_s + sum node_s + sum over X of crossing_s, on the device     (0 where H is empty)
    encode_s  sum over X of the codec's seconds on the device
    link_s    wire bytes of X / up + one round trip + bytes of outputs made in the tail / down
    decode_s  sum over X of the codec's seconds on the server
    tail_s    as head_s, on the server
    objective = total_s + bytes_weight * (bytes up + bytes down)

With an empty tail everything but ``head_s`` is 0. A tail that reads nothing still pays the round trip.
The losses of what crosses add up, and never exceed the problem's limit where the codecs are chosen here.
A tensor crosses once, whatever the number of its readers; a model input that the tail reads crosses too.
Outputs come back uncompressed; one whose size is not known counts 0 bytes, and a model output that is
itself an input costs nothing. Seconds are additive and never clamped, so that the solver and this module
always agree on the sum, also for a caller whose ``node_s`` is negative somewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from splitter.errors import InfeasibleError, PlanError
from splitter.graph.cut import Cut, cut_of
from splitter.graph.values import Graph, Node
from splitter.planning.knapsack import Allowance, Front, cheapest
from splitter.planning.records import CodecCost, Latency, Problem, TierCost


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
    """Price a cut, in the cheapest codecs that the accuracy budget allows unless they are given.

    Raises
    ------
    CutError
        The head is not closed.
    PlanError
        A tensor that crosses has no codec.
    InfeasibleError
        No codecs of what crosses keep the loss within its limit.
    """
    cut = cut_of(problem.graph, head)
    inside = [node.name for node in problem.graph.nodes if node.name in cut.head]
    tail = [node for node in problem.graph.nodes if node.name not in cut.head]
    chosen = best_codecs(problem, cut.crossing) if codecs is None else codecs
    sent = [chosen[tensor] for tensor in cut.crossing]
    up = sum(choice.wire_bytes for choice in sent)
    down = sum(returned_bytes(problem.graph, node) for node in tail)
    latency = Latency.of(
        head_s=_part_s(problem.device, inside, cut.crossing),
        encode_s=sum(choice.encode_s for choice in sent),
        link_s=problem.link.transfer_s(up, down) if tail else 0.0,
        decode_s=sum(choice.decode_s for choice in sent),
        tail_s=_part_s(problem.server, [node.name for node in tail], cut.crossing),
    )
    total = latency.total_s + problem.bytes_weight * (up + down)
    return Price(cut, chosen, latency, up, down, total, sum(choice.loss for choice in sent))


def latency(
    problem: Problem, head: Collection[str], codecs: Mapping[str, CodecCost] | None = None
) -> Latency:
    """Predict one request, term by term; raises as ``price`` does."""
    return price(problem, head, codecs).latency


def objective(
    problem: Problem, head: Collection[str], codecs: Mapping[str, CodecCost] | None = None
) -> float:
    """Seconds, bytes included at their weight; raises as ``price`` does."""
    return price(problem, head, codecs).objective


def best_codecs(problem: Problem, crossing: Iterable[str]) -> dict[str, CodecCost]:
    """Choose the cheapest codecs of tensors that cross together, exactly.

    At equal cost a tensor takes the codec of less loss, then the one listed first.

    Raises
    ------
    PlanError
        A tensor cannot travel: it has no codec.
    InfeasibleError
        One tensor, or all of them together, lose more than is allowed in any codec; the message names them.
    """
    allowance = Allowance.of(problem)
    fronts = {}
    for tensor in crossing:
        if not problem.codecs.get(tensor):
            raise PlanError(f"tensor {tensor!r} cannot travel: it has no codec; cut elsewhere")
        fronts[tensor] = front(problem, tensor, allowance)
        if not fronts[tensor]:
            raise InfeasibleError(f"tensor {tensor!r} cannot travel within the loss allowed")
    chosen = cheapest(fronts, allowance)
    if chosen is None:
        names = ", ".join(repr(tensor) for tensor in fronts)
        raise InfeasibleError(f"tensors {names} cannot travel together within the loss allowed")
    return {tensor: option.codec for tensor, option in chosen.items()}


def front(problem: Problem, tensor: str, allowance: Allowance) -> Front:
    """Give the ways of sending a tensor worth having; none where it may not cross."""
    second_per_byte = 1 / problem.link.up_bytes_per_s + problem.bytes_weight
    costs = [
        (choice.encode_s + choice.wire_bytes * second_per_byte + choice.decode_s, choice)
        for choice in problem.codecs.get(tensor, ())
    ]
    return allowance.front(tensor, costs)


def returning_s(problem: Problem, node: Node) -> float:
    """What the outputs of a node add to the objective where it runs on the server."""
    second_per_byte = 1 / problem.link.down_bytes_per_s + problem.bytes_weight
    return returned_bytes(problem.graph, node) * second_per_byte


def returned_bytes(graph: Graph, node: Node) -> int:
    """Bytes that come back to the device where the node runs on the server."""
    made = [graph.tensors[name] for name in node.outputs if name in graph.outputs]
    return sum(tensor.nbytes or 0 for tensor in made)


def _part_s(tier: TierCost, part: Collection[str], crossing: Iterable[str]) -> float:
    if not part:
        return 0.0
    nodes_s = sum(tier.node_s[name] for name in part)
    return tier.base_s + nodes_s + sum(tier.crossing_s.get(name, 0.0) for name in crossing)
