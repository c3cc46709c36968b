"""Shapes and dtypes of every tensor, and the values that follow from shapes alone.

Inference runs on a *skeleton*: the model without the data of its weights, without the types that the
file declares for its inner tensors (exporters leave stale ones), with the bound input shapes. Values that
become known are put into the skeleton as initializers and inference runs again, until nothing new appears.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference

from splitter.errors import ModelError
from splitter.graph.dims import Binding
from splitter.graph.fold import (
    MAX_ELEMENTS,
    Array,
    constant_value,
    evaluate,
    small_constant,
)
from splitter.graph.kinds import element_count, tensor_of, weight_of
from splitter.graph.operators import functions_of, key_of
from splitter.graph.scope import Site, initializer_names
from splitter.graph.values import Tensor

_MAX_ROUNDS = 32
"""Rounds of inference; each reaches past one layer of shape arithmetic, most models need two."""


@dataclass
class Facts:
    """What is known about the tensors of the main graph."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)
    """Small tensors whose value is known: constants and folded shape arithmetic."""
    skeleton: onnx.ModelProto = field(default_factory=onnx.ModelProto)
    """With inferred types, those inside bodies included."""


def infer(proto: onnx.ModelProto, sites: Sequence[Site], binding: Binding) -> Facts:
    """Infer types and fold shape arithmetic until neither learns anything.

    Raises
    ------
    ModelError
        The model is so malformed that inference cannot start on it.
    """
    opaque = _opaque_outputs(proto, sites)
    facts = Facts(skeleton=_skeleton(proto, sites, binding))
    graph = facts.skeleton.graph
    graph.value_info.extend(value for value in proto.graph.value_info if value.name in opaque)
    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 1)
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    doubtful = _doubtful(sites, opaque)
    functions = functions_of(proto)
    foldable = [site for site in sites if key_of(site.proto) not in functions]
    for _ in range(_MAX_ROUNDS):
        _infer_types(facts, binding)
        found = _fold(foldable, facts, constants, doubtful, opset)
        complete = all(
            facts.tensors[name].shape is not None for site in sites for name in site.makes
        )
        if not found or complete:
            break
        _insert(facts.skeleton, found, {value.name for value in proto.graph.output})
    return facts


def _infer_types(facts: Facts, binding: Binding) -> None:
    try:
        facts.skeleton = shape_inference.infer_shapes(facts.skeleton, data_prop=True)
    except (shape_inference.InferenceError, ValueError, RuntimeError) as exc:
        raise ModelError(f"shapes cannot be inferred: {' '.join(str(exc).split())[:300]}") from exc
    graph = facts.skeleton.graph
    for value in (*graph.value_info, *graph.input, *graph.output):
        facts.tensors[value.name] = tensor_of(value.name, value.type, binding.dims)
    for tensor in graph.initializer:
        facts.tensors[tensor.name] = weight_of(tensor.name, tensor)
    for sparse in graph.sparse_initializer:
        name = sparse.values.name
        facts.tensors[name] = Tensor(name, weight_of(name, sparse.values).dtype, tuple(sparse.dims))
    for node in graph.node:
        for name in node.output:
            facts.tensors.setdefault(name, Tensor(name, "undefined", None))


def _fold(
    sites: Sequence[Site],
    facts: Facts,
    constants: Mapping[str, onnx.TensorProto],
    doubtful: set[str],
    opset: int,
) -> dict[str, Array]:
    """Evaluate what became known in this round."""
    values = facts.values
    found: dict[str, Array] = {}
    for site in sites:
        node, name = site.proto, site.name
        if name in values:
            continue
        value = None
        if node.op_type in ("Shape", "Size") and not node.domain:
            if node.input[0] not in doubtful:
                value = _measured(node, facts.tensors.get(node.input[0]))
        elif node.op_type == "Constant" and not node.domain:
            value = constant_value(node)
        elif all(known in values or known in constants for known in site.reads):
            arrays = [_value(read, values, constants) if read else None for read in node.input]
            if all(
                array is not None for array, read in zip(arrays, node.input, strict=True) if read
            ):
                value = evaluate(node, arrays, opset)
        if value is not None:
            values[name] = found[name] = value
    return found


def _value(
    name: str, values: dict[str, Array], constants: Mapping[str, onnx.TensorProto]
) -> Array | None:
    if name not in values:
        value = small_constant(constants[name])
        if value is None:
            return None
        values[name] = value
    return values[name]


def _measured(node: onnx.NodeProto, tensor: Tensor | None) -> Array | None:
    if tensor is None or tensor.shape is None:
        return None
    if node.op_type == "Size":
        return np.array(np.prod(tensor.shape, dtype=np.int64))
    ends = {a.name: a.i for a in node.attribute}
    return np.array(tensor.shape[ends.get("start", 0) : ends.get("end")], np.int64)


