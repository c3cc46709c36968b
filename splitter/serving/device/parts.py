"""The models that a device holds: loaded when first needed, within a limit of memory."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import psutil

from splitter.errors import InputError, ServingError, SplitterError
from splitter.partition.manifest import PortSpec
from splitter.runtime import Array, Runner, Settings

_log = logging.getLogger(__name__)

RESIDENT_FACTOR = 3.0
"""Resident bytes of a loaded model over those of its weights, before it was loaded and measured: 1.1 to 6
over nine convolutional networks (the runtime packs weights and keeps buffers), activations apart."""
_LATELY = 16  # runs


class Part:
    """One loaded model, and what a run of it takes."""

    def __init__(self, runner: Runner, grown_bytes: int = 0) -> None:
        self.runner = runner
        self.resident_bytes = grown_bytes
        """By how much the process grew while it was loaded and first run."""
        self._runs = 0
        self._lately: deque[float] = deque(maxlen=_LATELY)

    @property
    def seconds(self) -> float | None:
        """The longest of the last runs; None before the first."""
        return max(self._lately, default=None)

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
        """Run once, with what it reads out of ``feeds``; raises InputError."""
        needed = {port.name: feeds[port.name] for port in self.runner.inputs}
        before = _resident_bytes() if self._runs == 0 else 0
        started_s = time.monotonic()
        made = self.runner.run(needed, outputs)
        self._note(time.monotonic() - started_s)
        if before:
            self.resident_bytes += max(0, _resident_bytes() - before)
        return made

    def _note(self, took_s: float) -> None:
        """The first run allocates: it is forgotten once there is another."""
        self._runs += 1
        if self._runs == 2:
            self._lately.clear()
        self._lately.append(took_s)


@dataclass(frozen=True)
class Source:
    """Where a part is loaded from."""

    path: Path
    weigh: Callable[[], int]
    """Bytes of its model and weights, on disk; asked for only where memory is limited."""
    verify: Callable[[], None] = lambda: None
    """Raises SplitterError where the files are not what they should be; called before they are loaded."""


class Parts:
    """Thread-safe. Parts are called by a key; the least recently used goes where one has to."""

    def __init__(
        self,
        files: Mapping[str, Source],
        inputs: Sequence[PortSpec],
        settings: Settings,
        limit_bytes: int | None = None,
        kept: Sequence[str] = (),
    ) -> None:
        """Load nothing yet.

        Parameters
        ----------
        files
            By key.
        inputs
            The whole model's: what parts are warmed with.
        kept
            Keys of those that go last.
        """
        self._files, self._inputs, self._settings = files, inputs, settings
        self._limit_bytes, self._kept = limit_bytes, kept
        self._lock = threading.Lock()
        self._loaded: dict[str, Part] = {}  # the least recently used first
        self._loading: dict[str, Future[Part]] = {}
        self._awaited: dict[str, int] = {}
        self._broken: set[str] = set()
        self._resident: dict[str, int] = {}
        self._weights = cache(lambda key: files[key].weigh())
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="splitter-loader")

    def nbytes(self, key: str) -> int:
        """What a part is taken to occupy: measured, or estimated from its weights."""
        part = self._loaded.get(key)
        known = self._resident.get(key) if part is None else part.resident_bytes
        weights = self._weights(key)
        return int(weights * RESIDENT_FACTOR) if known is None else max(known, weights)

    def fits(self, key: str) -> bool:
        """Whether the limit allows the part at all, be it alone."""
        return self._limit_bytes is None or self.nbytes(key) <= self._limit_bytes

    def fits_beside(self, key: str) -> bool:
        """Whether it could be loaded without any other going."""
        if self._limit_bytes is None:
            return True
        with self._lock:
            held = {*self._loaded, *self._loading, key}
        return sum(map(self.nbytes, held)) <= self._limit_bytes

    def ready(self, key: str) -> Part | None:
        """The part, if it is loaded."""
        with self._lock:
            part = self._loaded.pop(key, None)
            if part is not None:
                self._loaded[key] = part
            return part

    def get(self, key: str) -> Part:
        """Give the part, loaded now if need be.

        Raises
        ------
        ServingError
            The limit of memory forbids it.
        ModelError, ProfileError
            It cannot be loaded.
        """
        return self.ready(key) or self._load(key, is_awaited=True)

    def prepare(self, order: Callable[[], Sequence[str]]) -> None:
        """Load and warm in the background what ``order`` says there, as far as all of it fits."""

        def load() -> None:
            for key in order():
                if self.fits_beside(key):
                    self._fetch(key)

        self._loader.submit(load)

    def fetch(self, key: str) -> None:
        """Load and warm it in the background, if it is not there."""
        with self._lock:
            if key in self._loaded or key in self._loading or key in self._broken:
                return
        try:
            self._loader.submit(self._fetch, key)
        except RuntimeError:  # closed meanwhile
            return

    def close(self) -> None:
        """Let all go, once a load that runs has ended."""
        self._loader.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            self._loaded.clear()

    def _fetch(self, key: str) -> None:
        try:
            self._load(key, is_awaited=False)
        except SplitterError as exc:  # said again to the request that needs it
            self._broken.add(key)
            _log.warning("%s: not loaded: %s", self._files[key].path, exc)

    def _load(self, key: str, *, is_awaited: bool) -> Part:
        with self._lock:
            if key in self._loaded:
                return self._loaded[key]
            future = self._loading.get(key)
            is_ours = future is None
            if future is None:
                self._make_room(key)
                future = self._loading[key] = Future()
            self._awaited[key] = self._awaited.get(key, 0) + is_awaited
        if is_ours:
            self._do_load(key, future)
        return future.result()

    def _do_load(self, key: str, future: Future[Part]) -> None:
        started_s = time.monotonic()
        try:
            self._files[key].verify()
            before = _resident_bytes()
            runner = Runner(self._files[key].path, self._settings)
            part = Part(runner, max(0, _resident_bytes() - before))
        except SplitterError as exc:
            with self._lock:
                del self._loading[key]
            future.set_exception(exc)
            return
        with self._lock:
            self._loaded[key] = part
            del self._loading[key]
            is_awaited = self._awaited.pop(key, 0)
        future.set_result(part)
        _log.debug("%s: loaded in %.3f s", self._files[key].path, time.monotonic() - started_s)
        if not is_awaited:  # a request that waits warms it as well
            self._warm(part)

    def _warm(self, part: Part) -> None:
        """Run twice on zeros: the first run allocates, the second says what a run takes."""
        zeros = {spec.name: np.zeros(spec.shape or (), spec.dtype) for spec in self._inputs}
        try:
            part.run(zeros)
            part.run(zeros)
        except (InputError, TypeError) as exc:  # zeros may be no valid input
            _log.debug("a part starts cold: %s", exc)

    def _make_room(self, key: str) -> None:
        """Let others go until this one fits; raises ServingError where it never does."""
        if self._limit_bytes is None:
            return
        if not self.fits(key):
            raise ServingError(
                f"{self._files[key].path.name} takes about {self.nbytes(key)} bytes, the memory limit "
                f"is {self._limit_bytes}"
            )
        goers = sorted(self._loaded, key=lambda name: name in self._kept)  # stable: oldest first
        held = sum(map(self.nbytes, {*self._loaded, *self._loading}))
        for goer in goers:
            if held + self.nbytes(key) <= self._limit_bytes:
                return
            _log.info("%s goes to make room for %s", goer, key)
            held -= self.nbytes(goer)
            self._resident[goer] = self._loaded.pop(goer).resident_bytes


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)
