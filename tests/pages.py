"""The pages as programs: their blocks, and a folder in which those of a page are run from top to bottom.

``splitter`` runs in this process and ``splitter serve`` in a thread of it; all else is bash's. What is
measured is measured as quickly as can be, machines that a page names are this one, and its ports are free ones.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from splitter import api
from splitter.cli import main
from splitter.cli import serve as serving
from splitter.profiling.measure import Effort
from splitter.profiling.timing import Rounds

ROOT = Path(__file__).parents[1]

FENCE = re.compile(r"^```(\w+)?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = ("sh", "bash", "console")
TINY = Effort(
    anchors_s=0.05, codecs_s=0.1, rounds=Rounds(least=2, most=3, budget_s=0.005), trace_runs=2
)

PLACE = re.compile(r"\b(?:127\.0\.0\.1|localhost|0\.0\.0\.0|edge|10\.0\.0\.\d)(:)(\d{4})\b")
METRICS_PORT = re.compile(r"(--metrics )(\d{4})\b")
FAILURE = "splitter: error: "


class Block(NamedTuple):
    page: Path
    language: str
    mark: str
    text: str

    @property
    def is_complete(self) -> bool:
        return self.mark == "complete"

    @property
    def is_run(self) -> bool:
        return not self.mark.startswith("no-run")


class Command(NamedTuple):
    line: str
    shown: list[str]
    """What the page says that it prints."""

    @property
    def words(self) -> list[str]:
        return shlex.split(self.line, comments=True)


def blocks_of(page: Path) -> Iterator[Block]:
    for language, mark, text in FENCE.findall(page.read_text()):
        yield Block(page, language, mark.strip(), text)


def commands_of(block: Block) -> Iterator[Command]:
    """Of a ``console`` block those after ``$``, with what follows each; of others every line."""
    text = block.text.replace("\\\n", " ")
    if block.language != "console":
        lines = (line for line in text.splitlines() if line.strip() and not line.startswith("#"))
        yield from (Command(line, []) for line in lines)
        return
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, *shown = part.splitlines()
        yield Command(line, [line for line in shown if line.strip()])


class Workplace:
    """A page's folder, variables and servers."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self._ports: dict[str, int] = {}
        self._servers: dict[str, Serving] = {}
        self._jobs: list[str] = []
        self._names: dict[str, Any] = {"__name__": "__main__"}
        monkeypatch.chdir(folder)
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        _make_tiny(monkeypatch)

    def run(self, block: Block) -> None:
        """Run a block of Python or of a shell; what fails is an AssertionError that names it."""
        if block.language == "python":
            code = compile(self._local(block.text), block.page.name, "exec")
            with contextlib.redirect_stdout(io.StringIO()):
                exec(code, self._names)
            return
        for command in commands_of(block):
            self._command(command, is_exact=block.mark == "exact")

    def close(self) -> None:
        """Stop the servers as Ctrl-C does; each has to end well."""
        for server in self._servers.values():
            server.stop()

    def _command(self, command: Command, *, is_exact: bool) -> None:
        words = shlex.split(self._local(command.line), comments=True)
        is_piped = any(sign in command.line for sign in "|<>$`")
        if words[:2] == ["splitter", "serve"]:
            self._serve(words[2:])
            return
        if words[0] == "kill" and words[1].startswith("%"):
            self._servers.pop(self._jobs[int(words[1][1:]) - 1]).stop()
            return
        if words[0] == "export":
            name, _, value = words[1].partition("=")
            self._patch.setenv(name, value)
            return
        if words[0] == "splitter" and not is_piped:
            status, out = call(words[1:])
        else:
            status, out = _bash(self._local(command.line))
        fails = any(line.startswith(FAILURE) for line in command.shown)
        assert (status != 0) == fails, f"$ {command.line}\n{out}"
        if is_exact:
            _check_shown(command, out)

    def _serve(self, words: list[str]) -> None:
        """Start it, in place of the one that was at its address."""
        words = [word for word in words if word != "&"]
        if "--listen" not in words:
            words += ["--listen", f"127.0.0.1:{self._port('8001')}"]
        address = words[words.index("--listen") + 1]
        if address in self._servers:
            self._servers.pop(address).stop()
        self._servers[address] = Serving(self._patch, words)
        self._jobs.append(address)

    def _local(self, text: str) -> str:
        text = METRICS_PORT.sub(lambda found: f"{found[1]}{self._port(found[2])}", text)
        return PLACE.sub(lambda found: f"127.0.0.1:{self._port(found[2])}", text)

    def _port(self, name: str) -> int:
        if name not in self._ports:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self._ports[name] = probe.getsockname()[1]
        return self._ports[name]


class Serving:
    """``splitter serve`` in a thread, from when it is ready until it is told to stop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
        self._told = threading.Event()
        self._ready = threading.Event()
        self._ended: list[object] = []
        monkeypatch.setattr(serving, "_run", self._until_told)
        monkeypatch.setattr("splitter.serving.server.memory.keep_memory", lambda: None)
        self._words = words
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        while not self._ready.wait(0.02):
            assert self._thread.is_alive(), f"it does not start: {words}"

    def stop(self) -> None:
        """As SIGTERM does."""
        self._told.set()
        self._thread.join(30)
        assert self._ended in ([0], [None]), self._words

    def _serve(self) -> None:
        try:
            main(["serve", *self._words])
        except SystemExit as ended:
            self._ended.append(ended.code)

    def _until_told(self, server: Any, grace_s: float) -> bool:
        self._ready.set()
        self._told.wait()
        server.stop(grace_s)
        return not server.in_flight()


def call(words: list[str]) -> tuple[int, str]:
    """Run ``splitter`` with these words in this process: its status, and all that it printed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main(words)
        except SystemExit as ended:
            status = ended.code
    return (0 if status is None else int(status)), out.getvalue()


def _bash(line: str) -> tuple[int, str]:
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail\n{line}"], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def _check_shown(command: Command, out: str) -> None:
    """Each line that the page shows was printed, in their order; numbers apart."""
    printed = iter([_shape(line) for line in out.splitlines()])
    for line in command.shown:
        assert line == "..." or _shape(line) in printed, f"{line!r} is not in\n{out}"


def _shape(line: str) -> str:
    return " ".join(re.sub(r"[0-9a-f]{12}|[0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?", "0", line).split())


def _make_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's verbs, with little time for what takes long."""

    def less(verb: Callable[..., Any], **most: Any) -> Callable[..., Any]:
        def call_it(*args: Any, **kwargs: Any) -> Any:
            for name, limit in most.items():
                given = kwargs.get(name, limit)
                kwargs[name] = min(given, limit) if isinstance(limit, int | float) else limit
            return verb(*args, **kwargs)

        return call_it

    monkeypatch.setattr(api, "QUICK", TINY)
    monkeypatch.setattr(api, "profile", less(api.profile, effort=TINY))
    monkeypatch.setattr(api, "verify", less(api.verify, seconds=0.1))
    monkeypatch.setattr(api, "calibrate", less(api.calibrate, tensors=2, samples=4))
