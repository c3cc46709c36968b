"""A stand-in has the inputs and outputs of the whole model, or is refused with what is different."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from splitter.errors import BundleError
from splitter.graph.cut import cut_at
from splitter.graph.model import Model
from splitter.graph.read import load_model
from splitter.partition.bundle import Bundle, Deployment, Division, write_bundle
from splitter.partition.check import random_feeds
from splitter.partition.manifest import STAND_IN
from splitter.runtime import Runner
from tests import models

SMALL = """
    <ir_version: 8, opset_import: ["" : 17]>
    small (float[n, 3, h, w] image) => (float[n, 5] scores) {
        m = ReduceMean <axes = [2, 3], keepdims = 0> (image)
        scores = MatMul(m, w)
    }
"""


def small(*changes: str) -> onnx.ModelProto:
    """The text with pairs of texts replaced."""
    text = SMALL
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert old in text
        text = text.replace(old, new)
    return models.with_weights(models.parse(text), w=(3, 5))


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return load_model(models.save(models.convolutions(), tmp_path / "net.onnx"))


def bundle_with(model: Model, stand_in: Path, out: Path) -> Bundle:
    division = Division(cut_at(model.graph, ["p1"]))
    return write_bundle(model, [division], out, Deployment(stand_in=stand_in))


def test_a_stand_in_is_in_the_bundle_with_the_model_s_dimensions(
    model: Model, tmp_path: Path
) -> None:
    source = models.save(small(), tmp_path / "small.onnx")
    bundle = bundle_with(model, source, tmp_path / "out")
    assert Bundle.open(tmp_path / "out") == bundle
    found = bundle.manifest.stand_in
    assert found is not None
    assert (found.file, found.source) == (STAND_IN, "small.onnx")
    assert bundle.manifest.files_of("device") == {"head.onnx", STAND_IN}
    assert bundle.manifest.files_of("server") == {"tail.onnx"}
    runner = Runner(bundle.folder / STAND_IN)
    assert [(port.name, port.shape) for port in runner.inputs] == [("image", (1, 3, 16, 16))]
    feeds = random_feeds(model.graph, 1)
    np.testing.assert_allclose(runner.run(feeds)[0], Runner(source).run(feeds)[0], rtol=1e-6)


def test_the_weights_of_a_stand_in_come_with_it(model: Model, tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    path = tmp_path / "from" / "net.onnx"
    onnx.save(
        models.convolutions(), path, save_as_external_data=True, location="w", size_threshold=64
    )
    bundle = bundle_with(model, path, tmp_path / "out")
    data = f"{STAND_IN}.data"
    assert bundle.manifest.files_of("device") == {"head.onnx", STAND_IN, data}
    feeds = random_feeds(model.graph, 1)
    np.testing.assert_array_equal(
        Runner(bundle.folder / STAND_IN).run(feeds)[0], Runner(model.path).run(feeds)[0]
    )
    (bundle.folder / data).write_bytes(b"")
    Bundle.open(bundle.folder, role="server")
    with pytest.raises(BundleError, match=f"{data}: has 0 bytes"):
        Bundle.open(bundle.folder, role="device")


def test_outputs_of_a_stand_in_come_in_the_order_of_the_model(tmp_path: Path) -> None:
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        two (float[1, 4] x) => (float[1, 4] %s, float[1, 4] %s) { a = Neg(x) b = Exp(a) }
    """
    model = load_model(models.save(models.parse(text % ("a", "b")), tmp_path / "net.onnx"))
    source = models.save(models.parse(text % ("b", "a")), tmp_path / "small.onnx")
    division = Division(cut_at(model.graph, ["a"]))
    bundle = write_bundle(model, [division], tmp_path / "out", Deployment(stand_in=source))
    assert [port.name for port in Runner(bundle.folder / STAND_IN).outputs] == ["a", "b"]


REFUSED = {
    "another input": (small("image", "photo"), "it has no input 'image', but 'photo'"),
    "one input more": (
        small("w] image)", "w] image, float[n, 5] more)", "MatMul(m, w)", "Gemm(m, w, more)"),
        "its input 'more' is none of that model's",
    ),
    "another output": (small("scores", "answer"), "it has no output 'scores', but 'answer'"),
    "one output more": (
        small("scores)", "scores, float[n, 3] m)"), "its output 'm' is none of that model's",
    ),
    "an input of another size": (small("h, w", "8, w"), "dimension 2 is 8 elsewhere, got 16"),
    "an input of another rank": (
        small("h, w]", "w]", "[2, 3]", "[2]"), "'image' has 3 dimensions, got 4",
    ),
    "an input of another dtype": (
        small("float[n, 3", "float16[n, 3", "m = R", "f = Cast <to = 1> (image) m = R",
                            "0> (image)", "0> (f)"),
        "its 'image' is float16 [1, 3, 16, 16] where float32 [1, 3, 16, 16] is asked",
    ),
    "an output of another dtype": (
        small("float[n, 5]", "float16[n, 5]", "scores = MatMul(m, w)",
              "p = MatMul(m, w) scores = Cast <to = 10> (p)"),
        "its 'scores' is float16 [1, 5] where float32 [1, 5] is asked",
    ),
    "an output of another shape": (
        small("float[n, 5]", "float[n, 3]", "MatMul(m, w)", "Neg(m)"),
        "its 'scores' is float32 [1, 3] where float32 [1, 5] is asked",
    ),
    "a shape that only shows when it runs": (
        small("float[n, 5]", "float[n, k]", "scores = MatMul(m, w)",
              "p = MatMul(m, w) z = NonZero(p) t = Transpose(z) s = Cast <to = 1> (t) "
              "scores = Transpose(s)"),
        "its 'scores' is float32 [2, 5] where float32 [1, 5] is asked",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_model_with_other_inputs_or_outputs_is_refused(
    what: str, model: Model, tmp_path: Path
) -> None:
    proto, message = REFUSED[what]
    source = models.save(proto, tmp_path / "small.onnx")
    with pytest.raises(BundleError) as caught:
        bundle_with(model, source, tmp_path / "out")
    assert str(caught.value).startswith(f"{source}: cannot stand in for net.onnx: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_what_is_no_model_is_refused(model: Model, tmp_path: Path) -> None:
    (tmp_path / "small.onnx").write_bytes(b"no model")
    for name in ("small.onnx", "absent.onnx"):
        with pytest.raises(BundleError, match=f"{name}: cannot stand in for net.onnx: "):
            bundle_with(model, tmp_path / name, tmp_path / "out")
