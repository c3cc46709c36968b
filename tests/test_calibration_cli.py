"""``splitter calibrate`` and ``splitter codec bench``, as typed, with what people get wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from splitter import api
from splitter.calibration.records import Calibration
from splitter.preprocess import PREPROCESS
from splitter.reporting.plots import demand_plot
from tests import models
from tests.calibrations import save_arrays, save_labels
from tests.cli import run, succeed


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with arrays, labels and photos for it; not to be changed."""
    folder = tmp_path_factory.mktemp("calibration")
    path = models.save(models.convolutions(), folder / "model.onnx")
    save_arrays(folder / "data", api.load(path), 4)
    save_labels(folder / "labels.csv", [0, 1, 2, 3])
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = rng.integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number}.png")
    np.save(folder / "array.npy", rng.standard_normal((4, 30)).astype(np.float32))
    return folder


def test_a_calibration_is_written_and_shown(made: Path, tmp_path: Path, capfd: Any) -> None:
    path = tmp_path / "c.json"
    shown = succeed(
        capfd, "calibrate", made / "model.onnx", "--data", made / "data",
        "--labels", made / "labels.csv", "--tensor", "p1", "-o", path,
    )  # fmt: skip
    assert f"wrote {path}" in shown
    assert "model.onnx on 4 samples" in shown
    for words in ("p1", "lossless", "all agree", "budget 1 %", "95 % agree", "whole model right"):
        assert words in shown
    assert list(tmp_path.iterdir()) == [path]
    assert [result.tensor for result in Calibration.load(path).tensors] == ["p1"]


def test_json_is_the_document(made: Path, tmp_path: Path, capfd: Any) -> None:
    path = tmp_path / "c.json"
    shown = succeed(
        capfd, "calibrate", made / "model.onnx", "--data", made / "data", "--tensors", "1",
        "--samples", "2", "--answer", "values", "--jobs", "1", "-o", path, "--json",
    )  # fmt: skip
    assert json.loads(shown) == json.loads(path.read_text())
    assert json.loads(shown)["data"]["samples"] == 2


def test_photos_are_measured_in_their_own_encodings_too(
    made: Path, tmp_path: Path, capfd: Any
) -> None:
    shutil.copytree(made / "photos", tmp_path / "photos")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no photo")
    shown = succeed(
        capfd, "calibrate", made / "model.onnx", "--data", tmp_path / "photos",
        "--preprocess", "unit", "--tensors", "0", "-o", tmp_path / "c.json",
    )  # fmt: skip
    assert "sent in its own encodings" in shown
    assert "png" in shown
    assert "1 files could not be read" in shown
    assert "broken.jpg" in shown
    found = Calibration.load(tmp_path / "c.json")
    assert found.data.preprocess == PREPROCESS["unit"]
    names = {result.codec.name for result in found.tensors[0].results}
    assert {"raw", "zstd", "png", "uint8-zstd"} <= names


