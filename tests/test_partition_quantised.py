"""Levels that leave the head and enter the tail are those of the codec, and so is what comes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from splitter.codec import Codec
from splitter.codec.affine import Affine
from splitter.codec.bits import Bits
from splitter.codec.levels import Levels
from splitter.codec.zstd import Zstd
from splitter.graph.cut import cut_at
from splitter.graph.model import Model
from splitter.graph.read import load_model
from splitter.partition.bundle import Bundle, Deployment, Division, write_bundle
from splitter.partition.check import random_feeds
from splitter.runtime import Array, Optimisation, Runner, Settings
from splitter.serving.server import serve
from splitter.serving.session import Session
from tests import models

EXACT = Settings(optimisation=Optimisation.NONE)
EVERY = models.every_model()
QUANTISERS = {
    "one step": Affine(16, (0.07,), (0.07,)),
    "dead zone": Affine(16, (0.07,), (0.09,), dead=0.2),
    "zero in the middle": Affine(15, (0.05,), (0.05,), zero=7),
    "by channel": Affine(16, tuple(0.01 * (c + 1) for c in range(8)), (0.03,) * 8, zero=3),
    "256 levels": Affine(256, (0.004,), (0.004,), zero=128),
}


def bundle_of(
    model: Model, tensor: str, affine: Affine, folder: Path, *, inside: bool = True
) -> Bundle:
    stages = (affine, Bits(4), Zstd()) if affine.levels <= 16 else (affine, Zstd())
    division = Division(cut_at(model.graph, [tensor]), {tensor: Codec("q", stages)})
    return write_bundle(model, [division], folder, Deployment(EXACT), quantise_in_graph=inside)


def answer(bundle: Bundle, feeds: dict[str, Array]) -> list[Array]:
    with serve(bundle.folder) as server, Session(bundle.folder, server.address) as session:
        return session.run(None, feeds)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return load_model(models.save(EVERY["convolutions"], tmp_path / "net.onnx"))


@pytest.mark.parametrize("name", QUANTISERS)
def test_a_graph_that_quantises_gives_the_answer_of_the_codec(
    name: str, model: Model, tmp_path: Path
) -> None:
    affine = QUANTISERS[name]
    inside = bundle_of(model, "p1", affine, tmp_path / "inside")
    outside = bundle_of(model, "p1", affine, tmp_path / "outside", inside=False)
    (levels,) = inside.manifest.planned.crossing
    assert (levels.dtype, levels.nbytes) == ("uint8", 128)
    assert levels.codec.stages[0] == Levels(affine.levels)
    for seed in range(5):
        feeds = random_feeds(model.graph, seed)
        for found, expected in zip(answer(inside, feeds), answer(outside, feeds), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_levels_beyond_the_last_saturate(model: Model, tmp_path: Path) -> None:
    affine = Affine(2, (1e-3,), (1e-3,))
    bundle = bundle_of(model, "p1", affine, tmp_path / "b")
    assert bundle.head is not None
    feeds = random_feeds(model.graph)
    (made,) = Runner(bundle.head, EXACT).run(feeds)
    assert made.dtype == np.uint8
    assert made.max() > 1, "the operator saturates at 255 alone, or this shows nothing"
    outside = bundle_of(model, "p1", affine, tmp_path / "o", inside=False)
    np.testing.assert_allclose(answer(bundle, feeds)[0], answer(outside, feeds)[0], rtol=1e-6)


@pytest.mark.parametrize("name", ["if_with_captures", "loop_with_captures", "scan_with_captures"])
def test_a_value_that_a_nested_graph_reads_is_renamed_there_too(name: str, tmp_path: Path) -> None:
    model = load_model(models.save(EVERY[name], tmp_path / "net.onnx"))
    feeds = random_feeds(model.graph)
    tried = 0
    for tensor in [output for node in model.graph.nodes for output in node.outputs]:
        found = model.graph.tensors[tensor]
        if found.dtype != "float32" or found.shape is None or tensor in model.graph.outputs:
            continue
        affine = Affine(255, (0.05,), (0.05,), zero=127)
        inside = bundle_of(model, tensor, affine, tmp_path / "inside")
        outside = bundle_of(model, tensor, affine, tmp_path / "outside", inside=False)
        for a, b in zip(answer(inside, feeds), answer(outside, feeds), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        tried += 1
    assert tried


def test_a_model_input_and_a_model_output_are_left_to_the_codec(tmp_path: Path) -> None:
    model = load_model(models.save(EVERY["two_outputs"], tmp_path / "net.onnx"))
    affine = Affine(16, (0.1,), (0.1,), zero=7)
    crossing = [*model.graph.inputs[:1], *model.graph.outputs]
    tried = 0
    for tensor in crossing:
        if model.graph.tensors[tensor].dtype != "float32" or not model.graph.consumers_of[tensor]:
            continue
        (spec,) = bundle_of(model, tensor, affine, tmp_path / "b").manifest.planned.crossing
        assert spec.dtype == "float32"
        assert spec.codec.stages[0] == affine
        tried += 1
    assert tried


def test_a_nan_is_sent_as_it_is_where_the_codec_quantises(model: Model, tmp_path: Path) -> None:
    bundle = bundle_of(model, "p1", QUANTISERS["one step"], tmp_path / "b", inside=False)
    feeds = {name: np.full_like(value, np.nan) for name, value in random_feeds(model.graph).items()}
    (whole,) = Runner(model.path, EXACT).run(feeds)
    (found,) = answer(bundle, feeds)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(whole))
    assert np.isnan(whole).any()
