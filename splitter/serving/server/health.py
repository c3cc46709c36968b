"""``grpc.health.v1`` and reflection.

The servicer that comes with gRPC's health package holds a lock while it sends a status to a watcher, so
one watcher that does not read stops health for all. Here watchers wait each on a thread of their own, and
a check reads a dictionary.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import ReflectionServicer

from splitter.errors import InputError
from splitter.serving._pb2 import monitor_pb2
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.protocol import MONITOR, SERVICE
from splitter.serving.server.calls import Receive
from splitter.serving.server.status import NotServedError
from splitter.serving.wire import shown

HEALTH = "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1alpha.ServerReflection"

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """Statuses by service name: the whole server (empty), the protocol's service, and each model."""

    def __init__(self) -> None:
        self._serving: dict[str, bool] = {"": False, SERVICE: False}
        self._changed = threading.Condition()
        self._is_closed = False

    def set(self, is_ready: bool, models: dict[str, bool]) -> None:
        """Replace all statuses."""
        with self._changed:
            self._serving = {**models, "": is_ready, SERVICE: is_ready}
            self._changed.notify_all()

    def close(self) -> None:
        """End every watch."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def check(self, message: bytes) -> bytes:
        """Answer a check; raises NotServedError for an unknown name, InputError for another message."""
        name = _name(message)
        serving = self._serving.get(name)
        if serving is None:
            raise NotServedError(f"no service is named {shown(name)}")
        return _response(serving)

    def list(self) -> bytes:
        """Answer with all statuses."""
        response = health_pb2.HealthListResponse()
        for name, serving in self._serving.items():
            response.statuses[name].status = _SERVING if serving else _NOT_SERVING
        return bytes(response.SerializeToString())

    def watch(self, message: bytes, is_active: Any, on_end: Any) -> Iterator[bytes]:
        """Answer with the status, and whenever it changes; raises InputError for another message."""
        name = _name(message)
        on_end(self._look)
        told: Any = ()
        while True:
            with self._changed:
                while self._serving.get(name) is told and not self._is_closed and is_active():
                    self._changed.wait()
                if self._is_closed or not is_active():
                    return
                told = self._serving.get(name)
            yield _response(told)

    def _look(self) -> None:
        with self._changed:
            self._changed.notify_all()


class Reflection:
    """Descriptors of all that the server offers; ours live in a pool of their own."""

    def __init__(self) -> None:
        pool = DescriptorPool()
        for module in (pb, monitor_pb2, health_pb2, reflection_pb2):
            pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
        names = (SERVICE, MONITOR, HEALTH, REFLECTION)
        self._servicer = ReflectionServicer(names, pool=pool)

    def answers(self, receive: Receive, context: Any) -> Iterator[bytes]:
        """Answer as gRPC's own reflection; raises InputError for another message."""
        kind = reflection_pb2.ServerReflectionRequest
        requests = (_parsed(kind, message) for message in iter(receive, None))
        servicer: Any = self._servicer  # its stub is wrong
        for response in servicer.ServerReflectionInfo(requests, context):
            yield response.SerializeToString()


def _name(message: bytes) -> str:
    return str(_parsed(health_pb2.HealthCheckRequest, message).service)


def _parsed(kind: Any, message: bytes) -> Any:
    try:
        return kind.FromString(message)
    except DecodeError as exc:
        raise InputError(f"the bytes are no {kind.DESCRIPTOR.name}") from exc


def _response(serving: bool | None) -> bytes:
    status = _UNKNOWN if serving is None else _SERVING if serving else _NOT_SERVING
    return bytes(health_pb2.HealthCheckResponse(status=status).SerializeToString())
