"""``--log-format`` and ``--log-level``: what the library logs, on standard error."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

LEVELS = ("debug", "info", "warning", "error")

FIELDS = "fields"
"""The attribute of a record that holds more about it, by name: ``extra={"fields": {...}}``."""


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, and the record's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Format it; what JSON cannot hold becomes text."""
        line: dict[str, Any] = {
            "time": _utc(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in getattr(record, FIELDS, {}).items():
            line.setdefault(name, value)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """For a person: time, level, message."""

    def format(self, record: logging.LogRecord) -> str:
        """Format it; the message on one line, a traceback below it."""
        text = (
            f"{_utc(record)} {record.levelname.lower():7} {' '.join(record.getMessage().split())}"
        )
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


FORMATTERS: dict[str, type[logging.Formatter]] = {"text": TextFormatter, "json": JsonFormatter}


def log_options(command: F) -> F:
    """--log-format and --log-level."""
    command = click.option(
        "--log-level", default="info", show_default=True, type=click.Choice(LEVELS)
    )(command)
    return click.option(
        "--log-format", default="text", show_default=True, type=click.Choice(list(FORMATTERS)),
        help="Of the log on standard error.",
    )(command)  # fmt: skip


def configure_logs(form: str, level: str) -> None:
    """Send everything that is logged in this process to standard error; other libraries' from warning on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FORMATTERS[form]())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("splitter").setLevel(level.upper())


def _utc(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03}Z"
