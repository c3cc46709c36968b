"""Servers as processes of their own: started on a free port, waited for with a bound, always ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).parents[1]
_LOG_TAIL_BYTES = 2000


class NotReadyError(Exception):
    """A server ended, or did not answer in time; the message ends with what it wrote."""


def end_on_sigterm() -> None:
    """Leave by an exception, so that every process that was started is ended on the way."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def free_port() -> int:
    """A port of the loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(
    command: Sequence[str],
    is_ready: Callable[[], bool],
    *,
    timeout_s: float = 60.0,
    env: Mapping[str, str] | None = None,
    cores: Sequence[int] | None = None,
) -> Iterator[psutil.Process]:
    """Run a server until the block ends; the block starts when ``is_ready`` says so.

    ``cores`` are those it and its children may use. What it writes is shown if it does not get ready.
    """
    with tempfile.TemporaryFile() as log, contextlib.ExitStack() as stack:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            cwd=REPOSITORY,
            start_new_session=True,
        )
        stack.callback(end, process)
        if cores is not None:  # Python has only just begun: its threads come later and inherit this
            os.sched_setaffinity(process.pid, cores)
        deadline = time.monotonic() + timeout_s
        while not is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
                why = "not ready in time" if process.poll() is None else "ended"
                text = log.read().decode(errors="replace")
                raise NotReadyError(f"{command[0]} {command[-1]}: {why}\n{text}")
            time.sleep(0.1)
        yield psutil.Process(process.pid)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask the process and all that it started to end, and kill what has not after ten seconds."""
    try:
        root = psutil.Process(process.pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for member in family[:1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    for member in family:
        # is_running compares the start time as well: a number that was used again is let be
        if member.is_running():
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
    process.wait(10)
