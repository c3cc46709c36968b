"""``--traces``: where a command's spans go."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from splitter.errors import ServingError

F = TypeVar("F", bound=Callable[..., Any])

_EXPORTER = "OTEL_TRACES_EXPORTER"
_PATIENCE_S = 3.0  # at the end of a command


def traces_option(command: F) -> F:
    """--traces."""
    return click.option(
        "--traces", is_flag=True,
        help="Send OpenTelemetry traces, as OTEL_EXPORTER_OTLP_ENDPOINT and its like say.",
    )(command)  # fmt: skip


@contextlib.contextmanager
def tracing(is_on: bool) -> Iterator[None]:
    """Export the spans of the enclosed work as the standard OTEL_* variables say.

    Raises
    ------
    ServingError
        The package for it is not installed, or OTEL_TRACES_EXPORTER names an unknown exporter.
    """
    if not is_on:
        yield
        return
    provider = _provider()
    try:
        yield
    finally:
        # It sends what waits, and tries for up to 10 s where the collector is away.
        last = threading.Thread(target=provider.shutdown, name="traces", daemon=True)
        last.start()
        last.join(_PATIENCE_S)


def _provider() -> Any:
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as exc:
        raise _missing() from exc
    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "splitter"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_exporter()))
    trace.set_tracer_provider(provider)
    return provider


def _exporter() -> Any:
    name = os.environ.get(_EXPORTER, "otlp").strip()
    if name == "console":  # to see them without a collector; standard output is the command's own
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(out=sys.stderr)
    if name != "otlp":
        raise ServingError(f"{_EXPORTER} is {name!r}; --traces knows 'otlp' and 'console'")
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    except ImportError as exc:
        raise _missing() from exc
    return OTLPSpanExporter()


def _missing() -> ServingError:
    return ServingError("--traces needs OpenTelemetry; pip install 'splitter[otel]'")
