"""One direction of a relay's path: bytes wait for those before them, then travel for a while."""

from __future__ import annotations

import math
import socket
from collections import deque
from dataclasses import dataclass, field

from splitter.serving.relay.trace import Trace

CHUNK = 65536
BUFFER = 262144
"""Bytes of a connection that wait in the relay at most, each way; beyond that its sender waits."""
QUANTUM_S = 2e-3
"""Of a rate: what leaves at once, but at least a packet."""
PACKET = 1448


@dataclass
class Lane:
    """A queue of all connections, that lets through what its rate allows."""

    rate: Trace | None = None
    """None lets everything through at once."""
    delay_s: float = 0.0
    started_s: float = 0.0
    """Where the trace has its 0."""
    queue: deque[tuple[Pipe, bytes]] = field(default_factory=deque)
    credit: float = 0.0
    credited_s: float = 0.0
    carried: int = 0

    def put(self, pipe: Pipe, data: bytes, now_s: float) -> None:
        """Queue bytes; an idle lane has saved no credit."""
        if not self.queue:
            self.credit, self.credited_s = 0.0, max(now_s, self.credited_s)
        self.queue.append((pipe, data))

    def drop(self, pipe: Pipe) -> None:
        """Forget what a connection that is gone had queued."""
        self.queue = deque(item for item in self.queue if item[0] is not pipe)

    def move(self, now_s: float) -> set[Pipe]:
        """Let through what the rate allows by now; return whose it was."""
        if self.rate is not None:
            self.credit += self.rate.passed(now_s - self.started_s) - self._passed()
        self.credited_s = now_s
        moved = set()
        while self.queue and (self.rate is None or self.credit >= self._least(self.rate)):
            pipe, data = self.queue.popleft()
            if self.rate is not None and len(data) > self.credit:
                self.queue.appendleft((pipe, data[int(self.credit) :]))
                data = data[: int(self.credit)]
            self.credit -= len(data)
            self.carried += len(data)
            pipe.arriving.append((now_s + self.delay_s, data))
            moved.add(pipe)
        return moved

    def due_s(self) -> float:
        """When there is something to let through."""
        if not self.queue:
            return math.inf
        if self.rate is None:  # held up by a stall
            return -math.inf
        missing = self._least(self.rate) - self.credit
        return self.started_s + self.rate.finish_s(self.credited_s - self.started_s, missing)

    def _least(self, rate: Trace) -> float:
        """What is worth waking up for: no more than is queued first, so that it is never too much."""
        soon = rate.passed(self.credited_s - self.started_s + QUANTUM_S) - self._passed()
        return min(len(self.queue[0][1]), max(PACKET, soon))

    def _passed(self) -> float:
        return 0.0 if self.rate is None else self.rate.passed(self.credited_s - self.started_s)


@dataclass(eq=False)
class Pipe:
    """One direction of one connection."""

    source: socket.socket
    sink: socket.socket
    lane: Lane
    arriving: deque[tuple[float, bytes]] = field(default_factory=deque)
    waiting: int = 0
    """Bytes in the lane and arriving."""
    blocked: bool = False
    """The sink takes nothing for now, or is not connected yet."""
    ended: bool = False
    """Nothing more comes from the source."""
    closed: bool = False
    """So the sink was told."""

    @property
    def wants(self) -> bool:
        """Whether to read from the source."""
        return not self.ended and self.waiting < BUFFER

    def read(self, now_s: float) -> None:
        """Take what the source has; raises OSError where it was reset."""
        data = self.source.recv(CHUNK)
        if data:
            self.waiting += len(data)
            self.lane.put(self, data, now_s)
        else:
            self.ended = True

    def due_s(self) -> float:
        """When there is something to deliver."""
        if self.blocked:
            return math.inf
        if self.arriving:
            return self.arriving[0][0]
        return -math.inf if self._ending else math.inf

    def deliver(self, now_s: float) -> None:
        """Send on what has arrived; raises OSError where the sink is gone."""
        while self.arriving and self.arriving[0][0] <= now_s and not self.blocked:
            at_s, data = self.arriving.popleft()
            try:
                sent = self.sink.send(data)
            except BlockingIOError:
                sent = 0
            self.waiting -= sent
            if sent < len(data):
                self.arriving.appendleft((at_s, data[sent:]))
                self.blocked = True
        if self._ending and not self.blocked:
            self.closed = True
            self.sink.shutdown(socket.SHUT_WR)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to deliver now or later, but for what is in the lane."""
        return not self.arriving and not self._ending

    @property
    def _ending(self) -> bool:
        return self.ended and not self.waiting and not self.closed
