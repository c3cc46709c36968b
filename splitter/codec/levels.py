"""Pack: levels that the graph itself made, held to their range.

QuantizeLinear saturates at 255 whatever the number of levels, and the tail must not be fed a level that
stands for nothing.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from splitter.codec.base import Array, Form, Stage, dtype_name
from splitter.errors import CodecError


class Levels(Stage, frozen=True, tag="levels"):
    """uint8 levels from 0 to ``levels - 1``; what is above saturates."""

    is_lossless: ClassVar[bool] = False

    levels: Annotated[int, Meta(ge=2, le=256)]

    def form(self, given: Form) -> Form:  # noqa: D102  (the contract says it)
        if given.dtype != "uint8":
            raise CodecError(f"{given.dtype} tensors hold no levels; only uint8 ones do")
        return given

    def encode(self, array: Array) -> Array:  # noqa: D102
        self.form(Form(dtype_name(array.dtype), array.shape))
        return np.minimum(array, np.uint8(self.levels - 1))

    def decode(self, array: Array, given: Form) -> Array:  # noqa: D102
        if array.size and array.max() >= self.levels:
            raise CodecError(f"level {array.max()}, where there are {self.levels}")
        return array
