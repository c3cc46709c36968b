"""The memory of a part as rows of the integer program, one for each place of the order that can bind."""

from __future__ import annotations

from collections.abc import Sequence

from splitter.planning.memory import order, weight_bytes
from splitter.planning.program import Row
from splitter.planning.sums import ONE, ZERO, Sum
from splitter.planning.tiered import Tiered
from splitter.planning.work import born, made_in_order, needed_on_server


class MemoryRows:
    """Rows of one tier: a device or the server."""

    def __init__(self, tiered: Tiered, place: int, limit: int | None, largest: int) -> None:
        self.tiered, self.place, self.limit, self.largest = tiered, place, limit, largest
        self.graph, self.at = tiered.graph, order(tiered.graph)
        self.held = self._held()
        self.suffixes: dict[tuple[str, int], int] = {}

    def row(self, position: int) -> Row:
        """What is held, and live at a place of the order, are within the limit or below a variable."""
        found = Sum()
        found.plus(self.held, 1.0)
        live = self._on_server if self.place == self.tiered.last else self._on_device
        for tensor in made_in_order(self.graph):
            nbytes = self.graph.tensors[tensor].nbytes
            if nbytes:
                live(found, tensor, position)
        if self.limit is not None:
            return found.at_most(self.limit)
        found.add(self.largest, -self.tiered.size)
        return found.at_most(0.0, self.tiered.size)

    def _held(self) -> Sum:
        """Weights, each once, and the runtime's own."""
        users: dict[str, list[str]] = {}
        for node in self.graph.nodes:
            for name in dict.fromkeys(node.weights):
                users.setdefault(name, []).append(node.name)
        found = Sum()
        for name, nodes in users.items():
            nbytes = weight_bytes(self.graph, name)
            pairs = list(dict.fromkeys(self.tiered.on(node, self.place) for node in nodes))
            if len(pairs) == 1:
                found.differ(pairs[0], nbytes)
            elif nbytes:
                found.add(self.tiered.any_of(pairs), nbytes)
        beyond: frozenset[str] = frozenset()
        has_any = ZERO
        for some, nbytes in reversed(self.tiered.layout.tiers[self.place].own_memory):
            on = [self.tiered.on(name, self.place) for name in some - beyond]
            beyond, has_any = some, self.tiered.any_of([*dict.fromkeys(on), (has_any, ZERO)])
            found.add(has_any, nbytes)
        return found

    def _made(self, tensor: str) -> tuple[int, int]:
        """Where it is made on this tier; of a state, where it is read."""
        producer = self.graph.producer_of.get(tensor)
        if producer is not None:
            return self.tiered.on(producer.name, self.place)
        if tensor in self.tiered.states:
            readers = self.graph.consumers_of[tensor]
            return self.tiered.on(readers[0].name, self.place) if readers else (ZERO, ZERO)
        return (ONE if born(self.tiered.problem, tensor) == self.place else ZERO), ZERO

    def _times(self, tensor: str) -> tuple[int, list[tuple[int, str]]]:
        """Place of the maker, 0 of an input, and of the readers."""
        producer = self.graph.producer_of.get(tensor)
        made = 0 if producer is None else self.at[producer.name]
        return made, [(self.at[node.name], node.name) for node in self.graph.consumers_of[tensor]]

    def _on_device(self, found: Sum, tensor: str, position: int) -> None:
        nbytes, (made, readers) = self.graph.tensors[tensor].nbytes or 0, self._times(tensor)
        if made > position:
            return
        last = max([made, *(at for at, _ in readers)])
        if tensor in self.graph.outputs or last >= position:
            found.differ(self._made(tensor), nbytes)
        elif (tensor, self.place) in self.tiered.levels:
            levels = self.tiered.levels[tensor, self.place]
            found.differ((levels[-1], levels[0]), nbytes)

    def _on_server(self, found: Sum, tensor: str, position: int) -> None:
        nbytes, (made, readers) = self.graph.tensors[tensor].nbytes or 0, self._times(tensor)
        here = self._made(tensor)
        arriving = [key for key in self.tiered.levels if key[0] == tensor]
        if made > position:
            for key in arriving[-1:]:
                levels = self.tiered.levels[key]
                found.differ((levels[-1], levels[0]), nbytes)
            return
        suffix = [name for at, name in readers if at >= position]
        if needed_on_server(self.tiered.problem, tensor):
            found.add(ONE, nbytes)
        elif suffix and tensor not in self.tiered.states:
            found.differ((ONE, self._all_before(tensor, suffix)), nbytes)
        elif suffix or tensor in self.graph.outputs or (made == position and made):
            found.differ(here, nbytes)

    def _all_before(self, tensor: str, nodes: Sequence[str]) -> int:
        """The variable that none of these nodes, the last readers of a tensor, runs on the server."""
        befores = list(dict.fromkeys(self.tiered.on(name, self.place)[1] for name in nodes))
        if ZERO in befores or len(befores) == 1:
            return ZERO if ZERO in befores else befores[0]
        key = tensor, len(nodes)
        if key not in self.suffixes:
            self.suffixes[key] = self.tiered.all_of(befores)
        return self.suffixes[key]
