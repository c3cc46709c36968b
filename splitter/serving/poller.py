"""A server's metrics at intervals, read on a thread of its own: whoever shows them never waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from splitter.errors import ServingError
from splitter.serving.interval import Interval, interval
from splitter.serving.scrape import Snapshot
from splitter.serving.scrapers import Scraper


@dataclass(frozen=True)
class Reading:
    """What came of one try: an interval, or why there is none."""

    interval: Interval | None = None
    problem: str = ""
    """Empty where the server answered; where there is no interval either, it is back, and the next
    reading will have one."""


class Poller:
    """Tells a function of a reading at each interval, until it is stopped; a context manager."""

    def __init__(
        self, scraper: Scraper, every_s: float, first: Snapshot, tell: Callable[[Reading], None]
    ) -> None:
        """Begin from a first snapshot; ``tell`` is called on the poller's thread."""
        self._scraper, self._every_s, self._tell = scraper, every_s, tell
        self._last: Snapshot | None = first
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="poller", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Tell nothing more. A scrape that hangs is left behind, on a thread that keeps nobody."""
        self._stopped.set()
        self._scraper.close()

    def __enter__(self) -> Poller:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _run(self) -> None:
        due = time.monotonic() + self._every_s
        while not self._stopped.wait(max(0.0, due - time.monotonic())):
            due = max(due, time.monotonic()) + self._every_s  # no catching up after a slow one
            reading = self._read()
            if not self._stopped.is_set():
                self._tell(reading)

    def _read(self) -> Reading:
        before, self._last = self._last, None
        try:
            after = self._scraper.scrape()
        except ServingError as exc:
            return Reading(problem=str(exc))
        self._last = after
        if before is None:
            return Reading()
        return Reading(interval(before, after, self._scraper.address, time.time()))
