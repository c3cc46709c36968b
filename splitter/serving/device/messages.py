"""The messages of one cut: crossing tensors into a request, a response into outputs. No sockets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from google.protobuf.message import DecodeError

from splitter.codec import warm_up
from splitter.errors import CodecError, InputError, ServingError
from splitter.graph.values import Tensor
from splitter.partition.manifest import CutSpec, Manifest
from splitter.runtime import Array
from splitter.serving import wire
from splitter.serving._pb2 import open_inference_pb2 as pb

NO_MARKS: Mapping[str, str | int | bool] = MappingProxyType({})
SERVER_TERMS = ("receive_s", "join_s", "queue_s", "decode_s", "tail_s", "encode_s")


@dataclass(frozen=True)
class Reply:
    """What a server answered, and the seconds that it says it took for each term."""

    outputs: Mapping[str, Array]
    seconds: Mapping[str, float]
    """By ``SERVER_TERMS``."""


class CutMessages:
    """Stateless after it is made, so thread-safe."""

    def __init__(self, manifest: Manifest, cut: CutSpec) -> None:
        """Raise MissingExtraError where a codec needs a package that is not installed."""
        self._model, self._digest, self._cut = manifest.name, manifest.digest, cut.id
        if manifest.join is not None:
            self._digest, self._cut = manifest.join.bundle, manifest.join.cut
        self._codecs = {spec.tensor: spec.codec for spec in cut.crossing}
        self.tail_outputs = {
            spec.name: Tensor(spec.name, spec.dtype, spec.shape)
            for spec in manifest.outputs
            if spec.name in cut.tail_outputs
        }
        for spec in cut.crossing:
            warm_up(spec.codec, spec.dtype, spec.shape)

    def request(
        self,
        values: Mapping[str, Array],
        wanted: Sequence[str],
        priority: int = 0,
        marks: Mapping[str, str | int | bool] = NO_MARKS,
    ) -> bytes:
        """Encode the crossing tensors and ask for these outputs of the tail.

        ``marks`` are parameters by which it belongs to other requests.
        """
        request = pb.ModelInferRequest(model_name=self._model)
        request.parameters["bundle"].string_param = self._digest
        request.parameters["cut"].string_param = self._cut
        if priority:
            request.parameters["priority"].int64_param = priority
        for key, mark in marks.items():
            if isinstance(mark, bool):
                request.parameters[key].bool_param = mark
            elif isinstance(mark, int):
                request.parameters[key].int64_param = mark
            else:
                request.parameters[key].string_param = mark
        if not wanted:
            request.parameters["answer"].bool_param = False
        for name in wanted:
            request.outputs.add(name=name)
        wire.write_packets(
            request, [wire.pack(name, values[name], codec) for name, codec in self._codecs.items()]
        )
        return request.SerializeToString()

    def response(self, reply: bytes, wanted: Sequence[str], server: str) -> Reply:
        """Read an answer; raises ServingError where it is not what was asked for."""
        try:
            response = pb.ModelInferResponse.FromString(reply)
        except DecodeError as exc:
            raise ServingError(f"server {server} answered with something else") from exc
        try:
            expected = [self.tail_outputs[name] for name in wanted]
            outputs = wire.unpack(wire.read_packets(response), expected)
            return Reply(outputs, _server_seconds(response))
        except (InputError, CodecError) as exc:
            raise ServingError(f"server {server} answered wrongly: {exc}") from exc


def _server_seconds(response: pb.ModelInferResponse) -> dict[str, float]:
    """0 where another server of the protocol does not say."""
    seconds = {}
    for key in SERVER_TERMS:
        value = response.parameters[key].double_param if key in response.parameters else 0.0
        if not 0 <= value < math.inf:
            raise InputError(f"{key} is {value}")
        seconds[key] = value
    return seconds
