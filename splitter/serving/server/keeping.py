"""Outputs that are wanted on the server: made with every request, and given to whoever takes them here."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from splitter.errors import ServingError
from splitter.feeds import write_npz
from splitter.runtime import Array

if TYPE_CHECKING:
    from splitter.serving.server.batching import Job
    from splitter.serving.server.loading import Loaded
    from splitter.serving.server.tail import Tail

_log = logging.getLogger(__name__)

MOST_FILES = 1000
"""That a folder holds, unless it is said."""

_ODD = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Kept:
    """What one request left on the server."""

    model: str
    version: str
    bundle: str
    """The digest."""
    cut: str
    request_id: str
    outputs: Mapping[str, Array]
    """By name; not to be written to."""


Keep = Callable[[Kept], None]


class Keeper:
    """Hands over what requests leave; thread-safe as far as its taker is."""

    def __init__(self, keep: Keep | None = None) -> None:
        self._keep = keep

    def take(self, loaded: Loaded, tail: Tail, job: Job, request_id: str) -> None:
        """Called on the request's thread before it is answered: an answer says that it was kept.

        Raises
        ------
        ServingError
            It could not be: then the request fails.
        """
        if self._keep is None:
            return
        made = dict(zip(job.outputs, job.results, strict=True))
        kept = Kept(
            loaded.name, loaded.version, loaded.manifest.digest, tail.id, request_id,
            {name: made[name] for name in tail.kept},
        )  # fmt: skip
        try:
            self._keep(kept)
        except Exception as exc:
            _log.exception("what a request leaves here could not be kept")
            raise ServingError("what the request leaves on the server could not be kept") from exc


class Folder:
    """Keeps in a folder, a file for each request, and no more than so many: the oldest go."""

    def __init__(self, folder: str | os.PathLike[str], most: int = MOST_FILES) -> None:
        """Raise ServingError where there is no such folder. Files of an earlier run count."""
        self._folder, self._most = Path(folder), most
        if not self._folder.is_dir():
            raise ServingError(f"{folder}: no folder to keep outputs in; make it first")
        self._lock = threading.Lock()
        known = sorted(self._folder.glob("[0-9]*-*.npz"), key=lambda path: path.name)
        self._files = deque(path for path in known if path.name[:12].isdigit())
        self._next = 1 + max((int(path.name[:12]) for path in self._files), default=0)

    def __call__(self, kept: Kept) -> None:
        """Write ``000000000001-MODEL.npz``, whole or not at all."""
        with self._lock:
            path = self._folder / f"{self._next:012}-{_ODD.sub('_', kept.model)[:80]}.npz"
            self._next += 1
        write_npz(path, kept.outputs)
        with self._lock:
            self._files.append(path)
            gone = [self._files.popleft() for _ in range(len(self._files) - self._most)]
        for old in gone:
            old.unlink(missing_ok=True)
