"""The pages as programs: their blocks, and a folder in which those of a page are run from top to bottom.

``splitter`` runs in this process and ``splitter serve`` in a thread of it; all else is bash's. Little is
measured, and what plans are made from follows from sizes instead of the clock. Machines that a page
names are this one, and its ports are free ones.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from splitter import api, arguments
from splitter.cli import main
from splitter.cli import serve as serving
from splitter.graph.model import Model
from splitter.profiling.measure import Effort, measure
from splitter.profiling.profile import Profile, Rates
from splitter.profiling.timing import Rounds
from splitter.runtime import Settings
from tests import models

ROOT = Path(__file__).parents[1]

FENCE = re.compile(r"^```(\w+)?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = ("sh", "bash", "console")
TINY = Effort(
    anchors_s=0.05, codecs_s=20.0, rounds=Rounds(least=2, most=3, budget_s=0.005), trace_runs=2
)
OF_REAL_NETWORKS = ("README.md", "planning.md", "index.md")
"""Pages that show what is printed of networks that are not in the project."""

FLOPS_PER_S, BYTES_PER_S, PART_REACHED = 90e9, 10e9, 0.55
"""Of the machine that pages are run on, as far as plans know: like that of which the pages show plans."""

PLACE = re.compile(r"(?<![\w.])(127\.0\.0\.1|localhost|0\.0\.0\.0|edge|10\.0\.0\.\d):(\d{4})\b")
"""An address; what is not of the 10 is that of the page's first server."""

METRICS_PORT = re.compile(r"(--metrics )(\d{4})\b")
BARS = re.compile("[\u2580-\u259f]+")
QUANTITY = re.compile(
    r"[-+]?\b[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?"
    r"(?:%|x\b| ?(?:us|ms|s|min|J|W|[kMG]?B|[kMG]?bit/s|[kMG]?FLOP(?:/s)?)\b)?"
)
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
        """Whether tests run it here.

        ``torch`` is not in their extra, and what it would write is at hand. ``shared`` is what needs a model
        from beside the project.
        """
        if self.mark == "torch":
            return find_spec("torch") is not None
        if self.mark.startswith("shared"):
            return models.SHARED.is_dir()
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
        _take_little_time(monkeypatch)

    def run(self, block: Block) -> None:
        """Run a block of Python or of a shell; what fails is an AssertionError that names it."""
        if block.language == "python":
            code = compile(self._local(block.text), block.page.name, "exec")
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                if block.mark == "torch":
                    warnings.simplefilter("ignore")  # it warns of itself
                exec(code, self._names)
            return
        for command in commands_of(block):
            self._command(command, shown_is_printed=block.page.name not in OF_REAL_NETWORKS)

    def close(self) -> None:
        """Stop the servers as Ctrl-C does; each has to end well."""
        for server in self._servers.values():
            server.stop()

    def _command(self, command: Command, *, shown_is_printed: bool) -> None:
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
        if words[:2] == ["splitter", "top"] and "--once" not in words:
            words.append("--once")  # it is told to end after its first reading
        if words[0] == "splitter" and not is_piped:
            status, out = call(words[1:])
        else:
            status, out = _bash(self._local(command.line))
        fails = any(line.startswith(FAILURE) for line in command.shown)
        assert (status != 0) == fails, f"$ {command.line}\n{out}"
        if shown_is_printed:
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

        def local(found: re.Match[str]) -> str:
            host = found[1] if found[1].startswith("10.") else ""
            return f"127.0.0.1:{self._port(host + found[2])}"

        return PLACE.sub(local, text)

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
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main(words)
        except SystemExit as ended:
            status = ended.code
    return (0 if status is None else int(status)), out.buffer.getvalue().decode()  # type: ignore[attr-defined]


def _bash(line: str) -> tuple[int, str]:
    for program in ("curl", "openssl"):
        if program in line.split() and not shutil.which(program):
            pytest.skip(f"the page needs {program}")
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail\n{line}"], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def _check_shown(command: Command, out: str) -> None:
    """What the page shows was printed, in that order; numbers apart, and but for ``...``."""
    rest = _shape(out)
    for line in command.shown:
        if line != "...":
            _, found, rest = rest.partition(_shape(line))
            assert found, f"{line!r} is not in\n{out}"


def _shape(text: str) -> str:
    """The words without digests, quantities and bars, which differ from machine to machine."""
    text = BARS.sub(" ", text)
    return " ".join(QUANTITY.sub("0", re.sub(r"\b[0-9a-f]{12}\b", "0", text)).split())


def _take_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure little, and let seconds follow from sizes: a busy machine then plans as an idle one does."""

    def less(verb: Callable[..., Any], **most: float) -> Callable[..., Any]:
        def call_it(*args: Any, **kwargs: Any) -> Any:
            limits = {name: min(kwargs.get(name, limit), limit) for name, limit in most.items()}
            return verb(*args, **{**kwargs, **limits})

        return call_it

    monkeypatch.setattr("splitter.profiling.payloads._ROUNDS", TINY.rounds)
    monkeypatch.setattr("splitter.profiling.rates._ROUNDS", TINY.rounds)
    monkeypatch.setattr("splitter.calibration.tensor.time_codecs", _codec_seconds)
    for module in (api, arguments):
        monkeypatch.setattr(module, "measure", measure_little)
    monkeypatch.setattr(api, "verify", less(api.verify, seconds=0.1))
    monkeypatch.setattr(api, "calibrate", less(api.calibrate, tensors=2, samples=2))


def measure_little(model: Model, *args: Any, **kwargs: Any) -> Profile:
    """Profile it with TINY, and replace what the clock said by what sizes say."""
    settings, feeds, *_ = (*args, *(Settings(), None)[len(args) :])
    found = measure(model, settings, feeds, TINY)
    rates = Rates(flops_per_s=FLOPS_PER_S, bytes_per_s=BYTES_PER_S, int8_ops_per_s=FLOPS_PER_S)
    kernels = tuple(
        replace(kernel, seconds=5e-6 + kernel.flops / (PART_REACHED * FLOPS_PER_S), spread_s=0.0)
        for kernel in found.kernels
    )
    node_s = {
        node: kernel.seconds / len(kernel.nodes) for kernel in kernels for node in kernel.nodes
    }
    anchors = tuple(
        replace(
            anchor,
            head_s=sum(node_s[node] for node in found.nodes[: anchor.place]),
            tail_s=sum(node_s[node] for node in found.nodes[anchor.place :]),
        )
        for anchor in found.anchors
    )
    bytes_per_s = {"raw": 3e9, "zstd": 1e8}
    codecs = tuple(
        replace(
            sample,
            encode_s=sample.wire_bytes / bytes_per_s[sample.codec],
            decode_s=sample.wire_bytes / bytes_per_s[sample.codec] / 2,
        )
        for sample in found.codecs
    )
    whole_s = sum(node_s.values())
    return replace(
        found, rates=rates, kernels=kernels, anchors=anchors, codecs=codecs, whole_s=whole_s
    )


def _codec_seconds(codecs: Sequence[Any], arrays: Sequence[Any]) -> list[tuple[float, float]]:
    return [(arrays[0].nbytes / 1e9, arrays[0].nbytes / 2e9)] * len(codecs)
