"""Image files <-> pixels: photos as people take them, and pictures as codecs send them.

The only user of Pillow. Pixels are bytes, height x width x channels; three are RGB, one is grey.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

from splitter.errors import CodecError, InputError
from splitter.preprocess import Preprocess

Array = np.ndarray[Any, Any]
Format = Literal["png", "jpeg", "webp"]
Chroma = Literal["4:4:4", "4:2:2", "4:2:0"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
MAX_PIXELS = 100_000_000
"""Of a photo; telephones take half as many."""
MAX_PICTURE_SIDE = 16_383
"""Of a picture that a codec sends: what WebP can hold."""
MAX_PICTURE_PIXELS = 1 << 26
"""Fewer than those of which Pillow warns."""
_PHOTO_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_PILLOW_ERRORS = (
    OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, ArithmeticError, MemoryError,
    RuntimeError, AttributeError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip


def open_pixels(source: Path | bytes) -> Array:
    """Read a photo, turned as its camera says, as height x width x 3.

    Raises
    ------
    InputError
        It cannot be read as an image, or has more than ``MAX_PIXELS``; found before it is decoded.
    """
    name = "image" if isinstance(source, bytes) else str(source)
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        # of photos whose rotation or palette is odd Pillow warns, and reads them all the same
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(file, formats=_PHOTO_FORMATS) as found,
        ):
            if found.width * found.height > MAX_PIXELS:
                raise InputError(
                    f"{name}: {found.width} x {found.height} pixels, more than {MAX_PIXELS}"
                )
            return np.asarray(ImageOps.exif_transpose(found).convert("RGB"), np.uint8)
    except _PILLOW_ERRORS as exc:
        raise InputError(f"{name}: cannot be read as an image ({_one_line(exc)})") from exc


def fitted(pixels: Array, recipe: Preprocess, height: int, width: int) -> Array:
    """Bring a photo to the size and colours of an input, height x width x the recipe's channels.

    Raises
    ------
    InputError
        The photo is so long that what is to be cropped has more than ``MAX_PIXELS``.
    """
    image = Image.fromarray(pixels)
    if recipe.colours == "L":
        image = image.convert("L")
    if recipe.fit == "crop":
        image = _cropped(image, recipe.short_side, height, width)
    elif recipe.fit == "letterbox":
        image = _letterboxed(image, recipe, height, width)
    else:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, np.uint8).reshape(height, width, recipe.channels)


def encode_picture(
    pixels: Array,
    format: Format,
    quality: int | None = None,
    *,
    effort: int = 0,
    chroma: Chroma = "4:2:0",
) -> bytes:
    """Encode height x width x 1 or 3.

    Parameters
    ----------
    quality
        1 to 100; None is without loss, for PNG and WebP.
    effort
        0 to 6 for WebP, to 9 for PNG: smaller, and slower. JPEG has none.
    chroma
        The colours of JPEG: 4:2:0 has a quarter as many as there are pixels.

    Raises
    ------
    CodecError
        The format cannot hold them.
    """
    file = io.BytesIO()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    options: dict[str, Any] = {"quality": quality, "method": effort}
    if format == "png":
        options = {"compress_level": effort}
    elif format == "jpeg":
        options = {"quality": quality, "subsampling": chroma, "optimize": True}
    else:
        image = image.convert("RGB")
        if quality is None:
            options = {"lossless": True, "quality": 0, "method": effort}
    try:
        image.save(file, format.upper(), **options)
    except _PILLOW_ERRORS as exc:
        raise CodecError(f"the {format} encoder failed ({_one_line(exc)})") from exc
    return file.getvalue()


def decode_picture(data: bytes, format: Format, height: int, width: int, channels: int) -> Array:
    """Decode what ``encode_picture`` made of pixels of that size; only such files are taken.

    Raises
    ------
    CodecError
        The data is no such file, or of another size; found before a pixel is decoded.
    """
    try:
        size = _SIZE_OF[format](data)
    except (struct.error, IndexError) as exc:
        raise CodecError(f"the {format} picture ends within its header") from exc
    kind = channels if format != "webp" else 3
    if size != (height, width, kind):
        raise CodecError(
            f"the {format} picture is {size[0]} x {size[1]} x {size[2]}, not {height} x {width} x {kind}"
        )
    mode = "L" if channels == 1 else "RGB"
    try:
        with Image.open(io.BytesIO(data), formats=(format.upper(),)) as image:
            if image.size != (width, height) or image.mode != ("RGB" if kind == 3 else "L"):
                raise CodecError(
                    f"the {format} picture is {image.mode} of {image.size}, not {mode}"
                )
            pixels = np.asarray(image.convert(mode), np.uint8)
    except _PILLOW_ERRORS as exc:
        raise CodecError(f"the {format} picture is corrupted ({_one_line(exc)})") from exc
    return pixels.reshape(height, width, channels)


def _cropped(image: Image.Image, short_side: float, height: int, width: int) -> Image.Image:
    ratio = short_side * max(height / image.height, width / image.width)
    size = (max(width, round(image.width * ratio)), max(height, round(image.height * ratio)))
    if size[0] * size[1] > MAX_PIXELS:
        raise InputError(
            f"an image of {image.width} x {image.height} pixels is too long to be cropped to "
            f"{width} x {height}"
        )
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    resized = image.resize(size, Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + width, top + height))


def _letterboxed(image: Image.Image, recipe: Preprocess, height: int, width: int) -> Image.Image:
    ratio = min(height / image.height, width / image.width)
    size = (max(1, int(image.width * ratio)), max(1, int(image.height * ratio)))
    padding = recipe.pad if recipe.channels == 1 else (recipe.pad,) * 3
    box = Image.new(image.mode, (width, height), padding)
    place = (0, 0)
    if recipe.pad_at == "centre":
        place = ((width - size[0]) // 2, (height - size[1]) // 2)
    box.paste(image.resize(size, Image.Resampling.BILINEAR), place)
    return box


def _png_size(data: bytes) -> tuple[int, int, int]:
    """Height, width, channels. Text, profiles, animations and palettes are not looked into: refused."""
    place, kinds = 8, []
    while place < len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        if kind not in (b"IHDR", b"IDAT", b"IEND") or (kind == b"IHDR") != (place == 8):
            raise CodecError(f"the png picture has a part {kind!r} out of place")
        kinds.append(kind)
        place += 12 + length
    if data[:8] != b"\x89PNG\r\n\x1a\n" or place != len(data) or kinds[-1:] != [b"IEND"]:
        raise CodecError("the payload is not one whole png picture")
    width, height, *rest = struct.unpack_from(">IIBBBBB", data, 16)
    if rest not in ([8, 0, 0, 0, 0], [8, 2, 0, 0, 0]):
        raise CodecError("the png picture is not plain 8-bit grey or RGB")
    return height, width, 1 if rest[1] == 0 else 3


def _jpeg_size(data: bytes) -> tuple[int, int, int]:
    """As ``_png_size``. One baseline scan: of many short ones each costs a pass over the picture."""
    size, place = (0, 0, 0), 2
    if data[:2] != b"\xff\xd8":
        raise CodecError("the payload is not one whole jpeg picture")
    while True:
        mark, length = struct.unpack_from(">HH", data, place)
        if mark == 0xFFC0:
            height, width, channels = struct.unpack_from(">HHB", data, place + 5)
            size = (height, width, channels)
        elif mark == 0xFFDA:
            if data[place + 4] != size[2]:
                raise CodecError("the jpeg picture has several scans")
            if data.find(b"\xff\xd9", place) != len(data) - 2:  # pixels hold no such pair
                raise CodecError("the payload is not one whole jpeg picture")
            return size
        elif mark not in (0xFFE0, 0xFFDB, 0xFFC4):
            raise CodecError(f"the jpeg picture has a part {mark:04x}, which baseline ones lack")
        place += 2 + length


def _webp_size(data: bytes) -> tuple[int, int, int]:
    """As ``_png_size``; libwebp allocates the whole canvas on opening, and so it is read here."""
    riff, total, webp, kind, length = struct.unpack_from("<4sI4s4sI", data)
    if (riff, webp) != (b"RIFF", b"WEBP") or not len(data) == total + 8 == length + 20 + length % 2:
        raise CodecError("the payload is not one whole webp picture")
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF, 3
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1, 3
    raise CodecError(f"the webp picture has a part {kind!r}, which plain ones lack")


_SIZE_OF = {"png": _png_size, "jpeg": _jpeg_size, "webp": _webp_size}


def _one_line(exc: BaseException) -> str:
    return " ".join(str(exc).split()) or type(exc).__name__
