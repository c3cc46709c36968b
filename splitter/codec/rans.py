"""Pack and compress: levels by their probability among their neighbours, with the extra ``entropy``.

A level takes as many bits as it is a surprise. How probable each is was counted when calibrating, for each
class of channels, by the levels around it and in the channel that is most alike: those tables are the
configuration and never travel, so that a message holds nothing but the coded levels. ``rans_kernels`` has
the arithmetic.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, NamedTuple

import numpy as np
from msgspec import Meta

from splitter.codec.base import Array
from splitter.codec.rans_base import (
    LANES,
    MOST_LEVELS,
    TOTAL,
    Coded,
    demand_table,
    kernel_module,
    tables,
)

__all__ = ["CONTEXTS", "TOTAL", "Rans"]

CONTEXTS = 40
"""Of each class; ``rans_kernels`` says which."""


class Rans(Coded, frozen=True, tag="rans"):
    """Few levels, most of them zero: neighbours count by how far they are from it."""

    classes: Annotated[bytes, Meta(min_length=1, max_length=1 << 16)]
    """Of each channel along the second axis, its class; a single one takes the tensor as one plane."""
    parents: Annotated[tuple[int, ...], Meta(max_length=1 << 16)]
    """Of each channel the one that it is compared with, which comes at least a group of four earlier; or
    itself for none."""
    frequencies: bytes
    """Of the levels in each context of each class: 16-bit, little-endian, each context's sum 4096."""

    def __post_init__(self) -> None:
        """Refuse tables that the loops could run out of."""
        channels = self.channel_count()
        if len(self.parents) != channels or self.zero >= self.levels:
            raise ValueError(
                f"{len(self.parents)} parents of {channels} channels, zero {self.zero}"
            )
        for channel, parent in enumerate(self.parents):
            if parent != channel and not 0 <= parent < channel // LANES * LANES:
                raise ValueError(f"channel {channel} cannot be compared with channel {parent}")
        demand_table(self.frequencies, (max(self.classes) + 1) * CONTEXTS, self.levels)

    def channel_count(self) -> int:  # noqa: D102
        return len(self.classes)

    def table(self) -> tuple[Array, Array]:  # noqa: D102
        found = _tables(self)
        return found.frequencies, found.starts

    def entries(self, image: Array) -> Array:  # noqa: D102
        found = _tables(self)
        channels, height, width = image.shape
        padded = np.zeros((channels, height + 1, width + 2), np.uint8)
        entries = np.empty(image.shape, np.uint16)
        kernel_module().symbols(
            image, found.magnitude, found.classes, found.parents, found.by_sum, self.levels,
            padded, entries,
        )  # fmt: skip
        return entries

    def decode_image(self, words: Array, place: int, states: Array, image: Array) -> int:  # noqa: D102
        found = _tables(self)
        channels, height, width = image.shape
        padded = np.zeros((channels, height + 1, width + 2), np.uint8)
        after: int = kernel_module().decode(
            words, place, states, found.frequencies, found.starts, found.guesses,
            self.levels, found.magnitude, found.classes, found.parents, found.by_sum, image, padded,
        )  # fmt: skip
        return after


class _Tables(NamedTuple):
    """A configuration as the loops take it."""

    frequencies: Array
    starts: Array
    guesses: Array
    """Of each 16th of a context's slots the level that its first one belongs to."""
    classes: Array
    parents: Array
    magnitude: Array
    by_sum: Array


def _tables(stage: Rans) -> _Tables:
    return _made(stage.levels, stage.zero, stage.classes, stage.parents, stage.frequencies)


@lru_cache(maxsize=64)
def _made(
    levels: int, zero: int, classes: bytes, parents: tuple[int, ...], frequencies: bytes
) -> _Tables:
    return _Tables(
        *tables(frequencies, levels),
        np.frombuffer(classes, np.uint8).astype(np.int64),
        np.array(parents, np.int64),
        np.minimum(np.abs(np.arange(MOST_LEVELS) - zero), 15).astype(np.uint8),
        kernel_module().BY_SUM,
    )
