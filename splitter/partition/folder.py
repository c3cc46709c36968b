"""The place of a bundle: taken at the end, by renaming, and only from another bundle."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from splitter.errors import BundleError
from splitter.partition.manifest import MANIFEST, Manifest


@contextlib.contextmanager
def replacing_bundle(out_dir: Path) -> Iterator[Path]:
    """Make a folder that takes the place of ``out_dir`` when the block ends well, and vanishes else.

    Raises
    ------
    BundleError
        ``out_dir`` holds something other than a bundle, or cannot be written.
    """
    _refuse_foreign(out_dir)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out_dir.name}.", dir=out_dir.parent) as beside:
            folder = Path(beside, "new")
            folder.mkdir()
            yield folder
            _put_in_place(folder, out_dir)
    except OSError as exc:
        raise BundleError(f"{out_dir}: cannot be written ({exc.strerror or exc})") from exc


def _refuse_foreign(out_dir: Path) -> None:
    """Refuse a place where something other than a bundle would be lost."""
    if not out_dir.parent.is_dir():
        raise BundleError(f"{out_dir}: its parent folder does not exist; make it first")
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise BundleError(f"{out_dir}: is a file; give a new folder")
    found = {path.name for path in out_dir.iterdir()}
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
