"""Models of a folder: found, named, versioned, loaded and unloaded while requests run."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splitter.errors import BundleError, ServingError, StaleBundleError
from splitter.partition.manifest import Manifest
from splitter.serving.server.batching import Policy, Scheduler
from splitter.serving.server.loading import Loader
from splitter.serving.server.repository import Repository, find
from splitter.serving.server.status import LateError, NotReadyError, NotServedError
from tests import models
from tests.serving import change_manifest, make_bundle


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Cuts of one model called ``chain``, and another model."""
    folder = tmp_path_factory.mktemp("bundles")
    made = {
        "early": make_bundle(models.chain(), folder / "early", ["a"]),
        "late": make_bundle(models.chain(), folder / "late", ["b"]),
        "other": make_bundle(models.residual(), folder / "other", ["d"]),
        "whole": make_bundle(models.chain(), folder / "whole"),
    }
    for name, bundle in made.items():
        change_manifest(bundle, name="residual" if name == "other" else "chain")
    return made


def digest(folder: Path) -> str:
    return Manifest.load(folder).digest


def repository(folder: Path) -> Repository:
    made = Repository(folder, Loader(Scheduler(1), Policy(), None))
    made.load_all()
    return made


def states(found: Repository) -> list[tuple[str, str, str]]:
    return [(s.place.name, s.place.version, s.state) for s in found.index()]


def test_a_bundle_by_itself_is_version_1(bundles: dict[str, Path]) -> None:
    found = repository(bundles["early"])
    assert found.is_single
    assert states(found) == [("chain", "1", "READY")]
    assert found.find("chain") is found.find("chain", "1")


