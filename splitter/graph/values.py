"""A model as nodes and tensors, without its weights: frozen values that no protobuf leaves its mark on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

ITEM_BYTES: Mapping[str, int] = {
    "bool": 1, "uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "uint32": 4, "int32": 4,
    "uint64": 8, "int64": 8, "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8,
}  # fmt: skip
"""Bytes an element, of the dtypes that can travel; any other (string, sequence, int4 ...) cannot."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named array, as far as it is known without running the model."""

    name: str
    dtype: str
    """A numpy name (``float32``, ``bfloat16``), or for what is not a plain tensor its ONNX kind."""
    shape: tuple[int, ...] | None
    """None where the shape depends on the data, or the value is not a plain tensor."""

    @property
    def nbytes(self) -> int | None:
        """Bytes on the wire uncompressed; None for a value that cannot travel."""
        if self.shape is None or self.dtype not in ITEM_BYTES:
            return None
        return prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Node:
    """An operator, or after contraction a kernel made of several."""

    name: str
    """The first output's name: unlike the node's own name, never empty and never repeated."""
    op_type: str
    inputs: tuple[str, ...]
    """Activations read, each once, values captured by nested graphs included; no weights."""
    outputs: tuple[str, ...]
    label: str = ""
    """The name in the model file."""
    domain: str = ""
    weights: tuple[str, ...] = ()
    """Constants read: initializers, and results of nodes that depend on no input."""
    flops: int = 0
    """Two for each multiply-add, one for each element of an element-wise operator."""
    members: tuple[str, ...] = ()
    """Names of the original nodes in a kernel; empty for a node of the model itself."""


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which they can run. Constants and folded shape computations are absent."""

    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    """Every model input and node output, by name."""
    inputs: tuple[str, ...]
    """Model inputs that the caller feeds (weights listed as inputs are not among them)."""
    outputs: tuple[str, ...]
    sha256: str
    """Of the model file."""
    dims: Mapping[str, int] = field(default_factory=dict)
    """The dynamic dimensions as they were bound."""
    weights: Mapping[str, Tensor] = field(default_factory=dict)

    @cached_property
    def node_of(self) -> dict[str, Node]:
        """Node by name."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def producer_of(self) -> dict[str, Node]:
        """The node that makes a tensor; model inputs have none."""
        return {output: node for node in self.nodes for output in node.outputs}

    @cached_property
    def consumers_of(self) -> dict[str, tuple[Node, ...]]:
        """The nodes that read a tensor; empty for one that only leaves the model."""
        readers: dict[str, list[Node]] = {name: [] for name in self.tensors}
        for node in self.nodes:
            for name in node.inputs:
                readers[name].append(node)
        return {name: tuple(nodes) for name, nodes in readers.items()}
