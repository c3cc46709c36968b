"""Pack: where the non-zero elements are, a bit each, then those alone."""

from __future__ import annotations

import numpy as np

from splitter.codec.base import Array, Form, Stage, bytes_view, numpy_dtype, some_bytes
from splitter.errors import CodecError
from splitter.graph.values import ITEM_BYTES


class Bitmap(Stage, frozen=True, tag="bitmap"):
    """For sparse tensors. An element is zero where all its bits are: -0.0 is kept as it is."""

    def form(self, given: Form) -> Form:  # noqa: D102  (the contract says it)
        if given.is_bound:
            raise CodecError("a bitmap is made of a tensor of known size, not of a stream")
        return some_bytes(_map_bytes(given) + given.nbytes)

    def encode(self, array: Array) -> Array:  # noqa: D102
        flat = array.reshape(-1)
        bits = flat.view(f"u{array.dtype.itemsize}")
        present = bits != 0
        return np.concatenate([np.packbits(present), bytes_view(bits[present])])

    def decode(self, array: Array, given: Form) -> Array:  # noqa: D102
        size, count = _map_bytes(given), given.nbytes // ITEM_BYTES[given.dtype]
        if array.size < size:
            raise CodecError(f"{array.size} bytes, where the bitmap alone takes {size}")
        present = np.unpackbits(array[:size])
        if present[count:].any():
            raise CodecError("the bitmap goes on after the last element")
        present = present[:count].view(bool)
        values, wanted = array[size:], int(np.count_nonzero(present))
        if values.size != wanted * ITEM_BYTES[given.dtype]:
            raise CodecError(f"{values.size} bytes of values for {wanted} non-zero {given.dtype}")
        flat = np.zeros(count, numpy_dtype(given.dtype))
        # placed as plain bytes: numpy moves a bfloat16 one element at a time
        word = f"u{ITEM_BYTES[given.dtype]}"
        flat.view(word)[present] = values.copy().view(word)
        return given.array(bytes_view(flat))


def _map_bytes(given: Form) -> int:
    return -(-(given.nbytes // ITEM_BYTES[given.dtype]) // 8)
