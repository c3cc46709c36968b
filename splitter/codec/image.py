"""Compress: pixels as picture files, PNG, JPEG or WebP.

One picture is a file as it is. Of several each is preceded by its length, 4 bytes, little-endian.
"""

from __future__ import annotations

import struct
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from splitter.codec.base import Array, Form, Stage, some_bytes
from splitter.errors import CodecError
from splitter.picture import (
    MAX_PICTURE_PIXELS,
    MAX_PICTURE_SIDE,
    Chroma,
    Format,
    decode_picture,
    encode_picture,
)

Quality = Annotated[int, Meta(ge=1, le=100)]


class Picture(Stage, frozen=True):
    """What the formats share: N x height x width x 1 or 3, bytes."""

    format: ClassVar[Format]

    def form(self, given: Form) -> Form:  # noqa: D102  (the contract says it)
        shape = given.shape
        if given.dtype != "uint8" or given.is_bound or len(shape) != 4 or shape[3] not in (1, 3):
            raise CodecError(
                f"{given.dtype} of shape {list(shape)} holds no pictures; uint8 of N x height x "
                "width x 1 or 3 does"
            )
        sides = shape[1:3]
        if (
            min(sides) < 1
            or max(sides) > MAX_PICTURE_SIDE
            or sides[0] * sides[1] > MAX_PICTURE_PIXELS
        ):
            raise CodecError(f"{sides[0]} x {sides[1]} is no size of a picture that is sent")
        # a coefficient of JPEG, the longest code for a pixel's channel, has at most 26 bits
        return some_bytes(4 * given.nbytes + 4096 * shape[0])

    def encode(self, array: Array) -> Array:  # noqa: D102
        if array.shape[0] == 1:
            return np.frombuffer(self._encode_one(array[0]), np.uint8)
        files = [self._encode_one(pixels) for pixels in array]
        parts = [struct.pack("<I", len(file)) + file for file in files]
        return np.frombuffer(b"".join(parts), np.uint8)

    def decode(self, array: Array, given: Form) -> Array:  # noqa: D102
        count, height, width, channels = given.shape
        files = [array.tobytes()] if count == 1 else _split(array.tobytes(), count)
        pictures = (decode_picture(file, self.format, height, width, channels) for file in files)
        if count == 1:
            return next(pictures)[np.newaxis]
        pixels = np.empty(given.shape, np.uint8)
        for target, picture in zip(pixels, pictures, strict=True):
            target[...] = picture
        return pixels

    def _encode_one(self, pixels: Array) -> bytes:
        raise NotImplementedError


class Png(Picture, frozen=True, tag="png"):
    """Without loss."""

    format: ClassVar[Format] = "png"

    level: Annotated[int, Meta(ge=0, le=9)] = 3
    """Of zlib; 6 takes twice the time for 2 % less."""

    def _encode_one(self, pixels: Array) -> bytes:
        return encode_picture(pixels, "png", effort=self.level)


class Jpeg(Picture, frozen=True, tag="jpeg"):
    """Baseline, with Huffman tables fitted to the picture."""

    format: ClassVar[Format] = "jpeg"
    is_lossless: ClassVar[bool] = False

    quality: Quality = 85
    chroma: Chroma = "4:2:0"

    def _encode_one(self, pixels: Array) -> bytes:
        return encode_picture(pixels, "jpeg", self.quality, chroma=self.chroma)


class Webp(Picture, frozen=True, tag="webp"):
    """Smaller than JPEG at the same quality of picture, and five times slower."""

    format: ClassVar[Format] = "webp"
    is_lossless: ClassVar[bool] = False

    quality: Quality = 75
    method: Annotated[int, Meta(ge=0, le=6)] = 2
    """4 takes twice the time for 4 % less."""

    def _encode_one(self, pixels: Array) -> bytes:
        return encode_picture(pixels, "webp", self.quality, effort=self.method)


class WebpLossless(Picture, frozen=True, tag="webp-lossless"):
    """A quarter smaller than PNG, and faster."""

    format: ClassVar[Format] = "webp"

    method: Annotated[int, Meta(ge=0, le=6)] = 0
    """1 takes four times as long for 8 % less."""

    def _encode_one(self, pixels: Array) -> bytes:
        return encode_picture(pixels, "webp", effort=self.method)


def _split(data: bytes, count: int) -> list[bytes]:
    """The files in a payload of several; raises CodecError."""
    files: list[bytes] = []
    place = 0
    for _ in range(count):
        if place + 4 > len(data):
            raise CodecError(f"{len(files)} pictures, where there are {count}")
        (length,) = struct.unpack_from("<I", data, place)
        place += 4
        if length > len(data) - place:
            raise CodecError(
                f"picture {len(files)} of {length} bytes, where {len(data) - place} are left"
            )
        files.append(data[place : place + length])
        place += length
    if place != len(data):
        raise CodecError(f"{len(data) - place} bytes after the last of {count} pictures")
    return files
