"""What crosses at each place along the node order."""

from __future__ import annotations

from dataclasses import dataclass

from splitter.graph.values import Graph


@dataclass(frozen=True, slots=True)
class Place:
    """The gap before node ``index``: the cut whose head is the first ``index`` nodes."""

    index: int
    after: str
    """The node before the gap; empty before the first."""
    crossing: tuple[str, ...]
    """In the order in which they are made, model inputs that are read later first."""
    nbytes: int | None
    """Together; None where one of them cannot travel."""


def frontier(graph: Graph) -> tuple[Place, ...]:
    """Every place from before the first node to after the last.

    One walk in which tensors become alive when made and die after their last reader, so the work is
    that of writing the answer down.
    """
    last_reader_of = {name: at for at, node in enumerate(graph.nodes) for name in node.inputs}
    alive: dict[str, int | None] = {
        name: graph.tensors[name].nbytes for name in graph.inputs if name in last_reader_of
    }
    places = [_place(0, "", alive)]
    for at, node in enumerate(graph.nodes):
        for name in node.inputs:
            if last_reader_of[name] == at:
                del alive[name]
        for name in node.outputs:
            if name in last_reader_of:
                alive[name] = graph.tensors[name].nbytes
        places.append(_place(at + 1, node.name, alive))
    return tuple(places)


def narrowest(graph: Graph, count: int) -> tuple[Place, ...]:
    """The true splits with the fewest bytes, fewest first; of places where the same crosses, the first.

    Sending the model's inputs as they are, and sending nothing, are not splits.
    """
    places = frontier(graph)
    seen = {frozenset(places[0].crossing), frozenset()}
    candidates: list[tuple[int, Place]] = []
    for place in places:
        crossing = frozenset(place.crossing)
        if crossing not in seen and place.nbytes is not None:
            seen.add(crossing)
            candidates.append((place.nbytes, place))
    candidates.sort(key=lambda pair: pair[0])
    return tuple(place for _, place in candidates[:count])


def _place(index: int, after: str, alive: dict[str, int | None]) -> Place:
    sizes = [size for size in alive.values() if size is not None]
    nbytes = sum(sizes) if len(sizes) == len(alive) else None
    return Place(index, after, tuple(alive), nbytes)
