"""A model divided among several devices and a server: all parts are the model, or nothing is written."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from splitter.codec import get_codec
from splitter.document import write_document
from splitter.errors import BundleError, CutError, ServingError
from splitter.graph.read import load_model
from splitter.partition.bundle import Bundle
from splitter.partition.manifest import MANIFEST, StateSpec, bundle_digest
from splitter.serving.device.session import Session
from splitter.serving.server.serve import serve
from tests import models
from tests.chains import run_model
from tests.cli import tree
from tests.contract import same_bits
from tests.models import save
from tests.stars import CAMERAS, make_star, places, run_star, star_at

HEADS = (("lc", "seen", "lr"), ("rc", "n"))


@pytest.mark.parametrize(
    ("build", "born"),
    [
        (models.two_inputs, (("left",), ("right",))),
        (models.two_cameras, CAMERAS),
        (models.two_cameras, (("level",), ("left",), ("right",))),
    ],
)
def test_every_division_among_devices_gives_the_bits_of_the_whole(build, born, tmp_path) -> None:
    model = load_model(save(build(), tmp_path / "model.onnx"))
    feeds, expected = run_model(model)
    every = list(places(model.graph, born))
    assert len(every) > 4
    for own in every[:: max(1, len(every) // 24)]:
        bundles = star_at(model, own, tmp_path / "star", born)
        made = run_star(bundles, feeds)
        for name in model.graph.outputs:
            assert same_bits(expected[name], made[name])


def test_each_device_holds_its_own_head_and_the_server_all_that_it_needs(tmp_path: Path) -> None:
    one, two, server = make_star(models.two_cameras(), tmp_path, HEADS)
    assert [bundle.folder.name for bundle in (one, two, server)] == ["device", "device2", "server"]
    for bundle in (one, two, server):
        assert Bundle.open(bundle.folder).manifest == bundle.manifest
    assert [spec.name for spec in two.manifest.inputs] == ["right", "level"]
    assert sorted(one.manifest.files) == sorted(two.manifest.files) == ["head.onnx"]
    cut = server.manifest.planned
    assert [share.tensors for share in cut.shares] == [("lr",), ("rc", "n")]
    for number, bundle in enumerate((one, two), start=1):
        join = bundle.manifest.join
        assert join is not None
        assert (join.bundle, join.cut) == (server.manifest.digest, cut.id)
        assert (join.part, join.parts) == (number, 2)
        sent = [spec.tensor for spec in bundle.manifest.planned.crossing]
        assert tuple(sent) == cut.shares[number - 1].tensors
    assert [spec.name for spec in one.manifest.outputs] == ["seen", "scores"]
    assert [spec.name for spec in two.manifest.outputs] == ["scores"]


def test_a_device_that_sends_nothing_needs_no_server(tmp_path: Path) -> None:
    halves = models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        halves (float[1, 8] left, float[1, 4] right) => (float[1, 8] y, float[1, 4] z) {
            y = Relu(left)
            z = Relu(right)
        }
        """
    )
    born = (("left",), ("right",))
    alone = make_star(halves, tmp_path, (("y",), ("z",)), born)
    assert [bundle.folder.name for bundle in alone] == ["device", "device2"]
    assert all(bundle.manifest.join is None for bundle in alone)
    half = make_star(halves, tmp_path, ((), ("z",)), born)
    assert [bundle.folder.name for bundle in half] == ["device", "device2", "server"]
    assert [share.device for share in half[-1].manifest.planned.shares] == ["device"]
    feeds, expected = run_model(load_model(tmp_path / "model.onnx"))
    with Session(half[1].folder) as session:
        (z,) = session.run(None, {"right": feeds["right"]})
        assert same_bits(expected["z"], z)


def test_the_servers_bundle_is_an_ordinary_one_for_who_has_all_inputs(tmp_path: Path) -> None:
    *_, server = make_star(models.two_cameras(), tmp_path, HEADS)
    feeds, expected = run_model(load_model(tmp_path / "model.onnx"))
    with serve(server.folder) as running, Session(server.folder, running.address) as session:
        session.wait_for_server(5)
        for name, made in session.infer(feeds).outputs.items():
            assert same_bits(expected[name], made)


def test_the_bundle_of_a_device_is_not_served(tmp_path: Path) -> None:
    one, *_ = make_star(models.two_cameras(), tmp_path, HEADS)
    with pytest.raises(ServingError, match="one device of several; serve the server's instead"):
        serve(one.folder)


def test_a_node_that_reads_what_another_device_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CutError, match=r"'both' on device reads 'rr', which is not made there"):
        make_star(models.two_cameras(), tmp_path, (("lc", "seen", "lr", "both"), ("rc", "rr")))
    assert not (tmp_path / "star").exists()


def test_a_star_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    make_star(models.two_cameras(), tmp_path, HEADS)
    before = tree(tmp_path / "star")
    model = load_model(tmp_path / "model.onnx")
    with pytest.raises(CutError, match="does not cross"):
        star_at(
            model, [frozenset(own) for own in HEADS], tmp_path / "star",
            codecs={"scores": get_codec("zstd")},
        )  # fmt: skip
    assert tree(tmp_path / "star") == before
    (tmp_path / "star" / "device" / "mine").touch()
    with pytest.raises(BundleError, match="holds 'mine'"):
        make_star(models.two_cameras(), tmp_path, HEADS)


def test_a_part_without_a_tail_and_parts_with_state_are_refused(tmp_path: Path) -> None:
    one, _, server = make_star(models.two_cameras(), tmp_path, HEADS)
    cut = one.manifest.planned
    alone = msgspec.structs.replace(cut, tail=None, tail_outputs=())
    stated = msgspec.structs.replace(
        server.manifest.planned, states=(StateSpec(input="level", output="scores"),)
    )
    for bundle, wrong in ((one, alone), (server, stated)):
        digest = bundle_digest(bundle.manifest.files, (wrong,))
        changed = msgspec.structs.replace(bundle.manifest, cuts=(wrong,), digest=digest)
        write_document(bundle.folder / MANIFEST, changed)
        with pytest.raises(BundleError, match="is no part of what several devices send"):
            Bundle.open(bundle.folder)


def test_shares_that_were_changed_do_not_have_the_digest(tmp_path: Path) -> None:
    *_, server = make_star(models.two_cameras(), tmp_path, HEADS)
    cut = server.manifest.planned
    swapped = msgspec.structs.replace(cut, shares=cut.shares[::-1])
    forged = msgspec.structs.replace(server.manifest, cuts=(swapped,))
    write_document(server.folder / MANIFEST, forged)
    with pytest.raises(BundleError, match="digest is not that of its files"):
        Bundle.open(server.folder)
    for shares in (cut.shares[:1], (*cut.shares, cut.shares[0]), ()):
        wrong = msgspec.structs.replace(cut, shares=shares)
        digest = bundle_digest(forged.files, (wrong,))
        changed = msgspec.structs.replace(forged, cuts=(wrong,), digest=digest)
        write_document(server.folder / MANIFEST, changed)
        if shares:
            with pytest.raises(BundleError, match="wrong shares"):
                Bundle.open(server.folder)
