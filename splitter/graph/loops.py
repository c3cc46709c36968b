"""Shapes that a ``Loop`` keeps.

ONNX's inference forgets the shape of a loop's state, since a turn may change it. Here the initial shapes are
assumed inside the body; where inference then finds that a turn keeps them all, they hold after any number
of turns.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from splitter.graph.kinds import tensor_of
from splitter.graph.scope import bodies
from splitter.graph.values import Tensor

Shapes = list[tuple[int, ...] | None]


def assume_states(graph: onnx.GraphProto, tensors: Mapping[str, Tensor], tried: set[str]) -> bool:
    """Write the initial shapes of states into the bodies of loops not tried before; tell if any."""
    assumed = False
    for node in graph.node:
        body = _body(node)
        if body is None or node.output[0] in tried:
            continue
        shapes = _initial(node, tensors)
        if shapes and None not in shapes and len(body.input) == 2 + len(shapes):
            tried.add(node.output[0])
            assumed = True
            for value, shape in zip(body.input[2:], shapes, strict=True):
                value.type.CopyFrom(_retyped(value.type, shape))
            _forget(body)
    return assumed


def kept_states(graph: onnx.GraphProto, tensors: Mapping[str, Tensor]) -> list[onnx.ValueInfoProto]:
    """Types of loop results whose shapes a turn was found to keep, for the scope around the loop."""
    kept = []
    for node in graph.node:
        body = _body(node)
        if body is None:
            continue
        before = _initial(node, tensors)
        states = range(1, 1 + len(before))
        after = [tensor_of("", body.output[at].type, {}).shape for at in states]
        assumed = [tensor_of("", value.type, {}).shape for value in body.input[2:]]
        if None in before or not before == assumed == after:
            continue
        for name, at in zip(node.output, states, strict=False):
            if name:
                kept.append(onnx.ValueInfoProto(name=name, type=body.output[at].type))
    return kept


def _body(node: onnx.NodeProto) -> onnx.GraphProto | None:
    if node.op_type != "Loop" or node.domain or not node.output:
        return None
    body = next((a.g for a in node.attribute if a.name == "body"), None)
    return body if body is not None and len(body.output) >= len(node.input) - 1 else None


def _initial(node: onnx.NodeProto, tensors: Mapping[str, Tensor]) -> Shapes:
    return [tensors[name].shape if name in tensors else None for name in node.input[2:]]


def _forget(body: onnx.GraphProto) -> None:
    """Drop what was inferred inside before the states had a shape."""
    del body.value_info[:]
    for value in body.output:
        if value.type.WhichOneof("value") == "tensor_type":
            value.type.tensor_type.ClearField("shape")
    for node in body.node:
        for inner in bodies(node):
            _forget(inner)


def _retyped(kind: onnx.TypeProto, shape: tuple[int, ...] | None) -> onnx.TypeProto:
    made: onnx.TypeProto = onnx.helper.make_tensor_type_proto(kind.tensor_type.elem_type, shape)
    return made
