"""What networks really send: their activations at four cuts each, of photos beside the checkout."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from _shared import SHARED, shared_model

from splitter.feeds import load_feeds
from splitter.graph.cut import cut_at
from splitter.partition.extract import Extractor
from splitter.runtime import Array, Runner

CUTS: Mapping[str, str] = {
    "fire3": "fire3/concat_1",
    "fire5": "fire5/concat_1",
    "pool5": "pool5_1",
    "fire9": "fire9/concat_1",
}
"""The tensor that crosses, by the short name of the cut."""


MODELS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "squeezenet_fp32": ("caffe", CUTS),
    "mobilenetv2_fp32": (
        "imagenet",
        {"block2": "add_198", "block3": "add_408", "block4": "add_690", "block5": "add_900"},
    ),
}
"""Preprocessing, and the cuts by short name: MobileNetV2's after its residual additions."""


@dataclass(frozen=True)
class Cut:
    """A tensor of every photo, and the rest of the network."""

    name: str
    tensor: str
    arrays: Sequence[Array]
    tail: Runner
    whole: Array
    """The whole model's top-1 class of each photo."""
    labels: Array


def cuts_of(name: str, photos: int) -> Iterator[Cut]:
    """The cuts of a network, one after the other, with their tensors of labelled photos."""
    recipe, cuts = MODELS[name]
    model = shared_model(name)
    inputs = {port: model.graph.tensors[port] for port in model.graph.inputs}
    extractor = Extractor(model)
    whole = Runner(extractor.whole().to_bytes())
    with (SHARED / "data" / "imagenet200" / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    rows = rows[:: max(1, len(rows) // photos)][:photos]
    folder = SHARED / "data" / "imagenet200" / "images"
    feeds = [load_feeds([str(folder / row["file"])], inputs, recipe) for row in rows]
    tops = np.array([int(np.argmax(whole.run(feed)[0])) for feed in feeds])
    labels = np.array([int(row["class_index"]) for row in rows])
    for short, tensor in cuts.items():
        cut = cut_at(model.graph, [tensor])
        head = Runner(extractor.head(cut).to_bytes())
        arrays = [head.run(feed)[0] for feed in feeds]
        yield Cut(short, tensor, arrays, Runner(extractor.tail(cut).to_bytes()), tops, labels)


def activations(photos: int) -> dict[str, list[Array]]:
    """Of each cut of SqueezeNet a tensor a photo, the photos evenly among the 200 of the shared folder.

    In a bare clone, which has neither model nor photos, noise after a ReLU: it shows that the
    benchmark runs, and its figures mean nothing.
    """
    if not (SHARED / "data" / "imagenet200" / "images").is_dir():
        return {name: [_noise(seed) for seed in range(photos)] for name in CUTS}
    return {cut.name: list(cut.arrays) for cut in cuts_of("squeezenet_fp32", photos)}


def channel_peaks(arrays: Sequence[Array]) -> Array:
    """The largest value of each channel (axis 1) over all arrays."""
    return np.max([array.max(axis=(0, 2, 3)) for array in arrays], axis=0)


def _noise(seed: int) -> Array:
    values = np.random.default_rng(seed).normal(-0.5, 1.0, (1, 32, 27, 27))
    return np.maximum(values, 0).astype(np.float32)
