"""Which nodes of the model each kernel of the optimised model computes.

The runtime fuses, renames and reorders, and keeps no record of it. What survives is a landmark: an
output that still has its name, or a kernel named after a node or tensor of the original (a blocked
convolution is ``<tensor>_nchwc``, a fused activation ``<node>/QuickGeluFusion/``, a copy
``<node>_token_7``). A node without a landmark was fused into a neighbour: downstream where all its
readers agree, else upstream; a QuantizeLinear always into what it quantises, because the integer
tensor is what the fused kernel hands on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx

from splitter.graph.values import Graph

_SUFFIX = re.compile(r"(_token_\d+|_nchwc|/\w*Fusion\w*/?)$")


@dataclass(frozen=True, slots=True)
class OptimisedKernel:
    """A top-level node of the model that the runtime really executes."""

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class FusionGroup:
    """Nodes of the model that are computed together, and the kernels that do it."""

    nodes: tuple[str, ...]
    kernels: tuple[int, ...]
    """Indices into the optimised model; empty for a node that was optimised away."""


def read_optimised(path: str | os.PathLike[str]) -> tuple[OptimisedKernel, ...]:
    """Read the kernels of a model that onnxruntime optimised and saved, in execution order."""
    proto = onnx.load(os.fspath(path), load_external_data=False)
    return tuple(
        OptimisedKernel(
            node.name, node.op_type, tuple(node.input), tuple(filter(None, node.output))
        )
        for node in proto.graph.node
    )


def fusion_groups(graph: Graph, kernels: Sequence[OptimisedKernel]) -> tuple[FusionGroup, ...]:
    """Divide the graph's nodes over the kernels; each node and each kernel is in exactly one group."""
    landmarks = _landmarks(graph, kernels)
    owner = {name: name for name in landmarks if name is not None}
    _join(graph, owner)
    nodes: dict[str, list[str]] = {}
    for node in graph.nodes:
        nodes.setdefault(owner[node.name], []).append(node.name)
    members: dict[str, list[int]] = {name: [] for name in nodes}
    for index, landmark in enumerate(_adopted(kernels, landmarks)):
        if landmark is not None:
            members[owner[landmark]].append(index)
    return tuple(FusionGroup(tuple(names), tuple(members[name])) for name, names in nodes.items())


def _landmarks(graph: Graph, kernels: Sequence[OptimisedKernel]) -> list[str | None]:
    """The original node that each kernel is recognised by."""
    by_label: dict[str, str] = {}
    for node in graph.nodes:
        by_label[node.label] = node.name if node.label not in by_label else ""
    by_label.pop("", None)

    def recognise(kernel: OptimisedKernel) -> str | None:
        for output in kernel.outputs:
            if output in graph.producer_of:
                return graph.producer_of[output].name
        for name in _shorter(kernel.name):
            if name in graph.producer_of:
                return graph.producer_of[name].name
            if by_label.get(name):
                return by_label[name]
        return None

    return [recognise(kernel) for kernel in kernels]


def _shorter(name: str) -> Iterator[str]:
    while True:
        yield name
        match = _SUFFIX.search(name)
        if match is None:
            return
        name = name[: match.start()]


def _join(graph: Graph, owner: dict[str, str]) -> None:
    """Give every node without a landmark the owner of a neighbour: see the module's docstring."""
    for node in reversed(graph.nodes):
        if node.name in owner or node.op_type == "QuantizeLinear":
            continue
        readers = {
            owner.get(reader.name)
            for output in node.outputs
            for reader in graph.consumers_of[output]
        }
        found = readers.pop() if len(readers) == 1 else None
        if found is not None and not any(output in graph.outputs for output in node.outputs):
            owner[node.name] = found
    for node in graph.nodes:
        if node.name not in owner:
            makers = [
                graph.producer_of[name].name for name in node.inputs if name in graph.producer_of
            ]
            owner[node.name] = owner[makers[-1]] if makers else node.name


def _adopted(
    kernels: Sequence[OptimisedKernel], landmarks: Sequence[str | None]
) -> list[str | None]:
    """Give the kernels that the runtime inserted (reorders, transposes) to a neighbour's landmark."""
    found = list(landmarks)
    maker = {output: i for i, kernel in enumerate(kernels) for output in kernel.outputs}
    readers: list[list[int]] = [[] for _ in kernels]
    for i, kernel in enumerate(kernels):
        for name in kernel.inputs:
            if name in maker:
                readers[maker[name]].append(i)
    for i in reversed(range(len(kernels))):
        if found[i] is None:
            found[i] = next((found[j] for j in readers[i] if found[j] is not None), None)
    for i, kernel in enumerate(kernels):
        if found[i] is None:
            makers = [maker[name] for name in kernel.inputs if name in maker]
            found[i] = next((found[j] for j in makers if found[j] is not None), None)
    return found
