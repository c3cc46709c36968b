"""A whole calibration of small models, on arrays that the tests write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splitter import api
from splitter.calibration import measure, tensor
from splitter.calibration.bench import load_parts, parallel
from splitter.calibration.evaluate import Evaluator, evaluate
from splitter.calibration.measure import Options, calibrate
from splitter.calibration.records import Calibration, CodecResult, TensorResult
from splitter.calibration.tensor import calibrate_tensor
from splitter.codec import RAW, Codec
from splitter.errors import CalibrationError, CodecError, InputError, SplitterError
from splitter.graph import cut_at, cut_of
from splitter.graph.model import Model
from splitter.partition.check import run_one
from splitter.profiling.timing import Rounds
from splitter.runtime import Runner, Settings
from tests import models
from tests.calibrations import bench_of, open_arrays, save_arrays, save_labels, save_model

QUICK = Options(tensors=3)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return save_model(models.convolutions(), tmp_path)


@pytest.fixture
def residual(tmp_path: Path) -> Model:
    return save_model(models.residual(), tmp_path)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds are taken once: no test looks at them."""
    once = Rounds(least=1, most=1, budget_s=0, warmup=0)
    monkeypatch.setattr(tensor, "ROUNDS", once)


def by_name(result: TensorResult) -> dict[str, CodecResult]:
    return {found.codec.name: found for found in result.results}


def lossy(result: TensorResult) -> list[CodecResult]:
    return [found for found in result.results if not found.codec.is_lossless]


def test_what_is_measured_is_what_head_codec_and_tail_really_do(
    model: Model, tmp_path: Path
) -> None:
    data = open_arrays(save_arrays(tmp_path / "data", model, 5), model)
    found = calibrate(model, data, Settings(), Options(only=("p1",)))
    (result,) = found.tensors
    assert (result.dtype, result.shape, result.nbytes) == ("float32", (1, 8, 4, 4), 512)
    whole = Runner(model.path, Settings())
    bench = bench_of(model, tmp_path / "data", 5)
    parts = load_parts(bench, cut_at(model.graph, ["p1"]))
    coarse = lossy(result)[-1]
    sizes, errors, agreements = [], [], []
    norms = [np.linalg.norm(run_one(whole, data.feeds(s))["scores"]) for s in data.samples]
    for sample, norm in zip(data.samples, norms, strict=True):
        feeds = data.feeds(sample)
        values = parts.crossing(feeds)
        payload = coarse.codec.encode(values["p1"])
        decoded = coarse.codec.decode(payload, "float32", (1, 8, 4, 4))
        expected, got = (
            outputs["scores"]
            for outputs in (run_one(whole, feeds), parts.finish(values, {"p1": decoded}))
        )
        sizes.append(len(payload))
        usual = np.sqrt(np.mean(np.square(norms)))
        errors.append(np.linalg.norm(got - expected) / max(norm, usual))
        agreements.append(got.argmax() == expected.argmax())
    assert coarse.wire_bytes == -(-sum(sizes) // 5)
    assert coarse.wire_bytes_p95 == max(sizes)
    assert coarse.answer.error == pytest.approx(np.mean(errors), rel=1e-4)
    assert coarse.answer.agreement == np.mean(agreements)
    assert coarse.answer.samples == 5


@pytest.mark.parametrize("name", models.every_model())
def test_every_small_model_is_calibrated(name: str, tmp_path: Path) -> None:
    dims = {"batch": 2} if name in ("awkward_names", "dynamic_reshape") else {}
    model = save_model(models.every_model()[name], tmp_path, **dims)
    data = open_arrays(save_arrays(tmp_path / "data", model, 3), model)
    found = calibrate(model, data, Settings(), QUICK)
    assert found.is_complete
    inputs = [name for name in model.graph.inputs if model.graph.consumers_of[name]]
    assert [result.tensor for result in found.tensors][: len(inputs)] == inputs
    for result in found.tensors:
        assert (result.dtype, result.shape) == (
            model.graph.tensors[result.tensor].dtype,
            model.graph.tensors[result.tensor].shape,
        )
        assert [r.codec.is_lossless for r in result.results[:2]] == [True, True]
        assert result.note or lossy(result) or result.stopped
        assert "raw" in by_name(result)
        for each in result.results:
            assert each.wire_bytes <= each.wire_bytes_p95 + 1
            if each.codec.is_lossless:
                assert (each.answer.error, each.answer.cosine) == (0, 1)


def test_a_calibration_reads_back_as_it_was_written(model: Model, tmp_path: Path) -> None:
    data = save_arrays(tmp_path / "data", model)
    path = tmp_path / "calibration.json"
    found = api.calibrate(model, data, tensors=2, output=path)
    assert Calibration.load(path) == found
    assert not path.with_name("calibration.json.partial").exists()
    assert found.answer == "top1"
    assert found.whole_accuracy is None
    assert (found.data.samples, found.data.labelled, found.data.preprocess) == (6, False, None)


def test_labels_give_accuracy(model: Model, tmp_path: Path) -> None:
    folder = save_arrays(tmp_path / "data", model, 6)
    whole = Runner(model.path, Settings())
    data = open_arrays(folder, model)
    right = [int(run_one(whole, data.feeds(s))["scores"].argmax()) for s in data.samples]
    labels = save_labels(tmp_path / "labels.csv", [*right[:4], *((c + 1) % 5 for c in right[4:])])
    found = api.calibrate(model, folder, labels=labels, only=["p1"])
    assert found.whole_accuracy == pytest.approx(4 / 6)
    assert found.data.labels == str(labels)
    raw, *_ = found.tensors[0].results
    assert (raw.answer.accuracy, raw.answer.lost) == (found.whole_accuracy, 0)
    for result in lossy(found.tensors[0]):
        answer = result.answer
        assert answer.accuracy is not None
        assert answer.lost is not None
        assert found.whole_accuracy - answer.accuracy <= answer.lost + 1e-9


def test_labels_that_the_model_has_no_class_for(model: Model, tmp_path: Path) -> None:
    folder = save_arrays(tmp_path / "data", model, 2)
    labels = save_labels(tmp_path / "labels.csv", [1, 5])
    with pytest.raises(CalibrationError, match=r"label 5 of 001\.npz.*5 classes, 0 to 4"):
        api.calibrate(model, folder, labels=labels)


def test_labels_for_an_answer_that_is_no_class(tmp_path: Path) -> None:
    model = save_model(models.loop_with_captures(), tmp_path)
    folder = save_arrays(tmp_path / "data", model, 2)
    labels = save_labels(tmp_path / "labels.csv", [0, 1])
    found = api.calibrate(model, folder, answer="values", tensors=0)
    assert found.answer == "values"
    proto = models.parse(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,2,3,4] x) => (float[1,2,3,4] y)'
        "{ a = Relu(x) y = Neg(a) }"
    )
    (tmp_path / "flat").mkdir()
    model = save_model(proto, tmp_path / "flat")
    folder = save_arrays(tmp_path / "flat" / "data", model, 2)
    with pytest.raises(CalibrationError, match="holds no scores"):
        api.calibrate(model, folder, labels=labels)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_activations_that_are_not_finite_are_kept_exact(
    value: float, model: Model, tmp_path: Path
) -> None:
    image = np.zeros((1, 3, 16, 16), np.float32)
    image[0, 0, 0, 0] = value
    bench = bench_of(model, tmp_path / "data", 4, image=image)
    result = calibrate_tensor(bench, "image")
    assert result.note == "some values are NaN or infinite"
    assert [found.codec.name for found in result.results] == ["raw", "zstd"]


