"""Data for calibration tests: a folder of arrays, and benches on the small models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from splitter import api
from splitter.calibration.bench import Bench, make_bench
from splitter.dataset import Dataset, open_dataset
from splitter.graph.model import Model
from splitter.runtime import Settings
from tests import models

Array = np.ndarray[Any, Any]


def save_model(proto: onnx.ModelProto, folder: Path, **dims: int) -> Model:
    return api.load(models.save(proto, folder / "model.onnx"), dims=dims)


def save_arrays(folder: Path, model: Model, count: int = 6, **replaced: Array) -> Path:
    """An npz a sample, drawn from its number; ``replaced`` puts other values into the last."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        rng = np.random.default_rng(number)
        feeds = {
            name: _draw(rng, model.graph.tensors[name].shape or (), model.graph.tensors[name].dtype)
            for name in model.graph.inputs
        }
        if number == count - 1:
            feeds |= replaced
        np.savez(folder / f"{number:03}.npz", **feeds)
    return folder


def open_arrays(folder: Path, model: Model, labels: Path | None = None) -> Dataset:
    inputs = {name: model.graph.tensors[name] for name in model.graph.inputs}
    return open_dataset(folder, inputs, labels=labels)


def save_labels(path: Path, labels: Sequence[int]) -> Path:
    rows = [f"{number:03}.npz,{label}" for number, label in enumerate(labels)]
    path.write_text("\n".join(["file,class_index", *rows]))
    return path


def bench_of(model: Model, folder: Path, count: int = 6, **replaced: Array) -> Bench:
    data = open_arrays(save_arrays(folder, model, count, **replaced), model)
    return make_bench(model, data, Settings())


def _draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    if dtype == "bool":
        return np.asarray(rng.integers(0, 2, shape), bool)
    if "int" in dtype:
        return np.asarray(rng.integers(0, 3, shape), dtype)
    return np.asarray(rng.standard_normal(shape), dtype)
