"""Which nodes of the model each kernel of the optimised model computes.

The runtime fuses, renames and reorders, and keeps no record of it. What survives is a landmark: an
output that still has its name, or a kernel named after a node or tensor of the original (a blocked
convolution is ``<tensor>_nchwc``, a fused activation ``<node>/QuickGeluFusion/``, a copy
``<node>_token_7``), or a kernel without a name that has the operator and the sources of a node.

A node without a landmark was fused into a neighbour. Into the one before it: a QuantizeLinear (the
fused kernel hands on the integers), an activation that alone reads its input, an addition whose other
operand that kernel reads too. Into the one after it: anything else whose readers agree.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx

from splitter.graph.values import Graph, Node

_EPILOGUES = frozenset(
    {"Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish"}
    | {"BatchNormalization"}
)
_INSERTED = frozenset({"ReorderInput", "ReorderOutput"})
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
    """Divide the graph's nodes over the kernels; each node and each kernel is in exactly one group.

    Where no kernel at all is recognised, the kernels are in none.
    """
    found = _named_landmarks(graph, kernels)
    makers = _makers(kernels)
    _match_nameless(graph, kernels, makers, found)
    adopted = _adopted(kernels, makers, found)
    owner = {name: name for name in found if name is not None}
    _join(graph, owner, _sources(makers, adopted))
    nodes: dict[str, list[str]] = {}
    for node in graph.nodes:
        nodes.setdefault(owner[node.name], []).append(node.name)
    members: dict[str, list[int]] = {name: [] for name in nodes}
    for index, landmark in enumerate(adopted):
        if landmark is not None:
            members[owner[landmark]].append(index)
    return tuple(FusionGroup(tuple(names), tuple(members[name])) for name, names in nodes.items())


def _named_landmarks(graph: Graph, kernels: Sequence[OptimisedKernel]) -> list[str | None]:
    """The node that each kernel is recognised by, through an output's name or its own."""
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


def _makers(kernels: Sequence[OptimisedKernel]) -> list[list[int]]:
    """The kernels that each kernel reads from; an inserted reorder stands for what it reorders."""
    maker = {output: i for i, kernel in enumerate(kernels) for output in kernel.outputs}
    makers: list[list[int]] = []
    for kernel in kernels:
        direct = [maker[name] for name in kernel.inputs if name in maker]
        makers.append(
            [j for i in direct for j in (makers[i] if kernels[i].op_type in _INSERTED else [i])]
        )
    return makers


def _match_nameless(
    graph: Graph,
    kernels: Sequence[OptimisedKernel],
    makers: Sequence[Sequence[int]],
    found: list[str | None],
) -> None:
    """Recognise kernels by operator and sources: the nearest nodes with a landmark before them."""
    claimed = {name for name in found if name is not None}
    unclaimed: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.name not in claimed:
            unclaimed.setdefault(node.op_type, []).append(node)
    for i, kernel in enumerate(kernels):
        if found[i] is not None or kernel.op_type in _INSERTED or kernel.op_type not in unclaimed:
            continue
        sources = {found[j] for j in makers[i]}
        for node in unclaimed[kernel.op_type]:
            if node.name not in claimed and _landmarks_before(graph, node, claimed) == sources:
                found[i] = node.name
                claimed.add(node.name)
                break


def _landmarks_before(graph: Graph, node: Node, claimed: Collection[str]) -> set[str | None]:
    before: set[str | None] = set()
    seen: set[str] = set()
    pending = list(node.inputs)
    while pending:
        producer = graph.producer_of.get(pending.pop())
        if producer is None or producer.name in seen:
            continue
        seen.add(producer.name)
        if producer.name in claimed:
            before.add(producer.name)
        else:
            pending.extend(producer.inputs)
    return before


def _adopted(
    kernels: Sequence[OptimisedKernel],
    makers: Sequence[Sequence[int]],
    landmarks: Sequence[str | None],
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
    for i in range(len(kernels)):
        if found[i] is None:
            found[i] = next((found[j] for j in makers[i] if found[j] is not None), None)
    # A kernel that nothing recognised is connected to: seconds must not vanish, so it goes with the
    # kernel before it, or at the start after it.
    for order in (range(1, len(kernels)), range(len(kernels) - 2, -1, -1)):
        for i in order:
            if found[i] is None:
                found[i] = found[i - order.step]
    return found


def _sources(
    makers: Sequence[Sequence[int]], adopted: Sequence[str | None]
) -> dict[str, set[str | None]]:
    """For each landmark the landmarks that its kernels read from."""
    sources: dict[str, set[str | None]] = {}
    for i, landmark in enumerate(adopted):
        if landmark is not None:
            sources.setdefault(landmark, set()).update(adopted[j] for j in makers[i])
    return sources


def _join(graph: Graph, owner: dict[str, str], sources: Mapping[str, set[str | None]]) -> None:
    """Give every node without a landmark the owner of a neighbour: see the module's docstring."""
    for node in graph.nodes:
        if node.name not in owner:
            before = _fused_before(graph, node, owner, sources)
            if before is not None:
                owner[node.name] = before
    for node in reversed(graph.nodes):
        if node.name in owner or node.op_type == "QuantizeLinear":
            continue
        readers = {
            owner.get(reader.name)
            for output in node.outputs
            for reader in graph.consumers_of[output]
        }
        after = readers.pop() if len(readers) == 1 else None
        if after is not None and not any(output in graph.outputs for output in node.outputs):
            owner[node.name] = after
    for node in graph.nodes:
        if node.name not in owner:
            makers = _producers(graph, node)
            # A DequantizeLinear with several readers is computed inside each of them.
            alone = not makers or node.op_type == "DequantizeLinear"
            owner[node.name] = node.name if alone else owner[makers[-1]]


def _producers(graph: Graph, node: Node) -> list[str]:
    return [graph.producer_of[name].name for name in node.inputs if name in graph.producer_of]


def _fused_before(
    graph: Graph, node: Node, owner: Mapping[str, str], sources: Mapping[str, set[str | None]]
) -> str | None:
    owners = {owner.get(name) for name in _producers(graph, node)}
    if None in owners or not owners:
        return None
    if len(owners) == 1:
        (only,) = owners
        alone = all(len(graph.consumers_of[name]) == 1 for name in node.inputs)
        if node.op_type == "QuantizeLinear" or (node.op_type in _EPILOGUES and alone):
            return only
        return None
    for name in owners:
        if name is not None and owners - {name} <= sources.get(name, set()):
            return name
    return None
