"""Evaluating shape arithmetic: the small operators whose result follows from the bound dimensions.

Only operators whose result the runtime computes to the same bits are here: data movement, integers,
booleans, and the float operations that IEEE 754 rounds in one way. Each evaluator takes the node, its
input arrays (None for an omitted one) and the attributes, and may raise ArithmeticError, LookupError,
TypeError or ValueError for arrays the operator does not accept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Array = np.ndarray[Any, Any]
Arrays = Sequence[Array | None]
Attributes = Mapping[str, Any]

MAX_ELEMENTS = 1024
"""A larger tensor is data, not a shape."""


def small_constant(tensor: onnx.TensorProto) -> Array | None:
    """The value of a constant, or None where it is large, external, or of a dtype not folded."""
    if prod(tensor.dims) > MAX_ELEMENTS or tensor.data_location == onnx.TensorProto.EXTERNAL:
        return None
    try:
        array = numpy_helper.to_array(tensor)
    except (LookupError, TypeError, ValueError):
        return None  # of an unknown dtype, or with less data than its dimensions say
    return array if array.dtype.kind in "biu" or array.dtype in _EXACT_FLOATS else None


def constant_value(node: onnx.NodeProto) -> Array | None:
    """The value of a ``Constant`` node, by the same limits."""
    for attribute in node.attribute:
        if attribute.name == "value":
            return small_constant(attribute.t)
        if attribute.name in ("value_int", "value_ints"):
            return _limited(np.array(helper.get_attribute_value(attribute), np.int64))
        if attribute.name in ("value_float", "value_floats"):
            return _limited(np.array(helper.get_attribute_value(attribute), np.float32))
    return None


def is_evaluated(node: onnx.NodeProto) -> bool:
    """Whether there is an evaluator for the operator."""
    return node.op_type in _EVALUATORS and node.domain in ("", "ai.onnx") and len(node.output) == 1


def evaluate(node: onnx.NodeProto, arrays: Arrays, opset: int) -> Array | None:
    """The value of the node's only output, or None where it is not known to the bit, or not small."""
    evaluator = _EVALUATORS[node.op_type]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    attributes["opset"] = opset
    try:
        with np.errstate(all="ignore"):
            result = evaluator(arrays, attributes)
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return None  # the runtime says what is wrong with such a node, when it is run
    return None if result is None else _limited(result)


def _limited(array: Array) -> Array | None:
    exact = array.dtype.kind != "f" or (array.dtype in _EXACT_FLOATS and np.isfinite(array).all())
    return (
        np.ascontiguousarray(array).reshape(array.shape)
        if exact and array.size <= MAX_ELEMENTS
        else None
    )


_EXACT_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def _given(arrays: Arrays, index: int) -> Array:
    array = arrays[index]
    if array is None:
        raise ValueError
    return array


def _optional(arrays: Arrays, index: int) -> Array | None:
    return arrays[index] if index < len(arrays) else None


def _ints(arrays: Arrays, index: int, attributes: Attributes, name: str) -> list[int] | None:
    """What older opsets state as an attribute and newer ones as an input."""
    if name in attributes:
        return [int(value) for value in attributes[name]]
    array = _optional(arrays, index)
    return None if array is None else [int(value) for value in array.reshape(-1)]


def _cast(arrays: Arrays, attributes: Attributes) -> Array | None:
    source = _given(arrays, 0)
    target = np.dtype(helper.tensor_dtype_to_np_dtype(attributes["to"]))
    if target.kind not in "biu" and target not in _EXACT_FLOATS:
        return None
    if source.dtype.kind == "f" and target.kind in "iu":
        bounds = np.iinfo(target)  # out of range is undefined behaviour in the runtime
        whole = np.trunc(source.astype(np.float64))
        if not ((whole >= float(bounds.min)) & (whole < float(bounds.max))).all():
            return None
    return source.astype(target)


def _squeeze(arrays: Arrays, attributes: Attributes) -> Array:
    axes = _ints(arrays, 1, attributes, "axes")
    return np.squeeze(_given(arrays, 0), None if axes is None else tuple(axes))


def _unsqueeze(arrays: Arrays, attributes: Attributes) -> Array:
    axes = _ints(arrays, 1, attributes, "axes")
    if axes is None:
        raise ValueError
    return np.expand_dims(_given(arrays, 0), tuple(axes))


def _reshape(arrays: Arrays, attributes: Attributes) -> Array:
    source = _given(arrays, 0)
    shape = _ints(arrays, 1, attributes, "shape") or []
    if not attributes.get("allowzero", 0):
        shape = [source.shape[i] if size == 0 else size for i, size in enumerate(shape)]
    return source.reshape(shape)


def _gather(arrays: Arrays, attributes: Attributes) -> Array:
    source, indices = _given(arrays, 0), _given(arrays, 1)
    if prod(source.shape) * indices.size > MAX_ELEMENTS**2:
        raise ValueError
    return np.take(source, indices, axis=attributes.get("axis", 0))


def _slice(arrays: Arrays, attributes: Attributes) -> Array:
    source = _given(arrays, 0)
    starts = _ints(arrays, 1, attributes, "starts") or []
    ends = _ints(arrays, 2, attributes, "ends") or []
    axes = _ints(arrays, 3, attributes, "axes")
    steps = _ints(arrays, 4, attributes, "steps") or [1] * len(starts)
    index = [slice(None)] * source.ndim
    for axis, start, end, step in zip(
        axes if axes is not None else range(len(starts)), starts, ends, steps, strict=True
    ):
        stop = None if step < 0 and end < -source.shape[axis] else end
        index[axis] = slice(start, stop, step)
    return source[tuple(index)]


