"""What SqueezeNet really sends: its activations at four cuts, of photos beside the checkout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

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


def activations(photos: int) -> dict[str, list[Array]]:
    """Of each cut a tensor a photo, the photos evenly among the 200 of the shared folder.

    In a bare clone, which has neither model nor photos, noise after a ReLU: it shows that the
    benchmark runs, and its figures mean nothing.
    """
    paths = sorted((SHARED / "data" / "imagenet200" / "images").glob("*.jpg"))
    if not paths:
        return {name: [_noise(seed) for seed in range(photos)] for name in CUTS}
    model = shared_model("squeezenet_fp32")
    inputs = {port: model.graph.tensors[port] for port in model.graph.inputs}
    # every tensor wanted is an ancestor of the last cut, so one head makes them all
    last = cut_at(model.graph, [CUTS["fire9"]])
    head = Runner(Extractor(model).part(last.head, tuple(CUTS.values())).to_bytes())
    found: dict[str, list[Array]] = {name: [] for name in CUTS}
    for path in islice(paths, 0, None, max(1, len(paths) // photos)):
        if len(found["fire9"]) == photos:
            break
        made = head.run(load_feeds([str(path)], inputs, "caffe"), tuple(CUTS.values()))
        for name, array in zip(CUTS, made, strict=True):
            found[name].append(array)
    return found


def channel_peaks(arrays: Sequence[Array]) -> Array:
    """The largest value of each channel (axis 1) over all arrays."""
    return np.max([array.max(axis=(0, 2, 3)) for array in arrays], axis=0)


def _noise(seed: int) -> Array:
    values = np.random.default_rng(seed).normal(-0.5, 1.0, (1, 32, 27, 27))
    return np.maximum(values, 0).astype(np.float32)
