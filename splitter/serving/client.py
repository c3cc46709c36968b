"""One connection to a tail: requests out, answers in, gRPC's failures as our errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from splitter.errors import ServingError, StaleBundleError
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.protocol import SERVICE, Address, MessageLimits, one_line

_MAX_RECONNECT_S = 2.0
"""gRPC's own 120 s would keep a device away from a server long after it is back."""


@dataclass(frozen=True)
class Answer:
    """A response, and the bytes of the messages either way, without gRPC's framing."""

    response: pb.ModelInferResponse
    up_bytes: int
    down_bytes: int


class TailClient:
    """Thread-safe; connects when first used."""

    def __init__(self, server: str, limits: MessageLimits, deadline_s: float) -> None:
        """Raise ServingError for an address that is none."""
        self.address = Address.parse(server)
        self._deadline_s = deadline_s
        self._channel = grpc.insecure_channel(str(self.address), options=self._options(limits))
        # Bytes to bytes: (de)serialised here, their number is known without doing it twice.
        self._infer = self._channel.unary_unary(f"/{SERVICE}/ModelInfer", bytes, bytes)

    def infer(self, request: pb.ModelInferRequest) -> Answer:
        """Send a request and wait for its answer.

        Raises
        ------
        StaleBundleError
            The server has another bundle.
        ServingError
            The server cannot be reached, is late, or refuses.
        """
        message = request.SerializeToString()
        try:
            reply: bytes = self._infer(message, timeout=self._deadline_s)
        except grpc.RpcError as exc:
            raise self._error(exc) from exc
        except ValueError as exc:  # what gRPC raises on a closed channel
            raise ServingError(f"server {self.address}: the session is closed") from exc
        try:
            response = pb.ModelInferResponse.FromString(reply)
        except DecodeError as exc:
            raise ServingError(f"server {self.address} answered with something else") from exc
        return Answer(response, len(message), len(reply))

    def close(self) -> None:
        """Close the connection; requests that run are cancelled."""
        self._channel.close()

    def _options(self, limits: MessageLimits) -> list[tuple[str, Any]]:
        options: list[tuple[str, Any]] = [
            ("grpc.max_send_message_length", limits.request_bytes),
            ("grpc.max_receive_message_length", limits.response_bytes),
            ("grpc.max_reconnect_backoff_ms", int(_MAX_RECONNECT_S * 1000)),
            # Sessions share no connection, nor one's back-off after a failure.
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if self.address.is_loopback:
            options.append(("grpc.enable_http_proxy", 0))
        return options

    def _error(self, exc: Any) -> ServingError:
        code, details = exc.code(), one_line(exc.details())
        where = f"server {self.address}"
        if code is grpc.StatusCode.FAILED_PRECONDITION:
            return StaleBundleError(f"{where}: {details}")
        if code is grpc.StatusCode.UNAVAILABLE:
            return ServingError(
                f"{where} cannot be reached ({details}); is `splitter serve` running?"
            )
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return ServingError(f"{where} did not answer within {self._deadline_s:g} s")
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return ServingError(f"{where} does not speak the Open Inference Protocol ({details})")
        return ServingError(f"{where} refused the request ({code.name}): {details}")
