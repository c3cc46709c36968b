"""A value read from files, and read again when they change."""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from splitter.errors import ServingError

_log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_FILE_BYTES = 1 << 20
"""Of a certificate, key or token file; any real one is far below."""

_ATTEMPTS = 10  # to find files at rest while somebody replaces one after the other

_Stamp = tuple[tuple[int, int, int] | None, ...]


class Watched(Generic[T]):
    """What ``read`` made of the files when they were last good. Thread-safe.

    ``stat`` decides whether to read again: a few microseconds, so that it may be asked at every
    connection or request, and no thread has to watch. It follows symbolic links, which is how
    Kubernetes replaces the files of a secret.
    """

    def __init__(self, paths: tuple[Path, ...], read: Callable[[], T]) -> None:
        """Read for the first time; raises ServingError as ``read`` does."""
        self._paths = paths
        self._read = read
        self._lock = threading.Lock()
        self._seen = self._stamp()
        self._value = read()
        for _ in range(_ATTEMPTS):
            now = self._stamp()
            if now == self._seen:
                break
            self._seen, self._value = now, read()

    @property
    def value(self) -> T:
        """As it was last read, without a look at the files."""
        return self._value

    def refresh(self) -> bool:
        """Read again if the files changed; whether that gave another value.

        Files that are no good any more leave the old value, and a warning a change.
        """
        if self._stamp() == self._seen:
            return False
        with self._lock:
            stamp = self._stamp()
            if stamp == self._seen:
                return False
            try:
                value = self._read()
            except ServingError as exc:
                self._seen = stamp
                _log.warning("the old one stays in use: %s", exc)
                return False
            if self._stamp() != stamp:
                return False  # still being written: what was read may be half old, half new
            self._seen = stamp
            is_new = value != self._value
            self._value = value
        if is_new:
            _log.info("read again: %s", ", ".join(map(str, self._paths)))
        return is_new

    def _stamp(self) -> _Stamp:
        return tuple(_stamp_of(path) for path in self._paths)


def read_small(path: Path, what: str) -> bytes:
    """Read a file of a bounded size.

    Raises
    ------
    ServingError
        It is not there, not readable, no plain file, too large or empty.
    """
    try:
        # a pipe or a device that somebody named would block the open itself
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ServingError(f"{path}: {what} must be a plain file")
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise ServingError(f"{path}: {what} cannot be read ({exc.strerror})") from exc
    if len(data) > MAX_FILE_BYTES:
        raise ServingError(f"{path}: {what} is over {MAX_FILE_BYTES} bytes; is it another file?")
    if not data.strip():
        raise ServingError(f"{path}: {what} is empty")
    return data


def warn_if_public(path: Path, what: str) -> None:
    """Log a warning where everybody on this machine can read a secret."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # who reads it says so
    if mode & stat.S_IROTH:
        _log.warning("%s: others can read %s; chmod 600 it", path, what)


def _stamp_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
