"""Tensor kinds as the file states them, in the words of the package."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import onnx

from splitter.graph.values import Tensor

_NUMPY_NAMES = {"float": "float32", "double": "float64"}


def dtype_name(elem_type: int) -> str:
    """Numpy's name of an ONNX element type, or the ONNX name in lower case where numpy has none."""
    try:
        name: str = onnx.TensorProto.DataType.Name(elem_type).lower()
    except ValueError:
        return f"unknown{elem_type}"
    return _NUMPY_NAMES.get(name, name)


def tensor_of(name: str, kind: onnx.TypeProto, dims: Mapping[str, int]) -> Tensor:
    """Describe a declared or inferred type; a symbolic dimension that ``dims`` binds is known."""
    if kind.WhichOneof("value") != "tensor_type":
        return Tensor(name, _type_name(kind), None)
    tensor = kind.tensor_type
    dtype = dtype_name(tensor.elem_type)
    if dtype == "string" or not tensor.HasField("shape"):
        return Tensor(name, dtype, None)
    shape = [
        dim.dim_value if dim.WhichOneof("value") == "dim_value" else dims.get(dim.dim_param, -1)
        for dim in tensor.shape.dim
    ]
    return Tensor(name, dtype, tuple(shape) if all(size >= 0 for size in shape) else None)


def weight_of(name: str, tensor: onnx.TensorProto) -> Tensor:
    """Describe an initializer without looking at its data."""
    return Tensor(name, dtype_name(tensor.data_type), tuple(tensor.dims))


def element_count(tensor: onnx.TensorProto) -> int:
    """Elements of a constant, by its dimensions."""
    return prod(tensor.dims)


def _type_name(kind: onnx.TypeProto) -> str:
    which = kind.WhichOneof("value")
    if which == "tensor_type":
        return dtype_name(kind.tensor_type.elem_type)
    if which == "sequence_type":
        return f"sequence({_type_name(kind.sequence_type.elem_type)})"
    if which == "optional_type":
        return f"optional({_type_name(kind.optional_type.elem_type)})"
    if which == "map_type":
        key, value = dtype_name(kind.map_type.key_type), _type_name(kind.map_type.value_type)
        return f"map({key},{value})"
    if which == "sparse_tensor_type":
        return f"sparse({dtype_name(kind.sparse_tensor_type.elem_type)})"
    return "undefined"
