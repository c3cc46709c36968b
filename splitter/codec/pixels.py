"""Quantise: an image input back to the bytes of its pixels, before they were scaled and normalised.

A photo prepared by a recipe holds one of 256 values per channel, a quarter of what float32 takes, and in
bytes it is what picture formats are made for.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from splitter.codec.base import Array, Form, Stage, bytes_view, dtype_name
from splitter.errors import CodecError
from splitter.preprocess import FLOATS, Preprocess, image_size, pixels_of, values_of


class Pixels(Stage, frozen=True, tag="pixels"):
    """N x height x width x channels, RGB or grey, bytes; of an input that ``recipe`` made, and no other."""

    recipe: Preprocess

    def form(self, given: Form) -> Form:  # noqa: D102  (the contract says it)
        size = image_size(self.recipe, given.dtype, given.shape)
        if size is None or given.is_bound or given.dtype not in ("uint8", *FLOATS):
            raise CodecError(
                f"{given.dtype} of shape {list(given.shape)} holds no images of preprocess "
                f"{self.recipe.name!r}"
            )
        return Form("uint8", (given.shape[0], *size, self.recipe.channels))

    def encode(self, array: Array) -> Array:
        """Solve for the pixels.

        Raises
        ------
        CodecError
            Their values, computed again, are not the array bit for bit.
        """
        pixels = pixels_of(array, self.recipe)
        again = values_of(pixels, self.recipe, dtype_name(array.dtype), array.shape)
        if not np.array_equal(bytes_view(again), bytes_view(array)):
            raise CodecError(
                f"the array is not exactly what preprocess {self.recipe.name!r} makes of a photo"
            )
        return pixels

    def decode(self, array: Array, given: Form) -> Array:  # noqa: D102
        return values_of(array, self.recipe, given.dtype, given.shape)


class NearPixels(Pixels, frozen=True, tag="near-pixels"):
    """The nearest pixels of any image input, before a format that loses more than rounding does.

    Programs that prepare photos in an arithmetic of their own are off by the last bit.
    """

    is_lossless: ClassVar[bool] = False

    def encode(self, array: Array) -> Array:
        """Round; raises CodecError for a value that is not finite, or beyond 0 and 255 by over half."""
        return pixels_of(array, self.recipe)
