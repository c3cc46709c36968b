"""A model divided among more than two tiers: the parts in a row are the model, or nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitter.codec import get_codec
from splitter.codec.affine import Affine
from splitter.codec.codec import Codec
from splitter.errors import BundleError, CutError, SplitterError
from splitter.graph.read import load_model
from splitter.partition.bundle import Bundle
from splitter.partition.chain import write_chain
from splitter.partition.manifest import BATCH
from tests import models
from tests.chains import hops_at, make_chain, run_model, run_parts
from tests.cli import tree
from tests.contract import same_bits
from tests.models import save

MODELS = models.every_model()
DIMS = {"awkward_names": {"batch": 7}, "dynamic_reshape": {"batch": 2}}


@pytest.mark.parametrize("name", MODELS)
def test_the_parts_in_a_row_give_the_bits_of_the_whole(name: str, tmp_path: Path) -> None:
    path = save(MODELS[name], tmp_path / "model.onnx")
    try:
        model = load_model(path, DIMS.get(name))
    except SplitterError:
        model = load_model(path)
    count, done = len(model.graph.nodes), 0
    for first in range(count):
        for second in range(first + 1, count):
            try:
                hops = hops_at(model, [first, second])
                bundles = write_chain(model, hops, tmp_path / "out")
            except CutError:  # a tensor that cannot travel
                continue
            done += 1
            feeds, expected = run_model(model)
            made = run_parts(bundles, feeds)
            assert all(same_bits(expected[out], made[out]) for out in model.graph.outputs)
            if done == 4:
                return
    assert done or count < 3


def test_each_bundle_is_an_ordinary_one_of_the_tail_before_it(tmp_path: Path) -> None:
    bundles = make_chain(models.convolutions(), tmp_path, [2, 4, 6], whole=True)
    assert [one.folder.name[:2] for one in bundles] == ["1-", "2-", "3-"]
    assert [len(one.manifest.planned.head_nodes) for one in bundles] == [2, 2, 2]
    assert {one.manifest.name for one in bundles} == {"model"}
    for before, after in zip(bundles, bundles[1:], strict=False):
        assert Bundle.open(after.folder).manifest == after.manifest
        tail = before.manifest.planned.tail
        assert tail is not None
        assert after.manifest.model_sha256 == before.manifest.files[tail].sha256
        assert after.manifest.tail_of == before.manifest.digest
        assert after.manifest.on_device is not None
    assert bundles[0].manifest.tail_of is None


def test_tails_take_any_number_of_samples_where_the_model_does(tmp_path: Path) -> None:
    proto = models.convolutions()
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    model = load_model(save(proto, tmp_path / "model.onnx"), {"n": 1})
    first, second = write_chain(model, hops_at(model, [3, 5]), tmp_path / "out")
    assert first.manifest.planned.batches
    assert second.manifest.planned.batches
    assert second.manifest.dims == {BATCH: 1}


def test_only_the_last_bundle_quantises_in_its_parts(tmp_path: Path) -> None:
    codec = Codec(
        "q8", (Affine(step=(0.02,), size=(0.02,), zero=0, levels=256), *get_codec("zstd").stages)
    )
    model = load_model(save(models.convolutions(), tmp_path / "model.onnx"))
    hops = hops_at(model, [3, 5], codecs={0: {"p1": codec}, 1: {"r2": codec}})
    first, second = write_chain(model, hops, tmp_path / "out")
    assert [spec.dtype for spec in first.manifest.planned.crossing] == ["float32"]
    assert [spec.dtype for spec in second.manifest.planned.crossing] == ["uint8"]


def test_a_chain_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    bundles = make_chain(models.convolutions(), tmp_path, [2, 4])
    before = tree(tmp_path)
    model = load_model(tmp_path / "model.onnx")
    wrong = hops_at(model, [2, 4], codecs={1: {"c1": get_codec("zstd")}})  # c1 does not cross there
    with pytest.raises(CutError, match="does not cross"):
        write_chain(model, wrong, tmp_path / "chain")
    assert tree(tmp_path) == before
    write_chain(model, hops_at(model, [1]), tmp_path / "chain")
    assert not bundles[1].folder.exists()


@pytest.mark.parametrize("name", ["notes.txt", "1-device-relay", "bundle"])
def test_what_is_no_chain_is_not_replaced(name: str, tmp_path: Path) -> None:
    other = tmp_path / "chain" / name
    other.parent.mkdir()
    if name == "notes.txt":
        other.write_text("mine")
    else:
        other.mkdir()
        (other / "mine").touch()
    before = tree(tmp_path / "chain")
    with pytest.raises(BundleError, match=f"holds '{name}'; give a new folder"):
        make_chain(models.convolutions(), tmp_path, [2, 4])
    assert tree(tmp_path / "chain") == before