CALIBRATE = "calibrate {m}/model.onnx --data {m}/data -o {t}/c.json "
FAILURES = {
    "no model": ("calibrate {m}/no.onnx --data {m}/data -o {t}/c.json", "no.onnx"),
    "no folder": ("calibrate {m}/model.onnx --data {m}/no -o {t}/c.json", "is no folder of data"),
    "empty folder": ("calibrate {m}/model.onnx --data {t} -o {t}/c.json", "holds no data"),
    "no output folder": ("calibrate {m}/model.onnx --data {m}/data -o {t}/no/c.json", "not exist"),
    "unknown tensor": (CALIBRATE + "--tensor p7", "did you mean 'p1'"),
    "tensor that nothing reads": (CALIBRATE + "--tensor scores", "read by no node"),
    "no labels": (CALIBRATE + "--labels {t}/no.csv", "no.csv"),
    "labels of other files": (CALIBRATE + "--labels {t}/other.csv", "other.csv"),
    "provider that is not there": (CALIBRATE + "--provider Abacus", "Abacus"),
    "wrong shape": ("calibrate {m}/model.onnx --data {t}/wrong -o {t}/c.json", "1x3x8x8"),
    "unreadable": (
        "calibrate {m}/model.onnx --data {t}/broken -o {t}/c.json --preprocess unit",
        "none of 1 files can be read",
    ),
    "bench of no file": ("codec bench {t}/no.npy", "no.npy"),
    "bench of no array": ("codec bench {t}/fake.npy", "cannot be read as an array"),
    "bench of an unknown tensor": ("codec bench {m}/model.onnx:p7", "did you mean 'p1'"),
    "bench of no model": ("codec bench {t}/no.onnx:p1", "no.onnx"),
    "bench of text": ("codec bench {t}/words.npy", "cannot travel"),
    "plot of no kind": ("codec bench {m}/array.npy --plot {t}/a.txt", ".png, .svg"),
    "plot in no folder": ("codec bench {m}/array.npy --plot {t}/no/a.png", "does not exist"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_bad_input_is_one_line_and_leaves_nothing(
    case: str, made: Path, tmp_path: Path, capfd: Any
) -> None:
    line, words = FAILURES[case]
    (tmp_path / "wrong").mkdir()
    np.save(tmp_path / "wrong" / "0.npy", np.zeros((1, 3, 8, 8), np.float32))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no photo")
    (tmp_path / "other.csv").write_text("file,class_index\nother.npz,1\n")
    (tmp_path / "fake.npy").write_bytes(b"no array")
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    before = sorted(tmp_path.rglob("*"))
    if case == "empty folder":
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        before = []
    outcome = run(capfd, *line.format(m=made, t=tmp_path).split())
    assert outcome.status == 1
    assert words in outcome.err
    assert outcome.err.count("\n") == 1, outcome.err
    assert "Traceback" not in outcome.err
    assert sorted(tmp_path.rglob("*")) == before


USAGE = {
    "no data": ("calibrate {m}/model.onnx -o c.json", "--data"),
    "no output": ("calibrate {m}/model.onnx --data {m}/data", "--output"),
    "no samples": (CALIBRATE + "--samples 0", "--samples"),
    "unknown answer": (CALIBRATE + "--answer maybe", "maybe"),
    "unknown preprocessing": (CALIBRATE + "--preprocess torch", "torch"),
    "bench of a folder": ("codec bench {m}", "MODEL:TENSOR"),
    "bench of a model": ("codec bench {m}/model.onnx", "MODEL:TENSOR"),
    "bench of a model without a tensor": ("codec bench {m}/model.onnx:", "MODEL:TENSOR"),
    "data for an array": ("codec bench {m}/array.npy --data {m}/data", "MODEL:TENSOR"),
    "labels without data": ("codec bench {m}/model.onnx:p1 --labels l.csv", "--data"),
    "unknown subcommand": ("codec benhc {m}/array.npy", "benhc"),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_says_what_is_right(case: str, made: Path, tmp_path: Path, capfd: Any) -> None:
    line, words = USAGE[case]
    outcome = run(capfd, *line.format(m=made, t=tmp_path).split())
    assert outcome.status == 2
    assert words in outcome.err


def test_bench_of_an_array(made: Path, capfd: Any) -> None:
    shown = succeed(capfd, "codec", "bench", made / "array.npy")
    assert "array.npy  float32 4x30, 480 B" in shown
    assert "MB of the tensor a second" in shown
    found = json.loads(succeed(capfd, "codec", "bench", made / "array.npy", "--json"))
    assert found["shape"] == [4, 30]
    assert found["results"][0]["codec"]["name"] == "raw"
    assert all(result["answer"]["agreement"] is None for result in found["results"])
    errors = [result["answer"]["error"] for result in found["results"]]
    assert errors[0] == 0
    assert errors[-1] > 0


@pytest.mark.parametrize("shape", [(), (0, 3), (1,)])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "bool"])
def test_bench_of_any_array(shape: Any, dtype: str, tmp_path: Path, capfd: Any) -> None:
    np.save(tmp_path / "a.npy", np.ones(shape, dtype))
    assert "a.npy" in succeed(capfd, "codec", "bench", tmp_path / "a.npy")


def test_bench_of_a_model_s_tensor_without_and_with_data(made: Path, capfd: Any) -> None:
    target = f"{made / 'model.onnx'}:p1"
    assert "error" in succeed(capfd, "codec", "bench", target)
    shown = succeed(
        capfd, "codec", "bench", target, "--data", made / "data", "--labels", made / "labels.csv",
        "--samples", "4",
    )  # fmt: skip
    assert "agree %" in shown
    assert "right %" in shown
    image = f"{made / 'model.onnx'}:image"
    assert "1x3x16x16" in succeed(capfd, "codec", "bench", image)


def test_names_with_colons_are_found(tmp_path: Path, capfd: Any) -> None:
    path = models.save(models.awkward_names(), tmp_path / "a:b.onnx")
    shown = succeed(capfd, "codec", "bench", f"{path}:scope/a:0", "--dim", "batch=2")
    assert "scope/a:0" in shown


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_a_plot_is_drawn(suffix: str, made: Path, tmp_path: Path, capfd: Any) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / f"plot.{suffix}"
    shown = succeed(capfd, "codec", "bench", made / "array.npy", "--plot", plot)
    assert f"wrote {plot}" in shown
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    assert plot.read_bytes().startswith(starts[suffix])


def test_a_plot_of_accuracy_is_drawn(made: Path, tmp_path: Path, capfd: Any) -> None:
    pytest.importorskip("matplotlib")
    succeed(
        capfd, "codec", "bench", f"{made / 'model.onnx'}:p1", "--data", made / "data",
        "--labels", made / "labels.csv", "--plot", tmp_path / "p1.png",
    )  # fmt: skip
    with Image.open(tmp_path / "p1.png") as image:
        assert image.width > 500


def test_a_plot_without_matplotlib_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(api.PlanError.__base__, match=r"splitter\[plot\]"):
        demand_plot(tmp_path / "a.png")


def test_help_shows_examples(capfd: Any) -> None:
    assert "Examples" in succeed(capfd, "calibrate", "--help")
    assert "Examples" in succeed(capfd, "codec", "bench", "--help")
    assert "bench" in succeed(capfd, "codec", "--help")