def test_numeric_folders_are_versions_and_others_take_what_is_left(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(bundles["early"], tmp_path / "chain" / "10")
    shutil.copytree(bundles["late"], tmp_path / "chain" / "1")
    shutil.copytree(bundles["early"], tmp_path / "a-bundle")
    shutil.copytree(bundles["late"], tmp_path / "b-bundle")
    shutil.copytree(bundles["other"], tmp_path / "residual" / "007")
    places = {(p.name, p.version): str(p.folder.relative_to(tmp_path)) for p in find(tmp_path)}
    assert places == {
        ("chain", "1"): "chain/1",
        ("chain", "2"): "a-bundle",
        ("chain", "3"): "b-bundle",
        ("chain", "10"): "chain/10",
        ("residual", "1"): "residual/007",
    }
    found = repository(tmp_path)
    assert found.find("chain").version == "10", "the newest is the highest number"


def test_tails_of_several_bundles_and_cuts_serve_side_by_side(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(bundles["early"], tmp_path / "chain" / "1")
    shutil.copytree(bundles["late"], tmp_path / "chain" / "2")
    found = repository(tmp_path)
    for name, tensor in (("early", "a"), ("late", "b")):
        _, tail = found.tail("chain", "", digest(bundles[name]), None)
        assert list(tail.inputs) == [tensor]
        cut = Manifest.load(bundles[name]).planned.id
        assert found.tail("chain", "", digest(bundles[name]), cut)[1] is tail
        assert found.tail("chain", "", None, cut)[1] is tail, "an older bundle's cut is found"
    assert list(found.tail("chain", "", None, None)[1].inputs) == ["b"]
    assert list(found.tail("chain", "1", None, None)[1].inputs) == ["a"]
    with pytest.raises(StaleBundleError, match="the device has bundle"):
        found.tail("chain", "1", digest(bundles["late"]), None)
    with pytest.raises(StaleBundleError) as caught:
        found.tail("chain", "", "f" * 64, None)
    for name in ("early", "late"):
        assert digest(bundles[name]) in str(caught.value)
    with pytest.raises(StaleBundleError, match="no tail for cut"):
        found.tail("chain", "", digest(bundles["late"]), "0" * 12)


def test_a_bundle_that_cannot_be_loaded_says_why_and_others_serve(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(bundles["early"], tmp_path / "chain" / "1")
    shutil.copytree(bundles["late"], tmp_path / "chain" / "2")
    shutil.copytree(bundles["whole"], tmp_path / "chain" / "3")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    with (tmp_path / "chain" / "2" / "tail.onnx").open("ab") as file:
        file.write(b"x")
    found = repository(tmp_path)
    reasons = {(s.place.name, s.place.version): s.reason for s in found.index() if s.reason}
    assert "not a splitter.bundle" in reasons["broken", "1"]
    assert "tail.onnx: has" in reasons["chain", "2"]
    assert "nothing to serve" in reasons["chain", "3"]
    assert found.find("chain").version == "1"
    with pytest.raises(NotReadyError, match="tail.onnx"):
        found.find("chain", "2")
    with pytest.raises(NotReadyError, match="no version that is ready"):
        found.find("broken")


def test_a_single_bundle_that_cannot_be_loaded_is_an_error(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ServingError, match="nothing to serve"):
        repository(bundles["whole"])
    with pytest.raises(BundleError, match=r"manifest\.json: cannot be read"):
        repository(tmp_path)


def test_a_new_bundle_is_rolled_out_beside_the_old_one(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(bundles["early"], tmp_path / "chain" / "1")
    found = repository(tmp_path)
    old = found.find("chain")
    shutil.copytree(bundles["late"], tmp_path / "chain" / "2")
    assert states(found)[1] == ("chain", "2", "UNAVAILABLE")
    found.load("chain")
    assert states(found) == [("chain", "1", "READY"), ("chain", "2", "READY")]
    assert found.find("chain", "1") is old, "what did not change is not loaded again"
    assert found.find("chain").version == "2"
    shutil.rmtree(tmp_path / "chain" / "1")
    found.load("chain")
    assert states(found) == [("chain", "2", "READY")]
    with pytest.raises(NotReadyError):
        old.hold()
    with pytest.raises(NotServedError, match="no model is named 'chian'; this server has 'chain'"):
        found.load("chian")


def test_a_changed_bundle_takes_over_and_a_damaged_one_is_refused(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(bundles["early"], tmp_path / "chain")
    shutil.copytree(bundles["other"], tmp_path / "residual")
    found = repository(tmp_path)
    shutil.rmtree(tmp_path / "chain")
    shutil.copytree(bundles["late"], tmp_path / "chain")
    found.load("chain")
    assert found.find("chain").manifest.digest == digest(bundles["late"])
    (tmp_path / "chain" / "tail.onnx").write_bytes(b"")
    change_manifest(tmp_path / "chain", name="chain")
    with pytest.raises(BundleError, match="cannot be loaded whole: version 1"):
        found.load("chain")
    assert found.find("residual").version == "1"


def test_unloading_waits_for_requests_that_run(bundles: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(bundles["early"], tmp_path / "chain" / "1")
    found = repository(tmp_path)
    loaded = found.find("chain")
    loaded.hold()
    with pytest.raises(LateError, match="still run"):
        found.unload("chain", timeout_s=0.01)
    with pytest.raises(NotReadyError, match="unloaded"):
        found.find("chain")
    found.load("chain")
    again = found.find("chain")
    again.hold()
    with ThreadPoolExecutor(1) as pool:
        unloading = pool.submit(found.unload, "chain", 30)
        while states(found)[0][2] != "UNLOADING":
            assert not unloading.done()
        again.release()
        unloading.result(30)
    assert states(found) == [("chain", "1", "UNAVAILABLE")]
    loaded.release()
    with pytest.raises(NotServedError):
        found.unload("nothing", 1)


def test_identical_tails_are_in_memory_once(bundles: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(bundles["early"], tmp_path / "one")
    shutil.copytree(bundles["early"], tmp_path / "two")
    found = repository(tmp_path)
    first, second = (found.find("chain", version).default for version in "12")
    assert first is not second
    assert first._runner is second._runner


def test_a_bundle_whose_messages_the_server_cannot_hold_is_refused_later(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    from splitter.serving.protocol import MessageLimits

    shutil.copytree(bundles["early"], tmp_path / "chain" / "1")
    loader = Loader(Scheduler(1), Policy(), None)
    found = Repository(tmp_path, loader)
    found.load_all()
    loader.most = MessageLimits(1 << 10, 1 << 10)
    shutil.copytree(bundles["late"], tmp_path / "chain" / "2")
    with pytest.raises(BundleError, match="start it again"):
        found.load("chain")
    assert found.find("chain").version == "1"


def test_every_cut_with_a_tail_is_warm(bundles: dict[str, Path], gate: Any) -> None:
    found = repository(bundles["early"])
    assert gate.sizes == [1]
    tail = found.find("chain").default
    assert np.array_equal(tail.inputs["a"].shape or (), (1, 8))
