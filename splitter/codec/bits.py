"""Pack: each level in as many bits as it needs."""

from __future__ import annotations

from typing import Literal

import numpy as np

from splitter.codec.base import Array, Form, Stage, dtype_name
from splitter.errors import CodecError

_BLOCK = 1 << 17  # levels that stay, with what becomes of them, in a core's caches
_PAIR = np.dtype("<u2")


class Bits(Stage, frozen=True, tag="bits"):
    """Levels below ``2 ** width``, several to a byte, the first in the lowest bits.

    Neighbours along the last axis share a byte, so that an entropy coder sees them together. A last
    byte that is not full is filled with zeros.
    """

    width: Literal[1, 2, 4] = 4

    def form(self, given: Form) -> Form:  # noqa: D102  (the contract says it)
        if given.dtype != "uint8" or given.is_bound:
            kind = f"a stream of {given.dtype}" if given.is_bound else given.dtype
            raise CodecError(f"{kind} is not packed to bits; only uint8 levels are")
        return Form("uint8", (-(-given.nbytes * self.width // 8),))

    def encode(self, array: Array) -> Array:  # noqa: D102
        form = self.form(Form(dtype_name(array.dtype), array.shape))
        flat, per_byte = array.reshape(-1), 8 // self.width
        if flat.size and flat.max() >> self.width:
            raise CodecError(f"level {flat.max()} does not fit in {self.width} bits")
        packed = np.empty(form.shape, np.uint8)
        for first in range(0, flat.size, _BLOCK):
            block = flat[first : first + _BLOCK]
            if block.size % per_byte:
                block = np.concatenate([block, np.zeros(-block.size % per_byte, np.uint8)])
            width: int = self.width
            while width < 8:  # two neighbours into one: as words, many at a time
                pairs = block.view(_PAIR)
                block = (pairs | (pairs >> (8 - width))).astype(np.uint8)
                width *= 2
            packed[first // per_byte :][: block.size] = block
        return packed

    def decode(self, array: Array, given: Form) -> Array:  # noqa: D102
        per_byte, count = 8 // self.width, given.nbytes
        levels = np.empty(array.size * per_byte, np.uint8)
        for first in range(0, array.size, _BLOCK // per_byte):
            block, width = array[first : first + _BLOCK // per_byte], 8
            while width > self.width:
                width //= 2
                pairs = block.astype(_PAIR)
                pairs |= pairs << (8 - width)
                pairs &= 0x0101 * ((1 << width) - 1)
                block = pairs.view(np.uint8)
            levels[first * per_byte :][: block.size] = block
        if levels[count:].any():
            raise CodecError("the bits after the last level are not zero")
        return levels[:count].reshape(given.shape)
