"""How a photo becomes the values of an input: a small declared pipeline, and its inverse.

Pixels here are bytes in the order height, width, channel; RGB whatever the model reads, or one channel
where it reads grey. A recipe makes of a byte p the value ``(p * scale - mean) / std``, so that an image
input holds one of 256 values per channel, and the bytes can be had back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import ml_dtypes
import numpy as np
from msgspec import Meta

from splitter import catalog
from splitter.catalog import LARGEST, Text
from splitter.document import Record
from splitter.errors import CodecError, InputError, nearest

Array = np.ndarray[Any, Any]
FLOATS = ("float16", "bfloat16", "float32", "float64")
DTYPES = ("uint8", "int32", "int64", *FLOATS)
"""Of inputs that take a photo. Integers take the values, uint8 the bytes as they are."""

_EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-23}
"""Of the arithmetic or of the dtype, whichever is coarser."""
_Positive = Annotated[float, Meta(gt=0, le=LARGEST)]
_Finite = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]
_Channels = Meta(min_length=1, max_length=3)


class Preprocess(Record, frozen=True, kw_only=True):
    """Colours, size, then ``(p * scale - mean) / std`` in float32, then the layout."""

    name: Text
    colours: Literal["RGB", "BGR", "L"] = "RGB"
    """The order of the input's channels; L is grey, one channel."""
    fit: Literal["crop", "stretch", "letterbox"] = "stretch"
    """``crop``: the short side to ``short_side``, then the centre; ``letterbox``: the whole photo,
    and beside it ``pad``."""
    short_side: Annotated[float, Meta(ge=1, le=100)] = 1.0
    """As a multiple of the input's own short side; torchvision's 256 for 224 is 256/224."""
    pad: Annotated[int, Meta(ge=0, le=255)] = 114
    pad_at: Literal["centre", "top-left"] = "centre"
    """Where in the letterbox the photo lies."""
    scale: _Positive = 1.0
    mean: Annotated[tuple[_Finite, ...], _Channels] = (0.0,)
    """Of all channels, or of each in the order of ``colours``."""
    std: Annotated[tuple[_Positive, ...], _Channels] = (1.0,)
    layout: Literal["auto", "NCHW", "NHWC"] = "auto"
    """``auto``: NCHW where the input's second dimension fits the colours, else NHWC."""

    def __post_init__(self) -> None:
        """Refuse as many means or deviations as there are no channels."""
        for word, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels):
                raise ValueError(f"{len(values)} values of {word} for {self.channels} channels")

    @property
    def channels(self) -> int:
        """Of the pixels and of the input."""
        return 1 if self.colours == "L" else 3


_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_PRESETS = (
    Preprocess(
        name="imagenet", fit="crop", short_side=256 / 224, scale=1 / 255,
        mean=_IMAGENET_MEAN, std=_IMAGENET_STD,
    ),
    Preprocess(name="unit", scale=1 / 255),
    Preprocess(name="centred", mean=(127.0,), std=(128.0,)),
    Preprocess(name="raw"),
    Preprocess(name="raw-bgr", colours="BGR"),
    Preprocess(
        name="caffe", colours="BGR", fit="crop", short_side=256 / 224, mean=(104.0, 117.0, 123.0)
    ),
    Preprocess(name="yolox", colours="BGR", fit="letterbox", pad=114, pad_at="top-left"),
    # PaddleOCR takes the means of RGB for its BGR channels as they stand
    Preprocess(
        name="paddleocr", colours="BGR", scale=1 / 255, mean=_IMAGENET_MEAN, std=_IMAGENET_STD
    ),
    Preprocess(name="grey", colours="L", scale=1 / 255),
)  # fmt: skip
PREPROCESS: Mapping[str, Preprocess] = {recipe.name: recipe for recipe in _PRESETS}


def find_preprocess(text: str) -> Preprocess:
    """Find a preset by its name, or read a ``.yaml`` file with the fields of ``Preprocess``.

    Raises
    ------
    InputError
        Nothing has that name, or the file cannot be read or has a wrong field.
    """
    if catalog.is_path(text):
        return catalog.read_path(text, Preprocess, InputError)
    if text in PREPROCESS:
        return PREPROCESS[text]
    raise InputError(
        f"no preprocessing is called {text[:60]!r}{nearest(text, PREPROCESS)}; there are "
        f"{', '.join(PREPROCESS)}, or give a .yaml file"
    )


def image_size(
    recipe: Preprocess, dtype: str, shape: tuple[int, ...] | None
) -> tuple[int, int] | None:
    """Height and width of an input that takes images prepared so; None where it takes none."""
    if shape is None or len(shape) != 4 or dtype not in DTYPES or 0 in shape[1:]:
        return None
    if _is_channels_first(recipe, shape):
        return (shape[2], shape[3]) if shape[1] == recipe.channels else None
    return (shape[1], shape[2]) if shape[3] == recipe.channels else None


