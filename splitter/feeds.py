"""Feeds from files: npy, npz, and photos where the input is an image."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from splitter.document import replacing
from splitter.errors import InputError, nearest
from splitter.graph.values import Tensor
from splitter.picture import IMAGE_SUFFIXES, fitted, open_pixels
from splitter.preprocess import Preprocess, find_preprocess, image_size, values_of

Array = np.ndarray[Any, Any]
_BAD_ARCHIVE = (
    OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error,
    TypeError,  # an array under the name of an archive
    RuntimeError,  # encrypted, or compressed in a way that is not known
)  # fmt: skip


def load_feeds(
    texts: Sequence[str],
    inputs: Mapping[str, Tensor],
    preprocess: str | Preprocess = "imagenet",
) -> dict[str, Array]:
    """Read ``NAME=FILE`` for every input; the name may be left out where the model has one input.

    An ``.npz`` given without a name holds an array for each input. ``preprocess`` makes inputs of
    photos: a recipe, the name of one, or a ``.yaml`` file.

    Raises
    ------
    InputError
        A name, file, dtype or shape is wrong, or an input is missing.
    """
    recipe = find_preprocess(preprocess) if isinstance(preprocess, str) else preprocess
    feeds: dict[str, Array] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if not equals:
            name, file = "", text
        path = Path(file)
        if not name and path.suffix == ".npz":
            feeds.update(read_npz(path))
        else:
            name = name or _only(inputs, text)
            feeds[name] = _array(path, _known(inputs, name), recipe)
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


def read_npy(path: Path) -> Array:
    """Read an array whole; raises InputError."""
    try:
        # mapped first, which fails where the header claims more than the file holds
        array: Array = np.array(np.lib.format.open_memmap(path, mode="r"))
    except (OSError, ValueError, EOFError, MemoryError) as exc:
        raise InputError(f"{path}: cannot be read as an array ({exc})") from exc
    return array


def read_npz(path: Path) -> dict[str, Array]:
    """Read an archive of arrays by name; raises InputError."""
    try:
        # opened here, because numpy leaves its own file open where the archive is none
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except _BAD_ARCHIVE as exc:
        raise InputError(f"{path}: cannot be read as an archive of arrays ({exc})") from exc


def image_feed(path: Path, tensor: Tensor, recipe: Preprocess) -> Array:
    """Make an input of a photo.

    Raises
    ------
    InputError
        The input takes no such image, or the file cannot be read as one.
    """
    size = demand_image(tensor, recipe)
    pixels = open_pixels(path)
    try:
        pixels = fitted(pixels, recipe, *size)
    except InputError as exc:
        raise InputError(f"{path}: {exc}") from exc
    return values_of(pixels, recipe, tensor.dtype, tensor.shape or ())


def demand_image(tensor: Tensor, recipe: Preprocess) -> tuple[int, int]:
    """Height and width of the one image that an input takes; raises InputError if it takes none."""
    size = image_size(recipe, tensor.dtype, tensor.shape)
    if size is None or tensor.shape is None or tensor.shape[0] != 1:
        colours = "grey" if recipe.channels == 1 else "RGB"
        raise InputError(
            f"input {tensor.name!r} of {tensor.dtype} and shape {_shape(tensor.shape or ())} is not "
            f"one {colours} image; feed an .npy"
        )
    return size


def _array(path: Path, tensor: Tensor, recipe: Preprocess) -> Array:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return read_npy(path)
    if suffix == ".npz":
        arrays = read_npz(path)
        if tensor.name in arrays:
            return arrays[tensor.name]
        if len(arrays) == 1:
            return next(iter(arrays.values()))
        raise InputError(f"{path}: has no array {tensor.name!r}, only {', '.join(arrays)}")
    if suffix in IMAGE_SUFFIXES:
        return image_feed(path, tensor, recipe)
    raise InputError(f"{path}: not .npy, .npz or an image ({', '.join(IMAGE_SUFFIXES)})")


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
