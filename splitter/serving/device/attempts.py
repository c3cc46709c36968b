"""One request until it is answered: attempts, pauses, hedges, and the answer from here in time.

gRPC's own retries are off: they end, silently, at messages of 256 KiB. There are two ways. ``ask`` blocks
on the calling thread, which is the fastest; ``race`` waits for several things at once.
"""

from __future__ import annotations

import math
import queue
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

from splitter.errors import ServingError
from splitter.serving.device.breaker import Breaker
from splitter.serving.device.client import TailClient
from splitter.serving.device.failure import Failure, Kind, late
from splitter.serving.device.lines import Lines
from splitter.serving.device.prober import Prober

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
_MOST_GIVEN_UP = 10
"""Connections that one request may see replaced; a bound, and none that is met."""


class Cancellation:
    """Lets another thread withdraw a request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_cancelled = False
        self._tell: list[Callable[[], None]] = []

    def cancel(self) -> None:
        """Withdraw it; what is on the wire is cancelled."""
        with self._lock:
            self._is_cancelled = True
            told, self._tell = self._tell, []
        for tell in told:
            tell()

    def on_cancel(self, tell: Callable[[], None]) -> None:
        """Have ``tell`` called when it is withdrawn, at once if it has been."""
        with self._lock:
            if not self._is_cancelled:
                self._tell.append(tell)
                return
        tell()


@dataclass(frozen=True)
class Errand:
    """One message and the limits of its delivery."""

    message: bytes
    began_s: float
    """``time.monotonic`` when the request came in."""
    until_s: float
    """No attempt waits longer, except while an answer is made here."""
    ends_s: float
    """The request's own deadline."""
    usual_s: float
    """How long an answer may take before the connection is looked at."""
    longest_pause_s: float
    """Where pausing longer than that, give up: an answer from here comes sooner."""
    cancellation: Cancellation | None = None


@dataclass
class Outcome:
    """What became of an errand: a reply, an answer made here, or the last failure."""

    reply: bytes | None = None
    local: Future[Any] | None = None
    failure: Failure | None = None
    attempts: int = 0
    hedged: bool = False
    sent_s: float = 0.0
    """``time.monotonic`` when the attempt began that was answered."""


class Attempts:
    """Thread-safe."""

    def __init__(self, lines: Lines, breaker: Breaker, prober: Prober, retries: int) -> None:
        self._lines, self._breaker, self._prober = lines, breaker, prober
        self._retries = retries
        self._closed = threading.Event()

    def close(self) -> None:
        """Let nobody pause any longer."""
        self._closed.set()

    def ask(self, errand: Errand) -> Outcome:
        """Block until there is a reply, or no use in another attempt."""
        outcome = Outcome()
        self._prober.used()
        token = self._lines.sent(errand.usual_s)
        try:
            while True:
                outcome.attempts += 1
                outcome.sent_s = time.monotonic()
                line = self._lines.first
                reply = line.call(errand.message, max(0.0, errand.until_s - outcome.sent_s))
                if not isinstance(reply, Failure):
                    outcome.reply = reply
                    self._breaker.answered()
                    return outcome
                pause_s = self._pause_s(reply, errand, outcome.attempts)
                if pause_s is None or self._closed.wait(pause_s):
                    outcome.failure = self._gave_up(reply, errand)
                    return outcome
        finally:
            self._lines.ended(token)

    def race(
        self,
        errand: Errand,
        *,
        hedge_s: float | None = None,
        local: Callable[[], Any] | None = None,
        executor: Executor | None = None,
    ) -> Outcome:
        """Block until the first of: a reply, a reply to the hedge, an answer of ``local``.

        ``local`` begins on the executor at ``errand.until_s``, while the message is on the wire still.
        """
        self._prober.used()
        token = self._lines.sent(errand.usual_s)
        race = _Race(self, errand, hedge_s, local, executor)
        try:
            return race.run()
        finally:
            self._lines.ended(token)
            race.stop()

    def _pause_s(self, failure: Failure, errand: Errand, attempts: int) -> float | None:
        """Seconds until the next attempt; None where there should be none."""
        if failure.kind is Kind.GIVEN_UP:
            is_over = attempts >= _MOST_GIVEN_UP or self._closed.is_set()
            waits = self._breaker.is_open and errand.longest_pause_s < math.inf
            return None if is_over or waits else 0.0
        if self._breaker.failed(failure):
            self._prober.hurry()
        if failure.kind not in (Kind.UNREACHABLE, Kind.REFUSED_CONNECTION, Kind.BUSY):
            return None
        if attempts > self._retries or (failure.pushback_s or 0) < 0:
            return None
        ceiling_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (attempts - 1))
        pause_s = (failure.pushback_s or 0.0) + random.uniform(0, ceiling_s)
        if failure.kind is Kind.REFUSED_CONNECTION:
            pause_s = max(pause_s, ceiling_s / 2)  # at once it would be refused again
        is_late = time.monotonic() + pause_s >= errand.until_s
        return None if is_late or pause_s > errand.longest_pause_s else pause_s

    def _gave_up(self, failure: Failure, errand: Errand) -> Failure:
        if not self._closed.is_set():
            if self._breaker.gave_up(failure, errand.began_s):
                self._prober.hurry()
            return failure
        return Failure(Kind.CANCELLED, ServingError("the session is closed"))


