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
          |- receive, queue, decode, tail, encode
"""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import splitter
from splitter.serving.observe import Served
from splitter.serving.protocol import SERVICE

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanKind, Tracer

TRACEPARENT = "traceparent"
"""The metadata key of W3C's trace context."""

_SCOPE = "splitter"
_TERMS = ("receive", "queue", "decode", "tail", "encode")
_SERVER_FAULTS = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE"}
)
"""Statuses that make a server's span a failed one, by OpenTelemetry's conventions."""

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


class ServerTraces:
    """Makes the server's spans from the seconds of a request that ended; an observer of a server."""

    def request(self, served: Served) -> None:
        """Make ``ModelInfer`` below the client's span, where it sent one, and the terms below that."""
        if not is_on():
            return
        from opentelemetry import trace

        ended_ns = time.time_ns()
        terms = {term: int(getattr(served, f"{term}_s") * 1e9) for term in _TERMS}
        tracer = _tracer()
        at_ns = ended_ns - sum(terms.values())
        whole = tracer.start_span(
            served.method,
            _parent(served.traceparent),
            trace.SpanKind.SERVER,
            attributes=_attributes(served),
            start_time=at_ns,
        )
        if whole.is_recording():
            below = trace.set_span_in_context(whole)
            for term, term_ns in terms.items():
                child = tracer.start_span(term, below, start_time=at_ns)
                at_ns += term_ns
                child.end(at_ns)
            if served.status in _SERVER_FAULTS:
                whole.set_status(trace.StatusCode.ERROR, served.status)
        whole.end(ended_ns)


def _parent(traceparent: str) -> Context:
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    # a Context of its own: else the server's thread would lend its current span
    return TraceContextTextMapPropagator().extract({TRACEPARENT: traceparent}, Context())


def _attributes(served: Served) -> dict[str, Attribute]:
    return {
        "rpc.system": "grpc",
        "rpc.service": SERVICE,
        "rpc.method": served.method,
        "rpc.response.status_code": served.status,
        "network.peer.address": served.peer,
        "splitter.model": served.model,
        "splitter.version": served.version,
        "splitter.bundle": served.bundle,
        "splitter.cut": served.cut,
        "splitter.request_id": served.request_id,
        "splitter.batch_size": served.batch_size,
        "splitter.up_bytes": served.up_bytes,
        "splitter.down_bytes": served.down_bytes,
    }


def _tracer() -> Tracer:
    """Ask the provider that the application has set up, whenever that was."""
    from opentelemetry import trace

    return trace.get_tracer(_SCOPE, splitter.__version__)


def _start(name: str, kind: str, attributes: dict[str, Any]) -> AbstractContextManager[Span]:
    from opentelemetry.trace import SpanKind

    chosen: SpanKind = SpanKind[kind]
    return _tracer().start_as_current_span(name, kind=chosen, attributes=attributes)
