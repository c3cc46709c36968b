"""Small models for every test: functions that return a fresh ``ModelProto`` each."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper, parser

SHARED = Path(__file__).parents[1].parent / "shared"
"""Trained models and photos beside the checkout; absent in a bare clone."""


def save(model: onnx.ModelProto, path: str | os.PathLike[str]) -> Path:
    """Write the model as it stands, external references and all."""
    Path(path).write_bytes(model.SerializeToString())
    return Path(path)


def parse(text: str) -> onnx.ModelProto:
    return parser.parse_model(text)


def with_weights(
    model: onnx.ModelProto, seed: int = 0, **shapes: tuple[int, ...]
) -> onnx.ModelProto:
    """Add float32 initializers drawn from a seed."""
    rng = np.random.default_rng(seed)
    for name, shape in shapes.items():
        values = rng.standard_normal(shape).astype(np.float32) * np.float32(0.3)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def chain() -> onnx.ModelProto:
    """Three nodes in a row: ``x`` -> ``a`` -> ``b`` -> ``y``."""
    return parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        chain (float[1, 8] x) => (float[1, 8] y) {
            a = Relu(x)
            b = Neg(a)
            y = Sigmoid(b)
        }
        """
    )


def convolutions() -> onnx.ModelProto:
    """Conv, Relu, pooling and Gemm with weights, and a narrow place in the middle."""
    model = parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        convolutions (float[1, 3, 16, 16] image) => (float[1, 5] scores) {
            c1 = Conv <pads = [1, 1, 1, 1]> (image, w1, b1)
            r1 = Relu(c1)
            p1 = MaxPool <kernel_shape = [4, 4], strides = [4, 4]> (r1)
            c2 = Conv <pads = [1, 1, 1, 1]> (p1, w2)
            r2 = Relu(c2)
            g = GlobalAveragePool(r2)
            f = Flatten(g)
            scores = Gemm <transB = 1> (f, w3)
        }
        """
    )
    return with_weights(model, w1=(8, 3, 3, 3), b1=(8,), w2=(4, 8, 3, 3), w3=(5, 4))


def residual() -> onnx.ModelProto:
    """A skip connection: between ``a`` and ``y`` two tensors cross, and ``a`` is read twice."""
    return parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        residual (float[1, 8] x) => (float[1, 8] y) {
            a = Relu(x)
            b = Neg(a)
            c = Exp(b)
            d = Add(a, c)
            y = Tanh(d)
        }
        """
    )


def two_inputs() -> onnx.ModelProto:
    """Two branches with an input each; ``right`` is read late."""
    return parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        two_inputs (float[1, 8] left, float[1, 4] right) => (float[1, 12] y) {
            a = Relu(left)
            b = Neg(a)
            c = Exp(right)
            d = Concat <axis = 1> (b, c)
            y = Tanh(d)
        }
        """
    )


def two_cameras() -> onnx.ModelProto:
    """Three inputs of different places; ``seen`` is made of ``left`` alone, ``scores`` of all."""
    model = parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        two_cameras (float[1, 2, 8, 8] left, float[1, 2, 8, 8] right, float[1, 3] level)
            => (float[1, 4, 4, 4] seen, float[1, 3] scores) {
            lc = Conv <pads = [1, 1, 1, 1]> (left, w1)
            seen = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (lc)
            lr = Relu(seen)
            rc = Conv <pads = [1, 1, 1, 1]> (right, w1)
            rr = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (rc)
            n = Neg(level)
            both = Concat <axis = 1> (lr, rr)
            g = GlobalAveragePool(both)
            f = Flatten(g)
            m = Gemm <transB = 1> (f, w2)
            scores = Add(m, n)
        }
        """
    )
    return with_weights(model, w1=(4, 2, 3, 3), w2=(3, 8))


def two_outputs() -> onnx.ModelProto:
    """``early`` is an output and is read on; ``late`` ends the model."""
    return parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        two_outputs (float[1, 8] x) => (float[1, 8] early, float[1, 8] late) {
            a = Relu(x)
            early = Neg(a)
            b = Exp(early)
            late = Tanh(b)
        }
        """
    )


def if_with_captures() -> onnx.ModelProto:
    """An ``If`` whose input is a condition only; its branches capture ``a``, ``b`` and the weight ``w``."""
    model = parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        if_with_captures (float[1, 8] x) => (float[1, 8] y) {
            a = Relu(x)
            b = Neg(x)
            total = ReduceSum <keepdims = 0> (x)
            zero = Constant <value = float {0.0}> ()
            positive = Greater(total, zero)
            chosen = If (positive) <
                then_branch = yes () => (float[1, 8] yes_out) { yes_out = Mul(a, w) },
                else_branch = no () => (float[1, 8] no_out) { t = Add(b, w) no_out = Exp(t) }
            >
            y = Tanh(chosen)
        }
        """
    )
    return with_weights(model, w=(1, 8))


def loop_with_captures() -> onnx.ModelProto:
    """A ``Loop`` of three turns that captures ``a``."""
    return parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        loop_with_captures (float[1, 8] x) => (float[1, 8] y) {
            a = Relu(x)
            trips = Constant <value = int64 {3}> ()
            go = Constant <value = bool {1}> ()
            state = Loop (trips, go, x) <
                body = turn (int64 i, bool on, float[1, 8] before) => (bool on_out, float[1, 8] after) {
                    on_out = Identity(on)
                    after = Add(before, a)
                }
            >
            y = Tanh(state)
        }
        """
    )


def scan_with_captures() -> onnx.ModelProto:
    """A ``Scan`` over four rows that captures ``bias``, an activation."""
    return parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        scan_with_captures (float[4, 3] rows, float[3] start) => (float[3] last, float[4, 3] sums) {
            bias = Relu(start)
            last, totals = Scan <
                num_scan_inputs = 1,
                body = turn (float[3] before, float[3] row) => (float[3] after, float[3] out) {
                    t = Add(before, row)
                    after = Add(t, bias)
                    out = Identity(after)
                }
            > (start, rows)
            sums = Tanh(totals)
        }
        """
    )


