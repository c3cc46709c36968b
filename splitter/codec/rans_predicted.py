"""Pack and compress: levels by their probability where they are predicted, with the extra ``entropy``.

As ``rans``, but what tells how probable a level is are two linear predictions, with weights of each channel:
of the level itself, from its neighbours and from the channels before; and of how wrong that will be, from
how wrong it was around. For levels that are as often negative as positive, and where many channels say a
little about one another; smaller than ``rans``, and slower. ``rans_predicted_kernels`` has the arithmetic.
"""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType
from typing import Annotated, NamedTuple

import numpy as np
from msgspec import Meta

from splitter.codec.base import Array
from splitter.codec.rans_base import LANES, Coded, demand_table, kernel_module, tables

MOST_PARENTS = 64
"""So few that no sum of products with 16-bit weights leaves 31 bits, whatever the weights."""
NEAR = 5
"""The weights of a channel that are not for parents: constant, left, above, above left, above right."""
_MOST_EDGE = 1 << 14
_MOST_EDGES = 255


class Predicted(Coded, frozen=True, tag="rans-predicted"):
    """Few levels, of any sign."""

    channels: Annotated[int, Meta(ge=1, le=1 << 16)]
    """Along the second axis; a single one takes the tensor as one plane."""
    parents: bytes
    """Of each channel the same number of others that it is predicted from, 16-bit, little-endian: of an
    earlier group of four each, or the channel itself for none."""
    weights: bytes
    """Of each channel's level, in 1/4096, 16-bit, little-endian: constant, left, above, above left, above
    right, each parent at the same place, the four neighbours of that."""
    spreads: bytes
    """Of each channel's error: constant, left, above, above left, above right, each parent's."""
    mean_edges: tuple[int, ...]
    """In 1/256 of a level, ascending: a context begins where a prediction reaches one."""
    spread_edges: tuple[int, ...]
    """In 1/256 of a level."""
    frequencies: bytes
    """Of the levels in each context, spread by spread and in each mean by mean: 16-bit, little-endian,
    each context's sum 4096."""

    def __post_init__(self) -> None:
        """Refuse what the loops could run out of."""
        if self.zero >= self.levels:
            raise ValueError(f"zero is level {self.zero} of {self.levels}")
        many, rest = divmod(len(self.parents), 2 * self.channels)
        if rest or many > MOST_PARENTS:
            raise ValueError(f"{len(self.parents)} bytes of parents of {self.channels} channels")
        for found, each in ((self.weights, NEAR + 2 * many), (self.spreads, NEAR + many)):
            if len(found) != 2 * each * self.channels:
                raise ValueError(f"{len(found)} bytes of weights, not {each} of each channel")
        own = np.arange(self.channels)[:, np.newaxis]
        parents = np.frombuffer(self.parents, "<u2").reshape(self.channels, many)
        if ((parents >= own // LANES * LANES) & (parents != own)).any():
            raise ValueError("a channel is predicted from one that is decoded no earlier")
        for edges in (self.mean_edges, self.spread_edges):
            if len(edges) > _MOST_EDGES or any(
                not -_MOST_EDGE <= edge <= _MOST_EDGE for edge in edges
            ):
                raise ValueError("more edges than 255, or one beyond any prediction")
            if any(left >= right for left, right in zip(edges, edges[1:], strict=False)):
                raise ValueError("edges do not ascend")
        contexts = (len(self.mean_edges) + 1) * (len(self.spread_edges) + 1)
        demand_table(self.frequencies, contexts, self.levels)

    def channel_count(self) -> int:  # noqa: D102
        return self.channels

    def table(self) -> tuple[Array, Array]:  # noqa: D102
        found = _tables(self)
        return found.frequencies, found.starts

    def entries(self, image: Array) -> Array:  # noqa: D102
        nothing = np.empty((0, 0, 0), np.int32)
        return self._entries(image, nothing, nothing, *_planes(image.shape))

    def predictions(self, image: Array) -> tuple[Array, Array, Array]:
        """Of each level of one image, C x H x W: mean and spread as the edges divide them, and error."""
        kernels = _predicted_kernels()
        mean, spread = np.empty(image.shape, np.int32), np.empty(image.shape, np.int32)
        arounds, sizes = _planes(image.shape)
        self._entries(image, mean, spread, arounds, sizes)
        return (
            mean >> kernels.MEAN_SHIFT,
            spread >> kernels.SPREAD_SHIFT,
            sizes.reshape(image.shape),
        )

    def _entries(
        self, image: Array, mean: Array, spread: Array, arounds: Array, sizes: Array
    ) -> Array:
        found = _tables(self)
        entries = np.empty(image.shape, np.uint16)
        _predicted_kernels().symbols(
            image, self.zero, self.levels, *found.model, arounds, sizes, entries, mean, spread
        )
        return entries

    def decode_image(self, words: Array, place: int, states: Array, image: Array) -> int:  # noqa: D102
        found = _tables(self)
        after: int = _predicted_kernels().decode(
            words, place, states, found.frequencies, found.starts, found.guesses,
            self.zero, self.levels, *found.model, *_planes(image.shape), image,
        )  # fmt: skip
        return after


class _Tables(NamedTuple):
    """A configuration as the loops take it."""

    frequencies: Array
    starts: Array
    guesses: Array
    """Of each 16th of a context's slots the level that its first one belongs to."""
    model: tuple[Array, ...]
    """Parents, weights, spreads, and the contexts by mean and by spread."""


def _tables(stage: Predicted) -> _Tables:
    return _made(
        stage.levels, stage.zero, stage.channels, stage.parents, stage.weights, stage.spreads,
        stage.mean_edges, stage.spread_edges, stage.frequencies,
    )  # fmt: skip


@lru_cache(maxsize=64)
def _made(
    levels: int, zero: int, channels: int, parents: bytes, weights: bytes, spreads: bytes,
    mean_edges: tuple[int, ...], spread_edges: tuple[int, ...], frequencies: bytes,
) -> _Tables:  # fmt: skip
    kernels = _predicted_kernels()
    others = np.frombuffer(parents, "<u2").astype(np.int64).reshape(channels, -1)
    others = np.where(others == np.arange(channels)[:, np.newaxis], -1, others)
    many = others.shape[1]
    means = np.frombuffer(weights, "<i2").astype(np.int32).reshape(channels, -1)
    # a parent's levels are taken as they are, and what its zero adds is taken off again here
    means[:, 0] -= zero * (means[:, NEAR : NEAR + many] * (others >= 0)).sum(1, dtype=np.int32)
    half = kernels.MEAN_CELLS // 2
    by_mean = np.searchsorted(mean_edges, np.arange(-half, half), "right")
    by_spread = np.searchsorted(spread_edges, np.arange(kernels.SPREAD_CELLS), "right")
    return _Tables(
        *tables(frequencies, levels),
        (
            others,
            means,
            np.frombuffer(spreads, "<i2").astype(np.int32).reshape(channels, -1),
            by_mean.astype(np.uint8),
            (by_spread * (len(mean_edges) + 1)).astype(np.uint16),
        ),
    )


def _planes(shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Room for what is kept of each channel beside its levels."""
    channels, height, width = shape
    return np.empty((channels, height * width), np.int8), np.empty(
        (channels, height * width), np.uint8
    )


def _predicted_kernels() -> ModuleType:
    kernel_module()
    from splitter.codec import rans_predicted_kernels

    return rans_predicted_kernels
