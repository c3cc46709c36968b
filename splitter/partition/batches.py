"""Tails that take any number of samples: dimension 0 of all that they read and make is set free.

Only where the model's file leaves dimension 0 of every input open, and it was bound to 1. The model is
bound to 2 and 3 too: what then changes in the shape computations that were folded to constants shows how
each follows the number of samples ``n``, and the tail gets it in that form: a Reshape's target with -1 in
the one place that changes, anything else computed from the shape of an input, as ``first + slope * (n - 1)``
or as ``n`` times the same values.

That is a guess about all other ``n``, and what a constant of the file itself means is not known at all. So
a free tail is used only if it was run: on one sample it gives the same bits as the tail that it is made of,
on two and three different samples what that gives for each alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, helper, numpy_helper

from splitter.errors import SplitterError
from splitter.graph.model import Model
from splitter.graph.read import rebound
from splitter.graph.scope import reads_of
from splitter.partition.manifest import BATCH
from splitter.runtime import Array

SIZES = (2, 3)
"""Numbers of samples that the model is bound to, and that a free tail is run on."""
_MIN_OPSET = 7  # from which on arithmetic broadcasts


@dataclass(frozen=True)
class Trend:
    """A folded constant as a function of the number of samples."""

    first: Array
    """With one sample."""
    slope: Array | None
    """What each further sample adds; None where it adds the same values once more, along dimension 0."""

    @classmethod
    def through(cls, first: Array, second: Array, third: Array) -> Trend | None:
        """None where the three are neither on a line of integers nor repetitions."""
        if first.shape == second.shape == third.shape and first.dtype.kind in "iu":
            slope = second - first
            return cls(first, slope) if np.array_equal(third - second, slope) else None
        if first.ndim and all(
            np.array_equal(other, np.concatenate([first] * size))
            for size, other in zip(SIZES, (second, third), strict=True)
        ):
            return cls(first, None)
        return None


@dataclass(frozen=True)
class Batching:
    """What of a model follows the number of samples."""

    trends: Mapping[str, Trend | None]
    """Of each folded constant that changes; None where it is not known how."""
    free: frozenset[str]
    """Tensors whose dimension 0 is the number of samples, and that change in no other way."""

    @classmethod
    def of(cls, model: Model) -> Batching | None:
        """None where the file fixes the number of samples, or the model cannot have another."""
        if _opset(model.proto) < _MIN_OPSET or not _leaves_open(model):
            return None
        first = {name: model.graph.tensors[name].shape or () for name in model.graph.inputs}
        try:
            others = [
                rebound(model, {name: (size, *shape[1:]) for name, shape in first.items()})
                for size in SIZES
            ]
        except SplitterError:
            return None  # the file promises what it cannot do
        return cls(_trends(model, others), _free(model, others))


def free_tail(tail: Path, batching: Batching) -> bytes | None:
    """A tail with dimension 0 set free; None where something in it is not known to follow."""
    proto = onnx.load(tail, load_external_data=False)
    graph = proto.graph
    ports = [*graph.input, *graph.output]
    if not graph.input or any(port.name not in batching.free for port in ports):
        return None
    for port in ports:
        port.type.tensor_type.shape.dim[0].dim_param = BATCH
    del graph.value_info[:]
    fixed = [name for name in (t.name for t in graph.initializer) if name in batching.trends]
    computed: list[NodeProto] = []
    for name in fixed:
        trend = batching.trends[name]
        if trend is None:
            return None
        _drop_initializer(graph, name)
        target = _reshape_target(
            trend, [node for node in graph.node if name in reads_of(node)], name
        )
        if target is not None:
            _add_constant(graph, name, target)
        else:
            computed += _computed(graph, trend, name)
    if computed:
        for node in reversed([*_samples(graph), *computed]):
            graph.node.insert(0, node)
    return bytes(proto.SerializeToString())


def _opset(proto: onnx.ModelProto) -> int:
    return next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)


def _leaves_open(model: Model) -> bool:
    """Whether dimension 0 of every input is open in the file, and was bound to 1."""
    declared = {value.name: value.type.tensor_type.shape for value in model.proto.graph.input}
    for name in model.graph.inputs:
        shape = model.graph.tensors[name].shape
        if not shape or shape[0] != 1 or not declared[name].dim or declared[name].dim[0].dim_value:
            return False
    return bool(model.graph.inputs)


def _trends(model: Model, others: list[Model]) -> dict[str, Trend | None]:
    found: dict[str, Trend | None] = {}
    for name, value in model.folded.items():
        values = [other.folded[name] for other in others if name in other.folded]
        if len(values) < len(others):
            found[name] = None
        elif not all(np.array_equal(value, other) for other in values):
            found[name] = Trend.through(value, *values)
    return found


def _free(model: Model, others: list[Model]) -> frozenset[str]:
    return frozenset(
        name
        for name, tensor in model.graph.tensors.items()
        if tensor.shape
        and tensor.shape[0] == 1
        and all(
            name in other.graph.tensors
            and other.graph.tensors[name].shape == (size, *tensor.shape[1:])
            for size, other in zip(SIZES, others, strict=True)
        )
    )


def _drop_initializer(graph: GraphProto, name: str) -> None:
    kept = [tensor for tensor in graph.initializer if tensor.name != name]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _reshape_target(trend: Trend, readers: list[NodeProto], name: str) -> Array | None:
    """The target with -1 in the place that changes, where it is the only one and all the rest is known."""
    if trend.slope is None:
        return None
    changing = np.flatnonzero(trend.slope)
    is_target = all(
        node.op_type == "Reshape" and node.domain in ("", "ai.onnx") and node.input[0] != name
        for node in readers
    )
    if not is_target or len(changing) != 1 or trend.first.min() < 1:
        return None
    target = trend.first.copy()
    target[changing[0]] = -1
    return target


def _samples(graph: GraphProto) -> list[NodeProto]:
    """Nodes that make ``n - 1``, a scalar."""
    _add_constant(graph, f"{BATCH}/place", np.array(0))
    _add_constant(graph, f"{BATCH}/one", np.array(1))
    return [
        helper.make_node("Shape", [graph.input[0].name], [f"{BATCH}/shape"]),
        helper.make_node("Gather", [f"{BATCH}/shape", f"{BATCH}/place"], [f"{BATCH}/n"]),
        helper.make_node("Sub", [f"{BATCH}/n", f"{BATCH}/one"], [f"{BATCH}/more"]),
    ]


def _computed(graph: GraphProto, trend: Trend, name: str) -> list[NodeProto]:
    """Nodes that make the constant anew."""
    if trend.slope is None:
        ones = np.ones(trend.first.ndim, np.int64)
        repeats = Trend(ones, np.eye(1, trend.first.ndim, dtype=np.int64)[0])
        _add_constant(graph, f"{name}/once", trend.first)
        nodes = _computed(graph, repeats, f"{name}/repeats")
        return [*nodes, helper.make_node("Tile", [f"{name}/once", f"{name}/repeats"], [name])]
    dtype = helper.np_dtype_to_tensor_dtype(trend.first.dtype)
    _add_constant(graph, f"{name}/first", trend.first)
    _add_constant(graph, f"{name}/slope", trend.slope)
    return [
        helper.make_node("Cast", [f"{BATCH}/more"], [f"{name}/more"], to=dtype),
        helper.make_node("Mul", [f"{name}/more", f"{name}/slope"], [f"{name}/growth"]),
        helper.make_node("Add", [f"{name}/first", f"{name}/growth"], [name]),
    ]


def _add_constant(graph: GraphProto, name: str, value: Array) -> None:
    graph.initializer.append(numpy_helper.from_array(value, name))
