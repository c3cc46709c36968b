"""Quantise: levels at even steps, per tensor or per channel.

``level = clip(round(x / step - dead) + zero, 0, levels - 1)`` and back ``x = size * (level - zero)``. The
step says where levels begin and end, the size what they stand for: fitted apart, they make the error
after decoding smaller. Both are affine, so the same arithmetic is QuantizeLinear and DequantizeLinear
in the graph. Zero stays exactly zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from splitter.codec.base import Array, Form, Stage, dtype_name, numpy_dtype
from splitter.errors import CodecError

FLOATS = ("float16", "bfloat16", "float32", "float64")
_BLOCK = 1 << 15  # elements whose float32 copy stays in a core's own cache
_Positive = Annotated[float, Meta(gt=0)]


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
        """Refuse fields that contradict one another."""
        if len(self.step) != len(self.size):
            raise ValueError(f"{len(self.step)} steps and {len(self.size)} sizes; give as many")
        if self.zero >= self.levels:
            raise ValueError(f"the level of zero is {self.zero}, of {self.levels} levels")

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
        add, most = np.float32(self.zero - self.dead + 0.5), np.float32(self.levels - 0.5)
        with np.errstate(over="ignore", invalid="ignore"):
            for source, target, step in self._blocks(array, levels, self.step):
                block = np.divide(source, step, dtype=np.float32)
                # one pass instead of a look at each: a sum is finite where all of it is
                if not np.isfinite(block.sum()) and not np.isfinite(block).all():
                    raise CodecError("a value is NaN, infinite or too large for its step")
                block += add
                np.clip(block, np.float32(0), most, out=block)
                target[...] = block  # rounds towards zero: 0.5 was added
        return levels

    def decode(self, array: Array, given: Form) -> Array:  # noqa: D102
        if array.size and array.max() >= self.levels:
            raise CodecError(f"level {array.max()}, where there are {self.levels}")
        values = np.empty(given.shape, numpy_dtype(given.dtype))
        for source, target, size in self._blocks(array, values, self.size):
            block = source.astype(np.float32)
            if self.zero:
                block -= np.float32(self.zero)
            block *= size
            target[...] = block
        return values

    def _blocks(
        self, source: Array, target: Array, values: tuple[float, ...]
    ) -> Iterator[tuple[Array, Array, Array]]:
        """Views of both, small enough for the cache, with the values that belong to them."""
        factors = np.array(values, np.float32)
        if len(values) == 1:
            source, target = source.reshape(-1), target.reshape(-1)
            for first in range(0, source.size, _BLOCK):
                part = slice(first, first + _BLOCK)
                yield source[part], target[part], factors
            return
        inner = prod(source.shape[self.axis + 1 :])
        outer = prod(source.shape[: self.axis])
        shape = (outer, len(values), inner)
        source, target = source.reshape(shape), target.reshape(shape)
        factors = factors[:, np.newaxis]
        if len(values) * inner <= _BLOCK:
            images = max(1, _BLOCK // max(1, len(values) * inner))
            for first in range(0, outer, images):
                part = slice(first, first + images)
                yield source[part], target[part], factors
            return
        channels = max(1, _BLOCK // inner)
        for image in range(outer):
            for first in range(0, len(values), channels):
                part = slice(first, first + channels)
                yield source[image, part], target[image, part], factors[part]
