"""The parts that people see in a model: modules of the source it was exported from, or stretches of it.

Exporters leave the module of a node in one place or another: in its metadata, in its name, in the names of
the weights it reads, or in that of its output. Where they leave none, a model is taken apart at its narrow
places.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from math import ceil, sqrt

import onnx

from splitter.graph.model import Model
from splitter.graph.values import Graph, Node

Path = tuple[str, ...]

DEEPEST = 5
"""Levels of blocks; what is further inside belongs to the last one."""
LONGEST_PART = 60
"""Characters of a level's name: exporters that fuse nodes concatenate theirs."""
LEAST_NODES = 3
"""Of a block; fewer belong to the block around it."""
MOST_NODES = 40
"""Directly in one block; more are divided into stretches."""
ENOUGH = 0.5
"""The part of the nodes that have to have a module of their own for modules to be the blocks."""

SCOPES = "pkg.torch.onnx.name_scopes"


def blocks_of(model: Model) -> dict[str, str]:
    """Give each node the path of its block, levels apart by slashes; empty where a model is too small."""
    graph = model.graph
    paths = _tidied(_scopes(model))
    for block in sorted(set(paths)):
        inside = [i for i, path in enumerate(paths) if path == block]
        if len(inside) > MOST_NODES:
            for number, stretch in enumerate(_stretches(graph, inside), start=1):
                for i in stretch:
                    paths[i] = (*block, f"part {number}")
    return {node.name: "/".join(path) for node, path in zip(graph.nodes, paths, strict=True)}


def _scopes(model: Model) -> list[Path]:
    """The module of each node.

    One that has none is in that of the node before it, as an activation is after its convolution; unless
    it has weights of its own, as the last layer may have outside of all modules.
    """
    props = dict(_metadata(model.proto.graph))
    own = [_scope(node, props.get(node.name, "")) for node in model.graph.nodes]
    if sum(map(bool, own)) < ENOUGH * len(own):
        return [()] * len(own)
    last: Path = ()
    paths = []
    for node, path in zip(model.graph.nodes, own, strict=True):
        known = (model.graph.weights.get(name) for name in node.weights)
        is_layer = any(weight and weight.shape and len(weight.shape) > 1 for weight in known)
        last = path if path or is_layer else last
        paths.append(last)
    return paths


def _metadata(graph: onnx.GraphProto) -> Iterator[tuple[str, str]]:
    for node in graph.node:
        for prop in node.metadata_props:
            if prop.key == SCOPES and node.output:
                yield next((name for name in node.output if name), ""), prop.value


def _scope(node: Node, scopes: str) -> Path:
    found = _from_scopes(scopes) or _by_slashes(node.label)
    for weight in node.weights:
        module, _, leaf = weight.rpartition(".")
        if not found and module and leaf.isidentifier():
            found = _dotted(module)
    return _cleaned(found or _by_slashes(node.name))


def _from_scopes(text: str) -> Path:
    """Of ``['', 'layer1', 'layer1.0', 'layer1.0.conv1', 'conv2d']`` the module before the operator."""
    try:
        found = ast.literal_eval(text) if text else []
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ()
    names = [name for name in found if isinstance(name, str)] if isinstance(found, list) else []
    return _dotted(names[-2]) if len(names) > 1 else ()


def _dotted(module: str) -> Path:
    """``layer1``, ``layer1.0``, ``layer1.0.conv1``: a part of a list says of which."""
    return (
        tuple(accumulate(module.split("."), lambda outer, part: f"{outer}.{part}"))
        if module
        else ()
    )


def _by_slashes(name: str) -> Path:
    """Of ``/layer1/layer1.0/conv1/Conv`` what is around the operator."""
    return tuple(part for part in name.split("/") if part)[:-1]


def _cleaned(path: Path) -> Path:
    return tuple(part[:LONGEST_PART] for part in path if part)[:DEEPEST]


def _tidied(paths: list[Path]) -> list[Path]:
    """Without blocks of a node or two, and without levels that hold one block and nothing else."""
    for _ in range(DEEPEST):
        sizes = Counter(path[:depth] for path in paths for depth in range(len(path) + 1))
        paths = [_grown(path, sizes) for path in paths]
    sizes = Counter(path[:depth] for path in paths for depth in range(len(path) + 1))
    return [
        tuple(
            path[depth - 1]
            for depth in range(1, len(path) + 1)
            if sizes[path[:depth]] < sizes[path[: depth - 1]]
        )
        for path in paths
    ]


def _grown(path: Path, sizes: Counter[Path]) -> Path:
    while path and sizes[path] < LEAST_NODES:
        path = path[:-1]
    return path


def _stretches(graph: Graph, inside: Sequence[int]) -> list[list[int]]:
    """Divide nodes, by their places, into about as many stretches as each has nodes, where little passes."""
    count = ceil(sqrt(len(inside)))
    width = len(inside) / count
    alive = _alive(graph)
    ends = []
    for k in range(1, count):
        near = range(ceil((k - 0.4) * width), int((k + 0.4) * width) + 1)
        ends.append(min(near, key=lambda i: (alive[inside[i]], abs(i - k * width)), default=0))
    return [
        list(inside[a:b]) for a, b in zip([0, *ends], [*ends, len(inside)], strict=True) if a < b
    ]


def _alive(graph: Graph) -> list[int]:
    """How many tensors cross before each node."""
    last = {name: at for at, node in enumerate(graph.nodes) for name in node.inputs}
    changes = [0] * (len(graph.nodes) + 1)
    made = [(name, -1) for name in graph.inputs]
    made += [(name, at) for at, node in enumerate(graph.nodes) for name in node.outputs]
    for name, at in made:
        if name in last:
            changes[at + 1] += 1
            changes[last[name] + 1] -= 1
    return list(accumulate(changes))
