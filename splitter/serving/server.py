"""A tail behind gRPC, from start to stop.

The synchronous gRPC server: the tail holds a thread while it runs in any case.
"""

from __future__ import annotations

import logging
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import grpc
import numpy as np

from splitter.codec import warm_up
from splitter.errors import InputError, ServingError
from splitter.partition.bundle import Bundle
from splitter.partition.manifest import Manifest
from splitter.runtime import Runner, Settings
from splitter.serving import wire
from splitter.serving.protocol import Address, MessageLimits
from splitter.serving.service import TailService

_log = logging.getLogger(__name__)

WAITING = 32
"""Requests that may wait for a worker; more are refused at once, which tells a client to back off."""

_SPARE_THREADS = 4  # so that health and metadata answer while every inference waits


class Server:
    """A running server; also a context manager that stops it."""

    def __init__(
        self, manifest: Manifest, address: Address, grpc_server: grpc.Server, service: TailService
    ) -> None:
        self.manifest = manifest
        self.port = address.port
        self.address = str(address)
        self._grpc_server = grpc_server
        self._service = service

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block until the server has stopped; False if that took longer than ``timeout_s``."""
        return not self._grpc_server.wait_for_termination(timeout_s)

    def stop(self, grace_s: float = 2.0) -> None:
        """Refuse new requests, give those that run ``grace_s`` to end, and return when all have."""
        self._service.is_ready = False
        self._grpc_server.stop(grace_s).wait()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def serve(
    bundle_dir: str | os.PathLike[str],
    listen: str = "127.0.0.1:0",
    *,
    workers: int | None = None,
    settings: Settings | None = None,
    insecure: bool = False,
) -> Server:
    """Serve the tail of a bundle; returns when it is loaded, warm and listening.

    Parameters
    ----------
    listen
        ``HOST:PORT``; port 0 takes a free one.
    workers
        Inferences at a time; by default as many as the processor's cores have room for.
    settings
        Instead of the manifest's.
    insecure
        Allow an address that other machines can reach: the connection is neither encrypted nor
        authenticated.

    Raises
    ------
    ServingError
        The bundle has no tail, the address is malformed, in use or not local.
    MissingExtraError
        A codec of the bundle needs a package that is not installed.
    BundleError, ModelError, ProfileError
        The bundle is damaged, or the tail cannot be loaded with these settings.
    """
    address = Address.parse(listen)
    if not (insecure or address.is_loopback):
        raise ServingError(
            f"{listen}: other machines could reach it, and the connection is not encrypted; "
            "listen on 127.0.0.1, or allow it with --insecure"
        )
    bundle = Bundle.open(bundle_dir, role="server")
    if bundle.tail is None:
        raise ServingError(f"{bundle.folder}: nothing to serve: this bundle runs all on the device")
    settings = settings or bundle.manifest.tail_settings
    limits = MessageLimits.of(bundle.manifest)
    tail = Runner(bundle.tail, settings)
    _demand_travelling(bundle.manifest)
    workers = workers or max(1, (os.cpu_count() or 1) // max(1, settings.threads))
    service = TailService(bundle.manifest, tail, workers, WAITING)
    threads = workers + WAITING + _SPARE_THREADS
    grpc_server = grpc.server(
        ThreadPoolExecutor(threads, thread_name_prefix="tail"),
        handlers=[service.handler()],
        options=[
            ("grpc.max_receive_message_length", limits.request_bytes),
            ("grpc.max_send_message_length", limits.response_bytes),
            ("grpc.so_reuseport", 0),  # else a second server shares the port and half the requests
        ],
        maximum_concurrent_rpcs=threads,
    )
    bound = _bind(grpc_server, address)
    _warm_up(tail, bundle.manifest)
    grpc_server.start()
    service.is_ready = True
    return Server(bundle.manifest, bound, grpc_server, service)


def _bind(grpc_server: grpc.Server, address: Address) -> Address:
    _demand_free(address)
    try:
        port = grpc_server.add_insecure_port(str(address))
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


def _demand_travelling(manifest: Manifest) -> None:
    for spec in manifest.outputs:
        if spec.name in manifest.planned.tail_outputs and spec.dtype not in wire.DATATYPE_OF:
            raise ServingError(
                f"output {spec.name!r} is {spec.dtype}, which cannot travel; cut after it"
            )


def _warm_up(tail: Runner, manifest: Manifest) -> None:
    """Run once, since the first run allocates. Zeros may be no valid input: then the first client pays."""
    for spec in manifest.planned.crossing:
        warm_up(spec.codec, spec.dtype, spec.shape)
    shapes = {spec.tensor: (spec.shape, spec.dtype) for spec in manifest.planned.crossing}
    try:
        tail.run({p.name: np.zeros(*shapes[p.name]) for p in tail.inputs})
    except InputError as exc:
        _log.warning("the tail does not run on zeros, so it starts cold: %s", exc)
