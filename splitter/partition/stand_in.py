"""A stand-in: a smaller model with the inputs and outputs of the whole, for when there is no server."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import numpy as np

from splitter.errors import BundleError, SplitterError
from splitter.graph.model import Model
from splitter.graph.read import load_model
from splitter.graph.values import Tensor
from splitter.partition.check import Values, compare_each, demand_equal, run_one, tolerance
from splitter.partition.manifest import STAND_IN, StandIn
from splitter.partition.parts import PartWriter
from splitter.partition.reference import EXACT, Reference
from splitter.runtime import Runner


def write_stand_in(
    source: str | os.PathLike[str], model: Model, reference: Reference, folder: Path
) -> StandIn:
    """Write a stand-in into a bundle, with the model's dimensions, and run it on the same feeds.

    Raises
    ------
    BundleError
        It cannot be read or run, or one of its inputs or outputs is missing or differs.
    """
    source = Path(source)
    try:
        small, answer = _accepted(source, model, reference)
        with PartWriter(small, folder) as writer:
            path = writer.write_whole(model.graph.outputs, STAND_IN)
        for difference in compare_each(answer, run_one(Runner(path, EXACT), reference.feeds)):
            demand_equal(difference, tolerance(small.graph, EXACT), EXACT)
    except SplitterError as exc:
        reason = str(exc).removeprefix(f"{source}: ")
        raise BundleError(f"{source}: cannot stand in for {model.path.name}: {reason}") from exc
    return StandIn(file=path.name, source=source.name)


def _accepted(source: Path, model: Model, reference: Reference) -> tuple[Model, Values]:
    """The stand-in, its dimensions bound as the model's, and what it answers."""
    if not source.is_file():
        raise BundleError("there is no such file; give the path of an .onnx file")
    whole = model.graph
    runner = Runner(source, EXACT)
    _demand_names("input", whole.inputs, [port.name for port in runner.inputs])
    _demand_names("output", whole.outputs, [port.name for port in runner.outputs])
    shapes = {name: whole.tensors[name].shape for name in whole.inputs}
    small = load_model(
        source, shapes={n: shape for n, shape in shapes.items() if shape is not None}
    )
    for name in (*whole.inputs, *whole.outputs):
        _demand_form(_tensor(model, name), _tensor(small, name))
    answer = run_one(runner, reference.feeds)
    for name, value in reference.plain.items():
        if isinstance(value, np.ndarray) and isinstance(answer[name], np.ndarray):
            shape = value.shape if _tensor(model, name).shape is not None else answer[name].shape
            ours = Tensor(name, value.dtype.name, shape)
            _demand_form(ours, Tensor(name, answer[name].dtype.name, answer[name].shape))
    return small, answer


def _tensor(model: Model, name: str) -> Tensor:
    return model.graph.tensors.get(name) or model.graph.weights[name]


def _demand_names(kind: str, expected: Collection[str], found: Collection[str]) -> None:
    for name in expected:
        if name not in found:
            raise BundleError(f"it has no {kind} {name!r}, but {', '.join(map(repr, found))}")
    for name in found:
        if name not in expected:
            raise BundleError(f"its {kind} {name!r} is none of that model's")


def _demand_form(expected: Tensor, found: Tensor) -> None:
    """Same dtype, and same shape where both are known."""
    shapes = {expected.shape, found.shape} - {None}
    if expected.dtype != found.dtype or len(shapes) > 1:
        raise BundleError(
            f"its {expected.name!r} is {_text(found)} where {_text(expected)} is asked"
        )


def _text(tensor: Tensor) -> str:
    return f"{tensor.dtype} {'?' if tensor.shape is None else list(tensor.shape)}"
