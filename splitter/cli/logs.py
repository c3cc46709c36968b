"""``--log-format`` and ``--log-level``: what the library logs, on standard error."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from splitter.serving.observe import Served

F = TypeVar("F", bound=Callable[..., Any])

LEVELS = ("debug", "info", "warning", "error")

_FIELDS = "fields"
"""The attribute of a log record that holds more, by name: ``extra={"fields": {...}}``."""

_TERMS = ("receive_s", "queue_s", "decode_s", "tail_s", "encode_s")

_access = logging.getLogger("splitter.access")


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, and the record's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Format it; what JSON has no form for becomes text."""
        line: dict[str, Any] = {
            "time": _utc(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in getattr(record, _FIELDS, {}).items():
            line.setdefault(name, value)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(
            line, default=str
        )  # ASCII: a client's text cannot break the line or the terminal


class TextFormatter(logging.Formatter):
    """For a person: time, level, message."""

    def format(self, record: logging.LogRecord) -> str:
        """Format it; the message on one line, a traceback below it."""
        message = " ".join(_printable(record.getMessage()).split())
        text = f"{_utc(record)} {record.levelname.lower():7} {message}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


FORMATTERS: dict[str, type[logging.Formatter]] = {"text": TextFormatter, "json": JsonFormatter}


class AccessLog:
    """A line a request, from level info on; an observer of a server."""

    @staticmethod
    def is_wanted() -> bool:
        """Whether anything would come of it; a server without observers does not even tell."""
        return _access.isEnabledFor(logging.INFO)

    def request(self, served: Served) -> None:
        """Log it, with all that is known of it as fields."""
        if not self.is_wanted():
            return
        total_s = sum(getattr(served, term) for term in _TERMS)
        _access.info(
            "%s %s %s %s: %.2f ms, %d bytes up, %d down",
            served.peer, served.method, served.model or "-", served.status,
            total_s * 1000, served.up_bytes, served.down_bytes,
            extra={_FIELDS: {field.name: getattr(served, field.name) for field in fields(served)}},
        )  # fmt: skip


def log_options(command: F) -> F:
    """--log-format and --log-level."""
    command = click.option(
        "--log-level", default="warning", show_default=True, type=click.Choice(LEVELS),
        help="info has a line a request.",
    )(command)  # fmt: skip
    return click.option(
        "--log-format", default="text", show_default=True, type=click.Choice(list(FORMATTERS)),
        help="Of the log on standard error.",
    )(command)  # fmt: skip


@contextlib.contextmanager
def logs(form: str, level: str) -> Iterator[None]:
    """Send to standard error what is logged in this process; by other libraries, from warning on."""
    if form == "json":  # gRPC's own core writes lines past Python's logging
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FORMATTERS[form]())
    root, ours = logging.getLogger(), logging.getLogger("splitter")
    before = ours.level
    root.addHandler(handler)
    ours.setLevel(level.upper())
    try:
        yield
    finally:
        ours.setLevel(before)
        root.removeHandler(handler)


def _utc(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03}Z"


def _printable(text: str) -> str:
    """Without control characters, which a client may have sent to play with the terminal."""
    return "".join(
        c if c.isprintable() or c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text
    )
