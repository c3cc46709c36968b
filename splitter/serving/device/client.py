"""One connection to a tail: messages out, answers in, gRPC's statuses as failures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from splitter.errors import ServingError
from splitter.serving import tracing
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.credentials import ClientTls, TokenFile, open_channel
from splitter.serving.device.failure import Failure, Kind, failure_of
from splitter.serving.protocol import SERVICE, Address, MessageLimits

_MAX_RECONNECT_S = 2.0
"""gRPC's own 120 s would keep a device away from a server long after it is back."""
_NOBODY = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
)


@dataclass(frozen=True)
class Peer:
    """A server, and what it takes to talk to it."""

    address: Address
    limits: MessageLimits
    tls: ClientTls | None = None
    token: TokenFile | None = None


class TailClient:
    """Thread-safe; connects when first used."""

    def __init__(self, peer: Peer) -> None:
        """Raise ServingError where the peer's token would travel for all to read."""
        self.server = str(peer.address)
        self._token = peer.token
        options = _options(peer.address, peer.limits)
        if peer.tls is not None:
            peer.tls.changed()  # so that it is read again
        self._channel = open_channel(peer.address, options, peer.tls, peer.token)
        # Bytes to bytes: (de)serialised elsewhere, their number is known without doing it twice.
        self._infer = self._channel.unary_unary(f"/{SERVICE}/ModelInfer", bytes, bytes)
        self._ready = self._channel.unary_unary(
            f"/{SERVICE}/ServerReady",
            pb.ServerReadyRequest.SerializeToString,
            pb.ServerReadyResponse.FromString,
        )

    def call(self, message: bytes, patience_s: float) -> bytes | Failure:
        """Send a message and wait for its answer, on this thread."""
        started = time.perf_counter()
        try:
            reply: bytes = self._infer(message, timeout=patience_s, metadata=self._metadata())
        except grpc.RpcError as exc:
            return failure_of(exc, self.server, time.perf_counter() - started)
        except ValueError:  # what gRPC raises on a closed channel
            return self._given_up()
        return reply

    def start(
        self, message: bytes, patience_s: float, done: Callable[[bytes | Failure], None]
    ) -> Callable[[], None]:
        """Send a message; ``done`` is called on another thread. Returns what cancels it."""
        started = time.perf_counter()

        def ended(future: Any) -> None:
            waited_s = time.perf_counter() - started
            succeeded = future.code() is grpc.StatusCode.OK
            done(future.result() if succeeded else failure_of(future, self.server, waited_s))

        try:
            future = self._infer.future(message, timeout=patience_s, metadata=self._metadata())
        except ValueError:
            done(self._given_up())
            return _nothing
        future.add_done_callback(ended)
        cancel: Callable[[], object] = future.cancel
        return lambda: _ignore(cancel())

    def is_answering(self, patience_s: float) -> bool:
        """Whether a server that takes requests answers a tiny message in that time."""
        try:
            return bool(
                self._ready(
                    pb.ServerReadyRequest(), timeout=patience_s, metadata=self._metadata()
                ).ready
            )
        except grpc.RpcError as exc:
            code: grpc.StatusCode = exc.code()
            return code not in _NOBODY  # one that refuses this method is there nevertheless
        except ValueError:
            return False

    def close(self) -> None:
        """Close the connection; requests on it fail as given up."""
        self._channel.close()

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        token = () if self._token is None else self._token.metadata()
        return token + tracing.headers()

    def _given_up(self) -> Failure:
        return Failure(
            Kind.GIVEN_UP, ServingError(f"server {self.server}: the connection was given up")
        )


def _nothing() -> None:
    """Cancel what has not begun."""


def _ignore(_: object) -> None:
    """Whether it could be cancelled does not matter: its answer is not waited for."""


def _options(address: Address, limits: MessageLimits) -> list[tuple[str, Any]]:
    options: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", limits.request_bytes),
        ("grpc.max_receive_message_length", limits.response_bytes),
        ("grpc.max_reconnect_backoff_ms", int(_MAX_RECONNECT_S * 1000)),
        # ours cover messages of any size; gRPC's own end, silently, at 256 KiB
        ("grpc.enable_retries", 0),
        # Sessions share no connection, nor one's back-off after a failure.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if address.is_loopback:
        options.append(("grpc.enable_http_proxy", 0))
    return options
