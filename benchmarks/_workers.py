"""Processes of a benchmark that do one thing when they are asked to, on cores of their own."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

ANSWER_TIMEOUT_S = 60.0


class Worker:
    """Calls ``make(*arguments)`` in a new process, and then what that returned, each time it is asked."""

    def __init__(
        self, make: Callable[..., Callable[..., Any]], *arguments: Any, cores: Sequence[int]
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_work, args=(theirs, make, arguments, cores), daemon=True
        )
        self._process.start()
        theirs.close()
        self.pid = self._process.pid
        self.started: Any = self._receive(ANSWER_TIMEOUT_S)
        """What ``started`` of the callable says, if it has that."""

    def ask(self, *arguments: Any) -> None:
        """Have it called; ``answer`` waits for what it returns."""
        self._connection.send(arguments)

    def answer(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        return self._receive(timeout_s)

    def _receive(self, timeout_s: float) -> Any:
        if not self._connection.poll(timeout_s):
            raise TimeoutError(f"process {self.pid} has not answered for {timeout_s:g} s")
        return self._connection.recv()  # EOFError: it ended, and has said why on standard error

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()  # which ends it
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(5)


def _work(
    connection: Connection,
    make: Callable[..., Callable[..., Any]],
    arguments: tuple[Any, ...],
    cores: Sequence[int],
) -> None:
    os.sched_setaffinity(0, cores)  # before any thread is made
    call = make(*arguments)
    connection.send(getattr(call, "started", None))
    while True:
        try:
            asked = connection.recv()
        except (EOFError, ConnectionResetError):
            break
        connection.send(call(*asked))
    os._exit(0)  # threads of servers and clients would be waited for


def at(started: float) -> None:
    """Sleep until a time of ``time.monotonic``."""
    time.sleep(max(0.0, started - time.monotonic()))
