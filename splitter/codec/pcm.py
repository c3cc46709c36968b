"""Quantise: sound from -1 to 1 as 16-bit samples."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from splitter.codec.base import Array, Form, Stage, dtype_name, numpy_dtype
from splitter.errors import CodecError

_FLOATS = ("float32", "float64")
_FULL = 32768


class Pcm(Stage, frozen=True, tag="pcm"):
    """``round(x * 32768)``. Sound that was 16-bit samples before comes back bit for bit, other rounded."""

    is_lossless: ClassVar[bool] = False

    def form(self, given: Form) -> Form:  # noqa: D102  (the contract says it)
        if given.dtype not in _FLOATS or given.is_bound:
            raise CodecError(
                f"{given.dtype} is not made 16-bit samples; only {', '.join(_FLOATS)} are"
            )
        return Form("int16", given.shape)

    def encode(self, array: Array) -> Array:
        """Round; 1.0 becomes 32767. Raises CodecError for what is not finite, or beyond -1 and 1."""
        self.form(Form(dtype_name(array.dtype), array.shape))
        if array.size and not (array.min() >= -1 and array.max() <= 1):  # false for NaN too
            raise CodecError("a sample is NaN, infinite, or not from -1 to 1")
        samples: Array = np.rint(array * array.dtype.type(_FULL))
        return samples.clip(max=_FULL - 1).astype(np.int16)

    def decode(self, array: Array, given: Form) -> Array:  # noqa: D102
        values = array.astype(numpy_dtype(given.dtype))
        values /= _FULL
        return values
