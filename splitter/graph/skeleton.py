"""A copy of a model that is light enough to infer shapes on, and may be rewritten freely.

Weights keep their dimensions but not their data, inputs take the bound shapes, and the shapes that the
file declares for outputs are forgotten: exporters leave stale ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from splitter.graph.dims import Binding
from splitter.graph.fold import MAX_ELEMENTS
from splitter.graph.kinds import element_count
from splitter.graph.scope import Site, bodies, initializer_names


def skeleton_of(proto: onnx.ModelProto, sites: Sequence[Site], binding: Binding) -> onnx.ModelProto:
    """Copy what inference needs, the nodes in the order of ``sites``."""
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


def inlined_branch(branch: onnx.GraphProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The nodes of the branch that a decided ``If`` takes, for the scope around it.

    Inner names get a prefix, so that they stay apart from those of other bodies.
    """
    prefix = f"{node.output[0]}//"
    inner = {name for inner_node in branch.node for name in inner_node.output if name}
    names = {name: prefix + name for name in inner | initializer_names(branch)}
    nodes = [
        onnx.helper.make_node("Constant", [], [names[tensor.name]], value=tensor)
        for tensor in branch.initializer
    ]
    for inner_node in branch.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(inner_node)
        _rename(copy, names)
        nodes.append(copy)
    for made, value in zip(node.output, branch.output, strict=False):
        if made:
            source = names.get(value.name, value.name)
            nodes.append(onnx.helper.make_node("Identity", [source], [made]))
    return nodes


def _rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Rename what a node reads and makes, and what its bodies capture."""
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    for body in bodies(node):
        _rename_captures(body, names)


def _rename_captures(body: onnx.GraphProto, names: Mapping[str, str]) -> None:
    own = initializer_names(body) | {value.name for value in body.input}
    own.update(name for node in body.node for name in node.output)
    outer = {name: new for name, new in names.items() if name not in own}
    for node in body.node:
        _rename(node, outer)
    for value in body.output:
        value.name = outer.get(value.name, value.name)