def _doubtful(sites: Sequence[Site], opaque: set[str]) -> set[str]:
    """Tensors whose shape rests on what the file declares of outputs that inference cannot see."""
    tainted = set(opaque)
    for site in sites:
        if not tainted.isdisjoint(site.reads):
            tainted.update(site.makes)
    return tainted


def _opaque_outputs(proto: onnx.ModelProto, sites: Sequence[Site]) -> set[str]:
    """What is made by operators of which shape inference knows nothing."""
    functions = functions_of(proto)
    return {
        name
        for site in sites
        if site.proto.domain not in ("", "ai.onnx")
        and key_of(site.proto) not in functions
        and not onnx.defs.has(site.proto.op_type, domain=site.proto.domain)
        for name in site.makes
    }


def _insert(skeleton: onnx.ModelProto, found: Mapping[str, Array], outputs: set[str]) -> None:
    """Replace nodes by their value, where the model does not return it."""
    replaced = found.keys() - outputs
    kept = [node for node in skeleton.graph.node if not replaced.intersection(node.output)]
    del skeleton.graph.node[:]
    skeleton.graph.node.extend(kept)
    kept_info = [info for info in skeleton.graph.value_info if info.name not in replaced]
    del skeleton.graph.value_info[:]
    skeleton.graph.value_info.extend(kept_info)
    for name in sorted(replaced):
        skeleton.graph.initializer.append(numpy_helper.from_array(found[name], name))


def _skeleton(proto: onnx.ModelProto, sites: Sequence[Site], binding: Binding) -> onnx.ModelProto:
    skeleton = onnx.ModelProto(ir_version=max(proto.ir_version, 8))
    skeleton.opset_import.extend(proto.opset_import)
    skeleton.functions.extend(proto.functions)
    graph = skeleton.graph
    graph.name = "skeleton"
    weights = initializer_names(proto.graph)
    for value in proto.graph.input:
        if value.name not in weights:
            _bound(graph.input.add(), value, binding)
    for value in proto.graph.output:
        _untyped(graph.output.add(), value)
    for tensor in proto.graph.initializer:
        _copy_tensor(graph.initializer.add(), tensor)
    for sparse in proto.graph.sparse_initializer:
        kept = graph.initializer.add(name=sparse.values.name, data_type=sparse.values.data_type)
        kept.dims.extend(sparse.dims)
    for site in sites:
        _copy_node(graph.node.add(), site.proto)
    return skeleton


def _bound(target: onnx.ValueInfoProto, value: onnx.ValueInfoProto, binding: Binding) -> None:
    target.CopyFrom(value)
    if value.name in binding.shapes:
        shape = target.type.tensor_type.shape
        shape.ClearField("dim")
        shape.SetInParent()
        for size in binding.shapes[value.name]:
            shape.dim.add(dim_value=size)


def _untyped(target: onnx.ValueInfoProto, value: onnx.ValueInfoProto) -> None:
    """An output whose declared dimensions are forgotten."""
    target.CopyFrom(value)
    if value.type.WhichOneof("value") == "tensor_type":
        target.type.tensor_type.ClearField("shape")


def _copy_node(target: onnx.NodeProto, node: onnx.NodeProto) -> None:
    """Copy a node with its bodies, leaving large constants without data."""
    if not any(a.HasField("t") or a.HasField("g") or a.graphs for a in node.attribute):
        target.CopyFrom(node)
        return
    target.op_type, target.domain, target.name = node.op_type, node.domain, node.name
    target.overload = node.overload
    target.input.extend(node.input)
    target.output.extend(node.output)
    for attribute in node.attribute:
        copy = target.attribute.add()
        if attribute.HasField("t"):
            copy.name, copy.type = attribute.name, attribute.type
            _copy_tensor(copy.t, attribute.t)
        elif attribute.HasField("g"):
            copy.name, copy.type = attribute.name, attribute.type
            _copy_body(copy.g, attribute.g)
        else:
            copy.CopyFrom(attribute)


def _copy_body(target: onnx.GraphProto, body: onnx.GraphProto) -> None:
    target.name = body.name
    target.input.extend(body.input)
    for value in body.output:
        _untyped(target.output.add(), value)
    for tensor in body.initializer:
        _copy_tensor(target.initializer.add(), tensor)
    target.sparse_initializer.extend(body.sparse_initializer)
    for node in body.node:
        _copy_node(target.node.add(), node)


def _copy_tensor(target: onnx.TensorProto, tensor: onnx.TensorProto) -> None:
    external = tensor.data_location == onnx.TensorProto.EXTERNAL
    if external or element_count(tensor) > MAX_ELEMENTS:
        target.name, target.data_type = tensor.name, tensor.data_type
        target.dims.extend(tensor.dims)
    else:
        target.CopyFrom(tensor)
