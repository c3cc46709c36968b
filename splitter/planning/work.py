"""What tiers and hops have to do for a placement of nodes: seconds by tier, bytes by hop.

A placement gives each node a tier of a layout, by its index there. A tensor crosses each hop between the tier
that makes it and the last one that reads it once. A tier *receives* it (decodes, ``crossing_s``) unless
it passes it on untouched, and *sends* it (encodes, ``crossing_s``) unless it passes it on as it came.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from splitter.graph.values import Graph, Node
from splitter.planning.layout import Layout, Loads
from splitter.planning.records import CodecCost, Problem

Sent = Mapping[str, Mapping[int, CodecCost]]
"""Tensor -> hop -> codec, of those that cross."""


@dataclass(frozen=True)
class Work:
    """Seconds by tier and bytes by hop of a layout."""

    part_s: tuple[float, ...]
    encode_s: tuple[float, ...]
    decode_s: tuple[float, ...]
    up_bytes: tuple[int, ...]
    down_bytes: tuple[int, ...]
    used: tuple[float, ...]
    loss: float

    @property
    def loads(self) -> Loads:
        """What terms are made of."""
        parts = zip(self.part_s, self.encode_s, self.decode_s, strict=True)
        return Loads(tuple(sum(p) for p in parts), self.up_bytes, self.down_bytes, self.used)


@dataclass(frozen=True)
class Step:
    """One hop of a tensor; the tier that sends it has the number of the hop."""

    hop: int
    receiver: int
    choice: CodecCost
    encode_s: float
    sender_s: float
    """``crossing_s`` of the tier that sends it."""
    decode_s: float
    receiver_s: float
    loss: float


class Placed:
    """A placement on a layout, and what crosses there."""

    def __init__(self, problem: Problem, layout: Layout, place_of: Mapping[str, int]) -> None:
        self.problem, self.layout, self.place_of = problem, layout, place_of
        self.last = len(layout.tiers) - 1
        self.busy = frozenset(place_of.values())
        self.crossing = self._crossing()

    def work(self, sent: Sent) -> Work:
        """Add up, with the codecs of what crosses."""
        parts = [0.0] * len(self.layout.tiers)
        for k in self.busy:
            parts[k] = self.layout.tiers[k].base_s
        for name, k in self.place_of.items():
            parts[k] += self.layout.tiers[k].node_s[name]
        encode, decode = [0.0] * len(parts), [0.0] * len(parts)
        up, loss = [0] * len(self.layout.hops), 0.0
        for tensor in self.crossing:
            for step in self.steps(tensor, sent[tensor]):
                up[step.hop] += step.choice.wire_bytes
                encode[step.hop] += step.encode_s
                parts[step.hop] += step.sender_s
                decode[step.receiver] += step.decode_s
                parts[step.receiver] += step.receiver_s
                loss += step.loss
        return Work(
            tuple(parts), tuple(encode), tuple(decode), tuple(up), self._down(), self._used(), loss
        )

    def steps(self, tensor: str, codecs: Mapping[int, CodecCost]) -> Iterator[Step]:
        """What a tensor costs on each of its hops."""
        is_star = self.layout.is_star
        before: str | None = None
        for hop, choice in codecs.items():
            receiver = self.last if is_star else hop + 1
            onward = codecs.get(hop + 1) if not is_star else None
            as_it_came = choice.codec == before
            opened = (
                onward is None or onward.codec != choice.codec or self.read_at(tensor, receiver)
            )
            before = choice.codec
            yield Step(
                hop,
                receiver,
                choice,
                0.0 if as_it_came else encode_s(self.problem, self.layout, hop, tensor, choice),
                0.0 if as_it_came else self._crossing_s(hop, tensor),
                decode_s(self.problem, self.layout, receiver, tensor, choice) if opened else 0.0,
                self._crossing_s(receiver, tensor) if opened and self._is_read(tensor) else 0.0,
                0.0 if as_it_came else choice.loss,
            )

    def read_at(self, tensor: str, place: int) -> bool:
        """Whether a tier has use for a tensor."""
        if place == self.last and needed_on_server(self.problem, tensor):
            return True
        readers = self.problem.graph.consumers_of[tensor]
        return any(self.place_of[node.name] == place for node in readers)

    def _is_read(self, tensor: str) -> bool:
        """Whether a part reads it: what the server wants as a result is not charged for there."""
        return not needed_on_server(self.problem, tensor)

    def _crossing_s(self, place: int, tensor: str) -> float:
        return self.layout.tiers[place].crossing_s.get(tensor, 0.0) if place in self.busy else 0.0

    def _crossing(self) -> dict[str, tuple[int, ...]]:
        """Hops of each tensor that crosses, in the order in which tensors are made."""
        graph, states = self.problem.graph, state_inputs(self.problem)
        found = {}
        for tensor in made_in_order(graph):
            if tensor in states:
                continue
            made = self._made(tensor)
            places = [self.place_of[node.name] for node in graph.consumers_of[tensor]]
            if needed_on_server(self.problem, tensor):
                places.append(self.last)
            if not places or max(places) == made:
                continue
            found[tensor] = (made,) if self.layout.is_star else tuple(range(made, max(places)))
        return found

    def _made(self, tensor: str) -> int:
        producer = self.problem.graph.producer_of.get(tensor)
        return born(self.problem, tensor) if producer is None else self.place_of[producer.name]

    def _down(self) -> tuple[int, ...]:
        down = [0] * len(self.layout.hops)
        graph = self.problem.graph
        makers = {graph.producer_of[n].name: None for n in graph.outputs if n in graph.producer_of}
        for name in makers:
            place = self.place_of[name]
            if place:
                nbytes = returned_bytes(self.problem, graph.node_of[name])
                over = range(place == self.last) if self.layout.is_star else range(place)
                for hop in over:
                    down[hop] += nbytes
        return tuple(down)

    def _used(self) -> tuple[float, ...]:
        crossed = {hop for hops in self.crossing.values() for hop in hops}
        used = []
        for hop in range(len(self.layout.hops)):
            waits = hop == 0 and bool(crossed or self.last in self.busy)
            if not self.layout.is_star:
                waits = any(place > hop for place in self.busy)
            used.append(float(waits or hop in crossed))
        return tuple(used)


def made_in_order(graph: Graph) -> Iterable[str]:
    """Model inputs, then what nodes make."""
    yield from graph.inputs
    for node in graph.nodes:
        yield from node.outputs


def born(problem: Problem, tensor: str) -> int:
    """The device on which a model input is born."""
    for number, source in enumerate(problem.sources, start=1):
        if tensor in source.inputs:
            return number
    return 0


def encode_s(problem: Problem, layout: Layout, place: int, tensor: str, choice: CodecCost) -> float:
    """Seconds of a codec where a tensor is sent."""
    return _at_relay(problem, layout, place, tensor, choice).encode_s


def decode_s(problem: Problem, layout: Layout, place: int, tensor: str, choice: CodecCost) -> float:
    """Seconds of a codec where a tensor is received."""
    return _at_relay(problem, layout, place, tensor, choice).decode_s


def _at_relay(
    problem: Problem, layout: Layout, place: int, tensor: str, choice: CodecCost
) -> CodecCost:
    number = layout.numbers[place]
    if not 0 < number <= len(problem.relays):
        return choice
    own = problem.relays[number - 1].codecs.get(tensor, ())
    return next((known for known in own if known.codec == choice.codec), choice)


def returned_bytes(problem: Problem, node: Node) -> int:
    """Bytes that come back to the device where the node does not run there."""
    kept = {state.output for state in problem.limits.states}
    kept.update(name for name in node.outputs if needed_on_server(problem, name))
    made = [name for name in node.outputs if name in problem.graph.outputs and name not in kept]
    return sum(problem.graph.tensors[name].nbytes or 0 for name in made)


def needed_on_server(problem: Problem, tensor: str) -> bool:
    """Whether it is a model output that the server wants."""
    return problem.limits.outputs.get(tensor) == "server"


def state_inputs(problem: Problem) -> frozenset[str]:
    """Model inputs that live where they are read."""
    return frozenset(state.input for state in problem.limits.states)
