"""A thread that finds out whether the server is back, and whether a silent connection is dead.

It sends tiny messages, over a *fresh* connection: an old one waits out TCP's back-off after a stretch in
which its packets were lost, up to minutes. It only does so while requests come: an idle session sends
nothing, except once when it begins.
"""

from __future__ import annotations

import logging
import threading
import time

from splitter.errors import ServingError
from splitter.serving.device.breaker import Breaker
from splitter.serving.device.lines import Lines

_log = logging.getLogger(__name__)

IDLE_S = 5.0
"""Without a request for so long, nothing is sent."""
BETWEEN_PROBES_S = 0.5
LOOK_S = 0.25
"""Between looks at the requests on the wire."""
LEAST_PATIENCE_S = 1.0
_ROUND_TRIPS = 6  # TCP, TLS, HTTP/2 and the call, and some more


class Prober:
    """Owns its thread; ``close`` ends it."""

    def __init__(self, lines: Lines, breaker: Breaker, rtt_s: float = 0.0) -> None:
        self._lines, self._breaker = lines, breaker
        self._patience_s = max(LEAST_PATIENCE_S, _ROUND_TRIPS * rtt_s)
        self._wake = threading.Condition()
        self._used_s = time.monotonic()
        self._is_resting = False
        self._is_hurried = False
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="splitter-prober", daemon=True)
        self._thread.start()

    def used(self) -> None:
        """Note a request; costs next to nothing unless it is the first in a while."""
        self._used_s = time.monotonic()
        if self._is_resting:
            with self._wake:
                self._wake.notify()

    def hurry(self) -> None:
        """Probe now, since the breaker has just opened."""
        with self._wake:
            self._is_hurried = True
            self._wake.notify()

    def close(self) -> None:
        """End the thread. The lines must be closed before, or it may take as long as a probe."""
        with self._wake:
            self._is_closed = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._first_probe()
            while self._sleep():
                if self._breaker.needs_probe:
                    self._look_for_server()
                elif self._lines.is_stalled():
                    self._examine()
        except ServingError:
            return  # closed meanwhile

    def _first_probe(self) -> None:
        """Over the very connection that requests will use."""
        answers = self._lines.first.is_answering(self._patience_s)
        if self._breaker.needs_probe:  # else a request was faster
            self._note(answers)

    def _look_for_server(self) -> None:
        fresh = self._lines.fresh()
        if fresh.is_answering(self._patience_s):
            self._lines.replace(fresh)
            self._note(True)
        else:
            fresh.close()
            self._note(False)

    def _examine(self) -> None:
        """Tell a dead link and a dead connection from a server that takes its time."""
        fresh = self._lines.fresh()
        if not fresh.is_answering(self._patience_s):
            self._note(False)
            self._lines.replace(fresh)  # those that wait on the old one learn of it
        elif not self._lines.first.is_answering(self._patience_s):
            _log.info("the connection to %s was dead; there is a new one", fresh.server)
            self._lines.replace(fresh)
        else:
            fresh.close()
            self._lines.put_off(2 * self._patience_s)

    def _note(self, answers: bool) -> None:
        was_open = self._breaker.needs_probe
        if answers:
            self._breaker.found_answering()
        else:
            self._breaker.found_silent()
        if was_open == answers:
            state = "answers" if answers else "does not answer"
            _log.info("server %s %s", self._lines.first.server, state)

    def _sleep(self) -> bool:
        """Wait until there may be something to do; False where the session is closed."""
        with self._wake:
            if not (self._is_closed or self._is_hurried):
                self._wake.wait(BETWEEN_PROBES_S if self._breaker.needs_probe else LOOK_S)
            self._is_resting = True  # before the look at what ``used`` writes first
            while not self._is_closed and self._is_idle():
                self._wake.wait()
            self._is_resting = False
            self._is_hurried = False
            return not self._is_closed

    def _is_idle(self) -> bool:
        return time.monotonic() - self._used_s > IDLE_S and not self._lines.is_used
