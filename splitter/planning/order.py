"""What a cut costs at each place along the node order, in one walk.

The heads are the first nodes of the order, more and more of them: a picture of where seconds and bytes are,
beside which the plan's own cut, which may be any closed set, can be seen. Each cut is priced as
``cost.price`` prices it (a test compares them), but from sums that grow, so that a walk takes little longer
than a price.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from math import ceil

from splitter.errors import InfeasibleError
from splitter.planning.cost import Choosing, latency_of
from splitter.planning.drawing import OrderCut, OrderTensor
from splitter.planning.limits import must_be_head, must_be_tail, stuck, tied
from splitter.planning.memory import memory_along
from splitter.planning.memory import order as place_of_node
from splitter.planning.records import CodecCost, Problem
from splitter.planning.terms import Term, amount
from splitter.planning.ways import exceeded
from splitter.planning.work import (
    Work,
    made_in_order,
    needed_on_server,
    returned_bytes,
    state_inputs,
)

MOST_PLACES = 2000
"""Of a longer order every second one is priced, or every third and so on: a picture has no room for more."""
MOST_CROSSING = 10_000
"""Tensors over all places: a graph where everything is kept to the end has its square of them."""
MOST_SEARCHED = 200
"""Places at which codecs depend on one another, so that each takes a search."""
WIDEST_SEARCH = 6
"""Tensors with a choice of such a place; one with more is left out."""


def order(problem: Problem) -> tuple[OrderCut, ...]:
    """Price the places; none of a problem with relays or several devices, whose cuts are no single places."""
    if problem.relays or problem.sources:
        return ()
    return tuple(_Walk(problem).cuts())


class _Walk:
    """Sums by place: how many kernels are in the head."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.choosing = problem, Choosing(problem)
        self.choosing.fronts(problem.graph.tensors)  # all at once: each call sets up the objective
        nodes = problem.graph.nodes
        device, server = problem.device.node_s, problem.server.node_s
        self.end = len(nodes)
        self.members = list(accumulate((len(n.members) or 1 for n in nodes), initial=0))
        self.device_s = list(accumulate((device[node.name] for node in nodes), initial=0.0))
        self.server_s = _from_here(server[node.name] for node in nodes)
        self.down = _from_here(returned_bytes(problem, node) for node in nodes)
        self.latency = self.choosing.layout.forms(Term.LATENCY)
        self.forbidden = _Forbidden(problem)

    def cuts(self) -> Iterator[OrderCut]:
        for place, crossing in self.places().items():
            yield self.cut(place, crossing)

    def places(self) -> dict[int, list[str]]:
        """Choose the places that are priced, all as a rule, and say what crosses there."""
        width = sum(map(len, _crossing(self.problem)))
        step = max(ceil((self.end + 1) / MOST_PLACES), ceil(width / MOST_CROSSING))
        kept = {
            place: list(crossing)
            for place, crossing in enumerate(_crossing(self.problem))
            if place % step == 0 or place == self.end
        }
        searched = {place: self.searched(crossing) for place, crossing in kept.items()}
        hard = [place for place in kept if searched[place]]
        step = ceil(len(hard) / MOST_SEARCHED) or 1
        left = {p for i, p in enumerate(hard) if i % step == 0 and searched[p] <= WIDEST_SEARCH}
        return {p: crossing for p, crossing in kept.items() if not searched[p] or p in left}

    def searched(self, crossing: Sequence[str]) -> int:
        """How many tensors a search for codecs goes over; 0 where each takes its own cheapest."""
        choosing, codecs = self.choosing, self.problem.codecs
        if not self.forbidden.stuck.keys().isdisjoint(crossing):
            return 0
        if choosing.target.largest or choosing.bounds:
            return sum(len(codecs[tensor]) > 1 for tensor in crossing)
        choices = sum(len(front) > 1 for front in choosing.fronts(crossing).values())
        return choices if choices > 1 else 0

    def cut(self, place: int, crossing: Sequence[str]) -> OrderCut:
        members = self.members[place]
        why = self.forbidden.why(place, crossing)
        try:
            chosen = self.codecs(place, crossing)
        except InfeasibleError as exc:
            return OrderCut(place=members, feasible=False, why_not=why or str(exc))
        if chosen is None:
            return OrderCut(place=members, feasible=False, why_not=why)
        work = self.work(place, chosen)
        loads, choosing = work.loads, self.choosing
        took = latency_of(self.problem, work, max(form.at(loads) for form in self.latency))
        why = why or exceeded(loads, choosing.bounds) or self.forbidden.memory(place)
        return OrderCut(
            place=members,
            head_s=took.head_s,
            encode_s=took.encode_s,
            link_s=took.link_s,
            decode_s=took.decode_s,
            tail_s=took.tail_s,
            total_s=took.total_s,
            objective=choosing.target.at(loads),
            up_bytes=work.up_bytes[0],
            down_bytes=work.down_bytes[0],
            raw_bytes=sum(self.problem.graph.tensors[t].nbytes or 0 for t in crossing),
            crossing=tuple(
                OrderTensor(tensor=t, codec=c.codec, wire_bytes=c.wire_bytes)
                for t, c in chosen.items()
            ),
            feasible=not why,
            why_not=why,
        )

    def codecs(self, place: int, crossing: Sequence[str]) -> Mapping[str, CodecCost] | None:
        """The best that the limits allow, or the best without limits; None where a tensor cannot travel."""
        if not self.forbidden.stuck.keys().isdisjoint(crossing):
            return None
        try:
            return self.choosing.best(crossing, lambda chosen: self.work(place, chosen).loads)
        except InfeasibleError:
            return self.choosing.within_budget(crossing)

    def work(self, place: int, chosen: Mapping[str, CodecCost]) -> Work:
        """What ``work.Placed`` adds up."""
        device, server = self.problem.device, self.problem.server
        head_s, tail_s = self.device_s[place], self.server_s[place]
        if place:
            head_s += device.base_s + sum(device.crossing_s.get(t, 0.0) for t in chosen)
        if place < self.end:
            read = (t for t in chosen if not needed_on_server(self.problem, t))
            tail_s += server.base_s + sum(server.crossing_s.get(t, 0.0) for t in read)
        codecs = chosen.values()
        return Work(
            (head_s, tail_s),
            (sum(c.encode_s for c in codecs), 0.0),
            (0.0, sum(c.decode_s for c in codecs)),
            (sum(c.wire_bytes for c in codecs),),
            (round(self.down[place]),),
            (float(place < self.end or bool(chosen)),),
            sum(c.loss for c in codecs),
        )


