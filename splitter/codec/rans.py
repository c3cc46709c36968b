"""Pack and compress: levels by their probability among their neighbours, with the extra ``entropy``.

A level takes as many bits as it is a surprise. How probable each is was counted when calibrating, for each
class of channels, by the levels around it and in the channel that is most alike: those tables are the
configuration and never travel, so that a message holds nothing but the coded levels. ``rans_kernels`` has
the arithmetic.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from types import ModuleType
from typing import Annotated, NamedTuple

import numpy as np
from msgspec import Meta

from splitter.codec.base import Array, Form, Stage, dtype_name, some_bytes
from splitter.errors import CodecError

MOST_LEVELS = 32
MOST_BYTES = 1 << 17
"""Of frequencies, so that a table entry is found by 16 bits."""
CONTEXTS = 40
"""Of each class; ``rans_kernels`` says which."""
TOTAL = 1 << 12
"""What the frequencies of a context add up to."""

_LANES = 4
_FIRST = 1 << 16


class Rans(Stage, frozen=True, tag="rans"):
    """Few levels, most of them zero. Decoding ends in the state that coding began with, or is refused."""

    levels: Annotated[int, Meta(ge=2, le=MOST_LEVELS)]
    zero: Annotated[int, Meta(ge=0, lt=MOST_LEVELS)]
    """The level of 0.0: neighbours count by how far they are from it."""
    classes: Annotated[bytes, Meta(min_length=1, max_length=1 << 16)]
    """Of each channel along the second axis, its class; a single one takes the tensor as one plane."""
    parents: Annotated[tuple[int, ...], Meta(max_length=1 << 16)]
    """Of each channel the one that it is compared with, which comes at least a group of four earlier; or
    itself for none."""
    frequencies: bytes
    """Of the levels in each context of each class: 16-bit, little-endian, each context's sum 4096."""

    def __post_init__(self) -> None:
        """Refuse tables that the loops could run out of."""
        channels = len(self.classes)
        if len(self.parents) != channels or self.zero >= self.levels:
            raise ValueError(
                f"{len(self.parents)} parents of {channels} channels, zero {self.zero}"
            )
        for channel, parent in enumerate(self.parents):
            if parent != channel and not 0 <= parent < channel // _LANES * _LANES:
                raise ValueError(f"channel {channel} cannot be compared with channel {parent}")
        classes = max(self.classes) + 1
        wanted = classes * CONTEXTS * self.levels * 2
        if wanted > MOST_BYTES or len(self.frequencies) != wanted:
            raise ValueError(f"{len(self.frequencies)} bytes of frequencies, not {wanted}")
        table = np.frombuffer(self.frequencies, "<u2").reshape(-1, self.levels)
        if table.min() < 1 or (table.sum(1, dtype=np.int64) != TOTAL).any():
            raise ValueError(f"the frequencies of a context are not 1 or more, {TOTAL} in all")

    def form(self, given: Form) -> Form:  # noqa: D102  (the contract says it)
        if given.dtype != "uint8" or given.is_bound:
            raise CodecError(f"{given.dtype} is not entropy coded; only uint8 levels are")
        self.planes(given.shape)
        # a level writes one word at most; then the four states
        return some_bytes(2 * prod(given.shape) + 4 * _LANES if prod(given.shape) else 0)

    def planes(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Images, channels, height and width; raises CodecError where the channels are others."""
        if len(self.classes) == 1:
            width = shape[-1] if shape else 1
            return 1, 1, prod(shape) // width if width else 0, width
        if len(shape) < 2 or shape[1] != len(self.classes):
            raise CodecError(f"shape {list(shape)} does not have {len(self.classes)} channels")
        width = shape[-1] if len(shape) > 2 else 1
        return shape[0], shape[1], prod(shape[2:-1]), width

    def encode(self, array: Array) -> Array:  # noqa: D102
        self.form(Form(dtype_name(array.dtype), array.shape))
        if not array.size:
            return np.empty(0, np.uint8)
        if array.max() >= self.levels:
            raise CodecError(f"level {array.max()}, where there are {self.levels}")
        kernels, tables = _kernels(), _tables(self)
        images = array.reshape(self.planes(array.shape))
        words = np.empty(array.size, np.uint16)
        states = np.full(_LANES, _FIRST, np.uint32)
        place = words.size
        for image in images[::-1]:
            entries = self.entries(image)
            place = kernels.encode(entries, tables.frequencies, tables.starts, states, place, words)
        return np.concatenate([states.astype("<u4").view(np.uint8), _bytes(words[place:])])

    def entries(self, image: Array) -> Array:
        """Of each level of one image, C x H x W, its place in the table of frequencies."""
        tables = _tables(self)
        channels, height, width = image.shape
        padded = np.zeros((channels, height + 1, width + 2), np.uint8)
        found = np.empty(image.shape, np.uint16)
        _kernels().symbols(
            image, tables.magnitude, tables.classes, tables.parents, tables.by_sum, self.levels,
            padded, found,
        )  # fmt: skip
        return found

    def decode(self, array: Array, given: Form) -> Array:  # noqa: D102
        shape = self.planes(given.shape)
        if not prod(shape):
            if array.size:
                raise CodecError(f"{array.size} bytes for an empty tensor")
            return given.array(array)
        if array.size < 4 * _LANES or array.size % 2:
            raise CodecError(f"{array.size} bytes are no entropy-coded stream")
        kernels, tables = _kernels(), _tables(self)
        data = array.tobytes()
        states = np.frombuffer(data, "<u4", _LANES).astype(np.uint32)
        words = np.frombuffer(data, "<u2", offset=4 * _LANES).astype(np.uint16)
        levels = np.empty(shape, np.uint8)
        place = 0
        for image in levels:
            padded = np.zeros((shape[1], shape[2] + 1, shape[3] + 2), np.uint8)
            place = kernels.decode(
                words, place, states, tables.frequencies, tables.starts, self.levels,
                tables.magnitude, tables.classes, tables.parents, tables.by_sum, image, padded,
            )  # fmt: skip
        if place != words.size or (states != _FIRST).any():
            raise CodecError("the entropy-coded stream is corrupted or truncated")
        return levels.reshape(given.shape)


class _Tables(NamedTuple):
    """A configuration as the loops take it."""

    frequencies: Array
    starts: Array
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
    table = np.frombuffer(frequencies, "<u2").astype(np.uint32).reshape(-1, levels)
    starts = np.cumsum(table, axis=1, dtype=np.uint32) - table
    return _Tables(
        table.reshape(-1),
        starts.reshape(-1),
        np.frombuffer(classes, np.uint8).astype(np.int64),
        np.array(parents, np.int64),
        np.minimum(np.abs(np.arange(MOST_LEVELS) - zero), 15).astype(np.uint8),
        _kernels().BY_SUM,
    )


def _bytes(words: Array) -> Array:
    return words.astype("<u2", copy=False).view(np.uint8)


def _kernels() -> ModuleType:
    try:
        from splitter.codec import rans_kernels
    except ImportError:
        raise CodecError("numba is not installed; pip install 'splitter[entropy]'") from None
    return rans_kernels
