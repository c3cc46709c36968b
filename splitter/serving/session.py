"""Head and tail as one model: the device's side."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

import numpy as np

from splitter.codec import warm_up
from splitter.errors import CodecError, InputError, ServingError, nearest
from splitter.feeds import check_feeds
from splitter.graph.values import Tensor
from splitter.partition.bundle import Bundle
from splitter.partition.manifest import PortSpec
from splitter.planning.records import Latency
from splitter.runtime import Array, Port, Runner, Settings
from splitter.serving import wire
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.client import TailClient
from splitter.serving.protocol import MessageLimits


class Timing(Latency, frozen=True, kw_only=True):
    """One measured request, in the terms of the prediction and in a few more.

    ``total_s`` is the sum of the terms. ``link_s`` is what no clock of device or server accounts
    for: the network, gRPC and the messages, either way.
    """

    queue_s: float = 0.0
    """Waiting for a worker of the server."""
    up_bytes: int = 0
    """Of the request's message, without gRPC's framing."""
    down_bytes: int = 0


class Session:
    """Runs a bundle like onnxruntime's session runs the whole model. ``run`` is thread-safe."""

    def __init__(
        self,
        bundle_dir: str | os.PathLike[str],
        server: str | None = None,
        *,
        settings: Settings | None = None,
        deadline_s: float = 30.0,
    ) -> None:
        """Load the head; the server is called on by the first ``run`` or ``warm_up``.

        Parameters
        ----------
        server
            ``HOST:PORT`` of the tail; not used by a bundle that runs all on the device.
        settings
            Of the head, instead of the manifest's.

        Raises
        ------
        ServingError
            The bundle has a tail and no server was given, or its address is malformed.
        MissingExtraError
            A codec of the bundle needs a package that is not installed.
        BundleError, ModelError, ProfileError
            The bundle is damaged, or the head cannot be loaded with these settings.
        """
        bundle = Bundle.open(bundle_dir, role="device")
        self.manifest = bundle.manifest
        self.last = Timing()
        """Of the run that ended last, in whichever thread."""
        self.inputs: Mapping[str, Tensor] = {
            spec.name: Tensor(spec.name, spec.dtype, spec.shape) for spec in self.manifest.inputs
        }
        self._head: Runner | None = None
        self._tail: TailClient | None = None
        self._crossing = {spec.tensor: spec.codec for spec in self.manifest.planned.crossing}
        self._tail_outputs = {
            spec.name: Tensor(spec.name, spec.dtype, spec.shape)
            for spec in self.manifest.outputs
            if spec.name in self.manifest.planned.tail_outputs
        }
        if self.manifest.planned.tail is not None:
            if server is None:
                raise ServingError(f"{bundle.folder}: the bundle has a tail; give its server")
            self._tail = TailClient(server, MessageLimits.of(self.manifest), deadline_s)
            for spec in self.manifest.planned.crossing:
                warm_up(spec.codec, spec.dtype, spec.shape)
        if bundle.head is not None:
            self._head = Runner(bundle.head, settings or self.manifest.settings)

    def get_inputs(self) -> list[Port]:
        """Inputs of the whole model."""
        return [_port(spec) for spec in self.manifest.inputs]

    def get_outputs(self) -> list[Port]:
        """Outputs of the whole model, in the order in which ``run`` returns them."""
        return [_port(spec) for spec in self.manifest.outputs]

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
        """Run head and tail; the tail only where one of its outputs is asked for.

        Raises
        ------
        InputError
            A feed or output name is unknown or missing, or a feed has the wrong dtype or shape.
        StaleBundleError
            The server has another bundle.
        ServingError
            The server cannot be reached, is late, or refuses.
        """
        names = self._names(output_names)
        values = {name: np.asarray(value) for name, value in feeds.items()}
        check_feeds(values, self.inputs)
        started = time.perf_counter()
        if self._head is not None:
            made = self._head.run({port.name: values[port.name] for port in self._head.inputs})
            values.update((p.name, v) for p, v in zip(self._head.outputs, made, strict=True))
        head_s = time.perf_counter() - started
        timing = Timing(head_s=head_s, total_s=head_s)
        wanted = [name for name in names if name in self._tail_outputs]
        if wanted and self._tail is not None:
            answer, timing = self._run_tail(self._tail, wanted, values, head_s)
            values.update(answer)
        self.last = timing
        return [values[name] for name in names]

    def warm_up(self) -> None:
        """Run once on zeros, so that a wrong server is found and the connection is made.

        Raises
        ------
        InputError, ServingError
            As ``run``; a model may also refuse zeros.
        """
        self.run(None, {spec.name: _zeros(spec) for spec in self.manifest.inputs})

    def close(self) -> None:
        """Close the connection."""
        if self._tail is not None:
            self._tail.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run_tail(
        self, tail: TailClient, wanted: list[str], values: Mapping[str, Array], head_s: float
    ) -> tuple[dict[str, Array], Timing]:
        started = time.perf_counter()
        packets = [wire.pack(name, values[name], codec) for name, codec in self._crossing.items()]
        encode_s = time.perf_counter() - started
        request = pb.ModelInferRequest(model_name=self.manifest.name)
        request.parameters["bundle"].string_param = self.manifest.digest
        for name in wanted:
            request.outputs.add(name=name)
        wire.write_packets(request, packets)
        answer = tail.infer(request)
        try:
            expected = [self._tail_outputs[name] for name in wanted]
            arrays = wire.unpack(wire.read_packets(answer.response), expected)
            queue_s, decode_s, tail_s = _server_seconds(answer.response)
        except (InputError, CodecError) as exc:
            raise ServingError(f"server {tail.address} answered wrongly: {exc}") from exc
        rest_s = time.perf_counter() - started - encode_s
        timing = Timing(
            head_s=head_s,
            encode_s=encode_s,
            link_s=max(0.0, rest_s - queue_s - decode_s - tail_s),
            queue_s=queue_s,
            decode_s=decode_s,
            tail_s=tail_s,
            total_s=head_s + encode_s + rest_s,
            up_bytes=answer.up_bytes,
            down_bytes=answer.down_bytes,
        )
        return arrays, timing

    def _names(self, output_names: Sequence[str] | None) -> list[str]:
        known = [spec.name for spec in self.manifest.outputs]
        for name in output_names or ():
            if name not in known:
                raise InputError(f"no output is named {name!r}{nearest(name, known)}")
        return known if output_names is None else list(output_names)


def _server_seconds(response: pb.ModelInferResponse) -> tuple[float, float, float]:
    """Seconds waited, decoding and running; 0 where another server of the protocol says none."""
    seconds = []
    for key in ("queue_s", "decode_s", "tail_s"):
        value = response.parameters[key].double_param if key in response.parameters else 0.0
        if not 0 <= value < math.inf:
            raise InputError(f"{key} is {value}")
        seconds.append(value)
    return seconds[0], seconds[1], seconds[2]


def _port(spec: PortSpec) -> Port:
    unknown = (None,)  # of a shape that depends on the data the manifest has not even the rank
    return Port(spec.name, spec.dtype, unknown if spec.shape is None else spec.shape)


def _zeros(spec: PortSpec) -> Array:
    return np.zeros(spec.shape or (), spec.dtype)
