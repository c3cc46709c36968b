"""Names in a model: who makes them, who reads them, and in which order the nodes can run."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import onnx

from splitter.errors import ModelError


@dataclass(frozen=True, slots=True)
class Site:
    """A node of the file with the names that matter for ordering and cutting."""

    proto: onnx.NodeProto
    name: str
    """The first output that is not empty."""
    reads: tuple[str, ...]
    """Each once, values captured by bodies included, weights included."""
    makes: tuple[str, ...]


def initializer_names(graph: onnx.GraphProto) -> set[str]:
    """Names of weights, dense and sparse."""
    dense = {tensor.name for tensor in graph.initializer}
    return dense | {tensor.values.name for tensor in graph.sparse_initializer}


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a node carries in its attributes (``If``, ``Loop``, ``Scan`` ...)."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def reads_of(node: onnx.NodeProto) -> tuple[str, ...]:
    """Every name that a node needs from its scope, the captures of its bodies included."""
    names = dict.fromkeys(name for name in node.input if name)
    for body in bodies(node):
        names.update(dict.fromkeys(_captures(body)))
    return tuple(names)


def _captures(body: onnx.GraphProto) -> list[str]:
    inner = initializer_names(body)
    inner.update(value.name for value in body.input)
    inner.update(name for node in body.node for name in node.output)
    read = [name for node in body.node for name in reads_of(node)]
    read.extend(value.name for value in body.output)
    return [name for name in read if name not in inner]


def sites_in_order(graph: onnx.GraphProto) -> tuple[Site, ...]:
    """Nodes in an order in which they can run: the file's own order where that is one.

    A node without outputs has no effect and is left out.

    Raises
    ------
    ModelError
        A tensor has two producers or none, the graph has a cycle, or an output is not made.
    """
    sites = []
    for node in graph.node:
        makes = tuple(name for name in node.output if name)
        if makes:
            sites.append(Site(node, makes[0], reads_of(node), makes))
    given = initializer_names(graph) | {value.name for value in graph.input}
    _check_names(graph, sites, given)
    return tuple(sites) if _runs_in_order(sites, given) else _sorted(sites)


def _check_names(graph: onnx.GraphProto, sites: Sequence[Site], given: set[str]) -> None:
    made = set(given)
    for site in sites:
        for name in site.makes:
            if name in made:
                raise ModelError(f"tensor {name!r} is made twice (again by {_title(site)})")
            made.add(name)
    for site in sites:
        for name in site.reads:
            if name not in made:
                raise ModelError(f"{_title(site)} reads {name!r}, which nothing makes")
    for value in graph.output:
        if value.name not in made:
            raise ModelError(f"model output {value.name!r} is made by no node")


def _runs_in_order(sites: Iterable[Site], given: set[str]) -> bool:
    available = set(given)
    for site in sites:
        if not available.issuperset(site.reads):
            return False
        available.update(site.makes)
    return True


def _sorted(sites: Sequence[Site]) -> tuple[Site, ...]:
    """Kahn's algorithm that takes the earliest runnable node of the file first."""
    maker_of = {name: index for index, site in enumerate(sites) for name in site.makes}
    readers_of: list[list[int]] = [[] for _ in sites]
    waiting = [0] * len(sites)
    for index, site in enumerate(sites):
        for maker in {maker_of[name] for name in site.reads if name in maker_of}:
            readers_of[maker].append(index)
            waiting[index] += 1
    ready = [index for index, count in enumerate(waiting) if count == 0]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(sites[index])
        for reader in readers_of[index]:
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(ready, reader)
    if len(order) < len(sites):
        stuck = next(site for site, count in zip(sites, waiting, strict=True) if count)
        raise ModelError(f"the graph has a cycle through or before {_title(stuck)}")
    return tuple(order)


def _title(site: Site) -> str:
    return f"{site.proto.op_type} node {site.proto.name or site.name!r}"
