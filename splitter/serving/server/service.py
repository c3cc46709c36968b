"""The protocol's methods, but for inference itself: what is served, and what is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

import splitter
from splitter.errors import InputError
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.protocol import METHODS
from splitter.serving.server import describing
from splitter.serving.server.admission import Admission, host_of
from splitter.serving.server.calls import Receive, only
from splitter.serving.server.inference import Call, Inference
from splitter.serving.server.loading import Loaded
from splitter.serving.server.repository import READY, Repository
from splitter.serving.server.status import NotReadyError, Refusal
from splitter.serving.server.streaming import Streams

Context = grpc.ServicerContext

EXTENSIONS = (
    "codec", "parameters", "model_repository", "model_configuration", "schedule_policy", "statistics",
    "binary_tensor_data",
)  # fmt: skip

NOT_OFFERED = (
    "SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister",
    "CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister",
    "TraceSetting", "LogSettings",
)  # fmt: skip
"""Methods of Triton's that make no sense here: they reach into the server's machine."""

_NO_DEADLINE_S = 1e9  # what gRPC reports for none is far above
_UNLOAD_PATIENCE_S = 60.0  # of a call without deadline


class Service:
    """Answers for everything in a repository."""

    def __init__(self, repository: Repository, on_change: Callable[[], None]) -> None:
        """``on_change`` is called whenever models may have come or gone."""
        self.is_stopping = False
        self._repository, self._on_change = repository, on_change

    @property
    def is_ready(self) -> bool:
        """Whether anything can be asked for."""
        return not self.is_stopping and bool(self._repository.ready())

    def methods(self) -> dict[str, Callable[[Any, Context], Message]]:
        """Methods that take a message and give one, by name."""
        return {
            "ServerLive": lambda _, __: pb.ServerLiveResponse(live=True),
            "ServerReady": lambda _, __: pb.ServerReadyResponse(ready=self.is_ready),
            "ServerMetadata": lambda _, __: pb.ServerMetadataResponse(
                name="splitter", version=splitter.__version__, extensions=EXTENSIONS
            ),
            "ModelReady": lambda request, _: self.model_ready(request),
            "ModelMetadata": lambda request, _: self.model_metadata(request),
            "ModelConfig": lambda request, _: self.model_config(request),
            "ModelStatistics": lambda request, _: self.model_statistics(request),
            "RepositoryIndex": lambda request, _: self.index(request),
            "RepositoryModelLoad": lambda request, _: self.load(request),
            "RepositoryModelUnload": self.unload,
        }

    def model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        """Whether a model takes requests; raises NotServedError for one that does not exist."""
        try:
            self._repository.find(request.name, request.version)
        except NotReadyError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=not self.is_stopping)

    def model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        """List the tail's inputs, which are the crossing tensors, and its outputs."""
        loaded = self._repository.find(request.name, request.version)
        versions = [one.version for one in self._repository.view.newest[loaded.name]]
        return describing.metadata(loaded, versions[::-1])

    def model_config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        """Say how the tail takes requests."""
        loaded = self._repository.find(request.name, request.version)
        return pb.ModelConfigResponse(config=describing.configuration(loaded))

    def model_statistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        """Counts and seconds: of all models, all versions of one, or one."""
        found: list[Loaded] = self._repository.ready()
        if request.name:
            one = self._repository.find(request.name, request.version)
            found = [one] if request.version else [x for x in found if x.name == request.name]
        return pb.ModelStatisticsResponse(
            model_stats=[one.statistics.message(one.name, one.version) for one in found]
        )

    def index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        """List what the folder holds, loaded or not."""
        _demand_no_name(request.repository_name)
        model = pb.RepositoryIndexResponse.ModelIndex
        return pb.RepositoryIndexResponse(
            models=[
                model(
                    name=state.place.name,
                    version=state.place.version,
                    state=state.state,
                    reason=state.reason,
                )
                for state in self._repository.index()
                if state.state == READY or not request.ready
            ]
        )

    def load(self, request: pb.RepositoryModelLoadRequest) -> pb.RepositoryModelLoadResponse:
        """Load a model of the folder; raises InputError for parameters, which would replace its files."""
        _demand_no_name(request.repository_name)
        if request.parameters:
            names = ", ".join(sorted(request.parameters))[:200]
            raise InputError(
                f"parameters ({names}) are not taken: a model is what its bundle says; "
                "put the bundle into the folder and load it without"
            )
        try:
            self._repository.load(request.model_name)
        finally:
            self._on_change()
        return pb.RepositoryModelLoadResponse()

    def unload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        """Unload a model when the requests that run have ended, within the call's deadline."""
        _demand_no_name(request.repository_name)
        unknown = sorted(set(request.parameters) - {"unload_dependents"})
        if unknown:
            raise InputError(f"parameter {unknown[0][:80]!r} is not known here")
        remaining_s = remaining(context)
        patience_s = remaining_s if remaining_s < _NO_DEADLINE_S else _UNLOAD_PATIENCE_S
        try:
            self._repository.unload(request.model_name, max(patience_s - 0.1, 0.01))
        finally:
            self._on_change()
        return pb.RepositoryModelUnloadResponse()


class InferenceService:
    """``ModelInfer`` and ``ModelStreamInfer``: calls of gRPC to requests of ``Inference``."""

    def __init__(
        self,
        inference: Inference,
        streams: Streams,
        admission: Admission,
        *,
        observes: bool,
    ) -> None:
        self._inference, self._streams, self._admission = inference, streams, admission
        self._observes = observes

    def infer(self, receive: Receive, context: Context) -> bytes | Refusal:
        """Answer one request, or refuse it."""
        peer = context.peer()
        host = host_of(peer)
        self._admission.enter(host)
        try:
            message = only(receive)
            return self._inference.answer(message, self._call("ModelInfer", peer, context))
        finally:
            self._admission.leave(host)

    def stream(self, receive: Receive, context: Context) -> Iterator[bytes]:
        """Answer requests as they come, in their order."""
        peer = context.peer()
        host = host_of(peer)
        self._admission.enter(host)
        try:
            call = self._call("ModelStreamInfer", peer, context)
            yield from self._streams.answers(receive, call)
        finally:
            self._admission.leave(host)

    def _call(self, method: str, peer: str, context: Context) -> Call:
        return Call(
            method,
            peer,
            _traceparent(context) if self._observes else "",
            remaining(context),
            context.is_active,
            context.add_callback,
        )


def parsed(kind: type[Message], message: bytes) -> Any:
    """Read a message; raises InputError where the bytes are none of this kind."""
    try:
        return kind.FromString(message)
    except DecodeError as exc:
        raise InputError(f"the bytes are no {kind.DESCRIPTOR.name}") from exc


def unary(
    name: str, call: Callable[[Any, Context], Message]
) -> Callable[[Receive, Context], bytes]:
    """Bytes to bytes around a method of ``Service``."""
    kind = METHODS[name][0]

    def answer(receive: Receive, context: Context) -> bytes:
        return call(parsed(kind, only(receive)), context).SerializeToString()

    return answer


def remaining(context: Context) -> float:
    """Seconds until the caller's deadline; very many where there is none."""
    found = context.time_remaining()
    return _NO_DEADLINE_S if found is None else min(found, _NO_DEADLINE_S)


def _traceparent(context: Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == "traceparent":
            return value if isinstance(value, str) else value.decode("ascii", "replace")
    return ""


def _demand_no_name(repository: str) -> None:
    if repository:
        raise InputError(f"repository_name is {repository[:80]!r}; there is one, without a name")
