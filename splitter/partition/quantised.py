"""Quantising inside the parts: levels leave the head and enter the tail.

The runtime quantises several times faster than numpy, so where a codec begins with affine levels the head
ends in QuantizeLinear and the tail begins with DequantizeLinear::

    head  t (float) -> Add(-dead * step) -> QuantizeLinear(step, zero)   -> t (uint8)
    tail  t (uint8) -> DequantizeLinear(size, zero) -> t (float) -> ...

They are onnxruntime's own operators (domain com.microsoft), which take any opset and scales by channel. A
tensor that is a model input, or that the device needs as it is, is left to the codec. NaN has no level:
where the codec would send such a tensor as it is, the graph makes some level of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from splitter.codec import Codec
from splitter.codec.affine import Affine
from splitter.codec.base import Form
from splitter.codec.levels import Levels
from splitter.errors import BundleError
from splitter.graph.scope import bodies
from splitter.graph.values import Graph
from splitter.partition.check import Values, chain, compare_each, demand_equal, run_one
from splitter.partition.manifest import CrossingSpec
from splitter.runtime import Optimisation, Runner, Settings

_EXACT = Settings(optimisation=Optimisation.NONE)
_DOMAIN = "com.microsoft"
_FLOAT = "float32"  # what QuantizeLinear takes of every opset
_MOST_ROUNDED = 1e-2
"""Part of the elements that may lie so near to the border of two levels that either is right."""
_DEQUANTISED = 1e-6
"""The product of level and size is rounded once on either way."""


def quantiser_of(codec: Codec, dtype: str) -> Affine | None:
    """The quantiser that a codec begins with, where the graph can do its work."""
    first = codec.stages[0] if codec.stages else None
    return first if isinstance(first, Affine) and dtype == _FLOAT else None


def rest_of(codec: Codec) -> Codec:
    """The codec of the levels: what is left to be done where the graph quantises."""
    first = codec.stages[0]
    assert isinstance(first, Affine)
    return Codec(codec.name, (Levels(levels=first.levels), *codec.stages[1:]))


def inside_graph(graph: Graph, specs: Iterable[CrossingSpec]) -> dict[str, Affine]:
    """Quantisers that can move into the parts, by crossing tensor."""
    found = {}
    for spec in specs:
        affine = quantiser_of(spec.codec, spec.dtype)
        is_made_here_only = spec.tensor in graph.producer_of and spec.tensor not in graph.outputs
        if affine is not None and is_made_here_only:
            found[spec.tensor] = affine
    return found


def quantise_parts(head: Path, tail: Path, quantisers: Mapping[str, Affine], feeds: Values) -> None:
    """Rewrite both parts, and check that they still do what the codec does between the plain ones.

    Raises
    ------
    BundleError
        Levels differ by more than rounding, or the outputs of the tail at all.
    """
    made = chain(Runner(head, _EXACT), None, feeds)
    levels = {name: affine.encode(made[name]) for name, affine in quantisers.items()}
    decoded = {
        name: affine.decode(levels[name], Form(_FLOAT, levels[name].shape))
        for name, affine in quantisers.items()
    }
    expected = run_one(Runner(tail, _EXACT), {**made, **decoded})
    quantise_head(head, quantisers)
    dequantise_tail(tail, quantisers)
    inside = chain(Runner(head, _EXACT), None, feeds)
    for name, affine in quantisers.items():
        found = np.minimum(inside[name], affine.levels - 1).astype(np.int16)
        apart = np.abs(found - levels[name])
        if np.max(apart, initial=0) > 1 or np.mean(apart > 0) > _MOST_ROUNDED:
            raise BundleError(
                f"{name!r} is quantised otherwise inside the graph; please report this"
            )
    for difference in compare_each(expected, run_one(Runner(tail, _EXACT), {**made, **levels})):
        demand_equal(difference, _DEQUANTISED, _EXACT)


def quantise_head(path: Path, quantisers: Mapping[str, Affine]) -> None:
    """Rewrite a head so that it makes levels of these outputs, under the same names."""
    proto = _load(path)
    for name, affine in quantisers.items():
        inner = _rename(proto.graph, name)
        shifted = inner
        channels = len(affine.step)
        if affine.dead:
            shifted = f"{name}/shifted"
            shape = [channels] + [1] * (_rank(proto.graph, name) - affine.axis - 1)
            shift = -affine.dead * np.array(affine.step, np.float32)
            _add_constant(
                proto.graph, f"{name}/shift", shift.reshape(shape if channels > 1 else [])
            )
            proto.graph.node.append(helper.make_node("Add", [inner, f"{name}/shift"], [shifted]))
        inputs = [shifted, *_scale(proto.graph, name, affine.step, affine.zero)]
        proto.graph.node.append(_node("QuantizeLinear", inputs, name, affine))
    _retype(proto.graph.output, quantisers)
    _save(proto, path)


def dequantise_tail(path: Path, quantisers: Mapping[str, Affine]) -> None:
    """Rewrite a tail so that it takes levels for these inputs, under the same names."""
    proto = _load(path)
    for name, affine in quantisers.items():
        inner = _rename(proto.graph, name)
        inputs = [name, *_scale(proto.graph, name, affine.size, affine.zero)]
        proto.graph.node.insert(0, _node("DequantizeLinear", inputs, inner, affine))
    _retype(proto.graph.input, quantisers)
    _save(proto, path)


def _node(op_type: str, inputs: list[str], output: str, affine: Affine) -> NodeProto:
    node = helper.make_node(op_type, inputs, [output], domain=_DOMAIN)
    if len(affine.step) > 1:
        node.attribute.append(helper.make_attribute("axis", affine.axis))
    return node


def _load(path: Path) -> ModelProto:
    proto = onnx.load(path, load_external_data=False)
    if not any(opset.domain == _DOMAIN for opset in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return proto


def _save(proto: ModelProto, path: Path) -> None:
    path.write_bytes(proto.SerializeToString())


def _rename(graph: GraphProto, name: str) -> str:
    """Give the float value another name, wherever it is made or read, so that the levels can have its own."""
    inner = f"{name}/float"
    pending = [graph]
    while pending:
        scope = pending.pop()
        for node in scope.node:
            for names in (node.input, node.output):
                for place, found in enumerate(names):
                    if found == name:
                        names[place] = inner
            pending.extend(bodies(node))
        if scope is not graph:
            for value in scope.output:
                if value.name == name:
                    value.name = inner
    return inner


def _scale(graph: GraphProto, name: str, values: tuple[float, ...], zero: int) -> list[str]:
    """The two constants of either operator: scalars, or by channel."""
    shape: list[int] = [] if len(values) == 1 else [len(values)]
    _add_constant(graph, f"{name}/scale", np.array(values, np.float32).reshape(shape))
    _add_constant(graph, f"{name}/zero", np.full(shape, zero, np.uint8))
    return [f"{name}/scale", f"{name}/zero"]


def _add_constant(graph: GraphProto, name: str, value: np.typing.NDArray[np.generic]) -> None:
    graph.initializer.append(numpy_helper.from_array(value, name))


def _rank(graph: GraphProto, name: str) -> int:
    (value,) = [value for value in graph.output if value.name == name]
    return len(value.type.tensor_type.shape.dim)


def _retype(values: object, names: Mapping[str, Affine]) -> None:
    for value in values:  # type: ignore[attr-defined]
        if value.name in names:
            value.type.tensor_type.elem_type = TensorProto.UINT8
