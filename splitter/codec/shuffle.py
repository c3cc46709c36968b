"""Pack: the same byte of every element together, then the next; exponents compress so."""

from __future__ import annotations

import numpy as np

from splitter.codec.base import Array, Form, Stage, numpy_dtype
from splitter.errors import CodecError
from splitter.graph.values import ITEM_BYTES

_BLOCK = 1 << 13  # elements that stay in a core's own cache


class Shuffle(Stage, frozen=True, tag="shuffle"):
    """Bytes by their place in the element. Pays for dense floats; makes sparse ones larger."""

    def form(self, given: Form) -> Form:  # noqa: D102  (the contract says it)
        return Form("uint8", (given.nbytes,), given.is_bound)

    def encode(self, array: Array) -> Array:  # noqa: D102
        # as words that are shifted: a transposed copy moves one byte at a time
        words = array.reshape(-1).view(f"<u{array.dtype.itemsize}")
        planes = np.empty((array.dtype.itemsize, words.size), np.uint8)
        for first in range(0, words.size, _BLOCK):
            block = words[first : first + _BLOCK]
            for place, plane in enumerate(planes):
                plane[first : first + _BLOCK] = block >> (8 * place)
        return planes.reshape(-1)

    def decode(self, array: Array, given: Form) -> Array:  # noqa: D102
        item = ITEM_BYTES[given.dtype]
        if array.size % item:
            raise CodecError(f"{array.size} bytes are no whole number of {given.dtype}")
        planes = array.reshape(item, -1)
        words = np.empty(planes.shape[1], f"<u{item}")
        for first in range(0, words.size, _BLOCK):
            block = words[first : first + _BLOCK]
            np.copyto(block, planes[-1, first : first + _BLOCK])
            for plane in planes[-2::-1]:
                block <<= 8
                block |= plane[first : first + _BLOCK]
        flat = words.view(numpy_dtype(given.dtype))
        return flat if given.is_bound else given.array(flat)
