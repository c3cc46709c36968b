"""Metrics for Prometheus, over HTTP.

prometheus_client writes them; it does not count them. Its counters and histograms take a lock each, which
made 25 us a request where one lock for all makes 4 (one run of each in turn, 20 times); and so a scrape sees
a request in all of them or in none.
"""

from __future__ import annotations

import logging
import platform
import socket
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from socketserver import ThreadingMixIn
from typing import Any, Protocol
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

import splitter
from splitter.errors import ServingError
from splitter.serving.observe import Served
from splitter.serving.protocol import Address

_log = logging.getLogger(__name__)

BUCKETS_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
BUCKETS_BATCH = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)

TERMS = ("receive", "queue", "decode", "tail", "encode")
LABELS = ("model", "version", "bundle", "cut")

_MAX_SERIES = 1000
"""Of model, version, bundle and cut, over a server's life; a repository that changes makes new ones."""

_MAX_CALLERS = 4096
"""Connections whose last cut is kept; the one that was silent for longest is forgotten first."""

_MAX_NAME = 100  # characters of a cut's name, which may list many tensors

_SCRAPE_TIMEOUT_S = 10.0  # for a client that connects and says nothing

_POLL_S = 0.1  # until a stop is noticed

_Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServedCut:
    """A cut whose tail is loaded."""

    model: str
    version: str
    bundle: str
    cut: str
    name: str
    """For people."""
    is_planned: bool


class Gauges(Protocol):
    """What a server tells of now."""

    @property
    def is_ready(self) -> bool:
        """Whether it takes requests."""

    def in_flight(self) -> int:
        """Requests that are being received, wait, run or are answered."""

    def in_flight_bytes(self) -> int:
        """Of their decoded tensors."""

    def queue_depths(self) -> Mapping[tuple[str, str, str], int]:
        """Requests that wait, by model, version and cut; all that are loaded."""

    def cuts(self) -> Sequence[ServedCut]:
        """All that are loaded."""

    def turned_away(self) -> Mapping[str, int]:
        """Calls refused before they were read since the start, by the limit that they met."""


class _Counts:
    """A histogram."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        names = [*map(str, self.bounds), "+Inf"]
        return [(name, float(n)) for name, n in zip(names, accumulate(self.counts), strict=True)]


@dataclass(slots=True)
class _Tally:
    """Of the requests for one cut of one bundle."""

    statuses: dict[str, int] = field(default_factory=dict)
    up_bytes: int = 0
    down_bytes: int = 0
    raw_up_bytes: int = 0
    raw_down_bytes: int = 0
    receive: _Counts = field(default_factory=lambda: _Counts(BUCKETS_S))
    queue: _Counts = field(default_factory=lambda: _Counts(BUCKETS_S))
    decode: _Counts = field(default_factory=lambda: _Counts(BUCKETS_S))
    tail: _Counts = field(default_factory=lambda: _Counts(BUCKETS_S))
    encode: _Counts = field(default_factory=lambda: _Counts(BUCKETS_S))
    batch: _Counts = field(default_factory=lambda: _Counts(BUCKETS_BATCH))

    def add(self, served: Served) -> None:
        self.statuses[served.status] = self.statuses.get(served.status, 0) + 1
        self.up_bytes += served.up_bytes
        self.down_bytes += served.down_bytes
        self.raw_up_bytes += served.raw_up_bytes
        self.raw_down_bytes += served.raw_down_bytes
        if served.status == "OK":  # the terms of others end where they failed
            self.receive.add(served.receive_s)
            self.queue.add(served.queue_s)
            self.decode.add(served.decode_s)
            self.tail.add(served.tail_s)
            self.encode.add(served.encode_s)
            self.batch.add(served.batch_size)


class Metrics:
    """Counts requests, as an observer of a server, and writes them down for a registry."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tallies: dict[_Key, _Tally] = {}
        self._last_cuts: OrderedDict[_Key, str] = OrderedDict()
        self._switches: dict[_Key, int] = {}
        self._server: Gauges | None = None

    def watch(self, server: Gauges) -> None:
        """Take gauges from this server; there are none before."""
        self._server = server

    def request(self, served: Served) -> None:
        """Count a request."""
        key: _Key = (served.model, served.version, served.bundle, served.cut)
        with self._lock:
            tally = self._tallies.get(key)
            if tally is None:
                if len(self._tallies) >= _MAX_SERIES:
                    key = ("",) * len(LABELS)
                tally = self._tallies.setdefault(key, _Tally())
            tally.add(served)
            if served.cut:
                self._follow(served)

    def _follow(self, served: Served) -> None:
        """Note whether a connection changed to another cut of its bundle."""
        caller: _Key = (served.peer, served.model, served.bundle)
        before = self._last_cuts.pop(caller, None)
        self._last_cuts[caller] = served.cut  # the newest is at the end
        if before is None:
            if len(self._last_cuts) > _MAX_CALLERS:
                self._last_cuts.popitem(last=False)
        elif before != served.cut:
            key: _Key = (served.model, served.version, served.bundle)
            if key in self._switches or len(self._switches) < _MAX_SERIES:
                self._switches[key] = self._switches.get(key, 0) + 1

    def describe(self) -> Iterable[Metric]:
        """Tell a registry nothing beforehand: it would collect to find out."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Write everything down, for a registry."""
        yield from self._counted()
        yield from self._now()

    def _counted(self) -> list[Metric]:
        requests = CounterMetricFamily(
            "splitter_requests", "Inference requests that ended.", labels=(*LABELS, "status")
        )
        sizes = {
            "up_bytes": _bytes("received", "Bytes of requests' messages."),
            "down_bytes": _bytes("sent", "Bytes of answers' messages."),
            "raw_up_bytes": _bytes("received_raw", "Bytes of the tensors received, decoded."),
            "raw_down_bytes": _bytes("sent_raw", "Bytes of the tensors sent, before encoding."),
        }
        seconds = HistogramMetricFamily(
            "splitter_term_seconds",
            "Seconds of each term of good requests.",
            labels=(*LABELS, "term"),
        )
        batches = HistogramMetricFamily(
            "splitter_batch_size", "Samples in the run that a good request was in.", labels=LABELS
        )
        switches = CounterMetricFamily(
            "splitter_cut_switches",
            "Requests for another cut than the one before them on their connection.",
            labels=LABELS[:3],
        )
        with self._lock:
            for key, tally in self._tallies.items():
                for status, count in tally.statuses.items():
                    requests.add_metric([*key, status], count)
                for name, family in sizes.items():
                    family.add_metric(key, getattr(tally, name))
                for term in TERMS:
                    counts: _Counts = getattr(tally, term)
                    seconds.add_metric([*key, term], counts.buckets(), counts.total)
                batches.add_metric(key, tally.batch.buckets(), tally.batch.total)
            for key, count in self._switches.items():
                switches.add_metric(key, count)
        return [requests, *sizes.values(), seconds, batches, switches]

    def _now(self) -> Iterator[Metric]:
        build = GaugeMetricFamily(
            "splitter_build_info", "Always 1.", labels=("version", "python_version")
        )
        build.add_metric((splitter.__version__, platform.python_version()), 1)
        yield build
        server = self._server
        ready = server is not None and server.is_ready
        yield _gauge("ready", "Whether requests are taken.", ready)
        if server is None:
            return
        depths = server.queue_depths()
        waiting = GaugeMetricFamily(
            "splitter_queue_depth", "Requests that wait.", labels=("model", "version", "cut")
        )
        for key, depth in depths.items():
            waiting.add_metric(key, depth)
        loaded = {(model, version) for model, version, _ in depths}
        yield waiting
        yield from _offered(server)
        yield _gauge("models", "Versions of models that are loaded.", len(loaded))
        yield _gauge(
            "in_flight", "Requests received, waiting, run or answered.", server.in_flight()
        )
        yield _gauge("in_flight_bytes", "Of their decoded tensors.", server.in_flight_bytes())


