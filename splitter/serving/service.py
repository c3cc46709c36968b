"""The methods of the protocol over one tail: message to arrays, run, arrays to message."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

import splitter
from splitter.codec import RAW, Codec, get_codec
from splitter.errors import (
    CodecError,
    InputError,
    ServingError,
    SplitterError,
    StaleBundleError,
    nearest,
)
from splitter.graph.values import Tensor
from splitter.partition.manifest import Manifest
from splitter.runtime import Runner
from splitter.serving import wire
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.protocol import METHODS, MODEL_VERSION, SERVICE, one_line

Context = grpc.ServicerContext

_log = logging.getLogger(__name__)

_LONGEST_WAIT_S = 3600.0  # of a request without a deadline, whose context says 9.2e18


class _UnknownModelError(ServingError):
    """Another model or version than the one served."""


class _BusyError(ServingError):
    """Too many requests wait already."""


class _LateError(ServingError):
    """The deadline passed while the request waited."""


_STATUS_OF: tuple[tuple[type[SplitterError], grpc.StatusCode], ...] = (
    (_UnknownModelError, grpc.StatusCode.NOT_FOUND),
    (_BusyError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (_LateError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (StaleBundleError, grpc.StatusCode.FAILED_PRECONDITION),
    (InputError, grpc.StatusCode.INVALID_ARGUMENT),
    (CodecError, grpc.StatusCode.INVALID_ARGUMENT),
    (SplitterError, grpc.StatusCode.INTERNAL),
)


class TailService:
    """Answers for one tail; ``workers`` requests run at a time, ``waiting`` more may wait."""

    def __init__(self, manifest: Manifest, tail: Runner, workers: int, waiting: int) -> None:
        self.is_ready = False
        self._manifest = manifest
        self._tail = tail
        self._running = threading.BoundedSemaphore(workers)
        self._admitted = threading.BoundedSemaphore(workers + waiting)
        self._inputs = tuple(Tensor(c.tensor, c.dtype, c.shape) for c in manifest.planned.crossing)
        self._codecs = {c.tensor: c.codec for c in manifest.planned.crossing}
        self._read = [port.name for port in tail.inputs]
        self._outputs = {
            spec.name: Tensor(spec.name, spec.dtype, spec.shape)
            for spec in manifest.outputs
            if spec.name in manifest.planned.tail_outputs
        }

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """Make the handler that a gRPC server takes."""
        methods: dict[str, Callable[[Any], Any]] = {
            "ServerLive": lambda _: pb.ServerLiveResponse(live=True),
            "ServerReady": lambda _: pb.ServerReadyResponse(ready=self.is_ready),
            "ModelReady": self.model_ready,
            "ServerMetadata": lambda _: pb.ServerMetadataResponse(
                name="splitter", version=splitter.__version__, extensions=["codec", "parameters"]
            ),
            "ModelMetadata": self.model_metadata,
        }
        handlers = {name: _rpc(name, _ignoring_context(call)) for name, call in methods.items()}
        handlers["ModelInfer"] = _rpc("ModelInfer", self.model_infer)
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    def model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        """Whether the tail takes requests; raises ServingError for another model."""
        self._demand_model(request.name, request.version)
        return pb.ModelReadyResponse(ready=self.is_ready)

    def model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        """List the tail's inputs, which are the crossing tensors, and its outputs."""
        self._demand_model(request.name, request.version)
        return pb.ModelMetadataResponse(
            name=self._manifest.name,
            versions=[MODEL_VERSION],
            platform="onnxruntime_onnx",
            inputs=[_metadata(tensor, self._tail) for tensor in self._inputs],
            outputs=[_metadata(tensor, self._tail) for tensor in self._outputs.values()],
        )

    def model_infer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        """Run the tail; the answer says how long decoding, waiting and running took, in seconds."""
        self._demand_model(request.model_name, request.model_version)
        self._demand_bundle(request)
        codecs = self._requested(request)
        if len(request.inputs) > len(self._inputs):
            raise InputError(
                f"{len(request.inputs)} tensors given, the tail reads {len(self._inputs)}"
            )
        with self._turn(context) as queue_s:
            started = time.perf_counter()
            arrays = wire.unpack(wire.read_packets(request), self._inputs, self._codecs)
            decoded = time.perf_counter()
            results = self._tail.run({name: arrays[name] for name in self._read}, list(codecs))
            ended = time.perf_counter()
        response = pb.ModelInferResponse(
            model_name=self._manifest.name, model_version=MODEL_VERSION, id=request.id
        )
        wire.write_packets(
            response,
            [
                wire.pack(name, array, codec)
                for (name, codec), array in zip(codecs.items(), results, strict=True)
            ],
        )
        seconds = {"queue_s": queue_s, "decode_s": decoded - started, "tail_s": ended - decoded}
        for key, value in seconds.items():
            response.parameters[key].double_param = value
        return response

    def _demand_model(self, name: str, version: str) -> None:
        if name != self._manifest.name:
            raise _UnknownModelError(
                f"no model is named {wire.shown(name)}; this server has {self._manifest.name!r}"
            )
        if version not in ("", MODEL_VERSION):
            raise _UnknownModelError(
                f"model {name!r} has no version {wire.shown(version)}, only {MODEL_VERSION!r}"
            )

    def _demand_bundle(self, request: pb.ModelInferRequest) -> None:
        digest = wire.text_parameter(request.parameters, "bundle")
        if digest is not None and digest != self._manifest.digest:
            raise StaleBundleError(
                f"the device has bundle {wire.shown(digest)}, the server {self._manifest.digest!r}; "
                "copy one bundle to both and start the server again"
            )

    def _requested(self, request: pb.ModelInferRequest) -> dict[str, Codec]:
        """Outputs asked for, in that order, each with the codec that it is wanted in."""
        codecs: dict[str, Codec] = {}
        for output in request.outputs:
            if output.name not in self._outputs:
                suggestion = nearest(output.name, self._outputs)
                raise InputError(f"no output is named {wire.shown(output.name)}{suggestion}")
            unknown = [key for key in output.parameters if key != "codec"]
            if unknown:
                raise InputError(f"output parameter {wire.shown(unknown[0])} is not known here")
            codecs[output.name] = get_codec(
                wire.text_parameter(output.parameters, "codec") or RAW.name
            )
        return codecs or dict.fromkeys(self._outputs, RAW)

    @contextlib.contextmanager
    def _turn(self, context: Context) -> Iterator[float]:
        """Wait for a worker; gives the seconds waited."""
        if not self._admitted.acquire(blocking=False):
            raise _BusyError("too many requests wait; try again later")
        try:
            started = time.perf_counter()
            remaining = context.time_remaining()
            patience = _LONGEST_WAIT_S if remaining is None else min(remaining, _LONGEST_WAIT_S)
            if not self._running.acquire(timeout=max(patience, 0.0)):
                raise _LateError("the deadline passed before a worker was free")
            try:
                yield time.perf_counter() - started
            finally:
                self._running.release()
        finally:
            self._admitted.release()


def _rpc(name: str, call: Callable[[Any, Context], Any]) -> grpc.RpcMethodHandler[Any, Any]:
    request, response = METHODS[name]

    def answer(message: Any, context: Context) -> Any:
        try:
            return call(message, context)
        except SplitterError as exc:
            code = next(code for kind, code in _STATUS_OF if isinstance(exc, kind))
            details = one_line(exc)
        _log.info("%s refused with %s: %s", name, code.name, details)
        return context.abort(code, details)

    return grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=request.FromString,
        response_serializer=response.SerializeToString,
    )


def _ignoring_context(call: Callable[[Any], Any]) -> Callable[[Any, Context], Any]:
    return lambda message, _: call(message)


def _metadata(tensor: Tensor, tail: Runner) -> pb.ModelMetadataResponse.TensorMetadata:
    shape = tensor.shape
    if shape is None:  # only the rank is known, from the model itself
        port = next(port for port in tail.outputs if port.name == tensor.name)
        shape = tuple(size if isinstance(size, int) else -1 for size in port.shape)
    return pb.ModelMetadataResponse.TensorMetadata(
        name=tensor.name, datatype=wire.DATATYPE_OF[tensor.dtype], shape=shape
    )
