"""Bundles of several cuts: each is the whole model, and what they share lies on disk once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from splitter.codec import RAW, Codec
from splitter.codec.affine import Affine
from splitter.codec.zstd import Zstd
from splitter.errors import BundleError
from splitter.graph.cut import cut_at, cut_of
from splitter.graph.model import Model
from splitter.graph.read import load_model
from splitter.partition.bundle import Bundle, Deployment, Division, write_bundle
from splitter.partition.check import chain, random_feeds, run_one
from splitter.partition.manifest import WEIGHTS, CutCost
from splitter.runtime import Optimisation, Runner, Settings
from tests import models

EXACT = Settings(optimisation=Optimisation.NONE)


def wide() -> onnx.ModelProto:
    """Two weights of 16 kB with the same values, and a constant of 2 kB that a node makes."""
    proto = models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        wide (float[1, 64] x) => (float[8, 64] y) {
            a = MatMul(x, u) b = Relu(a) c = MatMul(b, again) d = Add(c, made) y = Tanh(d)
        }
        """
    )
    proto = models.with_weights(proto, u=(64, 64), again=(64, 64))
    proto.graph.initializer[1].raw_data = proto.graph.initializer[0].raw_data
    made = numpy_helper.from_array(np.linspace(0, 1, 512, dtype=np.float32).reshape(8, 64))
    proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["made"], value=made))
    return proto


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return load_model(models.save(wide(), tmp_path / "wide.onnx"))


def every_cut(model: Model) -> list[Division]:
    names = [node.name for node in model.graph.nodes]
    return [
        Division(cut_of(model.graph, names[:place]), name=f"cut {place}")
        for place in range(len(names) + 1)
    ]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def answers(bundle: Bundle, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Of every cut, with optimisation off; crossing tensors as the head makes them."""
    found = []
    for cut in bundle.manifest.cuts:
        paths = (bundle.path(cut.head), bundle.path(cut.tail))
        head, tail = (Runner(path, EXACT) if path else None for path in paths)
        found.append(chain(head, tail, feeds)["y"])
    return found


def test_every_cut_of_a_bundle_gives_what_the_whole_model_gives(
    model: Model, tmp_path: Path
) -> None:
    divisions = every_cut(model)
    bundle = write_bundle(model, divisions, tmp_path / "out", Deployment(EXACT))
    assert Bundle.open(tmp_path / "out") == bundle
    assert [cut.name for cut in bundle.manifest.cuts] == [d.name for d in divisions]
    assert bundle.manifest.planned == bundle.manifest.cuts[0]
    assert bundle.manifest.on_device == bundle.manifest.cuts[-1]
    feeds = random_feeds(model.graph, seed=3)
    whole = Runner(model.path, EXACT).run(feeds)[0]
    for found in answers(bundle, feeds):
        np.testing.assert_array_equal(found, whole)


def test_weights_of_several_cuts_lie_on_disk_once(model: Model, tmp_path: Path) -> None:
    bundle = write_bundle(model, every_cut(model), tmp_path / "out")
    files = bundle.manifest.files
    assert files[WEIGHTS].nbytes == 16384 + 2048, "one of both weights, and the constant"
    assert sum(spec.nbytes for name, spec in files.items() if name != WEIGHTS) < 16384
    for role in ("device", "server"):
        assert WEIGHTS in bundle.manifest.files_of(role)  # type: ignore[arg-type]
    for path in bundle.folder.glob("*.onnx"):
        proto = onnx.load(path, load_external_data=False)
        for tensor in proto.graph.initializer:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            if entries:
                assert entries["location"] == WEIGHTS
                assert int(entries["offset"]) % 4096 == 0


def test_external_weights_are_shared_by_range(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    path = tmp_path / "from" / "wide.onnx"
    onnx.save(wide(), path, save_as_external_data=True, location="w", size_threshold=64)
    model = load_model(path)
    bundle = write_bundle(model, every_cut(model), tmp_path / "out")
    assert bundle.manifest.files[WEIGHTS].nbytes == 2 * 16384 + 2048
    feeds = random_feeds(model.graph)
    for found in answers(bundle, feeds):
        np.testing.assert_array_equal(found, Runner(path, EXACT).run(feeds)[0])


def test_a_bundle_of_one_cut_shares_nothing(model: Model, tmp_path: Path) -> None:
    cut = Division(cut_at(model.graph, ["b"]))
    bundle = write_bundle(model, [cut, cut], tmp_path / "out")
    assert names(tmp_path / "out") == ["head.onnx", "manifest.json", "tail.onnx"]
    assert len(bundle.manifest.cuts) == 1


def test_a_cut_that_is_given_twice_is_written_once_and_keeps_its_first_cost(
    model: Model, tmp_path: Path
) -> None:
    cost = CutCost(head_s=1, encode_s=0, decode_s=0, tail_s=1, up_bytes=1, down_bytes=1)
    cut, other = cut_at(model.graph, ["b"]), cut_at(model.graph, ["c"])
    divisions = [Division(cut, cost=cost), Division(other), Division(cut, name="again")]
    manifest = write_bundle(model, divisions, tmp_path / "out").manifest
    assert [(c.name, c.cost) for c in manifest.cuts] == [("split", cost), ("split", None)]


def test_cuts_that_differ_in_their_codec_alone_share_their_files(
    model: Model, tmp_path: Path
) -> None:
    cut = cut_at(model.graph, ["b"])
    divisions = [Division(cut), Division(cut, {"b": RAW})]
    first, second = write_bundle(model, divisions, tmp_path / "out").manifest.cuts
    assert first.id != second.id
    assert (first.head, first.tail) == (second.head, second.tail) == ("head.onnx", "tail.onnx")
    assert names(tmp_path / "out") == ["head.onnx", "manifest.json", "tail.onnx", WEIGHTS]


def test_parts_that_quantise_share_weights_too(model: Model, tmp_path: Path) -> None:
    steps = (0.05, 0.1)
    divisions = [
        Division(cut_at(model.graph, ["b"]), {"b": Codec(f"s{s}", (Affine(256, (s,), (s,)), Zstd()))})
        for s in steps
    ]  # fmt: skip
    plain = Division(cut_at(model.graph, ["b"]))
    bundle = write_bundle(model, [*divisions, plain], tmp_path / "out", Deployment(EXACT))
    assert [cut.crossing[0].dtype for cut in bundle.manifest.cuts] == ["uint8", "uint8", "float32"]
    assert len({cut.head for cut in bundle.manifest.cuts}) == 3
    assert bundle.manifest.files[WEIGHTS].nbytes == 16384 + 2048
    feeds = random_feeds(model.graph)
    whole = run_one(Runner(model.path, EXACT), feeds)["y"]
    for found, step in zip(answers(bundle, feeds), (*steps, 0.0), strict=True):
        assert np.abs(found - whole).max() <= 64 * step
        assert np.array_equal(found, whole) == (step == 0)


def test_a_cut_that_fails_is_named_and_nothing_is_left(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from splitter.partition.reference import Reference

    demand = Reference.demand

    def failing(self: Reference, head: Path | None, tail: Path | None) -> None:
        demand(self, head, tail)
        if tail is not None and tail.name == "tail-1.onnx":
            raise BundleError("head and tail do not give what the whole model gives")

    monkeypatch.setattr(Reference, "demand", failing)
    before = names(tmp_path)
    with pytest.raises(BundleError, match="cut 'cut 1': head and tail do not"):
        write_bundle(model, every_cut(model), tmp_path / "out")
    assert names(tmp_path) == before


def test_a_bundle_has_a_cut(model: Model, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no cut"):
        write_bundle(model, [], tmp_path / "out")
