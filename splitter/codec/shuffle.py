"""Pack: the same byte of every element together, then the next; exponents compress so."""

from __future__ import annotations

import numpy as np

from splitter.codec.base import Array, Form, Stage, bytes_view, numpy_dtype
from splitter.errors import CodecError
from splitter.graph.values import ITEM_BYTES


class Shuffle(Stage, frozen=True, tag="shuffle"):
    """Bytes by their place in the element. Pays for float16; makes sparse float32 larger."""

    def form(self, given: Form) -> Form:  # noqa: D102  (the contract says it)
        return Form("uint8", (given.nbytes,), given.is_bound)

    def encode(self, array: Array) -> Array:  # noqa: D102
        item = array.dtype.itemsize
        return np.ascontiguousarray(bytes_view(array).reshape(-1, item).T).reshape(-1)

    def decode(self, array: Array, given: Form) -> Array:  # noqa: D102
        item = ITEM_BYTES[given.dtype]
        if array.size % item:
            raise CodecError(f"{array.size} bytes are no whole number of {given.dtype}")
        flat = np.ascontiguousarray(array.reshape(item, -1).T).reshape(-1)
        return given.array(flat) if not given.is_bound else flat.view(numpy_dtype(given.dtype))
