"""The place of a bundle: taken at the end, by renaming, and only from another bundle."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from splitter.errors import BundleError
from splitter.partition.manifest import MANIFEST, Manifest

_PARTS = re.compile(r"(\d+-[a-z0-9]+-[a-z0-9]+|device\d*|server)$")
"""Folders of bundles that were written together: of a chain of tiers, or of several devices."""


@contextlib.contextmanager
def replacing_bundle(out_dir: Path) -> Iterator[Path]:
    """Make a folder that takes the place of ``out_dir`` when the block ends well, and vanishes else.

    Raises
    ------
    BundleError
        ``out_dir`` holds something other than a bundle, or cannot be written.
    """
    with _replacing(out_dir, _refuse_foreign) as folder:
        yield folder


@contextlib.contextmanager
def replacing_parts(out_dir: Path) -> Iterator[Path]:
    """Do the same for a folder of bundles, such as ``1-device-relay`` or ``device2``; raises BundleError."""
    with _replacing(out_dir, _refuse_no_parts) as folder:
        yield folder


@contextlib.contextmanager
def _replacing(out_dir: Path, refuse: Callable[[Path], None]) -> Iterator[Path]:
    _refuse_no_place(out_dir)
    refuse(out_dir)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out_dir.name}.", dir=out_dir.parent) as beside:
            folder = Path(beside, "new")
            folder.mkdir()
            yield folder
            _put_in_place(folder, out_dir)
    except OSError as exc:
        raise BundleError(f"{out_dir}: cannot be written ({exc.strerror or exc})") from exc


def _refuse_no_place(out_dir: Path) -> None:
    if not out_dir.parent.is_dir():
        raise BundleError(f"{out_dir}: its parent folder does not exist; make it first")
    if out_dir.exists() and not out_dir.is_dir():
        raise BundleError(f"{out_dir}: is a file; give a new folder")


def _refuse_no_parts(out_dir: Path) -> None:
    """Refuse a place where something other than such bundles would be lost."""
    for path in sorted(out_dir.iterdir()) if out_dir.exists() else ():
        if not (path.is_dir() and _PARTS.match(path.name) and (path / MANIFEST).is_file()):
            raise BundleError(f"{out_dir}: holds {path.name!r}; give a new folder")
        _refuse_foreign(path)


def _refuse_foreign(out_dir: Path) -> None:
    """Refuse a place where something other than a bundle would be lost."""
    found = {path.name for path in out_dir.iterdir()} if out_dir.exists() else set()
    if not found:
        return
    if MANIFEST not in found:
        raise BundleError(f"{out_dir}: is neither empty nor a bundle; give a new folder")
    foreign = found - {MANIFEST, *Manifest.load(out_dir).files}
    if foreign:
        raise BundleError(f"{out_dir}: holds {min(foreign)!r}, which is not of its bundle; move it")


def _put_in_place(folder: Path, out_dir: Path) -> None:
    """Rename the folder to its place; a bundle that is there comes back on failure."""
    if not out_dir.exists():
        folder.rename(out_dir)
        return
    replaced = out_dir.rename(folder.with_name("replaced"))  # goes with the temporary folder
    try:
        folder.rename(out_dir)
    except BaseException:
        replaced.rename(out_dir)
        raise
