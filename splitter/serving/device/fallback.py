"""The answer from here: the whole model, or the bundle's stand-in for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

from splitter.partition.manifest import Manifest
from splitter.runtime import Array
from splitter.serving.device.parts import Parts
from splitter.serving.device.report import AnsweredBy

MARGIN = 1.25
"""Of the time that a run took lately, at the longest: others may run beside it."""
MARGIN_S = 0.02
"""For timers that fire late and threads that wait for a processor."""
UNKNOWN_S = 1.0
"""For loading and the first run, before it has been measured."""


class Fallback:
    """Thread-safe; one run at a time, so that many at once stay as fast as it was measured."""

    def __init__(
        self, parts: Parts, key: str, by: AnsweredBy, cut: tuple[str, str] = ("", "")
    ) -> None:
        self.key, self.by, self.cut = key, by, cut
        self._parts = parts
        self._turn = threading.Lock()
        self._waiting = 0
        self._count = threading.Lock()

    def reserve_s(self) -> float:
        """Seconds to keep for it before a deadline, those that run or wait before it included."""
        part = self._parts.ready(self.key)
        seconds = None if part is None else part.seconds
        if seconds is None:
            return UNKNOWN_S
        return seconds * MARGIN * (1 + self._waiting) + MARGIN_S

    def run(self, feeds: Mapping[str, Array], names: Sequence[str]) -> tuple[list[Array], float]:
        """Answer, and say how long the run took; raises as ``Parts.get`` and ``Part.run``."""
        with self._count:
            self._waiting += 1
        try:
            with self._turn:
                part = self._parts.get(self.key)
                started_s = time.monotonic()
                return part.run(feeds, names), time.monotonic() - started_s
        finally:
            with self._count:
                self._waiting -= 1


def find_fallback(manifest: Manifest, parts: Parts) -> tuple[Fallback | None, str]:
    """What can answer without a server, the whole model first; or why nothing can."""
    why = "the bundle has no fallback"
    whole = manifest.on_device
    if whole is not None and whole.head is not None:
        if parts.fits(whole.head):
            return Fallback(parts, whole.head, AnsweredBy.DEVICE, (whole.id, whole.name)), ""
        why = "the memory limit forbids to load the bundle's fallback"
    if manifest.stand_in is not None:
        if parts.fits(manifest.stand_in.file):
            return Fallback(parts, manifest.stand_in.file, AnsweredBy.STAND_IN), ""
        why = "the memory limit forbids to load the bundle's fallback"
    return None, why
