"""Operations of a node, floating-point or integer.

Two for each multiply-add, one for each element of an element-wise operator, none for moving data. A node
whose shapes are unknown counts as none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import onnx
from onnx import helper, inliner, numpy_helper, shape_inference

from splitter.graph.fold import Array
from splitter.graph.infer import Facts
from splitter.graph.kinds import tensor_of, weight_of
from splitter.graph.operators import FunctionKey, every_node, functions_of, key_of
from splitter.graph.scope import bodies, reads_of

Shapes = Mapping[str, tuple[int, ...]]

_MOVES = frozenset(
    {
        "Reshape", "Transpose", "Concat", "Split", "Slice", "Gather", "GatherElements", "GatherND",
        "Scatter", "ScatterElements", "ScatterND", "Squeeze", "Unsqueeze", "Flatten", "Identity",
        "Expand", "Tile", "Pad", "Shape", "Size", "Constant", "ConstantOfShape", "DepthToSpace",
        "SpaceToDepth", "Dropout", "ReverseSequence", "Compress", "NonZero", "Range", "OneHot",
        "EyeLike", "Trilu", "CastLike", "Cast", "Optional", "OptionalGetElement",
        "SequenceConstruct", "SequenceAt", "SequenceInsert", "SequenceErase", "SequenceEmpty",
        "SplitToSequence", "ConcatFromSequence",
    }
)  # fmt: skip
"""Operators that move or rename data without arithmetic on it."""


def flops_by_node(facts: Facts) -> dict[str, int]:
    """Operations of each node by its first output; those of an inlined branch go to its ``If``."""
    known = {name: t.shape for name, t in facts.tensors.items() if t.shape is not None}
    counter = _Counter(facts.skeleton, facts.values)
    found: dict[str, int] = {}
    for node in facts.skeleton.graph.node:
        name = next((output for output in node.output if output), "")
        owner = facts.owner_of.get(name, name)
        found[owner] = found.get(owner, 0) + counter.count(node, known)
    return found


class _Counter:
    """Counts nodes of one model; calls of the same function with the same shapes are counted once."""

    def __init__(self, model: onnx.ModelProto, values: Mapping[str, Array]) -> None:
        self._model = model
        self._values = values
        self._functions = functions_of(model)
        self._elem_types = _elem_types(model.graph)
        self._calls: dict[tuple[FunctionKey, bytes, tuple[Any, ...]], int] = {}

    def count(self, node: onnx.NodeProto, shapes: Shapes) -> int:
        try:
            if key_of(node) in self._functions:
                return self._call(node, shapes)
            if node.op_type in ("If", "Loop", "Scan", "SequenceMap"):
                return self._control(node, shapes)
            if node.op_type in _MOVES:
                return 0
            return _FORMULAS.get(node.op_type, _per_output)(node, shapes)
        except (LookupError, TypeError, ValueError):
            return 0  # a shape is unknown, or the node is not what its operator should be

    def _control(self, node: onnx.NodeProto, shapes: Shapes) -> int:
        counts = []
        for body in bodies(node):
            captured = {name: shapes[name] for name in reads_of(node) if name in shapes}
            known = {**captured, **_known_shapes(body)}
            counts.append(sum(self.count(inner, known) for inner in body.node))
        return max(counts, default=0) * self._trips(node, shapes)

    def _trips(self, node: onnx.NodeProto, shapes: Shapes) -> int:
        """Turns of a loop, or one where that depends on the data."""
        limit = self._values.get(next(iter(node.input), ""))
        if node.op_type == "Loop" and limit is not None and limit.size == 1:
            return max(0, int(limit.reshape(())))
        if node.op_type == "Scan":
            scanned = _attribute(node, "num_scan_inputs", 0)
            shape = shapes.get(node.input[-1], ())
            axis = _attribute(node, "scan_input_axes", [0] * scanned)[-1]
            return shape[axis] if shape else 1
        return 1

    def _call(self, node: onnx.NodeProto, shapes: Shapes) -> int:
        given = tuple(shapes.get(name) for name in node.input)
        key = (key_of(node), b"".join(a.SerializeToString() for a in node.attribute), given)
        if key not in self._calls:
            self._calls[key] = self._written_out(node, given)
        return self._calls[key]

    def _written_out(self, node: onnx.NodeProto, given: Sequence[tuple[int, ...] | None]) -> int:
        """Count a call of a function in a model that holds nothing else."""
        model = onnx.ModelProto(ir_version=self._model.ir_version)
        model.opset_import.extend(self._model.opset_import)
        model.functions.extend(self._needed_by(node))
        graph = model.graph
        graph.name = "call"
        graph.node.add().CopyFrom(node)
        for name, shape in dict(zip(node.input, given, strict=True)).items():
            if name in self._values:
                graph.initializer.append(numpy_helper.from_array(self._values[name], name))
            elif name and shape is not None:
                elem_type = self._elem_types.get(name, onnx.TensorProto.FLOAT)
                graph.input.append(helper.make_tensor_value_info(name, elem_type, shape))
        graph.output.extend(helper.make_empty_tensor_value_info(o) for o in node.output if o)
        try:
            model = inliner.inline_local_functions(model)
            del model.functions[:]  # a call that could not be inlined must not be tried for ever
            model = shape_inference.infer_shapes(model, data_prop=True)
        except (shape_inference.InferenceError, ValueError, RuntimeError):
            return 0  # inference cannot follow this call, so its shapes are unknown
        inner = _known_shapes(model.graph)
        return sum(_Counter(model, self._values).count(node, inner) for node in model.graph.node)

    def _needed_by(self, call: onnx.NodeProto) -> list[onnx.FunctionProto]:
        """The function that is called and those that it calls in turn."""
        needed: dict[FunctionKey, onnx.FunctionProto] = {}
        pending = [key_of(call)]
        while pending:
            key = pending.pop()
            if key in self._functions and key not in needed:
                needed[key] = self._functions[key]
                pending.extend(key_of(inner) for inner in every_node(needed[key].node))
        return list(needed.values())


def _elem_types(graph: onnx.GraphProto) -> dict[str, int]:
    declared = (*graph.value_info, *graph.input, *graph.output)
    found = {value.name: value.type.tensor_type.elem_type for value in declared}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _known_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    tensors = [
        *(tensor_of(v.name, v.type, {}) for v in (*graph.value_info, *graph.input, *graph.output)),
        *(weight_of(tensor.name, tensor) for tensor in graph.initializer),
    ]
    return {tensor.name: tensor.shape for tensor in tensors if tensor.shape is not None}


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def _per_output(node: onnx.NodeProto, shapes: Shapes) -> int:
    return prod(shapes[node.output[0]])


def _per_input(node: onnx.NodeProto, shapes: Shapes) -> int:
    return prod(shapes[node.input[0]])


def _convolution(weight: int) -> Formula:
    """Each output element sums over the weight's input channels and window."""
    return lambda node, shapes: (
        2 * prod(shapes[node.output[0]]) * prod(shapes[node.input[weight]][1:])
    )


