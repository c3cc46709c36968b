"""A bundle is written whole and right, or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from splitter.codec import RAW, Codec
from splitter.document import encode_document
from splitter.errors import BundleError, CutError, ModelError
from splitter.graph.cut import Cut, cut_at, cut_of
from splitter.graph.model import Model
from splitter.graph.read import load_model
from splitter.partition.bundle import Bundle, Deployment, Division, write_bundle
from splitter.partition.check import chain, compare, random_feeds, run_one
from splitter.partition.extract import Extractor, Part
from splitter.partition.manifest import MANIFEST, FileSpec, Manifest, StandIn, bundle_digest
from splitter.runtime import Runner
from tests import models


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return load_model(models.save(models.convolutions(), tmp_path / "net.onnx"))


@pytest.fixture
def external(tmp_path: Path) -> Model:
    """The same network with every weight but the bias in a file beside it."""
    folder = tmp_path / "external"
    folder.mkdir()
    onnx.save(
        models.convolutions(),
        folder / "net.onnx",
        save_as_external_data=True,
        location="net.weights",
        size_threshold=64,
    )
    return load_model(folder / "net.onnx")


def write(
    model: Model,
    cut: Cut,
    folder: Path,
    deployment: Deployment = Deployment(),  # noqa: B008  (frozen)
    codecs: Mapping[str, Codec] | None = None,
    **options: Any,
) -> Bundle:
    """A bundle of one cut."""
    return write_bundle(model, [Division(cut, codecs or {})], folder, deployment, **options)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def edit_reference(model: Model, key: str, value: str) -> None:
    """Change the first external weight's reference, in memory as a hostile file would have it."""
    weight = next(t for t in model.proto.graph.initializer if t.external_data)
    for entry in weight.external_data:
        if entry.key == key:
            entry.value = value


def test_a_bundle_opens_as_it_was_written(model: Model, tmp_path: Path) -> None:
    cut = cut_at(model.graph, ["p1"])
    written = write(model, cut, tmp_path / "out", Deployment(predicted_s=0.5), {"p1": RAW})
    opened = Bundle.open(tmp_path / "out")
    assert opened == written
    manifest = opened.manifest
    assert (manifest.name, manifest.plan_predicted_s) == ("net", 0.5)
    assert manifest.cuts == (manifest.planned,)
    assert manifest.planned.head_nodes == ("c1", "r1", "p1")
    assert manifest.planned.tail_outputs == ("scores",)
    (crossing,) = manifest.planned.crossing
    assert (crossing.tensor, crossing.shape, crossing.nbytes, crossing.codec.name) == (
        "p1", (1, 8, 4, 4), 512, "raw",
    )  # fmt: skip
    assert [port.name for port in (*manifest.inputs, *manifest.outputs)] == ["image", "scores"]
    assert names(tmp_path / "out") == ["head.onnx", "manifest.json", "tail.onnx"]


def test_not_splitting_is_a_bundle_too(model: Model, tmp_path: Path) -> None:
    on_server = write(model, cut_of(model.graph, []), tmp_path / "server")
    assert (on_server.head, on_server.tail) == (None, tmp_path / "server" / "tail.onnx")
    assert [spec.tensor for spec in on_server.manifest.planned.crossing] == ["image"]
    assert on_server.manifest.on_device is None
    on_device = write(model, cut_of(model.graph, model.graph.node_of), tmp_path / "device")
    assert (on_device.head, on_device.tail) == (tmp_path / "device" / "head.onnx", None)
    assert on_device.manifest.planned.crossing == ()
    assert on_device.manifest.on_device == on_device.manifest.planned


def test_the_digest_follows_the_cut_and_the_codecs(model: Model, tmp_path: Path) -> None:
    cut = cut_at(model.graph, ["p1"])
    digests = {
        write(model, cut, tmp_path / "a").manifest.digest,
        write(model, cut, tmp_path / "b", codecs={"p1": RAW}).manifest.digest,
        write(model, cut_at(model.graph, ["r2"]), tmp_path / "c").manifest.digest,
    }
    assert len(digests) == 3
    again = write(model, cut, tmp_path / "d").manifest.digest
    assert again in digests


