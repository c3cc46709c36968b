"""A tail that is loaded: what it reads, what it makes, and the queue in front of it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from typing import Any, Protocol

import numpy as np

from splitter.codec import RAW, Codec, encode, get_codec, warm_up
from splitter.codec.base import bytes_view, dtype_name, numpy_dtype, travelling
from splitter.errors import InputError, ServingError, nearest
from splitter.graph.values import ITEM_BYTES, Tensor
from splitter.partition.manifest import CutSpec, Manifest
from splitter.runtime import Port
from splitter.serving import wire
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.server.batching import Policy, Queue
from splitter.serving.server.status import LateError, OnwardError

_log = logging.getLogger(__name__)

Array = np.ndarray[Any, Any]

_PLAIN = {name: numpy_dtype(name) for name in ITEM_BYTES if name != "bool"}
"""Whose raw contents may be anything."""

_MOST_HEADS = 64
"""Of answers with different shapes; a tail whose outputs depend on the data has no end of them."""


class TailRunner(Protocol):
    """As much of ``Runner`` as a tail needs."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
        """Run once; raises InputError."""


class Tail:
    """The tail of one cut of one bundle."""

    def __init__(
        self,
        manifest: Manifest,
        cut: CutSpec,
        runner: TailRunner,
        make_queue: Callable[[Policy, TailRunner], Queue],
        policy: Policy,
    ) -> None:
        """Raise ServingError where an output cannot travel, MissingExtraError where a codec cannot run."""
        self.id = cut.id
        self.cut = cut
        self.max_batch = policy.max_batch if cut.batches else 0
        """Samples in a request; 0 where its shapes are fixed."""
        self.inputs = {c.tensor: Tensor(c.tensor, c.dtype, c.shape) for c in cut.crossing}
        self.outputs = {
            spec.name: Tensor(spec.name, spec.dtype, spec.shape)
            for spec in manifest.outputs
            if spec.name in cut.tail_outputs or spec.name in cut.kept
        }
        self.kept = cut.kept
        ports = {spec.name: spec for spec in manifest.inputs}
        self.states = {
            state.input: Tensor(state.input, ports[state.input].dtype, ports[state.input].shape)
            for state in cut.states
        }
        self.fed_back = {state.input: state.output for state in cut.states}
        self.left = tuple(dict.fromkeys((*cut.kept, *self.fed_back.values())))
        """Outputs that are made with every request, asked for or not."""
        for tensor in self.outputs.values():
            if tensor.dtype not in wire.DATATYPE_OF:
                raise ServingError(
                    f"output {tensor.name!r} is {tensor.dtype}, which cannot travel; cut after it"
                )
        self.queue = make_queue(policy, runner)
        self.codecs = {c.tensor: c.codec for c in cut.crossing}
        self._runner = runner
        self._read = [port.name for port in runner.inputs]
        self._every_output = {name: RAW for name in self.outputs if name not in self.left}
        self._heads: dict[Any, bytes] = {}
        rows = [(t.shape or ())[0] if t.shape else 1 for t in self.inputs.values()]
        self._rows = max(1, min(rows, default=1)) if cut.batches else 1
        self._nbytes = _nbytes((*self.inputs.values(), *self.outputs.values()))

    def nbytes(self, samples: int) -> int:
        """What inputs and outputs of a request take, decoded; outputs of unknown shape count nothing."""
        return self._of_samples(self._nbytes, samples)

    def part_nbytes(self, samples: int, inputs: Iterable[Tensor], outputs: Iterable[str]) -> int:
        """The same of some of them."""
        return self._of_samples(
            _nbytes((*inputs, *(self.outputs[name] for name in outputs))), samples
        )

    def requested(self, request: pb.ModelInferRequest) -> dict[str, Codec]:
        """Outputs asked for, in that order, each with its codec; raises InputError, CodecError.

        Where none is named all are meant, but for those that are kept on the server.
        """
        if not request.outputs:
            return self._every_output
        codecs: dict[str, Codec] = {}
        for output in request.outputs:
            if output.name not in self.outputs:
                suggestion = nearest(output.name, self.outputs)
                raise InputError(f"no output is named {wire.shown(output.name)}{suggestion}")
            unknown = [key for key in output.parameters if key != "codec"]
            if unknown:
                raise InputError(f"output parameter {wire.shown(unknown[0])} is not known here")
            codecs[output.name] = get_codec(
                wire.text_parameter(output.parameters, "codec") or RAW.name
            )
        return codecs

    def feeds(self, packets: Sequence[wire.Packet]) -> dict[str, Array]:
        """Decode what ``wire.check`` has seen, in the order in which the tail reads it."""
        arrays = {packet.name: self._array(packet) for packet in packets}
        return self.in_order(arrays)

    def in_order(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Those that the tail reads, in its order."""
        return {name: arrays[name] for name in self._read if name in arrays}

    def answer(
        self, codecs: Mapping[str, Codec], results: Sequence[Array]
    ) -> tuple[bytes, list[bytes | memoryview]]:
        """Outputs as a serialised part of a response, and their payloads."""
        if all(codec is RAW for codec in codecs.values()):
            payloads: list[bytes | memoryview] = [
                bytes_view(array if _goes_as_it_is(array) else travelling(array)).data
                for array in results
            ]
            return self._head(tuple(codecs), results), payloads
        packets = [
            _pack(name, array, codec)
            for (name, codec), array in zip(codecs.items(), results, strict=True)
        ]
        response = pb.ModelInferResponse()
        wire.write_headers(response, packets)
        return response.SerializeToString(), [packet.payload for packet in packets]

    def warm_up(self) -> None:
        """Run the smallest and the largest batch: a first run allocates.

        Zeros may be no valid input; then a client pays.

        Raises
        ------
        MissingExtraError
            A codec needs a package that is not installed.
        """
        for spec in self.cut.crossing:
            warm_up(spec.codec, spec.dtype, spec.shape)
        try:
            for samples in sorted({1, self.max_batch} - {0}):
                self._runner.run(self._zeros(samples), list(self.outputs))
        except (InputError, LateError, OnwardError) as exc:
            _log.warning("tail %s does not run on zeros, so it starts cold: %s", self.id, exc)

    def metadata(self) -> tuple[list[wire.TensorMetadata], list[wire.TensorMetadata]]:
        """Inputs and outputs with the protocol's datatypes; -1 is a dimension of any size."""
        return (
            [self._metadata(tensor) for tensor in self.inputs.values()],
            [self._metadata(tensor) for tensor in self.outputs.values()],
        )

    def _of_samples(self, nbytes: int, samples: int) -> int:
        return -(-nbytes * samples // self._rows) if self.max_batch else nbytes

    def _zeros(self, samples: int) -> dict[str, Array]:
        feeds = {}
        for name in self._read:
            tensor = self.inputs.get(name) or self.states[name]
            shape = tensor.shape or ()
            if self.max_batch:
                shape = (samples, *shape[1:])
            feeds[name] = np.zeros(shape, numpy_dtype(tensor.dtype))
        return feeds

    def _metadata(self, tensor: Tensor) -> wire.TensorMetadata:
        shape = tensor.shape
        if shape is None:  # only the rank is known, from the model itself
            ports = (port for port in self._runner.outputs if port.name == tensor.name)
            port = next(ports)
            shape = tuple(size if isinstance(size, int) else -1 for size in port.shape)
        if self.max_batch:
            shape = (-1, *shape[1:])
        return wire.TensorMetadata(tensor.name, wire.DATATYPE_OF[tensor.dtype], shape)

    def _array(self, packet: wire.Packet) -> Array:
        dtype = _PLAIN.get(packet.dtype)
        if packet.codec == RAW.name and dtype is not None:
            flat = np.frombuffer(packet.payload, np.uint8)
            if flat.size == prod(packet.shape) * dtype.itemsize:
                array = flat.view(dtype).reshape(packet.shape)
                # raw contents lie anywhere in a message, and the runtime expects them aligned
                return array if array.flags.aligned else array.copy()
        array = wire.decode((packet,), self.codecs)[packet.name]
        return array if array.flags.aligned else array.copy()

    def _head(self, names: tuple[str, ...], arrays: Sequence[Array]) -> bytes:
        key = (names, *((array.shape, array.dtype) for array in arrays))
        head = self._heads.get(key)
        if head is None:
            response = pb.ModelInferResponse()
            for name, array in zip(names, arrays, strict=True):
                datatype = wire.DATATYPE_OF[dtype_name(array.dtype)]
                response.outputs.add(name=name, datatype=datatype, shape=array.shape)
            head = response.SerializeToString()
            if len(self._heads) < _MOST_HEADS:
                self._heads[key] = head
        return head


def _goes_as_it_is(array: Array) -> bool:
    return array.dtype.isnative and array.flags.c_contiguous and sys.byteorder == "little"


def _pack(name: str, array: Array, codec: Codec) -> wire.Packet:
    used, payload = encode(array, codec)
    return wire.Packet(name, dtype_name(array.dtype), array.shape, used.name, payload)


def _nbytes(tensors: Iterable[Tensor]) -> int:
    return sum(prod(t.shape or (0,)) * ITEM_BYTES[t.dtype] for t in tensors)
