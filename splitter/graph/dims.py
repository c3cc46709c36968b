"""Binding dynamic dimensions: ``--dim batch=1`` by name, ``--shape input=1,3,224,224`` by input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from splitter.errors import DimensionError
from splitter.graph.scope import initializer_names


@dataclass(frozen=True)
class Binding:
    """Every dimension of every fed input, fixed."""

    dims: Mapping[str, int]
    """By the dimension's name in the file."""
    shapes: Mapping[str, tuple[int, ...]]
    """By input; inputs that are not plain tensors are absent."""


def bind(
    graph: onnx.GraphProto,
    dims: Mapping[str, int] | None,
    shapes: Mapping[str, Sequence[int]] | None,
) -> Binding:
    """Fix every input dimension from what the file says and the caller gives.

    Raises
    ------
    DimensionError
        A name is unknown, a value is not positive, two values contradict each other, or a dimension
        is left open.
    """
    weights = initializer_names(graph)
    declared = {
        value.name: _declared(value.type.tensor_type)
        for value in graph.input
        if value.name not in weights and value.type.WhichOneof("value") == "tensor_type"
    }
    given = {name: tuple(shape) for name, shape in (shapes or {}).items()}
    bound = dict(dims or {})
    _check_given(declared, bound, given)
    for name, shape in given.items():
        _take_shape(name, declared[name], shape, bound)
    fixed = {
        name: given[name] if name in given else _closed(name, axes, bound)
        for name, axes in declared.items()
    }
    return Binding(bound, fixed)


Axes = tuple[int | str, ...] | None
"""An input's dimensions: a size, a name, or ``""`` for a dynamic one without a name; None without rank."""


def _declared(tensor: onnx.TypeProto.Tensor) -> Axes:
    if not tensor.HasField("shape"):
        return None
    return tuple(
        dim.dim_value if dim.dim_value > 0 else dim.dim_param.replace("?", "")
        for dim in tensor.shape.dim
    )


def _check_given(
    declared: Mapping[str, Axes],
    dims: Mapping[str, int],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    known = sorted(
        {
            axis
            for axes in declared.values()
            for axis in axes or ()
            if isinstance(axis, str) and axis
        }
    )
    for name, size in dims.items():
        if name not in known:
            listed = (
                f"its dimensions are {', '.join(known)}" if known else "it has no named dimension"
            )
            raise DimensionError(
                f"--dim {name}={size}: the model has no dimension {name!r}; {listed}"
            )
        if size <= 0:
            raise DimensionError(f"--dim {name}={size}: must be positive")
    for name, shape in shapes.items():
        option = f"--shape {name}={_commas(shape)}"
        if name not in declared:
            raise DimensionError(
                f"{option}: the model has no input {name!r}; its inputs are {', '.join(declared)}"
            )
        if any(size <= 0 for size in shape):
            raise DimensionError(f"{option}: every dimension must be positive")


def _take_shape(name: str, axes: Axes, shape: tuple[int, ...], bound: dict[str, int]) -> None:
    if axes is None:
        return
    option = f"--shape {name}={_commas(shape)}"
    if len(axes) != len(shape):
        raise DimensionError(
            f"{option}: input {name!r} has {len(axes)} dimensions, got {len(shape)}"
        )
    for index, (axis, size) in enumerate(zip(axes, shape, strict=True)):
        expected = bound.setdefault(axis, size) if isinstance(axis, str) and axis else axis
        if expected not in ("", size):
            title = f" ({axis!r})" if isinstance(axis, str) else ""
            raise DimensionError(
                f"{option}: dimension {index}{title} is {expected} elsewhere, got {size}"
            )


def _closed(name: str, axes: Axes, bound: Mapping[str, int]) -> tuple[int, ...]:
    if axes is None:
        raise DimensionError(
            f"input {name!r} has no declared shape; bind it with --shape {name}=1,3,224,224"
        )
    shape = []
    for index, axis in enumerate(axes):
        size = bound.get(axis) if isinstance(axis, str) else axis
        if size is None:
            example = _commas(tuple(axis if isinstance(axis, int) else 1 for axis in axes))
            by_name = f"--dim {axis}=1 or " if axis else ""
            title = f"{axis!r}" if axis else "without a name"
            raise DimensionError(
                f"input {name!r} dimension {index} ({title}) is dynamic; "
                f"bind it with {by_name}--shape {name}={example}"
            )
        shape.append(size)
    return tuple(shape)


def _commas(shape: Sequence[int]) -> str:
    return ",".join(map(str, shape))
