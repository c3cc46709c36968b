"""What the inputs are fed, by the kind of file: images, arrays, sound, text.

Inputs that are not the data's own, such as the state of a recurrent model, are fed zeros; a whole number
that is named as a sampling rate is fed the file's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from splitter.dataset.sound import length_of, read_sound
from splitter.errors import InputError
from splitter.feeds import check_feeds, demand_image, image_feed, read_npy, read_npz
from splitter.graph.values import Tensor
from splitter.picture import IMAGE_SUFFIXES
from splitter.preprocess import FLOATS, PREPROCESS, Preprocess

Array = np.ndarray[Any, Any]
Kind = Literal["images", "arrays", "audio", "text"]
MAX_TEXT_BYTES = 256 << 20
RATE_NAMES = ("sr", "rate", "sample_rate", "sampling_rate", "samplerate")
_INTEGERS = ("int64", "int32")


class UnreadableError(InputError):
    """One file cannot be read; the others may."""


class Reader:
    """Files of one kind, for one model."""

    kind: ClassVar[Kind]
    suffixes: ClassVar[tuple[str, ...]]
    is_split: ClassVar[bool] = False
    """A file holds several samples."""

    def __init__(self, inputs: Mapping[str, Tensor], recipe: Preprocess | None) -> None:
        """Raise InputError where the inputs take no such files."""
        self.inputs, self.recipe = inputs, recipe

    def rate(self, paths: Sequence[Path]) -> int | None:
        """Samples a second of the first sound file; None where the data is no sound."""
        return None

    def count(self, path: Path, rate: int | None) -> int:
        """Samples in a file; raises UnreadableError where there are none, or the rate is another."""
        return 1

    def feeds(self, path: Path, index: int) -> dict[str, Array]:
        """One sample of a file.

        Raises
        ------
        UnreadableError
            The file cannot be read.
        InputError
            It can, and what is in it does not fit the inputs.
        """
        raise NotImplementedError

    def filled(self, feeds: dict[str, Array]) -> dict[str, Array]:
        """With zeros for every other input."""
        for name, tensor in self.inputs.items():
            if name not in feeds:
                if tensor.shape is None:
                    raise InputError(f"input {name!r} has no known shape to fill with zeros")
                feeds[name] = np.zeros(tensor.shape, tensor.dtype)
        return feeds


class ImageReader(Reader):
    """Photos; the model has one input that takes them."""

    kind = "images"
    suffixes = IMAGE_SUFFIXES

    def __init__(self, inputs: Mapping[str, Tensor], recipe: Preprocess | None) -> None:
        self._recipe = recipe or PREPROCESS["imagenet"]
        super().__init__(inputs, self._recipe)
        images = [tensor for tensor in inputs.values() if len(tensor.shape or ()) == 4]
        self._input = _only(images or list(inputs.values()), "photos")
        demand_image(self._input, self._recipe)

    def feeds(self, path: Path, index: int) -> dict[str, Array]:  # noqa: D102  (the contract says it)
        try:
            image = image_feed(path, self._input, self._recipe)
        except InputError as exc:
            raise UnreadableError(str(exc)) from exc
        return self.filled({self._input.name: image})


class ArrayReader(Reader):
    """``.npz`` with arrays by the inputs' names, or ``.npy`` with the one of whose shape it is."""

    kind = "arrays"
    suffixes = (".npy", ".npz")

    def feeds(self, path: Path, index: int) -> dict[str, Array]:  # noqa: D102
        try:
            if path.suffix.lower() == ".npz":
                found = read_npz(path)
            else:
                array = read_npy(path)
                found = {self._name_for(array): array}
        except InputError as exc:
            raise UnreadableError(str(exc)) from exc
        if not found:
            raise UnreadableError(f"{path}: holds no arrays")
        try:
            feeds = self.filled(found)
            check_feeds(feeds, self.inputs)
        except InputError as exc:
            raise InputError(f"{path}: {exc}") from exc
        return feeds

    def _name_for(self, array: Array) -> str:
        same = [t.name for t in self.inputs.values() if t.shape in (array.shape, None)]
        # where none fits, the first is the one to compare with and to complain of
        return same[0] if same else next(iter(self.inputs))


