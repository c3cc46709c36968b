"""One trace across device and server, where the application has OpenTelemetry; nothing where not.

Only OpenTelemetry's API is used here: what becomes of spans is for the application to configure
(for the command line, ``splitter.cli.traces``). An application that has done so has imported the package,
so it is never imported here for anybody else: the 40 ms would come before a device's first answer.

::

    splitter.run            device
    |- head
    |- encode
    `- request              its traceparent travels in the request's metadata
       `- ModelInfer        server
          |- receive, queue, decode, infer, encode
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanKind, Tracer

TRACEPARENT = "traceparent"
"""The metadata key of W3C's trace context."""

_CARRIED = frozenset({TRACEPARENT, "tracestate"})
_SCOPE = "splitter"

Attribute = str | bool | int | float
Metadata = tuple[tuple[str, str], ...]


class Span(Protocol):
    """What is used of OpenTelemetry's."""

    def set_attribute(self, key: str, value: Attribute) -> None:
        """Say something about the work."""


class _NoSpan:
    """Where nobody traces; one for all."""

    def set_attribute(self, key: str, value: Attribute) -> None:
        pass

    def __enter__(self) -> _NoSpan:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


_NO_SPAN = _NoSpan()


def is_on() -> bool:
    """Whether somebody in this process has asked for traces."""
    return "opentelemetry.trace" in sys.modules


def span(name: str, **attributes: Attribute) -> AbstractContextManager[Span]:
    """Make a span of the enclosed work, below the current one; an exception marks it as failed."""
    return _start(name, "INTERNAL", attributes) if is_on() else _NO_SPAN


def request_span(name: str, **attributes: Attribute) -> AbstractContextManager[Span]:
    """As ``span``, of a call to a server; ``headers`` inside it names it as the server's parent."""
    return _start(name, "CLIENT", attributes) if is_on() else _NO_SPAN


def headers() -> Metadata:
    """Make the metadata that lets a server continue the current trace; empty where there is none."""
    if not is_on():
        return ()
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return tuple(carrier.items())


def parent_of(metadata: Iterable[tuple[str, str | bytes]]) -> Context:
    """Read the place in a trace that ``headers`` wrote; an empty one where that is none."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {k: v for k, v in metadata if k in _CARRIED and isinstance(v, str)}
    # a Context of its own: else the server's thread would lend its current span
    return TraceContextTextMapPropagator().extract(carrier, Context())


def tracer() -> Tracer:
    """Ask the provider that the application has set up, whenever that was."""
    from opentelemetry import trace

    import splitter

    return trace.get_tracer(_SCOPE, splitter.__version__)


def _start(name: str, kind: str, attributes: dict[str, Any]) -> AbstractContextManager[Span]:
    from opentelemetry.trace import SpanKind

    chosen: SpanKind = SpanKind[kind]
    return tracer().start_as_current_span(name, kind=chosen, attributes=attributes)
