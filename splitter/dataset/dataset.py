"""A folder of files as samples with labels."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from splitter.dataset.labels import read_label_file
from splitter.dataset.readers import (
    READERS,
    Array,
    Kind,
    Reader,
    UnreadableError,
)
from splitter.errors import InputError
from splitter.graph.values import Tensor
from splitter.preprocess import Preprocess, find_preprocess

DEFAULT_LIMIT = 200


@dataclass(frozen=True)
class Sample:
    """One run of the model."""

    name: str
    """The file's path in the folder; where a file holds several samples ``#`` and a number follow."""
    label: int | None


@dataclass(frozen=True)
class Dataset:
    """Samples that were readable when the folder was opened. Feeds are read anew each time."""

    samples: tuple[Sample, ...]
    digest: str
    """sha256 over the samples' names and their files' sizes."""
    folder: str
    skipped: tuple[str, ...]
    """``file: reason`` of what could not be read."""
    preprocess: Preprocess | None
    """What made inputs of photos, or what the arrays are said to be made with."""
    kind: Kind
    audio_rate: int | None
    """Of all sound files, a second."""
    reader: Reader

    def feeds(self, sample: Sample) -> dict[str, Array]:
        """Every input of the model.

        Raises
        ------
        InputError
            The file is gone or has changed.
        """
        name, _, index = (
            sample.name.rpartition("#") if self.reader.is_split else (sample.name, "", "0")
        )
        return self.reader.feeds(Path(self.folder, name), int(index))


def open_dataset(
    folder: str | os.PathLike[str],
    inputs: Mapping[str, Tensor],
    *,
    labels: str | os.PathLike[str] | None = None,
    preprocess: str | Preprocess | None = None,
    limit: int = DEFAULT_LIMIT,
    classes: int | None = None,
) -> Dataset:
    """Look for images, arrays, sound or text in a folder and those below it.

    Parameters
    ----------
    labels
        A table with a header (``file,class_index``) or lines of file and index.
    preprocess
        For images, ``imagenet`` if not given: a recipe, the name of one, or a ``.yaml`` file.
    limit
        Of more samples so many are taken, at even distances in the order of their names.
    classes
        How many the model has, to hold the labels against.

    Raises
    ------
    InputError
        The folder holds nothing that the model's inputs take, or several kinds of it, or nothing
        readable; a file's arrays have the wrong name, dtype or shape; the labels do not match.
    """
    folder = Path(folder)
    if limit < 1:
        raise InputError(f"{limit} samples are none; take at least 1")
    recipe = find_preprocess(preprocess) if isinstance(preprocess, str) else preprocess
    files = _files(folder, labels)
    reader = _choose(folder, files, inputs, recipe)
    names = [name for name in files if Path(name).suffix.lower() in reader.suffixes]
    label_of = read_label_file(Path(labels), names, classes) if labels is not None else {}
    rate = reader.rate([folder / name for name in names])
    found, skipped = _readable(folder, reader, names, rate, limit)
    if not found:
        raise InputError(f"{folder}: none of {len(names)} files can be read; {skipped[0]}")
    samples = tuple(
        Sample(name if index is None else f"{name}#{index}", label_of.get(name))
        for name, index in found
    )
    return Dataset(
        samples, _digest(folder, samples, found), str(folder), tuple(skipped), reader.recipe,
        reader.kind, rate, reader,
    )  # fmt: skip


Place = tuple[str, int | None]
"""A file, and which of its samples."""


def _files(folder: Path, labels: str | os.PathLike[str] | None) -> list[str]:
    """Paths in the folder, in order; none that is hidden, and not the labels."""
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder of data")
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(parent, name) for name in names if not name.startswith(".")]
        found += [path for path in paths if labels is None or path != Path(labels)]
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _choose(
    folder: Path, files: Sequence[str], inputs: Mapping[str, Tensor], recipe: Preprocess | None
) -> Reader:
    """The reader for the one kind of file that is there and that the inputs take."""
    suffixes = {Path(name).suffix.lower() for name in files}
    present = [kind for kind, reader in READERS.items() if suffixes & set(reader.suffixes)]
    if not present:
        known = ", ".join(suffix for reader in READERS.values() for suffix in reader.suffixes)
        raise InputError(f"{folder}: holds no data; looked for {known}")
    usable: list[Reader] = []
    reasons: list[str] = []
    for kind in present:
        try:
            usable.append(READERS[kind](inputs, recipe))
        except InputError as exc:
            reasons.append(f"{kind}: {exc}")
    if not usable:
        raise InputError(f"{folder}: holds nothing that the model takes; {'; '.join(reasons)}")
    if len(usable) > 1:
        kinds = " and ".join(reader.kind for reader in usable)
        raise InputError(f"{folder}: holds {kinds}; give a folder of one kind")
    return usable[0]


def _readable(
    folder: Path, reader: Reader, names: Sequence[str], rate: int | None, limit: int
) -> tuple[list[Place], list[str]]:
    """Samples that can be fed, at most ``limit``, and of each file of the others why it cannot."""
    skipped: dict[str, str] = {}
    places: list[Place] = [(name, None) for name in names]
    if reader.is_split:
        places = []
        for name in names:
            try:
                places += [(name, index) for index in range(reader.count(folder / name, rate))]
            except UnreadableError as exc:
                skipped.setdefault(name, _reason(folder, name, exc))
    found: list[Place] = []
    for name, index in _evenly(places, limit):
        try:
            reader.feeds(folder / name, index or 0)
        except UnreadableError as exc:
            skipped.setdefault(name, _reason(folder, name, exc))
        else:
            found.append((name, index))
    return found, list(skipped.values())


def _evenly(places: list[Place], limit: int) -> list[Place]:
    if len(places) <= limit:
        return places
    return [places[index * len(places) // limit] for index in range(limit)]


def _reason(folder: Path, name: str, exc: UnreadableError) -> str:
    return f"{name}: {str(exc).removeprefix(f'{folder / name}: ')}"


def _digest(folder: Path, samples: Sequence[Sample], found: Sequence[Place]) -> str:
    sizes = [(folder / name).stat().st_size for name, _ in found]
    pairs = [[sample.name, size] for sample, size in zip(samples, sizes, strict=True)]
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()