class SoundReader(Reader):
    """Frames of the input's length, one after the other; the first channel, and nothing resampled."""

    kind = "audio"
    suffixes = (".wav", ".flac")
    is_split = True

    def __init__(self, inputs: Mapping[str, Tensor], recipe: Preprocess | None) -> None:
        super().__init__(inputs, None)
        self._input = _only([t for t in inputs.values() if _is_row(t, FLOATS)], "sound")
        self._length = prod(self._input.shape or ())
        self._rates = [
            tensor for tensor in inputs.values()
            if tensor.dtype in _INTEGERS and tensor.name.lower() in RATE_NAMES
            and tensor.shape is not None and prod(tensor.shape) == 1
        ]  # fmt: skip

    def rate(self, paths: Sequence[Path]) -> int | None:  # noqa: D102
        for path in paths:
            with contextlib.suppress(InputError):
                return length_of(path).rate
        return None

    def count(self, path: Path, rate: int | None) -> int:  # noqa: D102
        try:
            found = length_of(path)
        except InputError as exc:
            raise UnreadableError(str(exc)) from exc
        if found.rate != rate:
            raise UnreadableError(
                f"{path}: {found.rate} samples a second, the first file has {rate}"
            )
        return _whole(
            found.samples // self._length, f"{path}: {found.samples} samples", self._length
        )

    def feeds(self, path: Path, index: int) -> dict[str, Array]:  # noqa: D102
        try:
            samples = read_sound(path, index * self._length, self._length)
            rate = length_of(path).rate
        except InputError as exc:
            raise UnreadableError(str(exc)) from exc
        frame = samples.reshape(self._input.shape or ()).astype(self._input.dtype)
        rates = {
            tensor.name: np.full(tensor.shape or (), rate, tensor.dtype) for tensor in self._rates
        }
        return self.filled({self._input.name: frame, **rates})


class TextReader(Reader):
    """The bytes of ASCII text as token ids, as many at a time as the input takes."""

    kind = "text"
    suffixes = (".txt",)
    is_split = True

    def __init__(self, inputs: Mapping[str, Tensor], recipe: Preprocess | None) -> None:
        super().__init__(inputs, None)
        self._input = _only([t for t in inputs.values() if _is_row(t, _INTEGERS)], "token ids")
        self._length = prod(self._input.shape or ())

    def count(self, path: Path, rate: int | None) -> int:  # noqa: D102
        data = self._read(path, 0, MAX_TEXT_BYTES)
        return _whole(len(data) // self._length, f"{path}: {len(data)} characters", self._length)

    def feeds(self, path: Path, index: int) -> dict[str, Array]:  # noqa: D102
        data = self._read(path, index * self._length, self._length)
        if len(data) != self._length:
            raise UnreadableError(f"{path}: ends before its part {index}")
        ids = np.frombuffer(data, np.uint8).astype(self._input.dtype)
        return self.filled({self._input.name: ids.reshape(self._input.shape or ())})

    def _read(self, path: Path, start: int, count: int) -> bytes:
        try:
            with path.open("rb") as file:
                file.seek(start)
                data = file.read(count)
        except OSError as exc:
            raise UnreadableError(f"{path}: cannot be read ({exc.strerror})") from exc
        if not data.isascii():
            raise UnreadableError(f"{path}: is not ASCII text")
        return data


READERS: Mapping[str, type[Reader]] = {
    reader.kind: reader for reader in (ImageReader, ArrayReader, SoundReader, TextReader)
}


def _only(found: Sequence[Tensor], what: str) -> Tensor:
    if len(found) == 1:
        return found[0]
    names = " and ".join(tensor.name for tensor in found)
    raise InputError(f"{names or 'no input'} could take {what}; feed an .npz")


def _is_row(tensor: Tensor, dtypes: Sequence[str]) -> bool:
    """All elements lie along one dimension."""
    shape = tensor.shape or ()
    return tensor.dtype in dtypes and 1 < prod(shape) == max(shape, default=0)


def _whole(count: int, what: str, length: int) -> int:
    if not count:
        raise UnreadableError(f"{what}, where the input takes {length}")
    return count