def test_a_value_that_only_one_late_sample_has_stops_the_codec(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.full((1, 3, 16, 16), np.nan, np.float32)
    bench = bench_of(model, tmp_path / "data", 6, image=image)
    monkeypatch.setattr(tensor, "MAX_FITTED", 5)
    monkeypatch.setattr(tensor, "evenly", lambda indices, count: list(indices)[:5])
    result = calibrate_tensor(bench, "image")
    assert result.note == ""
    assert any("cannot carry 005.npz: a value is NaN" in line for line in result.stopped)
    assert not any("affine" in str(found.codec.stages).lower() for found in result.results)


def test_constant_and_empty_tensors_are_kept_exact(tmp_path: Path) -> None:
    proto = models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2, 4] x) => (float[2, 4] y) {
            none = Constant <value = int64[1] {0}> ()
            empty = Slice(x, none, none)
            zero = Sub(x, x)
            one = Cos(zero)
            most = ReduceMax <keepdims = 0> (one)
            both = Concat <axis = 0> (one, empty)
            y = Mul(both, most)
        }
        """
    )
    model = save_model(proto, tmp_path)
    wanted = {"empty": "no elements", "zero": "all values are 0", "most": "all values are 1"}
    found = api.calibrate(model, save_arrays(tmp_path / "data", model, 3), only=list(wanted))
    for result in found.tensors:
        assert result.note == wanted[result.tensor]
        assert [(r.codec.name, r.answer.error) for r in result.results] == [("raw", 0), ("zstd", 0)]
        assert result.results[0].wire_bytes == result.nbytes


def test_a_tensor_without_dimensions_is_fitted(tmp_path: Path) -> None:
    proto = models.parse(
        '<ir_version: 8, opset_import: ["" : 17]> g (float x) => (float y){ a = Exp(x) y = Neg(a) }'
    )
    model = save_model(proto, tmp_path)
    found = api.calibrate(model, save_arrays(tmp_path / "data", model), only=["a"])
    assert found.tensors[0].shape == ()
    assert lossy(found.tensors[0])


def test_the_others_that_cross_stay_exact(residual: Model, tmp_path: Path) -> None:
    bench = bench_of(residual, tmp_path / "data")
    assert set(cut_at(residual.graph, ["a", "c"]).crossing) == {"a", "c"}
    result = calibrate_tensor(bench, "c")
    cut = cut_at(residual.graph, ["a", "c"])
    coarse = lossy(result)[-1]
    found = Evaluator(bench).evaluate(cut, {"c": coarse.codec})
    assert found.agreement == coarse.answer.agreement
    assert found.error == pytest.approx(coarse.answer.error)  # summed in another order


def test_a_combination_is_measured_as_a_whole(residual: Model, tmp_path: Path) -> None:
    folder = save_arrays(tmp_path / "data", residual, 5)
    data = open_arrays(folder, residual)
    cut = cut_at(residual.graph, ["a", "c"])
    found = calibrate(residual, data, Settings(), Options(only=("a", "c")))
    chosen = {r.tensor: lossy(r)[-1].codec for r in found.tensors}
    reports: list[tuple[int, int]] = []
    both = evaluate(
        residual, cut, chosen, data, Settings(), "values",
        progress=lambda done, total: reports.append((done, total)),
    )  # fmt: skip
    assert reports == [(done, 10) for done in range(1, 11)]
    alone = [evaluate(residual, cut, {n: c}, data, Settings(), "values") for n, c in chosen.items()]
    assert both.error != alone[0].error
    assert both.error <= 2 * sum(answer.error for answer in alone)
    for lossless in ({}, {"a": RAW, "c": RAW}):
        answer = evaluate(residual, cut, lossless, data, Settings(), "values")
        assert answer.error < 1e-6
        assert answer.agreement is None


def test_a_codec_for_what_does_not_cross_is_refused(residual: Model, tmp_path: Path) -> None:
    bench = bench_of(residual, tmp_path / "data")
    cut = cut_at(residual.graph, ["a", "c"])
    with pytest.raises(CalibrationError, match=r"'d' does not cross at this cut"):
        Evaluator(bench).evaluate(cut, {"d": RAW})


def test_a_codec_that_cannot_carry_a_sample_is_named_with_it(
    residual: Model, tmp_path: Path
) -> None:
    bench = bench_of(residual, tmp_path / "data", x=np.full((1, 8), np.nan, np.float32))
    codec = lossy(calibrate_tensor(bench_of(residual, tmp_path / "fine"), "x"))[-1].codec
    with pytest.raises(CodecError, match=rf"{codec.name} on 'x' of 005\.npz: "):
        Evaluator(bench).evaluate(cut_of(residual.graph, []), {"x": codec})


def test_an_output_that_crosses_too_does_not_travel(tmp_path: Path) -> None:
    model = save_model(models.two_outputs(), tmp_path)
    bench = bench_of(model, tmp_path / "data")
    cut = cut_at(model.graph, ["early"])
    assert "early" in cut.crossing
    parts = load_parts(bench, cut)
    values = parts.crossing(bench.feeds(0))
    zeros = {"early": np.zeros_like(values["early"])}
    outputs = parts.finish(values, zeros)
    np.testing.assert_array_equal(outputs["early"], values["early"])
    assert not np.array_equal(outputs["late"], parts.finish(values, {})["late"])


def test_codecs_with_the_same_values_share_the_tail_run(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    bench = bench_of(model, tmp_path / "data", 4)
    parts = type(load_parts(bench, cut_at(model.graph, ["p1"])))
    finish = parts.finish
    monkeypatch.setattr(
        parts, "finish", lambda self, *values: (runs.append(1), finish(self, *values))[1]
    )
    result = calibrate_tensor(bench, "p1")
    quantisers = {
        tuple(stage for stage in found.codec.stages if not stage.is_lossless)
        for found in lossy(result)
    }
    assert len(runs) == 4 * len(quantisers)


class _Stopped(Exception):
    pass


def _stop_after(count: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let so many tensors be measured, then be interrupted; returns those that were begun."""
    begun: list[str] = []

    def interrupted(bench: Any, name: str, progress: Any) -> TensorResult:
        begun.append(name)
        if len(begun) > count:
            raise KeyboardInterrupt
        return calibrate_tensor(bench, name, progress)

    monkeypatch.setattr(measure, "calibrate_tensor", interrupted)
    return begun


