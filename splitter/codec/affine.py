"""Quantise: levels at even steps, per tensor or per channel.

``level = clip(round(x / step - dead) + zero, 0, levels - 1)`` and back ``x = size * (level - zero)``. The
step says where levels begin and end, the size what they stand for: fitted apart, they make the error
after decoding smaller. Both are affine, so the same arithmetic is QuantizeLinear and DequantizeLinear
in the graph. Zero stays exactly zero.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import lru_cache
from math import isfinite, prod
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from splitter.codec.base import Array, Form, Stage, dtype_name, numpy_dtype
from splitter.errors import CodecError

FLOATS = ("float16", "bfloat16", "float32", "float64")
_BLOCK = 1 << 17  # elements whose float32 copy stays in a core's caches
_LEAST, _MOST = 2.0**-126, 2.0**119  # 255 of the largest are still a float32
_MOST_FLOAT16 = 65504.0
_INFINITE, _TOO_LONG = np.array([np.inf, 256.0], np.float32).view(np.uint32)
"""The words of infinity, and of the least level that a byte does not hold."""
_Positive = Annotated[float, Meta(ge=_LEAST, le=_MOST)]


class _OfThread(threading.local):
    """Memory that is new costs more to touch than a block to quantise."""

    def __init__(self) -> None:
        self.scratch = np.empty(_BLOCK, np.float32)


_of_thread = _OfThread()


@lru_cache(maxsize=32)
def _filled(value: float, dtype: str) -> Array:
    """The smaller of two arrays is found several times as fast as that of array and number."""
    return np.full(_BLOCK, value, dtype)


def _demand_finite(block: Array) -> None:
    low, high = np.minimum.reduce(block), np.maximum.reduce(block)  # NaN if one is
    if not (isfinite(low) and isfinite(high)):
        raise CodecError("a value is NaN, infinite or too large for its step")


@lru_cache(maxsize=256)
def _factors(values: tuple[float, ...]) -> Array:
    return np.array(values, np.float32)


class Affine(Stage, frozen=True, tag="affine"):
    """2 to 256 levels of a float tensor."""

    is_lossless: ClassVar[bool] = False

    levels: Annotated[int, Meta(ge=2, le=256)]
    step: Annotated[tuple[_Positive, ...], Meta(min_length=1)]
    """Of the whole tensor, or of each channel."""
    size: Annotated[tuple[_Positive, ...], Meta(min_length=1)]
    """What one level is worth when decoded; as many as steps."""
    zero: Annotated[int, Meta(ge=0, le=255)] = 0
    """The level of 0.0."""
    dead: Annotated[float, Meta(ge=0, lt=0.5)] = 0.0
    """How much of a step more than half of one a value needs to leave a level for the next."""
    axis: Annotated[int, Meta(ge=0)] = 1
    """Along which the channels lie, where there is more than one step."""

    def __post_init__(self) -> None:
        """Refuse fields that contradict one another, and steps of a fit that found nothing to fit."""
        if len(self.step) != len(self.size):
            raise ValueError(f"{len(self.step)} steps and {len(self.size)} sizes; give as many")
        if not 2 <= self.levels <= 256:
            raise ValueError(f"{self.levels} levels; there are 2 to 256")
        if not 0 <= self.zero < self.levels:
            raise ValueError(f"the level of zero is {self.zero}, of {self.levels} levels")
        for value in (*self.step, *self.size):
            if not _LEAST <= value <= _MOST:  # NaN too
                raise ValueError(f"a step or size of {value}, not {_LEAST:.1e} to {_MOST:.1e}")

    def form(self, given: Form) -> Form:  # noqa: D102  (the contract says it)
        if given.dtype not in FLOATS or given.is_bound:
            raise CodecError(f"{given.dtype} is not quantised; only {', '.join(FLOATS)} are")
        if len(self.step) > 1:
            found = given.shape[self.axis] if self.axis < len(given.shape) else None
            if found != len(self.step):
                raise CodecError(
                    f"shape {list(given.shape)} does not have {len(self.step)} channels on axis "
                    f"{self.axis}"
                )
        return Form("uint8", given.shape)

    def encode(self, array: Array) -> Array:
        """Quantise; raises CodecError for NaN and the infinities, which no level stands for."""
        self.form(Form(dtype_name(array.dtype), array.shape))
        levels = np.empty(array.shape, np.uint8)
        add, top = np.float32(self.zero - self.dead + 0.5), _filled(255.5, "float32")
        last = _filled(self.levels - 1, "uint8")
        with np.errstate(over="ignore", invalid="ignore"):
            for source, target, step in self._blocks(array, levels, self.step):
                block = _of_thread.scratch[: source.size]
                np.divide(source, step, out=block.reshape(source.shape), dtype=np.float32)
                block += add
                # read as words, floats below 0, NaN and infinity come after all others
                most = np.maximum.reduce(block.view(np.uint32))
                if most >= _INFINITE:
                    _demand_finite(block)
                    np.maximum(block, _filled(0.0, "float32")[: block.size], out=block)
                if most >= _TOO_LONG:
                    np.minimum(block, top[: block.size], out=block)
                target[...] = block.reshape(source.shape)  # rounds towards zero: 0.5 was added
                if self.levels < 256:
                    np.minimum(target, last[: block.size].reshape(target.shape), out=target)
        return levels

    def decode(self, array: Array, given: Form) -> Array:  # noqa: D102
        if self.levels < 256 and array.size and array.max() >= self.levels:
            raise CodecError(f"level {array.max()}, where there are {self.levels}")
        values = np.empty(given.shape, numpy_dtype(given.dtype))
        for source, target, size in self._blocks(array, values, self.size):
            is_same = given.dtype == "float32"
            block = target if is_same else _of_thread.scratch[: source.size].reshape(source.shape)
            np.copyto(block, source)
            if self.zero:
                block -= np.float32(self.zero)
            block *= size
            if given.dtype == "float16":
                np.clip(block, -_MOST_FLOAT16, _MOST_FLOAT16, out=block)
            if not is_same:
                target[...] = block
        return values

    def _blocks(
        self, source: Array, target: Array, values: tuple[float, ...]
    ) -> Iterator[tuple[Array, Array, Array]]:
        """Views of both, at most ``_BLOCK`` elements each, with the values that belong to them."""
        factors = _factors(values)
        if len(values) == 1:
            source, target = source.reshape(-1), target.reshape(-1)
            for first in range(0, source.size, _BLOCK):
                run = slice(first, first + _BLOCK)
                yield source[run], target[run], factors
            return
        outer, inner = prod(source.shape[: self.axis]), prod(source.shape[self.axis + 1 :])
        if not outer * inner:
            return
        shape = (outer, len(values), inner)
        source, target, factors = source.reshape(shape), target.reshape(shape), factors[:, None]
        # as many whole images as fit, or as many whole channels of one, or a piece of one channel
        images, channels, piece = (max(1, _BLOCK // one) for one in (inner * len(values), inner, 1))
        for image in range(0, outer, images):
            for channel in range(0, len(values), channels):
                for place in range(0, inner, piece):
                    part = (
                        slice(image, image + images),
                        slice(channel, channel + channels),
                        slice(place, place + piece),
                    )
                    yield source[part], target[part], factors[part[1]]
