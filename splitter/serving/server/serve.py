"""A server of tails, from start to stop.

The synchronous gRPC server: a tail holds a thread while it runs in any case, and this way no request changes
threads on its way.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grpc

from splitter.errors import ServingError
from splitter.partition.manifest import Manifest
from splitter.serving.protocol import MONITOR, SERVICE, Address, MessageLimits
from splitter.serving.server.admission import Admission
from splitter.serving.server.batching import Policy, Scheduler
from splitter.serving.server.calls import Context, Front, Handler, Lane, Patience, Receive, only
from splitter.serving.server.health import HEALTH, REFLECTION, Health, Reflection
from splitter.serving.server.inference import Inference
from splitter.serving.server.joining import Joins
from splitter.serving.server.keeping import Keeper
from splitter.serving.server.loading import Loader
from splitter.serving.server.metrics import ServedCut
from splitter.serving.server.monitor import Monitor
from splitter.serving.server.options import ServerOptions
from splitter.serving.server.repository import Repository
from splitter.serving.server.sequences import Sequences
from splitter.serving.server.service import NOT_OFFERED, InferenceService, Service, unary
from splitter.serving.server.streaming import Streams

_log = logging.getLogger(__name__)

_PATIENCE = Patience()
_SLOWEST_BYTES_PER_S = 16 << 10
"""A large message may take longer, but not for ever."""
_OF_STREAMS = Patience(most_s=600.0, crowded_s=60.0)
"""Between two messages."""
_LEAST_ROOM = MessageLimits(64 << 20, 64 << 20)
"""Of a repository, whose next bundle may be larger than those that it has."""

_FORWARDED = 8
"""Times as many at once in a relay: most of them wait for the next tier."""

_CHANNEL_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.so_reuseport", 0),  # else a second server shares the port and half the requests
    # a device that vanished gives its threads back, and one that asks now and then is not turned out
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)


class Server:
    """A running server; also a context manager that stops it."""

    def __init__(self, source: str | os.PathLike[str], options: ServerOptions) -> None:
        """Load everything; ``start`` listens. Raises SplitterError where nothing can be served."""
        self.options = options
        self.port = 0
        self.address = ""
        self._health = Health()
        self._admission = Admission(options.per_peer, options.memory_bytes)
        policy = Policy(options.queue, options.max_batch, options.max_delay_s, options.preferred)
        self._scheduler = Scheduler(1)
        loader = Loader(self._scheduler, policy, options.settings, options.onward)
        self._loader = loader
        self.repository = Repository(source, loader)
        self.repository.load_all()
        self._limits = MessageLimits.largest(
            [
                *(one.limits for one in self.repository.ready()),
                *([] if self.repository.is_single else [_LEAST_ROOM]),
            ]
        )
        loader.most = self._limits
        self._scheduler.resize(options.workers or self._workers())
        self._joins = Joins(options.joins, options.join_s)
        self._inference = Inference(
            self.repository, self._admission, options.observers, self._joins, Keeper(options.keep),
            Sequences(self._admission, options.sequences, options.sequence_idle_s),
        )  # fmt: skip
        self._streams = Streams(self._inference, options.streams, 2 * options.max_batch)
        self._service = Service(self.repository, self._look)
        self._front = Front(
            self._methods(),
            frozenset(f"/{SERVICE}/{name}" for name in NOT_OFFERED),
            options.authenticate,
            frozenset(f"/{HEALTH}/{name}" for name in ("Check", "List", "Watch")),
        )
        self._control = Lane("grpc", 1)
        self._grpc_server = grpc.server(
            self._control.pool,
            handlers=[self._front],
            options=[
                *_CHANNEL_OPTIONS,
                ("grpc.max_receive_message_length", self._limits.request_bytes),
                ("grpc.max_send_message_length", self._limits.response_bytes),
            ],
        )

    @property
    def manifest(self) -> Manifest:
        """Of the newest version of the first model; raises ServingError where none is ready."""
        ready = self.repository.ready()
        if not ready:
            raise ServingError("no model is ready")
        return ready[0].manifest

    @property
    def is_ready(self) -> bool:
        """Whether it takes requests."""
        return self._service.is_ready

    def start(self, address: Address) -> None:
        """Listen; raises ServingError where that is impossible."""
        bound = _bind(self._grpc_server, address, self.options.credentials)
        self.port, self.address = bound.port, str(bound)
        self._grpc_server.start()
        self._look()

    def queue_depths(self) -> Mapping[tuple[str, str, str], int]:
        """Requests that wait, by model, version and id of the cut."""
        return {
            (one.name, one.version, tail.id): len(tail.queue.waiting)
            for one in self.repository.ready()
            for tail in one.tails.values()
        }

    def cuts(self) -> Sequence[ServedCut]:
        """Cuts whose tails are loaded."""
        return [
            ServedCut(
                one.name, one.version, one.short_digest, cut.id, cut.name,
                cut is one.manifest.planned,
            )
            for one in self.repository.ready()
            for cut in one.manifest.cuts
            if cut.id in one.tails
        ]  # fmt: skip

    def turned_away(self) -> Mapping[str, int]:
        """Calls refused before they were read, since the start, by the limit that they met."""
        return {"calls": self._front.turned_away(), "peer": self._admission.turned_away}

    def in_flight(self) -> int:
        """Inference calls that are received, waiting, run or answered; a stream is one."""
        return self._admission.requests

    def in_flight_bytes(self) -> int:
        """Of their decoded tensors."""
        return self._admission.nbytes

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block until the server has stopped; False if that took longer than ``timeout_s``."""
        return not self._grpc_server.wait_for_termination(timeout_s)

    def stop(self, grace_s: float = 2.0) -> None:
        """Turn not ready, refuse new requests, give those in flight ``grace_s`` to end, and return.

        Health and readiness say so from the first moment on, and answer until the end.
        """
        until = time.monotonic() + grace_s
        self._service.is_stopping = True
        self._look()
        self._admission.close()
        self._joins.close()
        self._streams.close()
        if not self._admission.wait_idle(grace_s):
            _log.warning("%d requests did not end within %g s", self.in_flight(), grace_s)
        self._health.close()
        self._grpc_server.stop(max(0.0, until - time.monotonic())).wait()
        self._front.close()
        self._control.close()
        self._scheduler.close()
        self._loader.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _look(self) -> None:
        """Tell health what is ready."""
        names = self.repository.view.newest
        is_ready = self._service.is_ready
        self._health.set(
            is_ready, {name: is_ready and bool(ready) for name, ready in names.items()}
        )

    def _workers(self) -> int:
        """As many tails at a time as the cores have room for, going by the one with the most threads."""
        threads = [
            (self.options.settings or one.manifest.tail_settings).threads
            for one in self.repository.ready()
        ]
        workers = max(1, (os.cpu_count() or 1) // max([1, *threads]))
        return workers if self.options.onward is None else workers * _FORWARDED

    def _methods(self) -> dict[str, tuple[Lane, Handler]]:
        options = self.options
        service = InferenceService(
            self._inference, self._streams, self._admission, observes=bool(options.observers)
        )
        largest_s = _PATIENCE.most_s + self._limits.request_bytes / _SLOWEST_BYTES_PER_S
        infer = Lane("infer", options.concurrent, None, Patience(largest_s, crowded_s=5.0))
        stream = Lane("stream", options.streams, None, _OF_STREAMS)
        control, admin = Lane("control", 64, 256, _PATIENCE), Lane("admin", 4, 16, _PATIENCE)
        methods = {
            "ModelInfer": (infer, infer.unary(service.infer)),
            "ModelStreamInfer": (stream, stream.stream(service.stream)),
        }
        for name, call in self._service.methods().items():
            lane = admin if name in ("RepositoryModelLoad", "RepositoryModelUnload") else control
            methods[name] = (lane, lane.unary(unary(name, call)))
        return {
            **{f"/{SERVICE}/{name}": method for name, method in methods.items()},
            **self._other_methods(),
        }

    def _other_methods(self) -> dict[str, tuple[Lane, Handler]]:
        monitor = Monitor(self, self.options.observers, self._inference.observe)
        monitored = Lane("monitor", 4, 16, _PATIENCE)
        lane, watch = Lane("health", 64, 256, _PATIENCE), Lane("watch", 64, None, _PATIENCE)
        reflection = Lane("reflection", 4, None, _PATIENCE)
        health, mirror = self._health, Reflection()

        def check(receive: Receive, context: Context) -> bytes:
            return health.check(only(receive))

        def list_all(receive: Receive, context: Context) -> bytes:
            only(receive)
            return health.list()

        def watching(receive: Receive, context: Context) -> Iterator[bytes]:
            return health.watch(only(receive), context.is_active, context.add_callback)

        return {
            f"/{HEALTH}/Check": (lane, lane.unary(check)),
            f"/{HEALTH}/List": (lane, lane.unary(list_all)),
            f"/{HEALTH}/Watch": (watch, watch.stream(watching)),
            f"/{MONITOR}/Metrics": (monitored, monitored.stream(monitor.answers)),
            f"/{REFLECTION}/ServerReflectionInfo": (reflection, reflection.stream(mirror.answers)),
        }


def serve(
    source: str | os.PathLike[str],
    listen: str = "127.0.0.1:0",
    options: ServerOptions = ServerOptions(),  # noqa: B008  (frozen)
) -> Server:
    """Serve a bundle or a repository of them; returns when all is loaded, warm and listening.

    Parameters
    ----------
    source
        The folder of a bundle; or one that has bundles in it, one or two levels down.
    listen
        ``HOST:PORT``; port 0 takes a free one.

    Raises
    ------
    ServingError
        The bundle has no tail, the address is malformed, in use or not local.
    MissingExtraError
        A codec of the bundle needs a package that is not installed.
    BundleError, ModelError, ProfileError
        The bundle is damaged, or a tail cannot be loaded with these settings.
    """
    address = Address.parse(listen)
    if not (options.insecure or options.credentials or address.is_loopback):
        raise ServingError(
            f"{listen}: other machines could reach it, and the connection is not encrypted; "
            "give a certificate (--tls-cert and --tls-key), listen on 127.0.0.1, or allow it with "
            "--insecure"
        )
    server = Server(source, options)
    try:
        server.start(address)
    except BaseException:
        server.stop(0.0)
        raise
    return server


def _bind(
    grpc_server: grpc.Server, address: Address, credentials: grpc.ServerCredentials | None
) -> Address:
    _demand_free(address)
    try:
        if credentials is None:
            port = grpc_server.add_insecure_port(str(address))
        else:
            port = grpc_server.add_secure_port(str(address), credentials)
    except RuntimeError as exc:
        raise ServingError(f"{address}: cannot listen there") from exc
    return Address(address.host, port)


def _demand_free(address: Address) -> None:
    """Try the address with a plain socket first: gRPC would log its failure and not say why."""
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, place in found:
            with socket.socket(family, kind, protocol) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind(place)
    except OSError as exc:
        raise ServingError(f"{address}: cannot listen there ({exc.strerror})") from exc
