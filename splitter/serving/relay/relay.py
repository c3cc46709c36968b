"""A path between session and server that tests, benchmarks and the demo can bend while it runs.

A TCP relay in user space. Each direction is one queue of all connections: bytes leave it at a rate, constant
or following a trace, and arrive a delay later. It can stall, be cut, or become a black hole, and heals.

What it models is the bandwidth and delay of a path, with some hundred kilobytes of buffers in front. What it
does not: lost packets and their recovery (``stall`` is what an application sees of that), slow start across
the path, and the handshake, which the relay answers at once, also as a black hole.
"""

from __future__ import annotations

import contextlib
import math
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from splitter.serving.protocol import Address
from splitter.serving.relay.lane import CHUNK, Lane, Pipe
from splitter.serving.relay.trace import Trace

_RESET = struct.pack("ii", 1, 0)
"""Linger, for no time: a closed socket is reset, as by a path that is gone."""

Mode = Literal["open", "cut", "black hole"]
Connection = tuple[Pipe, Pipe]
"""Up and down."""


class Relay:
    """Listens on loopback and passes everything on to one address; its own thread does the work."""

    def __init__(self, target: str, *, port: int = 0) -> None:
        """Start, unshaped; raises ServingError for an address that is none, OSError for one out of reach."""
        where = Address.parse(target)
        found = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)
        self._family, self._target = found[0][0], found[0][4]
        self._up, self._down = Lane(), Lane()
        self._connections: set[Connection] = set()
        self._moving: set[Pipe] = set()
        self._mode: Mode = "open"
        self._stalled_until_s = 0.0
        self._selector = selectors.DefaultSelector()
        self._listener = _bound(port)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._orders: deque[tuple[Callable[[], None], threading.Event]] = deque()
        self._stopping = False
        self._listen()
        self._thread = threading.Thread(target=self._loop, name="relay", daemon=True)
        self._thread.start()

    @property
    def up_bytes(self) -> int:
        """Carried from clients to the target so far."""
        return self._up.carried

    @property
    def down_bytes(self) -> int:
        """Carried from the target to clients so far."""
        return self._down.carried

    @property
    def connections(self) -> int:
        """Open now."""
        return len(self._connections)

    def shape(
        self,
        up: Trace | float | None = None,
        down: Trace | float | None = None,
        *,
        delay_s: float = 0.0,
    ) -> None:
        """Set the rate each way, in bytes a second or as a trace that starts now, and the delay each way.

        Raises LinkError for a rate that is not positive.
        """
        rates = [
            Trace.constant(rate) if isinstance(rate, float | int) else rate for rate in (up, down)
        ]

        def change() -> None:
            now_s = time.monotonic()
            for lane, rate in zip((self._up, self._down), rates, strict=True):
                lane.rate, lane.delay_s = rate, delay_s
                lane.started_s = lane.credited_s = now_s
                lane.credit = 0.0

        self._order(change)

    def stall(self, seconds: float) -> None:
        """Carry nothing for a while, as a lost packet makes a connection wait for its repetition."""
        until_s = time.monotonic() + seconds

        def change() -> None:
            # What would have passed meanwhile must not pass at once afterwards.
            self._stalled_until_s = self._up.credited_s = self._down.credited_s = until_s

        self._order(change)

    def cut(self) -> None:
        """Reset all connections and refuse new ones; the port stays taken."""
        self._order(self._cut)

    def black_hole(self) -> None:
        """Keep connections, accept new ones, and carry nothing."""
        self._order(self._black_hole)

    def restore(self) -> None:
        """Undo a cut, a black hole or a stall; what waited is carried now."""
        self._order(self._restore)

    def close(self) -> None:
        """Reset all connections and stop."""
        if self._stopping:
            return
        self._order(self._stop)
        self._thread.join()
        for end in (self._listener, self._wake, self._woken):
            end.close()
        self._selector.close()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _order(self, work: Callable[[], None]) -> None:
        """Have the relay's thread do something, and wait for it: all below runs there."""
        done = threading.Event()
        self._orders.append((work, done))
        self._wake.send(b"w")
        done.wait()

    def _loop(self) -> None:
        while not self._stopping:
            for key, events in self._selector.select(self._pause_s()):
                if key.fileobj is self._woken:
                    self._obey()
                elif key.fileobj is self._listener:
                    self._accept()
                elif key.data in self._connections:
                    self._ready(key.data, key.fileobj, events)
            self._carry(time.monotonic())

    def _pause_s(self) -> float | None:
        """Until something is due: whole milliseconds in the selector, whose clock has no finer, then here."""
        if self._mode != "open":
            return None
        lanes = min(self._up.due_s(), self._down.due_s())
        due_s = max(min([lanes, *(pipe.due_s() for pipe in self._moving)]), self._stalled_until_s)
        if due_s == math.inf:
            return None
        left_s = due_s - time.monotonic()
        if left_s >= 1e-3:
            return math.floor(left_s * 1e3) * 1e-3
        time.sleep(max(0.0, left_s))
        return 0.0

    def _obey(self) -> None:
        self._woken.recv(CHUNK)
        while self._orders:
            work, done = self._orders.popleft()
            work()
            done.set()
        for connection in self._connections:
            self._watch(connection)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:  # gone again, or no descriptor is left
            return
        server = socket.socket(self._family)
        for end in (client, server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        up = Pipe(client, server, self._up, blocked=True)
        connection = (up, Pipe(server, client, self._down))
        self._connections.add(connection)
        server.connect_ex(self._target)
        self._watch(connection)

    def _ready(self, connection: Connection, end: object, events: int) -> None:
        reading, writing = connection if end is connection[0].source else connection[::-1]
        try:
            if events & selectors.EVENT_WRITE:
                error = writing.sink.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error:
                    self._reset(connection)
                    return
                writing.blocked = False
            if events & selectors.EVENT_READ and reading.wants:
                with contextlib.suppress(BlockingIOError):
                    reading.read(time.monotonic())
        except OSError:
            self._reset(connection)
            return
        self._moving.update(connection)
        self._watch(connection)

    def _carry(self, now_s: float) -> None:
        if self._mode != "open" or now_s < self._stalled_until_s:
            return
        for lane in (self._up, self._down):
            self._moving |= lane.move(now_s)
        for connection in [item for item in self._connections if not self._moving.isdisjoint(item)]:
            try:
                for pipe in connection:
                    pipe.deliver(now_s)
            except OSError:
                self._reset(connection)
                continue
            self._moving -= {pipe for pipe in connection if pipe.idle}
            if all(pipe.closed for pipe in connection):
                self._reset(connection)  # both ends know: nothing is left to reset
            else:
                self._watch(connection)

    def _watch(self, connection: Connection) -> None:
        """Have the selector tell of what these two sockets are needed for."""
        for reading, writing in (connection, connection[::-1]):
            end, events = reading.source, 0
            if self._mode == "open":
                events |= selectors.EVENT_READ if reading.wants else 0
                events |= selectors.EVENT_WRITE if writing.blocked else 0
            known = self._selector.get_map().get(end)
            if known is None and events:
                self._selector.register(end, events, connection)
            elif known is not None and not events:
                self._selector.unregister(end)
            elif known is not None and known.events != events:
                self._selector.modify(end, events, connection)

    def _reset(self, connection: Connection) -> None:
        self._connections.discard(connection)
        for pipe in connection:
            pipe.lane.drop(pipe)
            self._moving.discard(pipe)
            if self._selector.get_map().get(pipe.source) is not None:
                self._selector.unregister(pipe.source)
            if not all(each.closed for each in connection):
                pipe.source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            pipe.source.close()

    def _reset_all(self) -> None:
        for connection in list(self._connections):
            self._reset(connection)

    def _stop(self) -> None:
        self._stopping = True
        self._reset_all()

    def _cut(self) -> None:
        if self._mode != "cut":
            self._mode = "cut"
            port = self._listener.getsockname()[1]
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = _bound(port)  # it does not listen: nobody else gets the port either
            self._reset_all()

    def _black_hole(self) -> None:
        self._restore()
        self._mode = "black hole"

    def _restore(self) -> None:
        if self._mode == "cut":
            self._listen()
        self._mode, self._stalled_until_s = "open", 0.0
        self._up.credited_s = self._down.credited_s = time.monotonic()

    def _listen(self) -> None:
        self._listener.listen(128)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, None)


def _bound(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Of what it accepts: what waits in the kernel is not the path's, so let it be little.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CHUNK)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError:
        listener.close()
        raise
    return listener
