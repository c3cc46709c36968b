"""Pack: where the non-zero elements are, a bit each, then those alone."""

from __future__ import annotations

import numpy as np

from splitter.codec.base import Array, Form, Stage, bytes_view, numpy_dtype, some_bytes
from splitter.errors import CodecError
from splitter.graph.values import ITEM_BYTES

_BLOCK = 1 << 15  # elements, whole bytes of the bitmap, that stay in a core's own cache


class Bitmap(Stage, frozen=True, tag="bitmap"):
    """For sparse tensors. An element is zero where all its bits are: -0.0 is kept as it is."""

    def form(self, given: Form) -> Form:  # noqa: D102  (the contract says it)
        if given.is_bound:
            raise CodecError("a bitmap is made of a tensor of known size, not of a stream")
        return some_bytes(_map_bytes(given) + given.nbytes)

    def encode(self, array: Array) -> Array:  # noqa: D102
        words = array.reshape(-1).view(_word(array.dtype.itemsize))
        size = -(-words.size // 8)
        made = np.empty(size + np.count_nonzero(words) * words.itemsize, np.uint8)
        end = size
        for first in range(0, words.size, _BLOCK):
            block = words[first : first + _BLOCK]
            present = block != 0
            bits = np.packbits(present)
            made[first // 8 :][: bits.size] = bits
            values = bytes_view(block[present])
            made[end : end + values.size] = values
            end += values.size
        return made

    def decode(self, array: Array, given: Form) -> Array:  # noqa: D102
        item, size = ITEM_BYTES[given.dtype], _map_bytes(given)
        count = given.nbytes // item
        if array.size < size:
            raise CodecError(f"{array.size} bytes, where the bitmap alone takes {size}")
        if count % 8 and array[size - 1] & (0xFF >> count % 8):
            raise CodecError("the bitmap goes on after the last element")
        flat = np.empty(count, numpy_dtype(given.dtype))
        # placed as plain words: numpy moves a bfloat16 one element at a time
        words, end = flat.view(_word(item)), size
        for first in range(0, count, _BLOCK):
            block = words[first : first + _BLOCK]
            bits = array[first // 8 : min(size, (first + _BLOCK) // 8)]
            present = np.unpackbits(bits, count=block.size).view(bool)
            wanted = int(np.count_nonzero(present)) * item
            values = array[end : end + wanted]
            end += wanted
            if values.size < wanted:
                raise CodecError(f"fewer values than the bitmap has non-zero {given.dtype}")
            block.fill(0)
            block[present] = values.copy().view(words.dtype)
        if end != array.size:
            raise CodecError(f"{array.size - end} bytes more than the bitmap has values")
        return given.array(flat.view(np.uint8))


def _word(item: int) -> str:
    return f"<u{item}"


def _map_bytes(given: Form) -> int:
    return -(-(given.nbytes // ITEM_BYTES[given.dtype]) // 8)