def _transposed_convolution(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Each input element is spread over the weight's output channels and window."""
    return 2 * prod(shapes[node.input[0]]) * prod(shapes[node.input[1]][1:])


def _product(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Each output element sums over the last axis of the left matrix, or the one before."""
    left = shapes[node.input[0]]
    summed = -2 if _attribute(node, "transA", 0) and len(left) > 1 else -1
    return 2 * prod(shapes[node.output[0]]) * left[summed]


def _recurrent(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Each step multiplies by all input and recurrent weights; axes 0 and 1 are step and batch."""
    weights = prod(shapes[node.input[1]]) + prod(shapes[node.input[2]])
    return 2 * prod(shapes[node.input[0]][:2]) * weights


def _window(node: onnx.NodeProto, shapes: Shapes) -> int:
    kernel: list[int] = _attribute(node, "kernel_shape", [])
    return prod(shapes[node.output[0]]) * prod(kernel)


def _einsum(node: onnx.NodeProto, shapes: Shapes) -> int:
    """One multiply-add for each combination of indices; an ellipsis counts once a leading axis."""
    terms = _attribute(node, "equation", b"").decode().replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, name in zip(terms, node.input, strict=False):
        letters = term.replace("...", "")
        shape = shapes[name]
        hidden = shape[: len(shape) - len(letters)] if "..." in term else ()
        sizes.update({f"...{axis}": size for axis, size in enumerate(hidden)})
        sizes.update(zip(letters, shape[len(hidden) :], strict=False))
    return 2 * prod(sizes.values())


def _attention(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Scores and their product with the values, over whole query and key sequences."""
    query, key = shapes[node.input[0]], shapes[node.input[1]]
    if len(query) == 4:  # batch, heads, length, size
        return 4 * prod(query) * key[2]
    return 4 * prod(query) * key[1]


def _packed_attention(node: onnx.NodeProto, shapes: Shapes) -> int:
    """``com.microsoft.Attention``: the projection to query, key and value, then attention."""
    batch, length, _ = shapes[node.input[0]]
    weight = shapes[node.input[1]]
    return 2 * batch * length * prod(weight) + 4 * batch * length * length * (weight[-1] // 3)


def _any_attention(node: onnx.NodeProto, shapes: Shapes) -> int:
    packed = node.domain == "com.microsoft" and node.op_type == "Attention"
    return (_packed_attention if packed else _attention)(node, shapes)


def _block_quantised(node: onnx.NodeProto, shapes: Shapes) -> int:
    return 2 * prod(shapes[node.output[0]]) * int(_attribute(node, "K", 0))


Formula = Callable[[onnx.NodeProto, Shapes], int]

_FORMULAS: Mapping[str, Formula] = {
    **dict.fromkeys(("Conv", "ConvInteger", "FusedConv", "DeformConv"), _convolution(1)),
    "QLinearConv": _convolution(3),
    **dict.fromkeys(("ConvTranspose", "FusedConvTranspose"), _transposed_convolution),
    **dict.fromkeys(
        ("MatMul", "Gemm", "MatMulInteger", "QLinearMatMul", "QGemm", "FusedMatMul", "FusedGemm",
         "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "GemmFloat8"),
        _product,
    ),
    "MatMulNBits": _block_quantised,
    **dict.fromkeys(("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"), _recurrent),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool", "QLinearAveragePool"), _window),
    "Einsum": _einsum,
    **dict.fromkeys(("Attention", "MultiHeadAttention"), _any_attention),
    **dict.fromkeys(
        ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "QLinearGlobalAveragePool",
         "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
         "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare", "ArgMax", "ArgMin", "TopK"),
        _per_input,
    ),
}  # fmt: skip
