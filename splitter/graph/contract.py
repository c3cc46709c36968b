"""Kernel graphs: groups of nodes that the runtime executes as one become one node."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import networkx as nx

from splitter.errors import CutError
from splitter.graph.values import Graph, Node

_LONGEST_TITLE = 3
"""Operators named in full in a kernel's ``op_type``."""


def contract(graph: Graph, groups: Sequence[Collection[str]]) -> Graph:
    """Make each group of nodes one node; a node in no group stays alone.

    Groups that wait for each other (a path leaves one and returns) are merged, so that the result can
    run. It is ordered as the original, by the last member of each kernel, as far as its arrows allow.
    A kernel is named after the last tensor that leaves it, or if none does, after its last member.

    Raises
    ------
    CutError
        A name is not a node of the graph, or is in two groups.
    """
    kernel_of = _kernel_of(graph, groups)
    arrows = nx.DiGraph()
    arrows.add_nodes_from(kernel_of.values())
    for node in graph.nodes:
        for name in node.inputs:
            producer = graph.producer_of.get(name)
            if producer is not None and kernel_of[producer.name] != kernel_of[node.name]:
                arrows.add_edge(kernel_of[producer.name], kernel_of[node.name])
    quotient = nx.condensation(arrows)
    merged_into: dict[int, int] = quotient.graph["mapping"]
    members_of: dict[int, list[Node]] = {merged: [] for merged in quotient}
    place_of: dict[int, int] = {}
    for place, node in enumerate(graph.nodes):
        merged = merged_into[kernel_of[node.name]]
        members_of[merged].append(node)
        place_of[merged] = place
    order = _order(quotient, place_of)
    kernels = tuple(_kernel(graph, members_of[merged]) for merged in order)
    kept = [*graph.inputs, *(name for kernel in kernels for name in kernel.outputs)]
    return Graph(
        nodes=kernels,
        tensors={name: graph.tensors[name] for name in kept},
        inputs=graph.inputs,
        outputs=graph.outputs,
        sha256=graph.sha256,
        dims=graph.dims,
        weights=graph.weights,
    )


def expand(graph: Graph, names: Iterable[str]) -> frozenset[str]:
    """The original nodes in the given kernels.

    Raises
    ------
    CutError
        A name is not a kernel of the graph.
    """
    found: set[str] = set()
    for name in names:
        if name not in graph.node_of:
            raise CutError(f"no kernel is named {name!r}")
        found.update(graph.node_of[name].members or (name,))
    return frozenset(found)


def _kernel_of(graph: Graph, groups: Sequence[Collection[str]]) -> dict[str, int]:
    """A number for every node; members of a group share theirs."""
    kernel_of: dict[str, int] = {}
    for number, group in enumerate(groups):
        for name in group:
            if name not in graph.node_of:
                raise CutError(f"no node is named {name!r}, which a group of nodes holds")
            if kernel_of.setdefault(name, number) != number:
                raise CutError(f"node {name!r} is in two groups")
    for number, node in enumerate(graph.nodes, start=len(groups)):
        kernel_of.setdefault(node.name, number)
    return kernel_of


def _order(quotient: nx.DiGraph[int], place_of: dict[int, int]) -> list[int]:
    waiting = {merged: quotient.in_degree(merged) for merged in quotient}
    ready = [(place_of[merged], merged) for merged, count in waiting.items() if count == 0]
    heapq.heapify(ready)
    order = []
    while ready:
        _, merged = heapq.heappop(ready)
        order.append(merged)
        for reader in quotient.successors(merged):
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(ready, (place_of[reader], reader))
    return order


def _kernel(graph: Graph, members: Sequence[Node]) -> Node:
    if len(members) == 1:
        node = members[0]
        return replace(node, members=node.members or (node.name,))
    inside = {node.name for node in members}
    made = dict.fromkeys(name for node in members for name in node.outputs)
    leaving = tuple(name for name in made if _leaves(graph, name, inside))
    read = dict.fromkeys(name for node in members for name in node.inputs)
    return Node(
        name=leaving[-1] if leaving else members[-1].name,
        op_type=_title([node.op_type for node in members]),
        inputs=tuple(name for name in read if name not in made),
        outputs=leaving,
        weights=tuple(dict.fromkeys(name for node in members for name in node.weights)),
        flops=sum(node.flops for node in members),
        members=tuple(name for node in members for name in node.members or (node.name,)),
    )


def _leaves(graph: Graph, name: str, inside: set[str]) -> bool:
    readers = graph.consumers_of[name]
    return name in graph.outputs or any(reader.name not in inside for reader in readers)


def _title(op_types: Sequence[str]) -> str:
    if len(op_types) <= _LONGEST_TITLE:
        return "+".join(op_types)
    return f"{op_types[0]}+..+{op_types[-1]}"