def values_of(pixels: Array, recipe: Preprocess, dtype: str, shape: tuple[int, ...]) -> Array:
    """Make the input of the bytes of an image, height x width x channels, or of several, N x as many.

    ``shape`` is the input's; its first dimension is not looked at.

    Raises
    ------
    InputError
        An input of that dtype and shape takes no image of that size.
    """
    images = pixels if pixels.ndim == 4 else pixels[np.newaxis]
    expected = image_size(recipe, dtype, shape)
    if expected is None or images.shape[1:] != (*expected, recipe.channels):
        raise InputError(
            f"an input of {dtype} and shape {_text(shape)} takes no {recipe.colours} image of "
            f"{_text(images.shape[1:])}"
        )
    if recipe.colours == "BGR":
        images = images[..., ::-1]
    is_first = _is_channels_first(recipe, shape)
    if is_first:
        images = images.transpose(0, 3, 1, 2)
    if dtype == "uint8":
        return np.ascontiguousarray(images)
    values = np.empty(images.shape, np.float32)
    np.multiply(images, np.float32(recipe.scale), out=values)
    values -= _of_channels(recipe.mean, is_first)
    values /= _of_channels(recipe.std, is_first)
    return values.astype(_numpy_dtype(dtype), copy=False)


def pixels_of(array: Array, recipe: Preprocess) -> Array:
    """Give back the bytes of N images, N x height x width x channels, from the input made of them.

    ``values_of`` makes of them the same input again, bit for bit, if it is one that ``values_of`` made;
    of another the nearest such.

    Raises
    ------
    CodecError
        The array is no image input of this recipe, or a value is not finite, or below the value of 0 or
        above that of 255 by more than half a step and what its dtype rounds by.
    """
    dtype = array.dtype.name
    if image_size(recipe, dtype, array.shape) is None or dtype not in ("uint8", *FLOATS):
        raise CodecError(
            f"{dtype} of shape {_text(array.shape)} holds no images of preprocess {recipe.name!r}"
        )
    is_first = _is_channels_first(recipe, array.shape)
    pixels = array if dtype == "uint8" else _nearest_bytes(array, recipe, is_first)
    planes = np.moveaxis(pixels, 1 if is_first else 3, 0)
    images = np.empty((*planes.shape[1:], recipe.channels), np.uint8)
    # plane by plane five times as fast as a transposed copy
    for channel, plane in enumerate(planes[::-1] if recipe.colours == "BGR" else planes):
        images[..., channel] = plane
    return images


def _nearest_bytes(array: Array, recipe: Preprocess, is_first: bool) -> Array:
    std, mean = (_of_channels(values, is_first) for values in (recipe.std, recipe.mean))
    scale = np.float32(recipe.scale)
    with np.errstate(over="ignore", invalid="ignore"):
        found = np.multiply(array, std / scale, dtype=np.float32, casting="same_kind")
        found += mean / scale
    # what a value was rounded by when it was made is not held against it
    room = 0.5 + _EPSILON[array.dtype.name] * (255 + float(np.abs(mean / scale).max()))
    if found.size and not (found.min() >= -room and found.max() <= 255 + room):  # false for NaN too
        raise CodecError(
            f"a value is NaN, infinite, or none that preprocess {recipe.name!r} makes of a pixel"
        )
    found += np.float32(0.5)
    np.clip(found, np.float32(0), np.float32(255), out=found)
    nearest_bytes: Array = found.astype(np.uint8)
    if array.dtype.itemsize == 2:
        _refine(nearest_bytes, array, recipe, is_first)
    return nearest_bytes


def _refine(found: Array, array: Array, recipe: Preprocess, is_first: bool) -> None:
    """Choose again by the values themselves: in 16 bits they are rounded too far to be solved for."""
    channels, axis = recipe.channels, 1 if is_first else 3
    table = np.arange(256, dtype=np.float32) * np.float32(recipe.scale)
    table = (table - _of_channels(recipe.mean, True)[..., 0]) / _of_channels(recipe.std, True)[
        ..., 0
    ]
    rows = np.broadcast_to(table, (channels, 256)).astype(array.dtype).astype(np.float32)
    for channel, row in enumerate(rows):
        part = np.moveaxis(array, axis, 0)[channel].astype(np.float32)
        np.moveaxis(found, axis, 0)[channel] = np.searchsorted((row[1:] + row[:-1]) / 2, part)


def _is_channels_first(recipe: Preprocess, shape: tuple[int, ...]) -> bool:
    if recipe.layout == "auto":
        return shape[1] == recipe.channels
    return recipe.layout == "NCHW"


def _of_channels(values: tuple[float, ...], is_first: bool) -> Array:
    array = np.array(values, np.float32)
    return array[:, np.newaxis, np.newaxis] if is_first else array


def _numpy_dtype(name: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
