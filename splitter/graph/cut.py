"""A cut: the division of the nodes into a closed set, the head, and the rest, the tail."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from splitter.errors import CutError, nearest
from splitter.graph.values import Graph


@dataclass(frozen=True)
class Cut:
    """A closed set of nodes and the tensors that leave it for the tail."""

    head: frozenset[str]
    crossing: tuple[str, ...]
    """Each once, in the order in which they are made; model inputs read by the tail are among them."""
    kept: tuple[str, ...] = ()
    """Model outputs that are wanted on the tail's side: those that the head makes cross."""
    states: tuple[tuple[str, str], ...] = ()
    """Model inputs that the tail reads, each with the output of the tail that is fed back to it: they stay
    on the tail's side, so that they do not cross."""


def cut_of(
    graph: Graph,
    head: Collection[str],
    kept: Collection[str] = (),
    states: Iterable[tuple[str, str]] = (),
) -> Cut:
    """Make the cut of a set of nodes.

    ``kept`` are outputs that are wanted on the tail's side. ``states`` are inputs with the outputs that are
    fed back to them, wherever they are.

    Raises
    ------
    CutError
        A name is not a node, or a head node reads a tensor that the tail makes.
    """
    chosen = frozenset(head)
    for name in chosen:
        if name not in graph.node_of:
            raise CutError(f"no node is named {name!r}{nearest(name, graph.node_of)}")
    crossing: dict[str, None] = {}
    for node in graph.nodes:
        for tensor in node.inputs:
            producer = graph.producer_of.get(tensor)
            made_in_head = producer is None or producer.name in chosen
            if node.name in chosen and not made_in_head:
                raise CutError(
                    f"the cut is not closed: head node {node.name!r} reads {tensor!r}, "
                    "which the tail makes; move its producer to the head"
                )
            if node.name not in chosen and made_in_head:
                crossing[tensor] = None
    wanted = tuple(name for name in graph.outputs if name in kept)
    for name in wanted:
        producer = graph.producer_of.get(name)
        if producer is None or producer.name in chosen:
            crossing[name] = None
    there = tuple(pair for pair in states if pair[0] in crossing)
    for name, output in there:
        producer = graph.producer_of.get(output)
        if producer is None or producer.name in chosen:
            raise CutError(f"the tail reads state {name!r}, which the head makes; move one of them")
        del crossing[name]
    made = list(graph.inputs) + [output for node in graph.nodes for output in node.outputs]
    return Cut(chosen, tuple(name for name in made if name in crossing), wanted, there)


def cut_at(graph: Graph, tensors: Iterable[str]) -> Cut:
    """Make the cut whose crossing tensors are the given ones.

    The head is what the tensors need; if that leaves other tensors crossing, their readers join it
    (a branch that ends in a model output, say). A model input that the tail reads crosses unnamed.

    Raises
    ------
    CutError
        A tensor does not exist (the nearest names are suggested), or the tensors do not separate the
        model (a missing one is named).
    """
    given = tuple(dict.fromkeys(tensors))
    for name in given:
        if name not in graph.tensors:
            raise CutError(f"no tensor is named {name!r}{nearest(name, graph.tensors)}")
    allowed = set(given) | set(graph.inputs)
    smallest = cut_of(graph, needed_for(graph, given))
    if allowed.issuperset(smallest.crossing):
        return smallest
    grown = cut_of(graph, _grown(graph, smallest.head, allowed))
    if set(given).intersection(smallest.crossing) <= set(grown.crossing):
        return grown
    missing = [name for name in smallest.crossing if name not in allowed]
    raise CutError(
        f"the cut is not closed: the tail also needs {missing[0]!r}"
        + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
        + f"; add --at {missing[0]}"
    )


def needed_for(graph: Graph, tensors: Iterable[str]) -> frozenset[str]:
    """Every node that the tensors depend on, producers included."""
    found: set[str] = set()
    pending = list(tensors)
    while pending:
        producer = graph.producer_of.get(pending.pop())
        if producer is not None and producer.name not in found:
            found.add(producer.name)
            pending.extend(producer.inputs)
    return frozenset(found)


def _grown(graph: Graph, head: Iterable[str], allowed: Collection[str]) -> set[str]:
    """The smallest closed set around the head from which nothing crosses but what is allowed."""
    found = set(head)
    pending = list(found)
    while pending:
        node = graph.node_of[pending.pop()]
        kept = [name for name in node.outputs if name not in allowed]
        joining = {reader.name for name in kept for reader in graph.consumers_of[name]}
        makers = (graph.producer_of.get(name) for name in node.inputs)
        joining.update(maker.name for maker in makers if maker is not None)
        pending.extend(joining - found)
        found |= joining
    return found