def test_an_output_whose_shape_depends_on_the_data_is_declared_so(tmp_path: Path) -> None:
    proto = models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        where (float[8] x) => (int64[1, found] places) { a = Relu(x) places = NonZero(a) }
        """
    )
    model = load_model(models.save(proto, tmp_path / "model.onnx"))
    written = write(model, cut_at(model.graph, ["a"]), tmp_path / "out")
    assert written.manifest.outputs[0].shape is None
    assert Bundle.open(tmp_path / "out") == written


def test_external_weights_stay_external_and_each_part_has_its_own(
    external: Model, tmp_path: Path
) -> None:
    written = write(external, cut_at(external.graph, ["p1"]), tmp_path / "out")
    assert names(tmp_path / "out") == [
        "head.onnx",
        "manifest.json",
        "tail.onnx",
        "tail.onnx.data",
    ]  # fmt: skip  (the head's are small and come inside)
    feeds = random_feeds(external.graph)
    whole = run_one(Runner(external.path), feeds)
    assert written.head
    assert written.tail
    assert (
        compare(whole, chain(Runner(written.head), Runner(written.tail), feeds)).max_relative < 1e-6
    )


def test_many_weights_are_kept_beside_the_parts(tmp_path: Path) -> None:
    proto = models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        wide (float[1, 64] x) => (float[1, 64] y) { a = MatMul(x, u) b = Relu(a) y = MatMul(b, v) }
        """
    )
    proto = models.with_weights(proto, u=(64, 64), v=(64, 64))
    model = load_model(models.save(proto, tmp_path / "wide.onnx"))
    cut = cut_at(model.graph, ["b"])
    write(model, cut, tmp_path / "out", external_over_bytes=1000)
    assert (tmp_path / "out" / "head.onnx").stat().st_size < 1000
    assert (tmp_path / "out" / "head.onnx.data").stat().st_size == 64 * 64 * 4
    assert Bundle.open(tmp_path / "out").manifest.files.keys() == {
        "head.onnx", "head.onnx.data", "tail.onnx", "tail.onnx.data",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("location", "../secret", "leaves the model's folder"),
        ("location", "/etc/hostname", "leaves the model's folder"),
        ("location", "C:\\x", "leaves the model's folder"),
        ("location", "missing", "is not beside the model"),
        ("location", "link", "is a link out of the model's folder"),
        ("offset", "99999999", "export the model again"),
        ("offset", "-8", "export the model again"),
        ("offset", "here", "is not a number"),
        ("length", "1", "export the model again"),
    ],
)
def test_a_hostile_weight_reference_is_refused(
    external: Model, tmp_path: Path, key: str, value: str, message: str
) -> None:
    (tmp_path / "secret").write_bytes(bytes(100_000))
    (external.weights_dir / "link").symlink_to(tmp_path / "secret")
    edit_reference(external, key, value)
    before = names(tmp_path)
    with pytest.raises(ModelError, match=message):
        write(external, cut_at(external.graph, ["p1"]), tmp_path / "out")
    assert names(tmp_path) == before


