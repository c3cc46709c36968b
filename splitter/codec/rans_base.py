"""What the entropy coders of levels share: the stream, the shapes, and what a table must be.

A payload is the four states that coding ended with and then the words in the order in which decoding takes
them. Images are coded one after another, and none knows of another one's levels.
"""

from __future__ import annotations

from math import prod
from types import ModuleType
from typing import Annotated

import numpy as np
from msgspec import Meta

from splitter.codec.base import Array, Form, Stage, dtype_name, some_bytes
from splitter.errors import CodecError, MissingExtraError

MOST_LEVELS = 32
MOST_BYTES = 1 << 17
"""Of frequencies, so that a table entry is found by 16 bits."""
TOTAL = 1 << 12
"""What the frequencies of a context add up to."""
LANES = 4
"""Channels that are coded at once; a channel is compared only with those of earlier such groups."""

_FIRST = 1 << 16


class Coded(Stage, frozen=True):
    """Few levels. Decoding ends in the state that coding began with, or is refused."""

    levels: Annotated[int, Meta(ge=2, le=MOST_LEVELS)]
    zero: Annotated[int, Meta(ge=0, lt=MOST_LEVELS)]
    """The level of 0.0."""

    def channel_count(self) -> int:
        """Along the second axis; a single one takes the tensor as one plane."""
        raise NotImplementedError

    def entries(self, image: Array) -> Array:
        """Of each level of one image, C x H x W, its place in the table of frequencies."""
        raise NotImplementedError

    def table(self) -> tuple[Array, Array]:
        """Frequencies, and where in their context they start; flat."""
        raise NotImplementedError

    def decode_image(self, words: Array, place: int, states: Array, image: Array) -> int:
        """Fill one image, C x H x W; returns the place after its words."""
        raise NotImplementedError

    def form(self, given: Form) -> Form:  # noqa: D102  (the contract says it)
        if given.dtype != "uint8" or given.is_bound:
            raise CodecError(f"{given.dtype} is not entropy coded; only uint8 levels are")
        self.planes(given.shape)
        # a level writes one word at most; then the four states
        return some_bytes(2 * prod(given.shape) + 4 * LANES if prod(given.shape) else 0)

    def planes(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Images, channels, height and width; raises CodecError where the channels are others."""
        if self.channel_count() == 1:
            width = shape[-1] if shape else 1
            return 1, 1, prod(shape) // width if width else 0, width
        if len(shape) < 2 or shape[1] != self.channel_count():
            raise CodecError(f"shape {list(shape)} does not have {self.channel_count()} channels")
        width = shape[-1] if len(shape) > 2 else 1
        return shape[0], shape[1], prod(shape[2:-1]), width

    def encode(self, array: Array) -> Array:  # noqa: D102
        self.form(Form(dtype_name(array.dtype), array.shape))
        if not array.size:
            return np.empty(0, np.uint8)
        if array.max() >= self.levels:
            raise CodecError(f"level {array.max()}, where there are {self.levels}")
        kernels, (frequencies, starts) = kernel_module(), self.table()
        images = array.reshape(self.planes(array.shape))
        words = np.empty(array.size, np.uint16)
        states = np.full(LANES, _FIRST, np.uint32)
        place = words.size
        for image in images[::-1]:
            entries = self.entries(image)
            place = kernels.encode(entries, frequencies, starts, states, place, words)
        return np.concatenate([states.astype("<u4").view(np.uint8), _bytes(words[place:])])

    def decode(self, array: Array, given: Form) -> Array:  # noqa: D102
        shape = self.planes(given.shape)
        if not prod(shape):
            if array.size:
                raise CodecError(f"{array.size} bytes for an empty tensor")
            return given.array(array)
        if array.size < 4 * LANES or array.size % 2:
            raise CodecError(f"{array.size} bytes are no entropy-coded stream")
        kernel_module()
        data = array.tobytes()
        states = np.frombuffer(data, "<u4", LANES).astype(np.uint32)
        words = np.frombuffer(data, "<u2", offset=4 * LANES).astype(np.uint16)
        levels = np.empty(shape, np.uint8)
        place = 0
        for image in levels:
            place = self.decode_image(words, place, states, image)
        if place != words.size or (states != _FIRST).any():
            raise CodecError("the entropy-coded stream is corrupted or truncated")
        return levels.reshape(given.shape)


def demand_table(frequencies: bytes, contexts: int, levels: int) -> None:
    """Refuse a table that the loops could run out of, with ValueError."""
    wanted = contexts * levels * 2
    if wanted > MOST_BYTES or len(frequencies) != wanted:
        raise ValueError(f"{len(frequencies)} bytes of frequencies, not {wanted}")
    table = np.frombuffer(frequencies, "<u2").reshape(-1, levels)
    if table.min() < 1 or (table.sum(1, dtype=np.int64) != TOTAL).any():
        raise ValueError(f"the frequencies of a context are not 1 or more, {TOTAL} in all")


def tables(frequencies: bytes, levels: int) -> tuple[Array, Array, Array]:
    """Frequencies and starts as the loops take them; the first level of each 16th of a context's slots."""
    table = np.frombuffer(frequencies, "<u2").astype(np.uint32).reshape(-1, levels)
    starts = np.cumsum(table, axis=1, dtype=np.uint32) - table
    slots = np.arange(16, dtype=np.uint32)[:, np.newaxis] << 8
    guesses = (starts.reshape(-1, 1, levels)[:, :, 1:] <= slots).sum(2)
    return table.reshape(-1), starts.reshape(-1), guesses.astype(np.uint8).reshape(-1)


def _bytes(words: Array) -> Array:
    return words.astype("<u2", copy=False).view(np.uint8)


def kernel_module() -> ModuleType:
    """The compiled loops; raises CodecError where numba is not installed."""
    try:
        from splitter.codec import rans_kernels
    except ImportError:
        raise MissingExtraError("numba is not installed; pip install 'splitter[entropy]'") from None
    return rans_kernels
