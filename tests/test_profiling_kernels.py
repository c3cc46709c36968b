from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from splitter.errors import ProfileError
from splitter.graph.read import load_model
from splitter.partition.check import random_feeds
from splitter.partition.label import label_index, labelled
from splitter.profiling import kernels as module
from splitter.profiling.kernels import kernel_samples, trace_kernels
from splitter.runtime import Settings
from tests import models


def event(name: str, microseconds: int, category: str = "Node") -> dict[str, Any]:
    return {"cat": category, "name": name, "ts": 0, "dur": microseconds, "args": {"op_name": "Op"}}


def write(folder: Path, events: list[dict[str, Any]]) -> Path:
    path = folder / "trace.json"
    path.write_text(json.dumps(events))
    return path


def run(first: int, second: int) -> list[dict[str, Any]]:
    """One run of two kernels, the second before the first, with a nested graph between."""
    return [
        event("splitter/1_kernel_time", second),
        event("Mul_0_kernel_time", 1000),
        event("body/1_kernel_time", 1000),
        event("splitter/x_kernel_time", 1000),
        event("splitter/0_fence_before", 1000),
        event("splitter/0_kernel_time", first),
        event("model_run", 5000, "Session"),
    ]


def test_each_kernel_gets_its_own_events_whatever_the_order_and_what_lies_between(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, [event("session_initialization", 9), *run(9, 9), *run(2, 5), *run(4, 7)])
    first, second = kernel_samples(2, path)
    assert first.seconds == pytest.approx((2e-6, 4e-6))
    assert second.seconds == pytest.approx((5e-6, 7e-6))


def test_a_single_run_is_better_than_none(tmp_path: Path) -> None:
    first, _ = kernel_samples(2, write(tmp_path, run(2, 5)))
    assert first.seconds == pytest.approx((2e-6,))


def test_a_trace_in_which_a_kernel_is_missing_says_nothing(tmp_path: Path) -> None:
    assert kernel_samples(3, write(tmp_path, run(2, 5))) == ()
    assert kernel_samples(2, write(tmp_path, run(2, 5) + run(2, 5)[:1])) == ()
    assert kernel_samples(2, write(tmp_path, [])) == ()


def test_a_model_without_kernels_has_no_samples(tmp_path: Path) -> None:
    assert kernel_samples(0, write(tmp_path, [])) == ()


def test_a_trace_too_large_to_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_TRACE_BYTES", 10)
    with pytest.raises(ProfileError, match="use fewer runs"):
        kernel_samples(2, write(tmp_path, run(2, 5)))


def test_labels_name_the_top_level_nodes_and_change_nothing_else(tmp_path: Path) -> None:
    model = models.if_with_captures()
    found = onnx.load_from_string(labelled(models.save(model, tmp_path / "model.onnx")))
    assert [label_index(node.name) for node in found.graph.node] == list(
        range(len(model.graph.node))
    )
    for node in found.graph.node:
        node.ClearField("name")
    assert found == model


@pytest.mark.parametrize(
    "name", ["", "splitter/", "splitter/a", "x/1", "1", "splitter/-1", "Mul_1"]
)
def test_other_names_are_no_labels(name: str) -> None:
    assert label_index(name) is None


@pytest.mark.parametrize("name", ["two_inputs", "if_with_captures", "scan_with_captures"])
def test_every_kernel_of_a_model_with_several_sources_or_bodies_is_timed(
    name: str, tmp_path: Path
) -> None:
    path = models.save(models.every_model()[name], tmp_path / "model.onnx")
    feeds = random_feeds(load_model(path).graph, 0)
    kernels, samples = trace_kernels(path.read_bytes(), tmp_path, Settings(), feeds, tmp_path, 3)
    assert len(kernels) == len(samples) > 0
    assert all(len(series.seconds) == 3 for series in samples)


def test_weights_outside_the_model_are_found(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save_model(
        models.convolutions(), path, save_as_external_data=True, location="w.data", size_threshold=0
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    feeds = random_feeds(load_model(path).graph, 0)
    kernels, samples = trace_kernels(path.read_bytes(), tmp_path, Settings(), feeds, elsewhere, 1)
    assert len(kernels) == len(samples) > 0
