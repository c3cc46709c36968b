"""Pack: each level in as many bits as it needs."""

from __future__ import annotations

from typing import Literal

import numpy as np

from splitter.codec.base import Array, Form, Stage, dtype_name
from splitter.errors import CodecError


class Bits(Stage, frozen=True, tag="bits"):
    """Levels below ``2 ** width``, several to a byte, the first in the lowest bits.

    Neighbours along the last axis share a byte, so that an entropy coder sees them together. A last
    byte that is not full is filled with zeros.
    """

    width: Literal[1, 2, 4] = 4

    def form(self, given: Form) -> Form:  # noqa: D102  (the contract says it)
        if given.dtype != "uint8":
            raise CodecError(f"{given.dtype} is not packed to bits; only uint8 levels are")
        return Form("uint8", (-(-given.nbytes * self.width // 8),), given.is_bound)

    def encode(self, array: Array) -> Array:  # noqa: D102
        self.form(Form(dtype_name(array.dtype), array.shape))
        per_byte = 8 // self.width
        flat = array.reshape(-1)
        if flat.size and flat.max() >> self.width:
            raise CodecError(f"level {flat.max()} does not fit in {self.width} bits")
        if flat.size % per_byte:
            flat = np.concatenate([flat, np.zeros(-flat.size % per_byte, np.uint8)])
        packed = flat[0::per_byte].copy()
        shifted = np.empty_like(packed)
        for place in range(1, per_byte):
            np.left_shift(flat[place::per_byte], place * self.width, out=shifted)
            packed |= shifted
        return packed

    def decode(self, array: Array, given: Form) -> Array:  # noqa: D102
        if given.is_bound:
            raise CodecError("bits are packed from a tensor of known size, not from a stream")
        per_byte, count = 8 // self.width, given.nbytes
        levels = np.empty((array.size, per_byte), np.uint8)
        for place in range(per_byte):
            np.right_shift(array, place * self.width, out=levels[:, place])
        levels &= (1 << self.width) - 1
        flat = levels.reshape(-1)
        if flat[count:].any():
            raise CodecError("the bits after the last level are not zero")
        return flat[:count].reshape(given.shape)
