"""Whether requests go to the server, decided from what became of those before. No threads, no sockets.

Three states. *Connecting*: nothing is known yet. *Closed*: requests go through. *Open*: they do not, until
a probe is answered. The breaker opens

- where a connection is refused,
- where a request spent all its attempts and nothing was answered since it began,
- after a few attempts in a row without connection, whatever the other requests met.

A server that answers probes but no requests (too slow, another bundle, shedding load) is left alone for
a while instead: a *hold*.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from splitter.serving.device.failure import WHY, Failure, Kind
from splitter.serving.device.report import Why

BROKEN_IN_A_ROW = 3
REFUSED_HOLD_S = 5.0
"""After an answer that the next request would get too, such as another bundle's."""
SLOW_HOLD_S = 0.25
"""After the first request that came too late; doubled for each further one."""
LONGEST_SLOW_HOLD_S = 2.0

_LASTING = (Kind.STALE, Kind.REFUSED, Kind.WRONG)


class Breaker:
    """Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known = threading.Event()
        self._is_open = False
        self._was_there = False
        self._broken = 0
        self._late = 0
        self._refused = 0
        self._answered_s = -1.0
        self._hold_until_s = 0.0
        self._hold_why = Why.BUSY

    @property
    def needs_probe(self) -> bool:
        """Whether it is open, or nothing is known yet."""
        return self._is_open or not self._known.is_set()

    @property
    def is_open(self) -> bool:
        """Whether the server is given up for now."""
        return self._is_open

    def settle(self, patience_s: float) -> None:
        """Wait until something is known."""
        self._known.wait(patience_s)

    def why_not(self) -> Why | None:
        """Why a request that can be answered otherwise should be; None where it should go through."""
        if self._is_open:
            return Why.BREAKER if self._was_there else Why.OFFLINE
        if not self._known.is_set():
            return Why.OFFLINE
        if self._hold_until_s and self._clock() < self._hold_until_s:
            return self._hold_why
        return None

    def answered(self) -> None:
        """Note an answer."""
        self._answered_s = self._clock()
        if self._broken or self._late or self._is_open or not self._known.is_set():
            with self._lock:
                self._broken = self._late = 0
                self._hold_until_s = 0.0
                self._close()

    def understood(self) -> None:
        """Note that the answer was a good one."""
        if self._refused:
            self._refused = 0

    def failed(self, failure: Failure) -> bool:
        """Note one attempt without answer; whether that opened it."""
        kind = failure.kind
        with self._lock:
            was_open = self._is_open
            if kind is Kind.REFUSED_CONNECTION:
                self._open()
            elif kind is Kind.UNREACHABLE:
                self._broken += 1
                if self._broken >= BROKEN_IN_A_ROW:
                    self._open()
            elif kind is Kind.BUSY:
                self._known.set()
                if failure.pushback_s is not None and failure.pushback_s > 0:
                    self._hold(failure.pushback_s, Why.BUSY)
            elif kind in _LASTING:
                self._known.set()
                self._refused += 1
                if kind is Kind.STALE or self._refused >= BROKEN_IN_A_ROW:
                    self._hold(REFUSED_HOLD_S, WHY[kind])
            return self._is_open and not was_open

    def gave_up(self, failure: Failure, began_s: float) -> bool:
        """Note a request that spent all its attempts, or all its time; whether that opened it."""
        with self._lock:
            was_open = self._is_open
            if failure.kind is Kind.LATE:
                self._late += 1
                hold_s = SLOW_HOLD_S * 2 ** min(self._late - 1, 10)
                self._hold(min(hold_s, LONGEST_SLOW_HOLD_S), Why.DEADLINE)
            silent = failure.kind in (Kind.LATE, Kind.UNREACHABLE, Kind.GIVEN_UP)
            if silent and self._answered_s < began_s:
                self._open()
            return self._is_open and not was_open

    def found_silent(self) -> None:
        """Note that a probe got no answer: what was late before was so for want of a link."""
        with self._lock:
            self._late = 0
            self._hold_until_s = 0.0
            self._open()

    def found_answering(self) -> None:
        """Note that a probe got an answer."""
        with self._lock:
            self._broken = 0
            self._close()

    def _close(self) -> None:
        self._is_open = False
        self._was_there = True
        self._known.set()

    def _open(self) -> None:
        self._broken = 0
        self._is_open = True
        self._known.set()

    def _hold(self, seconds: float, why: Why) -> None:
        self._hold_until_s = self._clock() + seconds
        self._hold_why = why
