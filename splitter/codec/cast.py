"""Quantise: shorter floats."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from splitter.codec.base import Array, Form, Stage, dtype_name, numpy_dtype
from splitter.errors import CodecError

_LONGER = ("float32", "float64")


class Cast(Stage, frozen=True, tag="cast"):
    """float16 or bfloat16, rounded to nearest. NaN and the infinities stay what they are."""

    is_lossless: ClassVar[bool] = False

    to: Literal["float16", "bfloat16"] = "float16"

    def form(self, given: Form) -> Form:  # noqa: D102  (the contract says it)
        if given.dtype not in _LONGER:
            raise CodecError(
                f"{given.dtype} is not cast to {self.to}; only {', '.join(_LONGER)} are"
            )
        return Form(self.to, given.shape, given.is_bound)

    def encode(self, array: Array) -> Array:  # noqa: D102
        self.form(Form(dtype_name(array.dtype), array.shape))
        with np.errstate(over="ignore"):
            short = array.astype(numpy_dtype(self.to))
        # float16 ends at 65,504: what a cast would turn into an infinity is another answer
        if self.to == "float16" and np.isinf(short).any() and not np.isinf(array).any():
            raise CodecError("a value is beyond 65504, the largest float16; use bfloat16")
        return short

    def decode(self, array: Array, given: Form) -> Array:  # noqa: D102
        return array.astype(numpy_dtype(given.dtype))
