"""A network with pictures to try things on: trained, where one lies beside the checkout, else seeded.

The seeded network is one of the onnx wheel's architectures with weights drawn from a seed: real shapes and
real cost, no real answers. Its pictures are noise, smooth enough to take the bytes of photos: 20 kB as a JPEG
of quality 95 at 224 x 224, which is what the photos took beside which they were drawn.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from splitter.document import replacing
from splitter.feeds import load_feeds
from splitter.graph.model import Model
from splitter.graph.read import load_model
from splitter.partition.seeded import light_model, write_seeded
from splitter.picture import encode_picture
from splitter.runtime import Array

SEEDED = "squeezenet"
TRAINED = "mobilenetv2_fp32"
PICTURES = 40
SIDE = 256
JPEG_QUALITY = 90
SMOOTHNESS = 1.5
"""The power of the frequency by which amplitudes fall."""


class Saved(Protocol):
    """A document."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it whole or not at all."""


D = TypeVar("D", bound=Saved)


@dataclass(frozen=True)
class Example:
    """What ``splitter.profile``, ``calibrate`` and the rest are given."""

    model: Model
    about: str
    """What the network and its pictures are, in a sentence."""
    feeds: Mapping[str, Array]
    """One of the pictures, as the model takes it."""
    pictures: Path
    labels: Path | None
    """Class indices; None where the answers mean nothing."""
    answer: Literal["top1", "values"]
    """What is to stay of the model's answers."""
    folder: Path
    """For what is measured with it."""
    traces: Mapping[str, Path] = field(default_factory=dict)
    """Files of bandwidth over time, by name."""


def find_example(shared: Path, folder: Path) -> Example:
    """Take the trained network and its photos from ``shared``; make a seeded one where that is missing.

    What is written goes below ``folder``.

    Raises
    ------
    ModelError
        This onnx installation carries no architectures.
    """
    if (shared / "models" / f"{TRAINED}.onnx").is_file():
        return trained_example(shared, folder / "trained")
    return seeded_example(folder / "seeded")


def trained_example(shared: Path, folder: Path) -> Example:
    """MobileNetV2 and 200 labelled photos; raises ModelError or InputError where a file is missing."""
    path = shared / "models" / f"{TRAINED}.onnx"
    model = load_model(path, None, {"input": (1, 3, 224, 224)})
    photos = shared / "data" / "imagenet200"
    folder.mkdir(parents=True, exist_ok=True)
    return Example(
        model=model,
        about="MobileNetV2, trained on ImageNet, on labelled photos",
        feeds=_feeds(model, shared / "data" / "photos" / "wolves.jpg"),
        pictures=photos / "images",
        labels=photos / "labels.csv",
        answer="top1",
        folder=folder,
        traces={path.stem: path for path in sorted((shared / "traces").glob("*.txt"))},
    )


def seeded_example(folder: Path) -> Example:
    """SqueezeNet with weights drawn from a seed, written to ``folder``; raises ModelError."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        drawn = encode_picture(drawn_picture(rng, SIDE), "jpeg", JPEG_QUALITY)
        with replacing(pictures / f"{number:02}.jpg") as file:
            file.write(drawn)
    model = seeded_network(folder)
    return Example(
        model=model,
        about="SqueezeNet with weights drawn from a seed (real cost, no real answers), on drawn pictures",
        feeds=_feeds(model, pictures / "00.jpg"),
        pictures=pictures,
        labels=None,
        answer="values",
        folder=folder,
    )


def kept(path: Path, load: Callable[[Path], D], make: Callable[[], D]) -> D:
    """Read what was measured before; where the file is missing, measure it and keep it there."""
    if not path.is_file():
        make().save(path)
    return load(path)


def seeded_network(folder: Path) -> Model:
    """The network alone, written to ``folder``; raises ModelError."""
    path = folder / f"{SEEDED}.onnx"
    write_seeded(light_model(SEEDED), path)
    return load_model(path)


def drawn_picture(rng: np.random.Generator, side: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Draw pixels, side x side x 3; channels agree for the most part, as those of photos do."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    noise = rng.normal(size=(4, side, side))
    smooth = np.fft.irfft2(
        np.fft.rfft2(noise) / np.maximum(frequency, 1 / side) ** SMOOTHNESS, s=(side, side)
    )
    channels = smooth[0] + 0.3 * smooth[1:]
    low, high = np.percentile(channels, [1, 99])
    scaled = np.clip((channels - low) / (high - low), 0, 1)
    pixels: np.ndarray[Any, np.dtype[np.uint8]] = np.round(255 * scaled).astype(np.uint8)
    return pixels.transpose(1, 2, 0)


def _feeds(model: Model, picture: Path) -> Mapping[str, Array]:
    return load_feeds(
        [str(picture)], {name: model.graph.tensors[name] for name in model.graph.inputs}
    )
