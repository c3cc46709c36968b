"""The connections of a session: one for requests, one for hedges, and a fresh one in their place."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from splitter.errors import ServingError
from splitter.serving.device.client import TailClient


class Lines:
    """Thread-safe. Also knows which requests are on the wire for longer than they should be."""

    def __init__(self, dial: Callable[[], TailClient]) -> None:
        self._dial = dial
        self._lock = threading.Lock()
        self._first = dial()
        self._second: TailClient | None = None
        self._is_closed = False
        self._overdue: dict[object, float] = {}

    @property
    def first(self) -> TailClient:
        """For requests."""
        return self._first

    def second(self) -> TailClient:
        """For hedges: another connection, made when first needed; raises ServingError once closed."""
        with self._lock:
            self._demand_open()
            if self._second is None:
                self._second = self._dial()
            return self._second

    def fresh(self) -> TailClient:
        """A connection that is nobody's yet; raises ServingError once closed."""
        with self._lock:
            self._demand_open()
            return self._dial()

    def replace(self, fresh: TailClient) -> None:
        """Give up the connections, and what waits on them, for this one."""
        with self._lock:
            old = [fresh] if self._is_closed else [self._first]
            if not self._is_closed:
                old += [self._second] if self._second else []
                self._first, self._second = fresh, None
        for line in old:
            line.close()

    def close(self) -> None:
        """Close all connections, for good."""
        with self._lock:
            self._is_closed = True
            old = (self._first, self._second)
        for line in old:
            if line is not None:
                line.close()

    def sent(self, patience_s: float) -> object:
        """Note a request that should be answered within that time; returns what ``ended`` takes."""
        token = object()
        self._overdue[token] = time.monotonic() + patience_s
        return token

    def ended(self, token: object) -> None:
        """Note that it has been answered, or has failed."""
        self._overdue.pop(token, None)

    @property
    def is_used(self) -> bool:
        """Whether requests are on the wire."""
        return bool(self._overdue)

    def is_stalled(self) -> bool:
        """Whether one of them is overdue."""
        now_s = time.monotonic()
        return any(at_s < now_s for at_s in list(self._overdue.values()))

    def put_off(self, seconds: float) -> None:
        """Give those on the wire more time: the server answers others."""
        at_s = time.monotonic() + seconds
        for token, due_s in list(self._overdue.items()):
            if token in self._overdue:
                self._overdue[token] = max(due_s, at_s)

    def _demand_open(self) -> None:
        if self._is_closed:
            raise ServingError("the session is closed")
