"""Where a server's metrics are fetched: over gRPC from the port that it serves on, or over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from typing import Protocol

import grpc

from splitter.errors import ServingError
from splitter.serving._pb2 import monitor_pb2 as pb
from splitter.serving.credentials import ClientTls, TokenFile, open_channel
from splitter.serving.protocol import MONITOR, Address, one_line
from splitter.serving.scrape import MAX_TEXT_BYTES, Snapshot, read_metrics

PATIENCE_S = 5.0
"""For one answer, all of it."""

_PIECE_BYTES = 64 << 10
_RECONNECT_MS = 1000


class Scraper(Protocol):
    """Asks one server."""

    address: str

    def scrape(self) -> Snapshot:
        """Ask now; raises ServingError where the server does not answer, or not with metrics."""

    def close(self) -> None:
        """Close the connection; a scrape on another thread fails."""


class GrpcScraper:
    """``splitter.Monitor`` of a server; connects again by itself."""

    def __init__(
        self, address: str, tls: ClientTls | None = None, token: TokenFile | None = None
    ) -> None:
        """Raise ServingError for no address, or where the token would travel unencrypted."""
        parsed = Address.parse(address)
        self.address = str(parsed)
        self._token = token
        options = [
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", _RECONNECT_MS),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0 if parsed.is_loopback else 1),
        ]
        self._channel = open_channel(parsed, options, tls, token)
        self._metrics = self._channel.unary_stream(
            f"/{MONITOR}/Metrics",
            pb.MetricsRequest.SerializeToString,
            pb.MetricsResponse.FromString,
        )

    def scrape(self) -> Snapshot:
        """Ask now."""
        origin = f"server {self.address}"
        metadata = () if self._token is None else self._token.metadata()
        text = bytearray()
        try:
            call = self._metrics(pb.MetricsRequest(), timeout=PATIENCE_S, metadata=metadata)
            for piece in call:
                text += piece.text
                if len(text) > MAX_TEXT_BYTES:
                    call.cancel()  # type: ignore[no-untyped-call]
                    break  # what reads it says so
        except grpc.RpcError as exc:
            raise ServingError(f"{origin}: {_why(exc)}") from exc
        except ValueError as exc:  # what gRPC raises on a closed channel
            raise ServingError(f"{origin}: the connection was closed") from exc
        return read_metrics(bytes(text), time.monotonic(), origin)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()


class HttpScraper:
    """What ``splitter serve --metrics`` listens for; a connection for each scrape."""

    def __init__(self, address: str) -> None:
        """Raise ServingError for no address."""
        self._at = Address.parse(address)
        self.address = str(self._at)

    def scrape(self) -> Snapshot:
        """Ask now."""
        origin = f"metrics {self.address}"
        try:
            text = self._get(origin)
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise ServingError(f"{origin}: {self._reason(exc)}") from exc
        return read_metrics(text, time.monotonic(), origin)

    def close(self) -> None:
        """Nothing is open between scrapes."""

    def _get(self, origin: str) -> bytes:
        connection = http.client.HTTPConnection(self._at.host, self._at.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            connection.connect()
            with _ending(connection.sock):
                connection.request("GET", "/metrics", headers={"Accept": "text/plain"})
                with contextlib.closing(connection.getresponse()) as answer:
                    return _body(answer, origin)

    def _reason(self, exc: Exception) -> str:
        if isinstance(exc, http.client.HTTPException):
            return "it does not speak HTTP, or broke off; a server's gRPC port goes to --server"
        return one_line(exc.strerror or exc) if isinstance(exc, OSError) else one_line(exc)


def _body(answer: http.client.HTTPResponse, origin: str) -> bytes:
    if answer.status != http.client.OK:
        raise ServingError(f"{origin}: HTTP status {answer.status}, no metrics")
    text = bytearray()
    while len(text) <= MAX_TEXT_BYTES and (piece := answer.read1(_PIECE_BYTES)):
        text += piece
    if answer.length and len(text) <= MAX_TEXT_BYTES:
        raise http.client.IncompleteRead(bytes(text), answer.length)
    return bytes(text)


@contextlib.contextmanager
def _ending(sock: socket.socket) -> Iterator[None]:
    """Break a connection off after a while, however slowly bytes drip in."""
    timer = threading.Timer(PATIENCE_S, _shut, (sock,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended by itself
        sock.shutdown(socket.SHUT_RDWR)


def _why(exc: grpc.RpcError) -> str:
    code: grpc.StatusCode = exc.code()
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return "it tells no metrics over gRPC; name the port of its --metrics with --metrics"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer within {PATIENCE_S:g} s"
    details = one_line(exc.details())
    if code is grpc.StatusCode.UNAVAILABLE and "HTTP/2" in details:
        return "it does not speak gRPC; name the port of a server's --metrics with --metrics"
    if code is grpc.StatusCode.UNAVAILABLE:
        return f"not reached ({details.rpartition(': ')[2].strip('])')})"
    return f"{code.name}: {details}"
