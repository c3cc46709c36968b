"""What a server takes on: requests of one address, and bytes of decoded tensors; and its end."""

from __future__ import annotations

import threading
from collections import Counter

from splitter.serving.server.status import BusyError, NotReadyError

_RETRY_S = 0.1  # of a limit that says nothing of how long it will last


class Admission:
    """Counts requests and bytes in flight; thread-safe."""

    def __init__(self, per_peer: int | None, memory_bytes: int) -> None:
        self._per_peer, self._memory_bytes = per_peer, memory_bytes
        self._lock = threading.Lock()  # entered twice as fast as a condition
        self._changed = threading.Condition(self._lock)
        self._of_peer: Counter[str] = Counter()
        self._requests = 0
        self._nbytes = 0
        self.is_closed = False
        self.turned_away = 0
        """Requests over the limit of their address, since the start."""

    @property
    def requests(self) -> int:
        """Being received, waiting, run or answered."""
        return self._requests

    @property
    def nbytes(self) -> int:
        """Of decoded tensors."""
        return self._nbytes

    def enter(self, host: str) -> None:
        """Begin a request; raises NotReadyError while the server stops, BusyError over the limit."""
        with self._lock:
            if self.is_closed:
                raise NotReadyError("the server is stopping")
            if self._per_peer is not None and self._of_peer[host] >= self._per_peer:
                self.turned_away += 1
                raise BusyError(f"{self._per_peer} requests of {host} are in flight", _RETRY_S)
            self._of_peer[host] += 1
            self._requests += 1

    def leave(self, host: str) -> None:
        """End a request that has entered."""
        with self._lock:
            self._requests -= 1
            if self._of_peer[host] <= 1:
                del self._of_peer[host]
            else:
                self._of_peer[host] -= 1
            if self.is_closed and not self._requests:
                self._changed.notify_all()

    def reserve(self, nbytes: int, retry_s: float) -> None:
        """Take room for tensors before they are decoded; raises BusyError where there is too little."""
        with self._lock:
            if self._nbytes and self._nbytes + nbytes > self._memory_bytes:
                raise BusyError(
                    f"{self._nbytes} bytes of tensors are in flight, of {self._memory_bytes} allowed",
                    retry_s,
                )
            self._nbytes += nbytes

    def free(self, nbytes: int) -> None:
        """Give room back."""
        with self._lock:
            self._nbytes -= nbytes

    def close(self) -> None:
        """Let no further request in."""
        with self._lock:
            self.is_closed = True

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until every request has ended; False if that took longer."""
        with self._lock:
            return self._changed.wait_for(lambda: not self._requests, timeout_s)


def host_of(peer: str) -> str:
    """The address without the port: ``ipv4:127.0.0.1`` of ``ipv4:127.0.0.1:53210``."""
    return peer.rpartition(":")[0] if peer.startswith("ipv") else peer
