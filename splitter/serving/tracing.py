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
          |- receive, decode, queue, tail, encode
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sys
import threading
import time
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import splitter
from splitter.serving.observe import Served
from splitter.serving.protocol import SERVICE

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanKind, Tracer

TRACEPARENT = "traceparent"
"""The metadata key of W3C's trace context."""

_log = logging.getLogger(__name__)

_SCOPE = "splitter"
_WAITING = 2048  # requests without spans yet; as many as the SDK's own queue
_TERMS = ("receive", "decode", "queue", "tail", "encode")
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

    def __exit__(self, *exc: object) -> None:
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
    """Makes the server's spans from the seconds of a request that ended; an observer of a server.

    On a thread of its own: a request's six spans take the SDK some 100 us, which the client would wait
    for, and which would look like the network's in its own span.
    """

    def __init__(self) -> None:
        self._ended: queue.Queue[tuple[Served, int] | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._make, name="traces", daemon=True)
        self._thread.start()

    def request(self, served: Served) -> None:
        """Have spans made; of more requests than can be kept up with, some have none."""
        with contextlib.suppress(queue.Full):
            self._ended.put_nowait((served, time.time_ns()))

    def close(self) -> None:
        """Make those that wait, and end."""
        self._ended.put(None)
        self._thread.join()

    def _make(self) -> None:
        while (ended := self._ended.get()) is not None:
            try:
                _make_spans(*ended)
            except Exception:  # noqa: BLE001 - the application's exporter is behind it
                _log.exception("a request's spans could not be made")


def _make_spans(served: Served, ended_ns: int) -> None:
    """``ModelInfer`` below the client's span, where it sent one, and the terms below that."""
    if not is_on():
        return
    from opentelemetry import trace

    terms = {term: int(getattr(served, f"{term}_s") * 1e9) for term in _TERMS}
    at_ns = ended_ns - sum(terms.values())
    tracer, parent = _tracer(), _parent(served.traceparent)
    whole = tracer.start_span(served.method, parent, trace.SpanKind.SERVER, start_time=at_ns)
    if whole.is_recording():
        whole.set_attributes(_attributes(served))
        below = trace.set_span_in_context(whole)
        for term, term_ns in terms.items():
            if not term_ns:
                continue  # not reached
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