class _Forbidden:
    """What forbids a place, as ``limits.why_not`` finds it, from what each node has to be."""

    def __init__(self, problem: Problem) -> None:
        self.problem, at = problem, place_of_node(problem.graph)
        self.stuck = stuck(problem)
        needed = [(at[name], name, why) for name, why in must_be_head(problem).items()]
        barred = [(at[name], name, why) for name, why in must_be_tail(problem).items()]
        self.needed, self.barred = max(needed, default=None), min(barred, default=None)
        self.tied = [(sorted((at[one], at[other])), one, other) for one, other in tied(problem)]
        limits = problem.limits
        self.limits = (limits.device_memory_bytes, limits.server_memory_bytes)
        self.taken = [] if self.limits == (None, None) else memory_along(problem)

    def why(self, place: int, crossing: Sequence[str]) -> str:
        """Name a node, a state or a tensor; empty where all may be as they are."""
        for found, wrong, tier in (
            (self.needed, self.needed is not None and self.needed[0] > place, "device"),
            (self.barred, self.barred is not None and self.barred[0] <= place, "server"),
        ):
            if found is not None and wrong:
                return f"node {found[1]!r} has to be on the {tier}: {found[2]}"
        for (first, last), one, other in self.tied:
            if first <= place < last:
                return (
                    f"nodes {one!r} and {other!r} read and make a state, but would be on two tiers"
                )
        for tensor in crossing:
            if tensor in self.stuck:
                return f"tensor {tensor!r} {self.stuck[tensor]}"
        return ""

    def memory(self, place: int) -> str:
        """Say which limit of memory breaks."""
        names = ("device_memory_bytes", "server_memory_bytes")
        if self.taken:
            for name, limit, taken in zip(names, self.limits, self.taken[place], strict=True):
                if limit is not None and taken > limit:
                    return f"{amount(name, taken)} where the limit is {amount(name, limit)}"
        return ""


def _crossing(problem: Problem) -> Iterator[Collection[str]]:
    """What crosses at each place, in the order in which tensors are made: one view that changes."""
    graph, at, states = problem.graph, place_of_node(problem.graph), state_inputs(problem)
    end = len(graph.nodes)
    starting: dict[int, list[str]] = {}
    ending: dict[int, list[str]] = {}
    for tensor in made_in_order(graph):
        maker = graph.producer_of.get(tensor)
        start = at[maker.name] if maker else 0
        stop = max((at[node.name] for node in graph.consumers_of[tensor]), default=start)
        if needed_on_server(problem, tensor):
            stop = end + 1
        if stop > start and tensor not in states:
            starting.setdefault(start, []).append(tensor)
            ending.setdefault(stop, []).append(tensor)
    alive: dict[str, None] = {}
    for place in range(end + 1):
        for tensor in ending.get(place, ()):
            del alive[tensor]
        alive.update(dict.fromkeys(starting.get(place, ())))
        yield alive.keys()


def _from_here(values: Iterable[float]) -> list[float]:
    """Sums from each place to the end; added from the end, so that none is below 0 by rounding."""
    return list(accumulate(reversed(list(values)), initial=0.0))[::-1]