def _offered(server: Gauges) -> Iterator[Metric]:
    """What a server offers, and what it did not take on."""
    cuts = GaugeMetricFamily(
        "splitter_cut_info",
        "Always 1, of cuts that are loaded.",
        labels=(*LABELS, "name", "planned"),
    )
    for one in server.cuts():
        planned = "true" if one.is_planned else "false"
        labels = (one.model, one.version, one.bundle, one.cut, one.name[:_MAX_NAME], planned)
        cuts.add_metric(labels, 1)
    yield cuts
    away = CounterMetricFamily(
        "splitter_turned_away", "Calls refused before they were read.", labels=("limit",)
    )
    for limit, count in server.turned_away().items():
        away.add_metric((limit,), count)
    yield away


def _bytes(name: str, text: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"splitter_{name}_bytes", text, labels=LABELS)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"splitter_{name}", text, value=float(value))


class MetricsServer:
    """``/metrics`` over HTTP, on threads of its own; a context manager that stops it."""

    def __init__(self, metrics: Metrics, listen: str) -> None:
        """Start it.

        Parameters
        ----------
        listen
            ``HOST:PORT``; port 0 takes a free one. It is not encrypted and asks for no token.

        Raises
        ------
        ServingError
            The address is malformed, in use, or not of this machine.
        """
        wanted = Address.parse(listen)
        registry = CollectorRegistry()
        registry.register(metrics)
        ProcessCollector(registry=registry)
        try:
            self._http = _listener(wanted)
        except OSError as exc:
            raise ServingError(
                f"{wanted}: cannot listen there for metrics ({exc.strerror})"
            ) from exc
        self._http.set_app(make_wsgi_app(registry))
        self.address = str(Address(wanted.host, self._http.server_port))
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(_POLL_S,), name="metrics", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def __enter__(self) -> MetricsServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


class _Http(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    allow_reuse_port = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Note a client that went away or was too slow; the standard one prints a traceback."""
        _log.debug("metrics: a request of %s failed", client_address, exc_info=True)


class _Http6(_Http):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = _SCRAPE_TIMEOUT_S

    def log_message(self, *arguments: Any) -> None:
        """Say nothing of each scrape."""


def _listener(address: Address) -> _Http:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    kind = _Http6 if found[0][0] == socket.AF_INET6 else _Http
    return kind((address.host, address.port), _Handler)
