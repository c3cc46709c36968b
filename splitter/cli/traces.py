"""``--traces``: where a command's spans go."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from splitter.errors import ServingError

F = TypeVar("F", bound=Callable[..., Any])

_EXPORTER = "OTEL_TRACES_EXPORTER"
_FLUSH_MS = 5000  # at the end; a collector that is away must not hold up a drain


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
        provider.force_flush(_FLUSH_MS)
        provider.shutdown()


def _provider() -> Any:
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as exc:
        raise _missing() from exc
    resource = Resource.create()
    if "OTEL_SERVICE_NAME" not in os.environ:
        resource = Resource({SERVICE_NAME: "splitter"}).merge(resource)
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_exporter()))
    trace.set_tracer_provider(provider)
    return provider


def _exporter() -> Any:
    name = os.environ.get(_EXPORTER, "otlp").strip()
    if name == "console":  # to see them without a collector; standard output is the command's own
        import sys

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
