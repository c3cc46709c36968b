"""Feeds from files: npy, npz, and photos where the input is an image. The only user of Pillow."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from splitter.document import replacing
from splitter.errors import InputError, nearest
from splitter.graph.values import Tensor

Array = np.ndarray[Any, Any]
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
MAX_PIXELS = 100_000_000
_BAD_ARCHIVE = (
    OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error,
    TypeError,  # an array under the name of an archive
    RuntimeError,  # encrypted, or compressed in a way that is not known
)  # fmt: skip


@dataclass(frozen=True)
class Preprocess:
    """How a photo becomes the values of an input: RGB or BGR, fitted, then (x * scale - mean) / std."""

    colours: str
    fit: str
    """``crop``: short side to ``short_side`` (scaled with the input), then the centre; ``stretch``."""
    short_side: float
    """As a multiple of the input's own short side; torchvision's 256 for 224 is 256/224."""
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


PREPROCESS: Mapping[str, Preprocess] = {
    "imagenet": Preprocess(
        "RGB", "crop", 256 / 224, 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    ),
    "unit": Preprocess("RGB", "stretch", 1.0, 1 / 255, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "centred": Preprocess("RGB", "stretch", 1.0, 1.0, (127.0,) * 3, (128.0,) * 3),
    "raw": Preprocess("RGB", "stretch", 1.0, 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "raw-bgr": Preprocess("BGR", "stretch", 1.0, 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "caffe": Preprocess("BGR", "crop", 256 / 224, 1.0, (104.0, 117.0, 123.0), (1.0, 1.0, 1.0)),
}


def load_feeds(
    texts: Sequence[str], inputs: Mapping[str, Tensor], preprocess: str = "imagenet"
) -> dict[str, Array]:
    """Read ``NAME=FILE`` for every input; the name may be left out where the model has one input.

    An ``.npz`` given without a name holds an array for each input.

    Raises
    ------
    InputError
        A name, file, dtype or shape is wrong, or an input is missing.
    """
    feeds: dict[str, Array] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if not equals:
            name, file = "", text
        path = Path(file)
        if not name and path.suffix == ".npz":
            feeds.update(_npz(path))
        else:
            name = name or _only(inputs, text)
            feeds[name] = _array(path, _known(inputs, name), preprocess)
    check_feeds(feeds, inputs)
    return feeds


def check_feeds(feeds: Mapping[str, Array], inputs: Mapping[str, Tensor]) -> None:
    """Compare names, dtypes and shapes with the inputs; raises InputError."""
    for name in feeds:
        _known(inputs, name)
    for name, tensor in inputs.items():
        if name not in feeds:
            raise InputError(f"input {name!r} is not fed; the model needs {', '.join(inputs)}")
        array = feeds[name]
        if array.dtype.name != tensor.dtype:
            raise InputError(
                f"input {name!r} is {array.dtype.name}, the model needs {tensor.dtype}"
            )
        if tensor.shape is not None and array.shape != tensor.shape:
            raise InputError(
                f"input {name!r} has shape {_shape(array.shape)}, the model needs {_shape(tensor.shape)}"
            )


def write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays by name, whole or not at all."""
    # not numpy's own savez, which takes the names as keywords and so not every name
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                plain = array.astype(np.str_) if array.dtype.hasobject else array
                np.lib.format.write_array(member, plain, allow_pickle=False)


def read_labels(path: Path) -> list[str]:
    """Class names, a line each; of a line in columns (index, code, name) the last. Raises InputError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [line.rpartition("\t")[2].strip() for line in lines]
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(f"{path}: cannot be read as text ({exc})") from exc


def _array(path: Path, tensor: Tensor, preprocess: str) -> Array:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return _npy(path)
    if suffix == ".npz":
        arrays = _npz(path)
        if tensor.name in arrays:
            return arrays[tensor.name]
        if len(arrays) == 1:
            return next(iter(arrays.values()))
        raise InputError(f"{path}: has no array {tensor.name!r}, only {', '.join(arrays)}")
    if suffix in IMAGE_SUFFIXES:
        return _image(path, tensor, preprocess)
    raise InputError(f"{path}: not .npy, .npz or an image ({', '.join(IMAGE_SUFFIXES)})")


def _npy(path: Path) -> Array:
    try:
        # mapped first, which fails where the header claims more than the file holds
        array: Array = np.array(np.lib.format.open_memmap(path, mode="r"))
    except (OSError, ValueError, EOFError, MemoryError) as exc:
        raise InputError(f"{path}: cannot be read as an array ({exc})") from exc
    return array


def _npz(path: Path) -> dict[str, Array]:
    try:
        # opened here, because numpy leaves its own file open where the archive is none
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except _BAD_ARCHIVE as exc:
        raise InputError(f"{path}: cannot be read as an archive of arrays ({exc})") from exc


def _image(path: Path, tensor: Tensor, preprocess: str) -> Array:
    shape = tensor.shape
    if shape is None or len(shape) != 4 or shape[0] != 1 or 3 not in (shape[1], shape[3]):
        raise InputError(
            f"input {tensor.name!r} of shape {_shape(shape or ())} is not one RGB image; feed an .npy"
        )
    channels_first = shape[1] == 3
    height, width = shape[2:] if channels_first else shape[1:3]
    recipe = PREPROCESS[preprocess]
    pixels = _fitted(path, recipe, height, width)
    if recipe.colours == "BGR":
        pixels = pixels[..., ::-1]
    if tensor.dtype == "uint8":
        values = pixels
    else:
        scaled = pixels.astype(np.float32) * np.float32(recipe.scale)
        centred = scaled - np.array(recipe.mean, np.float32)
        values = (centred / np.array(recipe.std, np.float32)).astype(tensor.dtype)
    image = values.transpose(2, 0, 1) if channels_first else values
    return np.ascontiguousarray(image[np.newaxis])


def _fitted(path: Path, recipe: Preprocess, height: int, width: int) -> Array:
    """The photo's pixels at the input's size, as height x width x 3 bytes."""
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError:
        raise InputError(
            f"{path}: reading images needs Pillow; pip install 'splitter[image]'"
        ) from None
    try:
        with Image.open(path) as file:
            if file.width * file.height > MAX_PIXELS:
                raise InputError(
                    f"{path}: {file.width} x {file.height} pixels, more than {MAX_PIXELS}"
                )
            image = ImageOps.exif_transpose(file).convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as exc:
        raise InputError(f"{path}: cannot be read as an image ({exc})") from exc
    if recipe.fit == "crop":
        short = recipe.short_side * max(height / image.height, width / image.width)
        size = (max(width, round(image.width * short)), max(height, round(image.height * short)))
        resized = image.resize(size, Image.Resampling.BILINEAR)
        left, top = (size[0] - width) // 2, (size[1] - height) // 2
        image = resized.crop((left, top, left + width, top + height))
    else:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8)


def _known(inputs: Mapping[str, Tensor], name: str) -> Tensor:
    if name in inputs:
        return inputs[name]
    raise InputError(
        f"the model has no input {name!r}, only {', '.join(map(repr, inputs))}{nearest(name, inputs)}"
    )


def _only(inputs: Mapping[str, Tensor], text: str) -> str:
    if len(inputs) != 1:
        raise InputError(f"{text!r} names no input; say NAME=FILE for each of {', '.join(inputs)}")
    return next(iter(inputs))


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"
