"""What both ends of the connection agree on: methods, addresses, message limits."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any

from google.protobuf.message import Message

from splitter.errors import ServingError
from splitter.graph.values import ITEM_BYTES
from splitter.partition.manifest import CutSpec, Manifest
from splitter.serving._pb2 import open_inference_pb2 as pb

SERVICE = "inference.GRPCInferenceService"
MONITOR = "splitter.Monitor"

METHODS: Mapping[str, tuple[type[Message], type[Message]]] = MappingProxyType({
    "ServerLive": (pb.ServerLiveRequest, pb.ServerLiveResponse),
    "ServerReady": (pb.ServerReadyRequest, pb.ServerReadyResponse),
    "ModelReady": (pb.ModelReadyRequest, pb.ModelReadyResponse),
    "ServerMetadata": (pb.ServerMetadataRequest, pb.ServerMetadataResponse),
    "ModelMetadata": (pb.ModelMetadataRequest, pb.ModelMetadataResponse),
    "ModelInfer": (pb.ModelInferRequest, pb.ModelInferResponse),
    "ModelStreamInfer": (pb.ModelInferRequest, pb.ModelStreamInferResponse),
    "ModelConfig": (pb.ModelConfigRequest, pb.ModelConfigResponse),
    "ModelStatistics": (pb.ModelStatisticsRequest, pb.ModelStatisticsResponse),
    "RepositoryIndex": (pb.RepositoryIndexRequest, pb.RepositoryIndexResponse),
    "RepositoryModelLoad": (pb.RepositoryModelLoadRequest, pb.RepositoryModelLoadResponse),
    "RepositoryModelUnload": (pb.RepositoryModelUnloadRequest, pb.RepositoryModelUnloadResponse),
})  # fmt: skip
"""Request and response by method."""

MAX_DETAILS = 1000
"""Characters of an error on the wire: it travels in a header, and gRPC drops what is over 8 KiB."""

_HEADROOM_BYTES = 1 << 20
_MAX_MESSAGE_BYTES = (1 << 31) - 1
_UNKNOWN_BYTES = 64 << 20  # of an output whose shape depends on the data
_VARINT_BYTES = 10  # of an integer in the typed contents that a plain client may send


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``HOST:PORT`` or ``[HOST]:PORT``; raises ServingError."""
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            colon = ""
        valid = port.isascii() and port.isdigit() and int(port) < 1 << 16
        if not (colon and host and valid) or "/" in host or any(c.isspace() for c in host):
            raise ServingError(
                f"{text!r} is not an address; write HOST:PORT, such as 127.0.0.1:8001"
            )
        return cls(host, int(port))

    def __str__(self) -> str:
        """The form that ``parse`` and gRPC read."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it; a name other than localhost is not looked up."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True)
class MessageLimits:
    """The largest messages that a bundle can need. gRPC's own limit of 4 MiB is below many tensors."""

    request_bytes: int
    response_bytes: int

    @classmethod
    def of(cls, manifest: Manifest, max_batch: int = 1) -> MessageLimits:
        """Derive them from the shapes, of ``max_batch`` samples where a tail takes that many.

        Raises
        ------
        ServingError
            One message cannot hold a cut's tensors.
        """
        each = [_limits(manifest, cut, max_batch) for cut in manifest.cuts if cut.tail is not None]
        return cls.largest(each)

    @classmethod
    def largest(cls, each: Iterable[MessageLimits]) -> MessageLimits:
        """What holds the messages of all."""
        limits = [cls(_HEADROOM_BYTES, _HEADROOM_BYTES), *each]
        return cls(
            max(limit.request_bytes for limit in limits),
            max(limit.response_bytes for limit in limits),
        )


def _limits(manifest: Manifest, cut: CutSpec, max_batch: int) -> MessageLimits:
    there = {*cut.tail_outputs, *cut.kept}
    outputs = [spec for spec in manifest.outputs if spec.name in there]
    times = max_batch if cut.batches else 1
    return MessageLimits(
        _room("crossing tensors", ((spec.dtype, spec.shape) for spec in cut.crossing), times),
        _room("outputs", ((spec.dtype, spec.shape) for spec in outputs), times),
    )


def _room(what: str, tensors: Iterable[tuple[str, tuple[int, ...] | None]], times: int) -> int:
    least = most = 0
    for dtype, shape in tensors:
        item_bytes = ITEM_BYTES.get(dtype, 1)
        count = _UNKNOWN_BYTES // item_bytes if shape is None else prod(shape)
        least += count * item_bytes
        most += count * (_VARINT_BYTES if "int" in dtype else item_bytes)
    if least + _HEADROOM_BYTES > _MAX_MESSAGE_BYTES:
        raise ServingError(f"the {what} take {least} bytes, a message holds {_MAX_MESSAGE_BYTES}")
    return min(most * times + _HEADROOM_BYTES, _MAX_MESSAGE_BYTES)


def one_line(text: Any) -> str:
    """A message that came from elsewhere, without line breaks and not without end."""
    return " ".join(str(text).split())[:MAX_DETAILS]
