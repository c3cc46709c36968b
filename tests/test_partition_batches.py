"""A tail that says it takes any number of samples gives for each what it gives for it alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from splitter.codec import Codec
from splitter.codec.affine import Affine
from splitter.codec.bits import Bits
from splitter.codec.zstd import Zstd
from splitter.errors import ModelError
from splitter.graph.cut import Cut, cut_at, cut_of
from splitter.graph.frontier import frontier
from splitter.graph.model import Model
from splitter.graph.read import load_model, rebound
from splitter.partition.bundle import Bundle, Deployment, Division, write_bundle
from splitter.partition.check import chain, compare_each, random_feeds, run_one
from splitter.partition.manifest import BATCH
from splitter.runtime import Array, Optimisation, Runner, Settings
from tests import models

EXACT = Settings(optimisation=Optimisation.NONE)
SERVED = Settings()

QUALIFY = {
    "nothing to repair": """
        net (float[n, 3, 4] x) => (float[n, 3, 4] y) { a = Relu(x) b = Exp(a) y = Neg(b) }""",
    "one place of a Reshape": """
        net (float[n, 3, 4] x) => (float[n, 12] y) {
            d = Shape(x) z = Constant <value = int64[1] {0}> () s = Gather(d, z)
            t = Constant <value = int64[1] {12}> () to = Concat <axis = 0> (s, t)
            a = Relu(x) b = Exp(a) c = Reshape(b, to) y = Neg(c)
        }""",
    "a Reshape that already has a -1": """
        net (float[n, 3, 4] x) => (float[n, 4, 3] y) {
            d = Shape(x) z = Constant <value = int64[1] {0}> () s = Gather(d, z)
            t = Constant <value = int64[2] {4, -1}> () to = Concat <axis = 0> (s, t)
            a = Relu(x) b = Exp(a) c = Reshape(b, to) y = Neg(c)
        }""",
    "samples and channels in one dimension": """
        net (float[n, 3, 4] x) => (float[n, 3, 4] y) {
            d = Shape(x) z = Constant <value = int64[1] {0}> () s = Gather(d, z)
            three = Constant <value = int64[1] {3}> () m = Mul(s, three)
            four = Constant <value = int64[1] {4}> ()
            to = Concat <axis = 0> (m, four) back = Concat <axis = 0> (s, three, four)
            a = Relu(x) b = Reshape(a, to) c = Exp(b) e = Reshape(c, back) y = Neg(e)
        }""",
    "a shape that is expanded to": """
        net (float[n, 1, 4] x) => (float[n, 3, 4] y) {
            d = Shape(x) z = Constant <value = int64[1] {0}> () s = Gather(d, z)
            r = Constant <value = int64[2] {3, 4}> () to = Concat <axis = 0> (s, r)
            a = Relu(x) b = Exp(a) c = Expand(b, to) y = Neg(c)
        }""",
    "a constant for each sample": """
        net (float[n, 3, 4] x) => (float[n, 6, 4] y) {
            d = Shape(x) one = Constant <value = float[1, 3, 4] {0,1,2,3,4,5,6,7,8,9,10,11}> ()
            a = Relu(x) b = Exp(a) e = Expand(one, d) c = Concat <axis = 1> (b, e) y = Neg(c)
        }""",
}
"""Each is cut after its first node; the shape arithmetic is folded by then."""

DO_NOT = {
    "a fixed number of samples": """
        net (float[1, 4] x) => (float[1, 4] y) { a = Relu(x) y = Neg(a) }""",
    "an input that is not a sample": """
        net (float[n, 4] x, float[4] k) => (float[n, 4] y) { a = Relu(x) b = Add(a, k) y = Neg(b) }""",
    "a Reshape to one sample": """
        net (float[n, 3, 4] x) => (float[1, m] y) {
            to = Constant <value = int64[2] {1, -1}> () a = Relu(x) b = Reshape(a, to) y = Neg(b)
        }""",
    "an output that sums over the samples": """
        net (float[n, 4] x) => (float[1, 4] y) {
            a = Relu(x) b = ReduceMax <axes = [0], keepdims = 1> (a) y = Neg(b)
        }""",
    "samples that see each other": """
        net (float[n, 4] x) => (float[n, 4] y) {
            a = Relu(x) b = ReduceMean <axes = [0], keepdims = 1> (a) c = Add(a, b) y = Neg(c)
        }""",
    "samples in another dimension": """
        net (float[n, 4] x) => (float[4, n] y) { a = Relu(x) b = Transpose(a) y = Neg(b) }""",
    "a state beside the sample": """
        net (float[n, 4] x, float[2, n, 4] h) => (float[n, 4] y) {
            a = Relu(x) s = ReduceSum <keepdims = 0> (h) b = Add(a, s) y = Neg(b)
        }""",
}


def load(text: str, folder: Path, samples: int = 1) -> Model:
    proto = models.parse(f'<ir_version: 8, opset_import: ["" : 12]> {text}')
    inputs = {
        v.name: [d.dim_value or samples for d in v.type.tensor_type.shape.dim]
        for v in proto.graph.input
    }
    return load_model(models.save(proto, folder / "net.onnx"), shapes=inputs)


def bundle_of(model: Model, cut: Cut, folder: Path, codecs: Mapping[str, Codec] | None = None,
              **options: bool) -> Bundle:  # fmt: skip
    return write_bundle(model, [Division(cut, codecs or {})], folder, Deployment(**options))  # type: ignore[arg-type]


def samples_of(bundle: Bundle, model: Model, count: int) -> list[dict[str, Array]]:
    """What crosses for as many different inputs."""
    head = Runner(bundle.head, EXACT) if bundle.head else None
    read = [spec.tensor for spec in bundle.manifest.planned.crossing]
    made = [chain(head, None, random_feeds(model.graph, seed)) for seed in range(count)]
    return [{name: values[name] for name in read} for values in made]


def stacked(values: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    return {name: np.concatenate([value[name] for value in values]) for name in values[0]}


def check(model: Model, cut: Cut, folder: Path, limit: float = 1e-5,
          codecs: Mapping[str, Codec] | None = None) -> None:  # fmt: skip
    """The tail is free, and for 5 samples, 1 sample, and whatever optimisation equal to the fixed one."""
    free = bundle_of(model, cut, folder / "free", codecs)
    fixed = bundle_of(model, cut, folder / "fixed", codecs, batches=False)
    assert (free.manifest.planned.batches, fixed.manifest.planned.batches) == (True, False)
    assert free.manifest.planned.id == fixed.manifest.planned.id
    assert free.tail is not None
    assert fixed.tail is not None
    ports = [*Runner(free.tail).inputs, *Runner(free.tail).outputs]
    assert {port.shape[0] for port in ports} == {BATCH}
    samples = samples_of(free, model, 5)
    for settings in (EXACT, SERVED):
        alone = [run_one(Runner(fixed.tail, settings), sample) for sample in samples]
        one = Runner(free.tail, settings, free_dims={BATCH: 1})
        for sample, expected in zip(samples, alone, strict=True):
            assert all(d.is_equal for d in compare_each(expected, run_one(one, sample)))
        together = run_one(Runner(free.tail, settings), stacked(samples))
        for difference in compare_each(stacked(alone), together):
            assert difference.is_within(limit), difference


@pytest.mark.parametrize("what", QUALIFY)
def test_shape_arithmetic_follows_the_number_of_samples(what: str, tmp_path: Path) -> None:
    model = load(QUALIFY[what], tmp_path)
    check(model, cut_at(model.graph, ["a"]), tmp_path)


@pytest.mark.parametrize("what", QUALIFY)
def test_a_server_that_runs_the_whole_takes_any_number_too(what: str, tmp_path: Path) -> None:
    model = load(QUALIFY[what], tmp_path)
    check(model, cut_of(model.graph, []), tmp_path)


@pytest.mark.parametrize("what", DO_NOT)
def test_what_is_not_proven_keeps_its_tail(what: str, tmp_path: Path) -> None:
    model = load(DO_NOT[what], tmp_path)
    cut = cut_at(model.graph, ["a"])
    found = bundle_of(model, cut, tmp_path / "found")
    assert not found.manifest.planned.batches
    assert found.manifest == bundle_of(model, cut, tmp_path / "not", batches=False).manifest
    assert sorted(path.name for path in found.folder.iterdir()) == [
        "head.onnx", "manifest.json", "tail.onnx",
    ]  # fmt: skip


def test_a_batch_that_was_bound_stays(tmp_path: Path) -> None:
    model = load(QUALIFY["nothing to repair"], tmp_path, samples=2)
    found = bundle_of(model, cut_at(model.graph, ["a"]), tmp_path / "out")
    assert not found.manifest.planned.batches


def test_samples_that_reach_the_tail_as_one_prove_nothing(tmp_path: Path) -> None:
    model = load(QUALIFY["nothing to repair"], tmp_path)
    feeds = {"x": np.zeros((1, 3, 4), np.float32)}
    division = Division(cut_at(model.graph, ["a"]))
    found = write_bundle(model, [division], tmp_path / "out", feeds=feeds)
    assert not found.manifest.planned.batches


def test_several_cuts_each_have_a_free_tail(tmp_path: Path) -> None:
    model = load(QUALIFY["one place of a Reshape"], tmp_path)
    divisions = [Division(cut_at(model.graph, [name])) for name in ("a", "b", "c", "y")]
    manifest = write_bundle(model, divisions, tmp_path / "out").manifest
    assert [(cut.tail, cut.batches) for cut in manifest.cuts] == [
        ("tail.onnx", True), ("tail-1.onnx", True), ("tail-2.onnx", True), (None, False),
    ]  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
def test_a_tail_that_takes_levels_takes_those_of_many_samples(
    channels: int, tmp_path: Path
) -> None:
    model = load(QUALIFY["one place of a Reshape"], tmp_path)
    steps = tuple(0.05 * (channel + 1) for channel in range(channels))
    codec = Codec("q", (Affine(16, steps, steps), Bits(4), Zstd()))
    check(model, cut_at(model.graph, ["b"]), tmp_path, codecs={"b": codec})


def test_a_model_is_bound_anew_without_reading_its_file(tmp_path: Path) -> None:
    model = load(QUALIFY["one place of a Reshape"], tmp_path)
    model.path.unlink()
    other = rebound(model, {"x": (7, 3, 4)})
    assert (other.graph.tensors["c"].shape, other.graph.dims) == ((7, 12), {"n": 7})
    assert model.graph.tensors["c"].shape == (1, 12)
    with pytest.raises(ModelError, match="dimension 1 is 3 elsewhere"):
        rebound(model, {"x": (7, 4, 4)})


REAL = {
    "mobilenetv2_fp32": ({"input": (1, 3, 224, 224)}, 1e-5),
    "mobilenetv2_qdq_int8": ({"input": (1, 3, 224, 224)}, 2e-2),
    "tinygpt": ({"input_ids": (1, 32)}, 1e-5),
    "ppocr_v3_det_en": ({"x": (1, 3, 64, 96)}, 1e-5),
}


@pytest.mark.parametrize("name", REAL)
def test_trained_models_with_an_open_batch_qualify(name: str, shared: Path, tmp_path: Path) -> None:
    shapes, limit = REAL[name]
    model = load_model(shared / "models" / f"{name}.onnx", shapes=shapes)
    nodes = [node.name for node in model.graph.nodes]
    places = [place.index for place in frontier(model.graph)]
    check(model, cut_of(model.graph, nodes[: places[len(places) // 2]]), tmp_path, limit)


def test_a_trained_model_with_a_state_does_not(shared: Path, tmp_path: Path) -> None:
    model = load_model(
        shared / "models" / "silero_vad_16k_op15.onnx",
        shapes={"input": (1, 576), "state": (2, 1, 128)},
    )
    found = bundle_of(model, cut_of(model.graph, []), tmp_path / "out")
    assert not found.manifest.planned.batches