def weights_as_inputs() -> onnx.ModelProto:
    """Opset 7 and IR 3: the weight is listed among the graph's inputs too."""
    model = parse(
        """
        <ir_version: 3, opset_import: ["" : 7]>
        weights_as_inputs (float[1, 4] x, float[4, 6] w) => (float[1, 6] y) {
            a = MatMul(x, w)
            y = Relu(a)
        }
        """
    )
    return with_weights(model, w=(4, 6))


def awkward_names() -> onnx.ModelProto:
    """Node names that are empty or a tensor's, tensor names that are no file names, a stale shape."""
    nodes = [
        helper.make_node("Relu", ["x:0"], ["scope/a:0"], name="../b"),
        helper.make_node("Neg", ["scope/a:0"], ["../b"], name=""),
        helper.make_node("Exp", ["../b"], ["c d"], name=""),
        helper.make_node("Tanh", ["c d"], ["y:0"], name=""),
    ]
    graph = helper.make_graph(
        nodes,
        "awkward",
        [helper.make_tensor_value_info("x:0", onnx.TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y:0", onnx.TensorProto.FLOAT, [7, 8])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def local_function() -> onnx.ModelProto:
    """A model-local function called twice."""
    return parse(
        """
        <ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        local_function (float[1, 8] x) => (float[1, 8] y) {
            a = local.gate(x)
            b = Neg(a)
            y = local.gate(b)
        }
        <domain: "local", opset_import: ["" : 17]>
        gate (v) => (out) {
            s = Sigmoid(v)
            out = Mul(v, s)
        }
        """
    )


def dynamic_reshape() -> onnx.ModelProto:
    """A dynamic batch whose ``Shape`` feeds a ``Reshape`` at the end, as exporters write it."""
    model = parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        dynamic_reshape (float[batch, 3, 4] x) => (float[batch, 12] y) {
            dims = Shape(x)
            zero = Constant <value = int64[1] {0}> ()
            rest = Constant <value = int64[1] {-1}> ()
            size = Gather(dims, zero)
            target = Concat <axis = 0> (size, rest)
            a = Relu(x)
            b = Exp(a)
            flat = Reshape(b, target)
            y = Mul(flat, scale)
        }
        """
    )
    return with_weights(model, scale=(12,))


def watcher() -> onnx.ModelProto:
    """The network of the tutorial as PyTorch exports it, with other weights."""
    blocks = [
        (("relu_2", "add", "add_1", "add_2")[block], f"conv2d_{block + 3}", f"relu_{block + 3}",
         ("add", "add_1", "add_2", "add_3")[block], f"blocks.{block}")
        for block in range(4)
    ]  # fmt: skip
    convolutions = [
        ("photo", "conv2d", "relu", "eye.0", {"strides": [4, 4], "pads": [1, 1, 1, 1]}),
        ("relu", "conv2d_1", "relu_1", "eye.2", {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("relu_1", "conv2d_2", "relu_2", "widen", {}),
        *((read, conv, relu, block, {"pads": [1, 1, 1, 1]}) for read, conv, relu, _, block in blocks),
    ]  # fmt: skip
    sums = {relu: (read, added) for read, _, relu, added, _ in blocks}
    nodes = []
    for read, conv, relu, weights, attributes in convolutions:
        inputs = [read, f"{weights}.weight", f"{weights}.bias"]
        nodes.append(helper.make_node("Conv", inputs, [conv], f"node_{conv}", **attributes))
        nodes.append(helper.make_node("Relu", [conv], [relu], f"node_{relu}"))
        if relu in sums:
            before, added = sums[relu]
            nodes.append(helper.make_node("Add", [before, relu], [added], f"node_{added}"))
    nodes.append(
        helper.make_node("ReduceMean", ["add_3", "val_2"], ["mean"], "node_mean", keepdims=0)
    )
    classify = ["mean", "classify.weight", "classify.bias"]
    nodes.append(helper.make_node("Gemm", classify, ["scores"], "node_linear", transB=1))
    graph = helper.make_graph(
        nodes,
        "watcher",
        [helper.make_tensor_value_info("photo", onnx.TensorProto.FLOAT, [1, 3, 224, 224])],
        [helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(np.array([2, 3]), "val_2")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    shapes = {
        "eye.0": (16, 3, 3, 3),
        "eye.2": (8, 16, 3, 3),
        "widen": (96, 8, 1, 1),
        "classify": (10, 96),
    }
    shapes |= {f"blocks.{block}": (96, 96, 3, 3) for block in range(4)}
    return with_weights(
        model,
        **{f"{name}.weight": shape for name, shape in shapes.items()},
        **{f"{name}.bias": shape[:1] for name, shape in shapes.items()},
    )


def every_model() -> dict[str, onnx.ModelProto]:
    """All of the above by name; those with a dynamic batch call it ``batch``."""
    builders = (
        chain, convolutions, residual, two_inputs, two_outputs, if_with_captures, loop_with_captures,
        scan_with_captures, weights_as_inputs, awkward_names, local_function, dynamic_reshape,
    )  # fmt: skip
    return {builder.__name__: builder() for builder in builders}