@dataclass
class _Race:
    """The events of one errand, in the order in which they come."""

    owner: Attempts
    errand: Errand
    hedge_s: float | None
    local: Callable[[], Any] | None
    executor: Executor | None
    events: queue.SimpleQueue[tuple[Callable[..., Outcome | None], Any]] = field(
        default_factory=queue.SimpleQueue
    )
    outcome: Outcome = field(default_factory=Outcome)
    flying: dict[int, tuple[float, Callable[[], None]]] = field(default_factory=dict)
    """Number of an attempt -> when it began, and what cancels it."""
    next_s: float | None = None
    """When to try again."""
    hedge_at_s: float | None = None
    local_at_s: float | None = None
    is_local_running: bool = False
    last: Failure | None = None

    def run(self) -> Outcome:
        """Wait for what comes first, and do what is due."""
        errand = self.errand
        if errand.cancellation is not None:
            errand.cancellation.on_cancel(lambda: self.events.put((self._cancelled, None)))
        self.local_at_s = errand.until_s if self.local is not None else None
        self.hedge_at_s = None if self.hedge_s is None else time.monotonic() + self.hedge_s
        self._send(self.owner._lines.first)
        while True:
            try:
                handle, what = self.events.get(timeout=self._wait_s())
            except queue.Empty:
                ended = self._do_due()
            else:
                ended = handle(what)
            if ended is not None:
                return ended

    def stop(self) -> None:
        """Cancel what is on the wire still."""
        for _, cancel in list(self.flying.values()):
            cancel()

    def _send(self, line: TailClient) -> None:
        number = self.outcome.attempts
        self.outcome.attempts += 1
        now_s = time.monotonic()
        # while an answer is made here, one from the server is welcome still
        ends_s = self.errand.until_s if self.local is None else self.errand.ends_s
        patience_s = max(0.0, ends_s - now_s)
        self.flying[number] = (now_s, _never)
        cancel = line.start(
            self.errand.message,
            patience_s,
            lambda reply: self.events.put((self._arrived, (number, reply))),
        )
        self.flying[number] = (now_s, cancel)

    def _wait_s(self) -> float | None:
        due = [at for at in (self.next_s, self.hedge_at_s, self.local_at_s) if at is not None]
        if self.local is None:
            due.append(self.errand.until_s + 1.0)  # should gRPC not keep to its deadline
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _do_due(self) -> Outcome | None:
        now_s = time.monotonic()
        if self.local_at_s is not None and now_s >= self.local_at_s:
            self.local_at_s = self.next_s = self.hedge_at_s = None
            self._start_local()
        elif self.next_s is not None and now_s >= self.next_s:
            self.next_s = None
            self._send(self.owner._lines.first)
        elif self.hedge_at_s is not None and now_s >= self.hedge_at_s:
            self.hedge_at_s = None
            if self.flying and not self.owner._breaker.is_open:
                self.outcome.hedged = True
                self._send(self.owner._lines.second())
        elif self.local is None and now_s >= self.errand.until_s + 1.0:
            waited_s = self.errand.until_s - self.errand.began_s
            server = self.owner._lines.first.server
            return self._failed(Failure(Kind.LATE, late(server, waited_s)))
        return None

    def _start_local(self) -> None:
        assert self.local is not None
        assert self.executor is not None
        self.is_local_running = True
        if self.flying:  # to the breaker that is a request without answer
            server = self.owner._lines.first.server
            waited_s = self.errand.until_s - self.errand.began_s
            self.last = Failure(Kind.LATE, late(server, waited_s))
        future = self.executor.submit(self.local)
        future.add_done_callback(lambda done: self.events.put((self._made_here, done)))

    def _arrived(self, what: tuple[int, bytes | Failure]) -> Outcome | None:
        number, reply = what
        sent_s, _ = self.flying.pop(number)
        if not isinstance(reply, Failure):
            self.owner._breaker.answered()
            self.outcome.reply, self.outcome.sent_s = reply, sent_s
            return self.outcome
        pause_s = self.owner._pause_s(reply, self.errand, self.outcome.attempts)
        if self.flying or self.is_local_running:
            return None  # the other copy may do better
        if pause_s is None:
            return self._failed(reply)
        self.next_s = time.monotonic() + pause_s
        return None

    def _made_here(self, done: Future[Any]) -> Outcome:
        self.outcome.local = done
        failure = self.last
        return self._failed(failure) if failure is not None else self.outcome

    def _cancelled(self, _: None) -> Outcome:
        self.outcome.failure = Failure(Kind.CANCELLED, ServingError("the request was cancelled"))
        return self.outcome

    def _failed(self, failure: Failure) -> Outcome:
        self.outcome.failure = self.owner._gave_up(failure, self.errand)
        return self.outcome


def _never() -> None:
    """Cancel what is being sent this very moment: its answer is not waited for."""