def test_a_split_that_differs_leaves_nothing_behind(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract = Extractor.tail

    def wrong(self: Extractor, cut: Cut) -> Part:
        part = extract(self, cut)
        part.proto.graph.node[-1].attribute.add(name="alpha", f=2.0, type=1)
        return part

    monkeypatch.setattr(Extractor, "tail", wrong)
    before = names(tmp_path)
    with pytest.raises(BundleError, match="'scores' differs by .* relative, where no difference"):
        write(model, cut_at(model.graph, ["p1"]), tmp_path / "out")
    assert names(tmp_path) == before


def test_a_failure_keeps_the_bundle_that_was_there(model: Model, tmp_path: Path) -> None:
    write(model, cut_at(model.graph, ["p1"]), tmp_path / "out")
    before = (tmp_path / "out" / MANIFEST).read_bytes()
    with pytest.raises(CutError, match="a codec is given for 'r1', which does not cross"):
        write(model, cut_at(model.graph, ["r2"]), tmp_path / "out", codecs={"r1": RAW})
    assert (tmp_path / "out" / MANIFEST).read_bytes() == before


def test_a_bundle_comes_back_when_its_successor_cannot_take_its_place(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write(model, cut_at(model.graph, ["p1"]), tmp_path / "out")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(BundleError, match="out: cannot be written .No space left"):
        write(model, cut_at(model.graph, ["r2"]), tmp_path / "out")
    assert Bundle.open(tmp_path / "out") == first
    assert names(tmp_path) == ["net.onnx", "out"]


def test_float16_may_round_at_the_cut(tmp_path: Path) -> None:
    proto = models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        half (float16[8, 64] x) => (float16[8, 64] y) {
            a = Sigmoid(x) b = Exp(a) c = Mul(b, x) d = Tanh(c) e = MatMul(d, w16) y = Softmax(e)
        }
        """
    )
    rng = np.random.default_rng(0)
    weight = onnx.numpy_helper.from_array(rng.normal(size=(64, 64)).astype(np.float16), "w16")
    proto.graph.initializer.append(weight)
    model = load_model(models.save(proto, tmp_path / "half.onnx"))
    for place in range(len(model.graph.nodes) + 1):
        head = [node.name for node in model.graph.nodes[:place]]
        write(model, cut_of(model.graph, head), tmp_path / "out")


def test_a_bundle_is_replaced_by_a_bundle(model: Model, tmp_path: Path) -> None:
    write(model, cut_at(model.graph, ["p1"]), tmp_path / "out")
    write(model, cut_of(model.graph, []), tmp_path / "out")
    assert names(tmp_path / "out") == ["manifest.json", "tail.onnx"]
    assert names(tmp_path) == ["net.onnx", "out"]


def test_a_folder_of_something_else_is_not_touched(model: Model, tmp_path: Path) -> None:
    cut = cut_at(model.graph, ["p1"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("keep")
    with pytest.raises(BundleError, match="neither empty nor a bundle"):
        write(model, cut, tmp_path / "mine")
    write(model, cut, tmp_path / "out")
    (tmp_path / "out" / "notes").write_text("keep")
    with pytest.raises(BundleError, match="holds 'notes'"):
        write(model, cut, tmp_path / "out")
    with pytest.raises(BundleError, match="is a file"):
        write(model, cut, tmp_path / "mine" / "notes")
    with pytest.raises(BundleError, match="parent folder does not exist"):
        write(model, cut, tmp_path / "no" / "out")
    assert (tmp_path / "mine" / "notes").read_text() == "keep"


def test_what_cannot_travel_cannot_cross(tmp_path: Path) -> None:
    proto = models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        sequence (float[4] x) => (float[4] y) {
            parts = SplitToSequence(x)
            y = ConcatFromSequence <axis = 0> (parts)
        }
        """
    )
    model = load_model(models.save(proto, tmp_path / "model.onnx"))
    with pytest.raises(CutError, match="'parts'.*cannot cross"):
        write(model, cut_of(model.graph, ["parts"]), tmp_path / "out")
    assert names(tmp_path) == ["model.onnx"]


def test_the_feeds_given_are_the_ones_checked(model: Model, tmp_path: Path) -> None:
    feeds = {"image": np.full((1, 3, 16, 16), np.nan, np.float32)}
    write(model, cut_at(model.graph, ["p1"]), tmp_path / "out", feeds=feeds)


def test_a_changed_file_is_found(model: Model, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(model, cut_at(model.graph, ["p1"]), out)
    tail = bytearray((out / "tail.onnx").read_bytes())
    tail[-1] ^= 1
    (out / "tail.onnx").write_bytes(tail)
    with pytest.raises(BundleError, match="tail.onnx: its digest is not the manifest's"):
        Bundle.open(out)
    Bundle.open(out, role="device")
    (out / "tail.onnx").write_bytes(tail[:-1])
    with pytest.raises(BundleError, match="tail.onnx: has .* bytes"):
        Bundle.open(out)
    (out / "tail.onnx").unlink()
    with pytest.raises(BundleError, match="tail.onnx: missing"):
        Bundle.open(out)


def test_a_role_needs_its_own_files_only(model: Model, tmp_path: Path) -> None:
    out = tmp_path / "out"
    folder = write(model, cut_at(model.graph, ["p1"]), out).folder
    for role, needed, other in (
        ("device", "head.onnx", "tail.onnx"),
        ("server", "tail.onnx", "head.onnx"),
    ):
        kept = (folder / other).read_bytes()
        (folder / other).unlink()
        assert Bundle.open(out, role=role).manifest.files_of(role) == {needed}  # type: ignore[arg-type]
        with pytest.raises(BundleError, match=f"{other}: missing"):
            Bundle.open(out)
        (folder / other).write_bytes(kept)


def test_a_role_needs_the_weights_of_its_parts(external: Model, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(external, cut_at(external.graph, ["p1"]), out)
    (out / "tail.onnx.data").write_bytes(b"")
    Bundle.open(out, role="device")
    with pytest.raises(BundleError, match="tail.onnx.data: has 0 bytes"):
        Bundle.open(out, role="server")


@pytest.mark.parametrize("name", ["../head.onnx", "a/b", "/etc/hostname", "..", "", "C:x", "a\\b"])
def test_a_manifest_names_only_files_of_its_folder(model: Model, tmp_path: Path, name: str) -> None:
    manifest = write(model, cut_at(model.graph, ["p1"]), tmp_path / "out").manifest
    files = {**manifest.files, name: FileSpec(nbytes=1, sha256="0")}
    changed = msgspec.structs.replace(manifest, files=files)
    (tmp_path / "out" / MANIFEST).write_bytes(encode_document(changed))
    with pytest.raises(BundleError, match="is not a file of a bundle"):
        Bundle.open(tmp_path / "out")


def test_a_manifest_whose_digest_is_not_that_of_its_files_is_refused(
    model: Model, tmp_path: Path
) -> None:
    manifest = write(model, cut_at(model.graph, ["p1"]), tmp_path / "out").manifest
    changed = msgspec.structs.replace(manifest, digest="0" * 64)
    (tmp_path / "out" / MANIFEST).write_bytes(encode_document(changed))
    with pytest.raises(BundleError, match="its digest is not that of its files"):
        Bundle.open(tmp_path / "out")


def reopened(folder: Path, **changes: object) -> Bundle:
    """Open the bundle of a manifest with these changes and a digest that fits them."""
    manifest = msgspec.structs.replace(Manifest.load(folder), **changes)
    digest = bundle_digest(manifest.files, manifest.cuts)
    changed = msgspec.structs.replace(manifest, digest=digest)
    (folder / MANIFEST).write_bytes(encode_document(changed))
    return Bundle.open(folder)


CONTRADICTIONS: dict[str, tuple[dict[str, object], str]] = {
    "an id of another cut": ({"id": "0" * 12}, "has the wrong id '000000000000'"),
    "other nodes than the id says": ({"head_nodes": ("c1",)}, "has the wrong id"),
    "other codecs than the id says": ({"crossing": ()}, "has the wrong id"),
    "neither head nor tail": (
        {"head": None, "tail": None, "tail_outputs": ()}, "neither head nor tail",
    ),
    "a head outside the folder": ({"head": "../head.onnx"}, "is not among its files"),
    "a tail that is not there": ({"tail": "tail-7.onnx"}, "'tail-7.onnx' is not among its files"),
    "the manifest as a head": ({"head": MANIFEST}, "'manifest.json' is not among its files"),
    "a tail that makes nothing": ({"tail_outputs": ()}, "wrong tail outputs"),
    "a tail that makes what no model has": ({"tail_outputs": ("x",)}, "wrong tail outputs"),
}  # fmt: skip


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_a_manifest_that_contradicts_itself_is_refused(
    what: str, model: Model, tmp_path: Path
) -> None:
    changes, message = CONTRADICTIONS[what]
    planned = write(model, cut_at(model.graph, ["p1"]), tmp_path / "out").manifest.planned
    with pytest.raises(BundleError, match=message):
        reopened(tmp_path / "out", cuts=(msgspec.structs.replace(planned, **changes),))


def test_an_id_may_not_come_twice(model: Model, tmp_path: Path) -> None:
    planned = write(model, cut_at(model.graph, ["p1"]), tmp_path / "out").manifest.planned
    with pytest.raises(BundleError, match="has the wrong id"):
        reopened(tmp_path / "out", cuts=(planned, planned))


@pytest.mark.parametrize("file", ["../small.onnx", "/etc/hostname", "small.onnx", MANIFEST])
def test_a_stand_in_is_among_the_files(file: str, model: Model, tmp_path: Path) -> None:
    write(model, cut_at(model.graph, ["p1"]), tmp_path / "out")
    with pytest.raises(BundleError, match="is not among its files"):
        reopened(tmp_path / "out", stand_in=StandIn(file=file, source="small.onnx"))


def test_a_bundle_without_cuts_or_of_an_older_version_is_refused(
    model: Model, tmp_path: Path
) -> None:
    write(model, cut_at(model.graph, ["p1"]), tmp_path / "out")
    with pytest.raises(BundleError, match="cuts"):
        reopened(tmp_path / "out", cuts=())
    old = {"schema": "splitter.bundle/2", "name": "net"}
    (tmp_path / "out" / MANIFEST).write_text(json.dumps(old))
    with pytest.raises(BundleError, match="schema is 'splitter.bundle/2', .* 'splitter.bundle/3'"):
        Bundle.open(tmp_path / "out")
