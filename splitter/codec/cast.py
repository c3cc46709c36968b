"""Quantise: shorter floats."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from splitter.codec.base import Array, Form, Stage, dtype_name, numpy_dtype
from splitter.errors import CodecError

_LONGER = ("float32", "float64")
_INFINITE = {"float16": 0x7C00, "bfloat16": 0x7F80}
"""The bits of infinity, without the sign."""


class Cast(Stage, frozen=True, tag="cast"):
    """float16 or bfloat16, rounded to nearest. NaN and the infinities stay what they are."""

    is_lossless: ClassVar[bool] = False

    to: Literal["float16", "bfloat16"] = "float16"

    def form(self, given: Form) -> Form:  # noqa: D102  (the contract says it)
        if given.dtype not in _LONGER or given.is_bound:
            raise CodecError(
                f"{given.dtype} is not cast to {self.to}; only {', '.join(_LONGER)} are"
            )
        return Form(self.to, given.shape)

    def encode(self, array: Array) -> Array:
        """Cast; raises CodecError for a finite value that would turn into an infinity."""
        self.form(Form(dtype_name(array.dtype), array.shape))
        with np.errstate(all="ignore"):  # tiny values become 0, and a signalling NaN a quiet one
            short = array.astype(numpy_dtype(self.to))
        # a look at words: numpy's isinf takes halves one at a time
        infinite = (short.view(np.uint16) & 0x7FFF) == _INFINITE[self.to]
        if infinite.any() and not np.isinf(array[infinite]).all():
            wider = "; use bfloat16" if self.to == "float16" else ""
            raise CodecError(f"a value is beyond the largest {self.to}{wider}")
        return short

    def decode(self, array: Array, given: Form) -> Array:  # noqa: D102
        with np.errstate(invalid="ignore"):  # a signalling NaN
            return array.astype(numpy_dtype(given.dtype))