def _divide(arrays: Arrays, attributes: Attributes) -> Array:
    top, bottom = _given(arrays, 0), _given(arrays, 1)
    if top.dtype.kind == "f":
        return np.asarray(top / bottom)
    if (bottom == 0).any():
        raise ZeroDivisionError
    quotient = top // bottom  # numpy rounds down, the runtime towards zero
    return np.asarray(quotient + ((quotient < 0) & (quotient * bottom != top)), top.dtype)


def _modulo(arrays: Arrays, attributes: Attributes) -> Array:
    top, bottom = _given(arrays, 0), _given(arrays, 1)
    if top.dtype.kind == "f" or (bottom == 0).any():
        raise ZeroDivisionError
    return np.asarray(np.fmod(top, bottom) if attributes.get("fmod", 0) else np.mod(top, bottom))


def _range(arrays: Arrays, attributes: Attributes) -> Array:
    dtype = _given(arrays, 0).dtype
    if dtype.kind == "f":
        raise ValueError
    # Exporters also feed tensors of one element, which the runtime takes as long as it cannot see it.
    start, limit, delta = (int(_given(arrays, index).item()) for index in range(3))
    if abs(limit - start) > MAX_ELEMENTS * abs(delta):
        raise ValueError
    return np.arange(start, limit, delta, dtype=dtype)


def _constant_of_shape(arrays: Arrays, attributes: Attributes) -> Array:
    shape = _bounded(_given(arrays, 0).tolist())
    if "value" not in attributes:
        return np.zeros(shape, np.float32)
    value = numpy_helper.to_array(attributes["value"])
    return np.full(shape, value.reshape(-1)[0], value.dtype)


def _expand(arrays: Arrays, attributes: Attributes) -> Array:
    source = _given(arrays, 0)
    shape = _bounded(np.broadcast_shapes(source.shape, tuple(_given(arrays, 1).tolist())))
    return np.broadcast_to(source, shape)


def _tile(arrays: Arrays, attributes: Attributes) -> Array:
    source, repeats = _given(arrays, 0), _given(arrays, 1).tolist()
    _bounded([size * times for size, times in zip(source.shape, repeats, strict=True)])
    return np.tile(source, repeats)


def _bounded(shape: Sequence[int]) -> Sequence[int]:
    if prod(shape) > MAX_ELEMENTS:
        raise ValueError
    return shape


def _reduce(reduction: Callable[..., Any]) -> Evaluator:
    def evaluator(arrays: Arrays, attributes: Attributes) -> Array:
        source = _given(arrays, 0)
        if source.dtype.kind == "f":
            raise TypeError  # the runtime may add in another order
        axes = _ints(arrays, 1, attributes, "axes")
        if not axes and attributes.get("noop_with_empty_axes", 0):
            return source
        keep = bool(attributes.get("keepdims", 1))
        result = reduction(source, axis=tuple(axes) if axes else None, keepdims=keep)
        return np.asarray(result, source.dtype)

    return evaluator


def _elementwise(function: Callable[..., Any], *, floats: bool = True) -> Evaluator:
    def evaluator(arrays: Arrays, attributes: Attributes) -> Array:
        values = [_given(arrays, index) for index in range(len(arrays))]
        if not floats and any(value.dtype.kind == "f" for value in values):
            raise TypeError
        _bounded(np.broadcast_shapes(*(value.shape for value in values)))
        if attributes["opset"] < 7 and len({value.shape for value in values}) > 1:
            raise ValueError  # broadcasting was an attribute then
        return np.asarray(function(*values))

    return evaluator


def _concat(arrays: Arrays, attributes: Attributes) -> Array:
    values = [_given(arrays, index) for index in range(len(arrays))]
    return np.concatenate(values, axis=attributes.get("axis", 1))


def _transpose(arrays: Arrays, attributes: Attributes) -> Array:
    return np.transpose(_given(arrays, 0), attributes.get("perm"))


Evaluator = Callable[[Arrays, Attributes], Array | None]

_EVALUATORS: Mapping[str, Evaluator] = {
    "Identity": lambda arrays, attributes: _given(arrays, 0),
    "Cast": _cast,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Reshape": _reshape,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Transpose": _transpose,
    "Range": _range,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Tile": _tile,
    "Div": _divide,
    "Mod": _modulo,
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "Add": _elementwise(np.add),
    "Sub": _elementwise(np.subtract),
    "Mul": _elementwise(np.multiply),
    "Neg": _elementwise(np.negative),
    "Abs": _elementwise(np.abs),
    "Floor": _elementwise(np.floor),
    "Ceil": _elementwise(np.ceil),
    "Where": _elementwise(np.where),
    "Not": _elementwise(np.logical_not),
    "And": _elementwise(np.logical_and),
    "Or": _elementwise(np.logical_or),
    "Equal": _elementwise(np.equal),
    "Greater": _elementwise(np.greater),
    "GreaterOrEqual": _elementwise(np.greater_equal),
    "Less": _elementwise(np.less),
    "LessOrEqual": _elementwise(np.less_equal),
    "Min": _elementwise(
        lambda *values: np.minimum.reduce(np.broadcast_arrays(*values)), floats=False
    ),
    "Max": _elementwise(
        lambda *values: np.maximum.reduce(np.broadcast_arrays(*values)), floats=False
    ),
}
