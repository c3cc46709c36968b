"""``splitter top`` as an operator meets it: in a terminal or a pipe, with servers that come and go."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from splitter.serving.credentials import ServerTls, TokenFile
from splitter.serving.server.metrics import Metrics, MetricsServer
from splitter.serving.server.options import ServerOptions
from splitter.serving.server.serve import Server, serve
from tests.certificates import write_pair
from tests.cli import run, succeed
from tests.serving import make_batching

PATIENCE_S = 60.0
ENTER, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"  # the terminal's other screen


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_batching(tmp_path_factory.mktemp("top"))


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Server]:
    with serve(bundle) as server:
        yield server


class Terminal:
    """A process in a terminal of its own, and what it has written there."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.master, self.slave = pty.openpty()
        termios.tcsetwinsize(self.slave, (24, 80))
        self.modes = termios.tcgetattr(self.slave)
        kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "splitter", "top", *arguments],
            stdin=self.slave, stdout=self.slave, stderr=self.slave, start_new_session=True,
            env=kept | {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"} | environment,
        )  # fmt: skip
        self.written = b""

    def wait_for(self, what: bytes) -> None:
        """Read until this has been written since the last wait."""
        until = time.monotonic() + PATIENCE_S
        while what not in self.written:
            ready, _, _ = select.select([self.master], [], [], max(0.0, until - time.monotonic()))
            assert ready, self.written
            self.written += os.read(self.master, 65536)
        self.written = self.written.partition(what)[2]

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def end(self) -> int:
        """Its status, when it has ended; what it still wrote is kept."""
        status = self.process.wait(PATIENCE_S)
        while select.select([self.master], [], [], 0)[0]:
            self.written += os.read(self.master, 65536)
        return status

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@contextlib.contextmanager
def terminal(*arguments: str, **environment: str) -> Iterator[Terminal]:
    with contextlib.closing(Terminal(*arguments, **environment)) as found:
        yield found


@pytest.mark.parametrize("how", ["q", "ctrl-c", "sigterm"])
def test_a_screen_is_shown_and_left_as_it_was(server: Server, how: str) -> None:
    with terminal("--server", server.address, "--interval", "0.2") as screen:
        screen.wait_for(ENTER)
        screen.wait_for(b"requests")
        screen.wait_for(b"\x1b[")  # in colour
        if how == "sigterm":
            screen.process.send_signal(signal.SIGTERM)
        elif how == "ctrl-c":
            screen.process.send_signal(signal.SIGINT)
        else:
            screen.type(b"xq")
        assert screen.end() == 0
        assert LEAVE in screen.written
        assert b"Traceback" not in screen.written
        assert termios.tcgetattr(screen.slave) == screen.modes


def test_it_is_drawn_again_when_the_window_changes(server: Server) -> None:
    with terminal("--server", server.address, "--interval", "3600") as screen:
        screen.wait_for(b"waiting for the first interval")
        termios.tcsetwinsize(screen.slave, (30, 100))
        screen.wait_for(b"waiting for the first interval")
        screen.type(b"q")
        assert screen.end() == 0


def test_without_colour_nothing_is_coloured(server: Server) -> None:
    with terminal("--server", server.address, "--interval", "0.2", NO_COLOR="1") as screen:
        screen.wait_for(b"switches between cuts")
        screen.type(b"q")
        screen.end()
        assert b"\x1b[3" not in screen.written


def test_a_dumb_terminal_and_a_pipe_get_plain_lines(server: Server) -> None:
    for environment in ({"TERM": "dumb"}, {"TERM": "dumb", "PYTHONIOENCODING": "ascii"}):
        with terminal("--server", server.address, "--interval", "0.2", **environment) as screen:
            screen.wait_for(b"switches between cuts")
            screen.wait_for(b"switches between cuts")  # one after the other
            screen.process.send_signal(signal.SIGINT)
            assert screen.end() == 0
            assert b"\x1b" not in screen.written


def test_a_server_that_goes_away_is_said_to_and_is_back_by_itself(bundle: Path) -> None:
    first = serve(bundle)
    with terminal("--server", first.address, "--interval", "0.2", NO_COLOR="1") as screen:
        screen.wait_for(b"ready")
        first.stop(0.0)
        screen.wait_for(b"AWAY")
        with serve(bundle, first.address):
            screen.wait_for(b"up ")
            screen.type(b"q")
            assert screen.end() == 0


def test_a_listener_that_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with terminal("--metrics", address) as screen:
            assert screen.end() == 1
            assert b"splitter: error: metrics" in screen.written


def test_once_prints_an_interval_for_people_or_programs(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    where = ("--server", server.address, "--interval", "0.2", "--once")
    text = succeed(capfd, "top", *where)
    assert text.startswith(f"{server.address}  ready")
    assert "\x1b" not in text
    (line,) = succeed(capfd, "top", *where, "--json").splitlines()
    found = json.loads(line)
    assert (found["schema"], found["server"], found["ready"]) == (
        "splitter.top/1", server.address, True,
    )  # fmt: skip
    assert found["cuts"][0]["model"] == "sums"


def test_the_metrics_port_will_do(capfd: pytest.CaptureFixture[str]) -> None:
    with MetricsServer(Metrics(), "127.0.0.1:0") as http:
        where = ("--metrics", http.address, "--interval", "0.2", "--once", "--json")
        assert json.loads(succeed(capfd, "top", *where))["ready"] is False


def test_an_encrypted_server_is_asked_with_its_authority_and_token(
    bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    write_pair(authority, tmp_path, "server")
    (tmp_path / "token").write_text("a-secret-token")
    (tmp_path / "token").chmod(0o600)
    options = ServerOptions(
        credentials=ServerTls(tmp_path / "server.pem", tmp_path / "server.key").credentials(),
        authenticate=TokenFile(tmp_path / "token").authenticate,
    )
    with serve(bundle, options=options) as server:
        where = ("--server", server.address, "--interval", "0.2", "--once", "--json")
        calling = ("--tls-ca", str(tmp_path / "ca.pem"), "--token-file", str(tmp_path / "token"))
        assert json.loads(succeed(capfd, "top", *where, *calling))["ready"]
        outcome = run(capfd, "top", *where, *calling[:2])
        assert (outcome.status, outcome.out) == (1, "")
        assert "UNAUTHENTICATED" in outcome.err


@pytest.mark.parametrize(
    ("option", "address", "told"),
    [
        ("--server", "127.0.0.1:1", "not reached"),
        ("--metrics", "127.0.0.1:1", "refused"),
        ("--server", "nowhere", "HOST:PORT"),
        ("--metrics", "127.0.0.1:99999", "HOST:PORT"),
        ("--server", "no-such-host.invalid:8001", "not reached"),
    ],
)
def test_a_wrong_address_is_one_line(
    option: str, address: str, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = run(capfd, "top", option, address)
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err.startswith("splitter: error: ")
    assert outcome.err.count("\n") == 1
    assert told in outcome.err
    assert address in outcome.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("", "--server"),
        ("--server a:1 --metrics b:2", "--metrics"),
        ("--metrics b:2 --tls", "TLS"),
        ("--metrics b:2 --token-file t", "tokens"),
        ("--server a:1 --interval 0", "--interval"),
    ],
)
def test_wrong_usage_has_status_2(
    arguments: str, named: str, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = run(capfd, "top", *arguments.split())
    assert (outcome.status, outcome.out) == (2, "")
    assert named in outcome.err
