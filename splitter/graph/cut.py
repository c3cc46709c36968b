"""A cut: the division of the nodes into a closed set, the head, and the rest, the tail."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from splitter.errors import CutError
from splitter.graph.values import Graph


@dataclass(frozen=True)
class Cut:
    """A closed set of nodes and the tensors that leave it for the tail."""

    head: frozenset[str]
    crossing: tuple[str, ...]
    """Each once, in the order in which they are made; model inputs read by the tail are among them."""


def cut_of(graph: Graph, head: Collection[str]) -> Cut:
    """Make the cut of a set of nodes.

    Raises
    ------
    CutError
        A name is not a node, or a head node reads a tensor that the tail makes.
    """
    chosen = frozenset(head)
    for name in chosen:
        if name not in graph.node_of:
            raise CutError(f"no node is named {name!r}{_nearest(name, graph.node_of)}")
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
    made = list(graph.inputs) + [output for node in graph.nodes for output in node.outputs]
    return Cut(chosen, tuple(name for name in made if name in crossing))


def cut_at(graph: Graph, tensors: Iterable[str]) -> Cut:
    """Make the cut whose crossing tensors are the given ones.

    The head is what the tensors need, or if that leaves other tensors crossing, everything that does
    not need them. A model input that the tail reads crosses without being named.

    Raises
    ------
    CutError
        A tensor does not exist (the nearest names are suggested), or the tensors do not separate the
        model (a missing one is named).
    """
    given = tuple(dict.fromkeys(tensors))
    for name in given:
        if name not in graph.tensors:
            raise CutError(f"no tensor is named {name!r}{_nearest(name, graph.tensors)}")
    allowed = set(given) | set(graph.inputs)
    smallest = cut_of(graph, needed_for(graph, given))
    if allowed.issuperset(smallest.crossing):
        return smallest
    largest = cut_of(graph, frozenset(graph.node_of) - _needing(graph, given))
    if allowed.issuperset(largest.crossing):
        return largest
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


def _needing(graph: Graph, tensors: Iterable[str]) -> frozenset[str]:
    tainted = set(tensors)
    found: set[str] = set()
    for node in graph.nodes:
        if tainted.intersection(node.inputs):
            found.add(node.name)
            tainted.update(node.outputs)
    return frozenset(found)


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.4)
    return f"; did you mean {', '.join(map(repr, close))}?" if close else ""
