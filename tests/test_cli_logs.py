"""What goes to standard error while a command runs, and where its spans go."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from splitter.cli.logs import AccessLog, logs
from splitter.cli.traces import tracing
from splitter.errors import ServingError
from splitter.serving.observe import Served

HOSTILE = "one\nline \x1b[31mred\u202e " + chr(0xD800)
SERVED = Served(
    "ModelInfer", "OK", "ipv4:127.0.0.1:1", "net", request_id=HOSTILE, tail_s=0.0125, up_bytes=7
)

log = logging.getLogger("splitter.somewhere")


def uncaught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep from the test runner what is logged: it is no text that it could pass on."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])


def test_json_logs_have_one_object_a_line_whatever_is_logged(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uncaught(monkeypatch)
    with logs("json", "info"):
        log.warning("the %s", HOSTILE)
        AccessLog().request(SERVED)
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            log.exception("failed")
        logging.getLogger("grpc").warning("of another library")
        logging.getLogger("grpc").info("too much of it")
        log.debug("too much")
    out, err = capfd.readouterr()
    assert out == ""
    assert err.isascii()
    lines = [json.loads(line) for line in err.splitlines()]
    assert [line["level"] for line in lines] == ["warning", "info", "error", "warning"]
    assert lines[0]["logger"] == "splitter.somewhere"
    assert lines[0]["message"] == f"the {HOSTILE}"
    age = datetime.now(UTC) - datetime.fromisoformat(lines[0]["time"])
    assert 0 <= age.total_seconds() < 60
    access = lines[1]
    assert access["logger"] == "splitter.access"
    assert access["message"].startswith("ipv4:127.0.0.1:1 ModelInfer net OK: 12.50 ms, 7 bytes up")
    assert (access["tail_s"], access["request_id"], access["status"]) == (0.0125, HOSTILE, "OK")
    assert "Traceback" in lines[2]["exception"]


def test_every_field_of_the_access_log_is_on_the_page() -> None:
    page = (Path(__file__).parents[1] / "docs/serving.md").read_text()
    logs_section = page.partition("### Logs")[2]
    missing = [f.name for f in dataclasses.fields(Served) if f"`{f.name}`" not in logs_section]
    assert not missing


def test_text_logs_are_a_line_that_cannot_play_with_the_terminal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uncaught(monkeypatch)
    with logs("text", "warning"):
        log.warning("the %s", HOSTILE)
        AccessLog().request(SERVED)
    (line,) = capfd.readouterr().err.splitlines()
    assert " warning the one line " in line
    assert line.isprintable()


@pytest.mark.parametrize("form", ["json", "text"])
def test_logging_is_as_before_after_the_command(
    form: str, capfd: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level, logging.getLogger("splitter").level)
    with pytest.raises(ZeroDivisionError), logs(form, "debug"):
        raise ZeroDivisionError
    assert (list(root.handlers), root.level, logging.getLogger("splitter").level) == before


@pytest.mark.skipif(
    importlib.util.find_spec("opentelemetry.exporter") is not None, reason="the extra is installed"
)
def test_traces_without_the_extra_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_TRACES_EXPORTER", raising=False)
    with pytest.raises(ServingError, match=r"pip install 'splitter\[otel\]'"), tracing(True):
        pass


def test_an_unknown_exporter_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    with pytest.raises(ServingError, match="'zipkin'"), tracing(True):
        pass


def test_traces_of_a_command_go_where_the_environment_says() -> None:
    program = """
import os
os.environ["OTEL_TRACES_EXPORTER"] = "console"
from splitter.cli.traces import tracing
from splitter.serving.tracing import span
with tracing(True), span("splitter.run"):
    pass
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "")
    span = json.loads(done.stderr)
    assert span["name"] == "splitter.run"
    assert span["resource"]["attributes"]["service.name"] == "splitter"
