"""Tiny models that show what a machine reaches: one matrix product, nothing else."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def matrix_product(size: int, *, integer: bool = False) -> bytes:
    """A model ``y = x @ weight`` over square matrices, float32, or uint8 by int8 into int32.

    The input is called ``x``. The weight lies in the model, as a network's does, so that the
    runtime packs it beforehand.
    """
    rng = np.random.default_rng(0)
    if integer:
        operator, kind, result = "MatMulInteger", TensorProto.UINT8, TensorProto.INT32
        weight = rng.integers(-127, 128, (size, size)).astype(np.int8)
    else:
        operator, kind, result = "MatMul", TensorProto.FLOAT, TensorProto.FLOAT
        weight = rng.standard_normal((size, size)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "weight"], ["y"])],
        "probe",
        [helper.make_tensor_value_info("x", kind, [size, size])],
        [helper.make_tensor_value_info("y", result, [size, size])],
        [numpy_helper.from_array(weight, "weight")],
    )
    opset = helper.make_opsetid("", 13)
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    return bytes(model.SerializeToString())
