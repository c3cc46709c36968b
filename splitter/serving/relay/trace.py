"""A rate that changes with time: what a relay follows, and what simulations integrate."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from splitter.errors import LinkError


@dataclass(frozen=True)
class Trace:
    """Bytes a second, each value from its time to the next; from ``length_s`` it starts again."""

    times_s: Sequence[float]
    """Increasing, from 0."""
    bytes_per_s: Sequence[float]
    length_s: float

    def __post_init__(self) -> None:
        """Integrate once; raises LinkError where it is no trace."""
        times, rates = np.asarray([*self.times_s, self.length_s]), np.asarray(self.bytes_per_s)
        if len(rates) == 0 or len(times) != len(rates) + 1 or times[0] != 0:
            raise LinkError("a trace needs a rate for each time, and starts at 0 s")
        if not (np.all(np.diff(times) > 0) and np.all(np.isfinite(times))):
            raise LinkError("the times of a trace increase")
        if not np.all((rates >= 0) & np.isfinite(rates)) or not rates.any():
            raise LinkError("the rates of a trace are at least 0, and not all 0")
        passed = np.concatenate([[0.0], np.cumsum(rates * np.diff(times))])
        object.__setattr__(self, "_edges_s", times)
        object.__setattr__(self, "_passed", passed)

    @classmethod
    def constant(cls, bytes_per_s: float) -> Trace:
        """One rate for ever."""
        return cls([0.0], [bytes_per_s], 1.0)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Trace:
        """Read lines of ``time_s mbps``; the last value holds as long as the one before.

        Comments start with ``#``. Raises LinkError.
        """
        try:
            lines = (line.partition("#")[0].split() for line in Path(path).read_text().splitlines())
            found = np.array([(float(time_s), float(mbps)) for time_s, mbps in filter(None, lines)])
        except (OSError, ValueError) as exc:
            raise LinkError(f"{path}: not a trace of `time_s mbps` lines ({exc})") from exc
        if len(found) < 2:
            raise LinkError(f"{path}: a trace needs two lines of `time_s mbps` or more")
        times = found[:, 0] - found[0, 0]
        return cls(times.tolist(), (found[:, 1] * 125_000).tolist(), 2 * times[-1] - times[-2])

    def passed(self, at_s: float) -> float:
        """Bytes that a busy link carries from 0 to a time."""
        rounds, within = divmod(at_s, self.length_s)
        return float(rounds * self._total + np.interp(within, self._edges, self._cumulative))

    def finish_s(self, start_s: float, nbytes: float) -> float:
        """When so many bytes have passed that start at a time on an idle link."""
        if nbytes <= 0:
            return start_s
        rounds, within = divmod(self.passed(start_s) + nbytes, self._total)
        # "left": bytes that end where an outage begins have arrived before it.
        place = int(np.searchsorted(self._cumulative, within, "left"))
        if place == 0:
            return self._last_moving_s + (rounds - 1) * self.length_s
        low, high = self._cumulative[place - 1], self._cumulative[place]
        part = (within - low) / (high - low)
        edges = self._edges
        end = edges[place - 1] + part * (edges[place] - edges[place - 1])
        return float(rounds * self.length_s + end)

    def mean(self, start_s: float, end_s: float) -> float:
        """Bytes a second between two times."""
        return (self.passed(end_s) - self.passed(start_s)) / (end_s - start_s)

    @property
    def _edges(self) -> np.ndarray[Any, Any]:
        edges: np.ndarray[Any, Any] = self.__dict__["_edges_s"]
        return edges

    @property
    def _cumulative(self) -> np.ndarray[Any, Any]:
        passed: np.ndarray[Any, Any] = self.__dict__["_passed"]
        return passed

    @property
    def _total(self) -> float:
        return float(self._cumulative[-1])

    @property
    def _last_moving_s(self) -> float:
        """Where the last bytes of a round have passed."""
        return float(self._edges[int(np.searchsorted(self._cumulative, self._total, "left"))])