def test_a_stopped_calibration_goes_on_where_it_was(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, path = save_arrays(tmp_path / "data", model), tmp_path / "calibration.json"
    with monkeypatch.context() as patch:
        _stop_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            api.calibrate(model, data, tensors=4, output=path)
    partial = Calibration.load(tmp_path / "calibration.json.partial")
    assert not path.exists()
    assert not partial.is_complete
    assert len(partial.tensors) == 2
    begun = _stop_after(99, monkeypatch)
    found = api.calibrate(model, data, tensors=4, output=path)
    assert found.tensors[:2] == partial.tensors
    assert begun == [result.tensor for result in found.tensors[2:]]
    assert [p.name for p in tmp_path.glob("calibration*")] == ["calibration.json"]


@pytest.mark.parametrize("change", ["data", "samples", "settings", "answer", "broken"])
def test_of_anything_else_nothing_is_taken_over(
    change: str, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, path = save_arrays(tmp_path / "data", model), tmp_path / "calibration.json"
    with monkeypatch.context() as patch:
        _stop_after(1, patch)
        with pytest.raises(KeyboardInterrupt):
            api.calibrate(model, data, tensors=1, output=path)
    options: Mapping[str, Any] = {
        "samples": {"samples": 3},
        "settings": {"settings": Settings(threads=2)},
        "answer": {"answer": "values"},
    }.get(change, {})
    if change == "data":
        save_arrays(tmp_path / "data", model, 7)
    if change == "broken":
        (tmp_path / "calibration.json.partial").write_text("{")
    begun = _stop_after(99, monkeypatch)
    found = api.calibrate(model, data, tensors=1, output=path, **options)
    assert begun == [result.tensor for result in found.tensors]


def test_an_output_that_cannot_be_written_is_said_before_anything_is_measured(
    model: Model, tmp_path: Path
) -> None:
    data = save_arrays(tmp_path / "data", model)
    for path, words in ((tmp_path / "no" / "c.json", "does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(SplitterError, match=words):
            api.calibrate(
                model, data, output=path, progress=lambda *_: pytest.fail("something was measured")
            )


def test_progress_counts_up_to_its_end(model: Model, tmp_path: Path) -> None:
    told: dict[str, list[tuple[int, int]]] = {}
    data = save_arrays(tmp_path / "data", model, 3)
    api.calibrate(
        model, data, only=["p1", "image"],
        progress=lambda stage, done, total: told.setdefault(stage, []).append((done, total)),
    )  # fmt: skip
    assert told["tensors"][-1] == (2, 2)
    assert told["whole model"] == [(1, 3), (2, 3), (3, 3)]
    assert told["samples"] == [(1, 3), (2, 3), (3, 3)] * 2


def test_a_sample_that_the_runtime_refuses_is_named(tmp_path: Path) -> None:
    proto = models.parse(
        '<ir_version: 8, opset_import: ["" : 17]> g (int64[1] x) => (float[1, 2] y)'
        "{ a = Gather(w, x) y = Neg(a) }"
    )
    model = save_model(models.with_weights(proto, w=(5, 2)), tmp_path)
    folder = save_arrays(tmp_path / "data", model, 3, x=np.array([9]))
    with pytest.raises(InputError, match=r"^002\.npz: "):
        api.calibrate(model, folder)


def test_parallel_keeps_the_order_and_drops_what_has_not_begun() -> None:
    assert list(parallel(lambda x: x * x, range(50), 4)) == [x * x for x in range(50)]
    begun: list[int] = []

    def fail(number: int) -> int:
        begun.append(number)
        raise _Stopped

    with pytest.raises(_Stopped):
        list(parallel(fail, range(1000), 1))
    assert len(begun) < 1000


def test_a_model_whose_quantised_tensors_cross_keeps_them_exact(tmp_path: Path) -> None:
    proto = models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 8] x) => (float[1, 8] y) {
            s = Constant <value = float {0.1}> ()
            z = Constant <value = uint8 {128}> ()
            q = QuantizeLinear(x, s, z)
            d = DequantizeLinear(q, s, z)
            y = Sigmoid(d)
        }
        """
    )
    model = save_model(proto, tmp_path)
    found = api.calibrate(model, save_arrays(tmp_path / "data", model), only=["q"])
    (result,) = found.tensors
    assert result.note == "uint8 is kept exact"
    assert all(each.codec.is_lossless for each in result.results)


def test_codecs_that_a_machine_lacks_are_named(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: Any) -> tuple[Codec, ...]:
        return (Codec("absent", (_Absent(),)),)  # type: ignore[arg-type]

    monkeypatch.setattr(tensor, "input_codecs", absent)
    result = calibrate_tensor(bench_of(model, tmp_path / "data"), "image")
    assert "absent: no such library" in result.stopped
    assert {"raw", "zstd"} <= set(by_name(result))


class _Absent:
    is_lossless = True

    def form(self, given: Any) -> Any:
        raise CodecError("no such library")
