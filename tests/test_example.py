"""The example of notebooks and demo: the same each time, and complete without what is beside the checkout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from splitter.dataset import open_dataset
from splitter.example import Example, find_example, kept, seeded_example
from splitter.picture import encode_picture, fitted, open_pixels
from splitter.preprocess import find_preprocess
from splitter.profiling.profile import Profile


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    return find_example(tmp_path_factory.mktemp("nothing"), tmp_path_factory.mktemp("example"))


def test_without_shared_material_a_network_and_pictures_for_it_are_made(example: Example) -> None:
    graph = example.model.graph
    inputs = {name: graph.tensors[name] for name in graph.inputs}
    data = open_dataset(example.pictures, inputs, labels=example.labels)
    assert len(data.samples) > 20
    assert not data.skipped
    first = data.feeds(data.samples[0])
    assert all(np.array_equal(first[name], example.feeds[name]) for name in graph.inputs)
    assert example.answer == "values"  # its classes mean nothing
    assert not example.traces


def test_it_is_the_same_each_time(example: Example, tmp_path: Path) -> None:
    again = seeded_example(tmp_path)
    assert again.model.graph.sha256 == example.model.graph.sha256
    assert again.feeds.keys() == example.feeds.keys()
    assert all(np.array_equal(again.feeds[name], example.feeds[name]) for name in again.feeds)


def test_shared_material_is_taken_where_it_is(shared: Path, tmp_path: Path) -> None:
    found = find_example(shared, tmp_path)
    assert found.answer == "top1"
    assert found.labels is not None
    assert found.labels.is_file()
    assert found.traces
    assert found.folder.is_relative_to(tmp_path)


def test_drawn_pictures_take_the_bytes_of_photos(example: Example) -> None:
    files = sorted(example.pictures.iterdir())[:8]
    recipe = find_preprocess("imagenet")
    pixels = [fitted(open_pixels(file), recipe, 224, 224) for file in files]
    sizes = [len(encode_picture(each, "jpeg", 95)) for each in pixels]
    assert 16_000 < sum(sizes) / len(sizes) < 24_000
    assert min(float(each.std()) for each in pixels) > 30


def test_what_was_measured_is_kept_and_not_measured_again(measured: Path, tmp_path: Path) -> None:
    here, made = Profile.load(measured / "here.json"), []

    def make() -> Profile:
        made.append(1)
        return here

    path = tmp_path / "here.json"
    assert kept(path, Profile.load, make) == here
    assert kept(path, Profile.load, make) == here
    assert len(made) == 1


def test_a_slowed_profile_takes_so_many_times_as_long_everywhere(measured: Path) -> None:
    here = Profile.load(measured / "here.json")
    slow = here.slowed(3.0)
    assert slow.whole_s == pytest.approx(3 * here.whole_s)
    for kind in ("kernels", "anchors", "codecs"):
        for one, other in zip(getattr(here, kind), getattr(slow, kind), strict=True):
            for name in one.__struct_fields__:
                before, after = getattr(one, name), getattr(other, name)
                is_time = name.endswith("_s") or name == "seconds"
                assert after == (pytest.approx(3 * before) if is_time else before)
    assert slow.origin == "estimated"
    assert slow.tier != here.tier
