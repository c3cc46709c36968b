"""Tensors on the wire: messages of the Open Inference Protocol <-> arrays. No sockets.

A tensor travels plain (its own datatype, ``raw_*_contents`` or typed ``contents``), or as a codec's
payload: then it is declared UINT8 with the payload's length as its shape, and its parameters name
the ``codec``, the real ``dtype`` and the real ``shape``. The protocol has no other place for it.

Whatever is read here is hostile: sizes are compared before anything is allocated, and every refusal
is an InputError or CodecError of one line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from splitter.codec import CODECS, RAW, Codec, encode
from splitter.codec.base import dtype_name
from splitter.errors import CodecError, InputError, nearest
from splitter.graph.values import Tensor
from splitter.serving._pb2 import open_inference_pb2 as pb

Array = np.ndarray[Any, Any]
Header = pb.ModelInferRequest.InferInputTensor | pb.ModelInferResponse.InferOutputTensor

DATATYPE_OF: Mapping[str, str] = MappingProxyType({
    "bool": "BOOL", "float16": "FP16", "bfloat16": "BF16", "float32": "FP32", "float64": "FP64",
    **{f"{u}int{n}": f"{u}int{n}".upper() for u in ("", "u") for n in (8, 16, 32, 64)},
})  # fmt: skip
"""The protocol's datatype by dtype. Its BYTES is absent: strings do not cross a cut."""

_DTYPE_OF = {datatype: dtype for dtype, datatype in DATATYPE_OF.items()}

_CONTENTS_OF: Mapping[str, tuple[str, str]] = MappingProxyType({
    "bool": ("bool_contents", "bool"),
    "int8": ("int_contents", "int32"), "int16": ("int_contents", "int32"),
    "int32": ("int_contents", "int32"), "int64": ("int64_contents", "int64"),
    "uint8": ("uint_contents", "uint32"), "uint16": ("uint_contents", "uint32"),
    "uint32": ("uint_contents", "uint32"), "uint64": ("uint64_contents", "uint64"),
    "float32": ("fp32_contents", "float32"), "float64": ("fp64_contents", "float64"),
})  # fmt: skip
"""The field of typed contents by dtype, and the dtype that the field itself has."""

NO_CODECS: Mapping[str, Codec] = MappingProxyType({})

_SHAPE = re.compile(r"(?:[0-9]{1,18}(?:,[0-9]{1,18}){0,63})?")


class Packet(NamedTuple):
    """One tensor as it travels: what it is, and its bytes in its codec."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    codec: str
    payload: bytes | memoryview


@dataclass(frozen=True)
class TensorMetadata:
    """What the protocol says of a tensor; -1 is a dimension of any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def pack(name: str, array: Array, codec: Codec) -> Packet:
    """Encode a tensor, in this codec or losslessly; raises CodecError where its dtype cannot travel."""
    used, payload = encode(array, codec)
    return Packet(name, dtype_name(array.dtype), array.shape, used.name, payload)


def unpack(
    packets: Sequence[Packet], expected: Iterable[Tensor], codecs: Mapping[str, Codec] = NO_CODECS
) -> dict[str, Array]:
    """Decode exactly the tensors expected, whatever their order.

    ``codecs`` is by tensor; those that need no calibration are taken as well.

    Raises
    ------
    InputError
        A tensor is unknown, missing, repeated, or of another dtype or shape.
    CodecError
        A payload is not what its header says.
    """
    check(packets, {tensor.name: tensor for tensor in expected})
    return decode(packets, codecs)


def check(packets: Sequence[Packet], wanted: Mapping[str, Tensor], max_batch: int = 0) -> int:
    """Compare headers with the tensors expected, by name, before anything is decoded.

    Returns the number of samples: 1, or with ``max_batch`` the first dimension, which then is free up to
    that and the same in all.

    Raises
    ------
    InputError
        A tensor is unknown, missing, repeated, or of another dtype or shape.
    """
    samples = 1
    seen: set[str] = set()
    for packet in packets:
        tensor = wanted.get(packet.name)
        if tensor is None:
            raise InputError(
                f"no tensor is named {shown(packet.name)}{nearest(packet.name, wanted)}"
            )
        if packet.name in seen:
            raise InputError(f"tensor {shown(packet.name)} is given twice")
        if packet.dtype != tensor.dtype:
            raise InputError(f"tensor {tensor.name!r} is {packet.dtype}, expected {tensor.dtype}")
        if packet.shape != tensor.shape and not (
            max_batch and _is_batch(packet.shape, tensor.shape or (), max_batch)
        ):
            raise InputError(_other_shape(packet, tensor, max_batch))
        if max_batch:
            if seen and packet.shape[0] != samples:
                raise InputError(
                    f"tensor {tensor.name!r} has {packet.shape[0]} samples, another has {samples}"
                )
            samples = packet.shape[0]
        seen.add(packet.name)
    if len(seen) < len(wanted):
        missing = next(name for name in wanted if name not in seen)
        raise InputError(f"tensor {missing!r} is missing")
    return samples


def _is_batch(shape: tuple[int, ...], sample: tuple[int, ...], max_batch: int) -> bool:
    return len(shape) == len(sample) and shape[1:] == sample[1:] and 1 <= shape[0] <= max_batch


def _other_shape(packet: Packet, tensor: Tensor, max_batch: int) -> str:
    right = ", ".join(map(str, tensor.shape or ()))
    if max_batch:
        right = ", ".join([f"1 to {max_batch}", *map(str, (tensor.shape or ())[1:])])
    found = list(packet.shape[:64])
    return f"tensor {tensor.name!r} has shape {found}, expected [{right}]"


def decode(packets: Iterable[Packet], codecs: Mapping[str, Codec] = NO_CODECS) -> dict[str, Array]:
    """Arrays of packets that ``check`` has seen; raises CodecError."""
    return {
        packet.name: _codec(packet, codecs.get(packet.name)).decode(
            packet.payload, packet.dtype, packet.shape
        )
        for packet in packets
    }


def write_packets(
    message: pb.ModelInferRequest | pb.ModelInferResponse, packets: Sequence[Packet]
) -> None:
    """Append tensors to a message that has none, or none but raw ones."""
    write_headers(message, packets)
    raw: Any
    if isinstance(message, pb.ModelInferRequest):
        raw = message.raw_input_contents
    else:
        raw = message.raw_output_contents
    raw.extend(bytes(packet.payload) for packet in packets)


def write_headers(
    message: pb.ModelInferRequest | pb.ModelInferResponse, packets: Iterable[Packet]
) -> None:
    """Append what is said of tensors whose payloads go elsewhere."""
    headers: Any
    headers = message.inputs if isinstance(message, pb.ModelInferRequest) else message.outputs
    for packet in packets:
        header = headers.add(name=packet.name)
        if packet.codec == RAW.name:
            header.datatype = DATATYPE_OF[packet.dtype]
            header.shape.extend(packet.shape)
        else:
            header.datatype = "UINT8"
            header.shape.append(len(packet.payload))
            header.parameters["codec"].string_param = packet.codec
            header.parameters["dtype"].string_param = DATATYPE_OF[packet.dtype]
            header.parameters["shape"].string_param = ",".join(map(str, packet.shape))


def read_packets(
    message: pb.ModelInferRequest | pb.ModelInferResponse,
    raw: Sequence[bytes | memoryview] | None = None,
) -> list[Packet]:
    """Tensors of a message, their payloads not yet decoded.

    ``raw`` holds the raw contents where they are no longer in the message itself.

    Raises
    ------
    InputError
        Raw and typed contents are mixed, their number or size is wrong, or a header is malformed.
    """
    headers: Any
    if isinstance(message, pb.ModelInferRequest):
        headers, inside = message.inputs[:], message.raw_input_contents
    else:
        headers, inside = message.outputs[:], message.raw_output_contents
    payloads: Sequence[bytes | memoryview] = (
        raw or inside[:]
    )  # a slice is read faster than protobuf's own
    if not payloads:
        return [_packet(header, _typed_contents(header)) for header in headers]
    if len(payloads) != len(headers):
        raise InputError(
            f"{len(payloads)} raw contents for {len(headers)} tensors; give one for each"
        )
    packets = []
    for header, payload in zip(headers, payloads, strict=True):
        if header.HasField("contents"):
            raise InputError(f"tensor {shown(header.name)} has typed contents beside raw ones")
        packets.append(_packet(header, payload))
    return packets


def number_parameter(
    parameters: Mapping[str, pb.InferParameter], key: str, most: int = (1 << 63) - 1
) -> int:
    """A whole number of 0 or more; 0 where absent. Raises InputError where it is none."""
    if key not in parameters:
        return 0
    kind = parameters[key].WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param"):
        raise InputError(f"parameter {key!r} is not an integer")
    value = int(getattr(parameters[key], kind))
    if not 0 <= value <= most:
        raise InputError(f"parameter {key!r} is {value}; it must be between 0 and {most}")
    return value


def text_parameter(parameters: Mapping[str, pb.InferParameter], key: str) -> str | None:
    """A string parameter; None where absent. Raises InputError where it is no string."""
    if key not in parameters:  # asking a protobuf map for a key puts it there
        return None
    if parameters[key].WhichOneof("parameter_choice") != "string_param":
        raise InputError(f"parameter {key!r} is not a string")
    return str(parameters[key].string_param)


def _codec(packet: Packet, own: Codec | None) -> Codec:
    if own is not None and own.name == packet.codec:
        return own
    if packet.codec in CODECS:
        return CODECS[packet.codec]
    known = [own.name] if own is not None and own.name not in CODECS else []
    raise CodecError(
        f"tensor {shown(packet.name)} comes in codec {shown(packet.codec)}; "
        f"{', '.join([*known, *CODECS])} can be read"
    )


def shown(name: str) -> str:
    """A name from the wire, fit for a message of one line: quoted and cut."""
    return repr(name if len(name) <= 80 else name[:77] + "...")


def _packet(header: Any, payload: bytes | memoryview) -> Packet:
    parameters = header.parameters
    codec = text_parameter(parameters, "codec") if parameters else None
    if codec is None:
        dtype, shape = _dtype(header, header.datatype), tuple(header.shape[:])
        return Packet(header.name, dtype, shape, RAW.name, payload)
    if header.datatype != "UINT8" or list(header.shape) != [len(payload)]:
        raise InputError(
            f"tensor {shown(header.name)} names a codec, so it must be UINT8 of shape [{len(payload)}]"
        )
    datatype = text_parameter(header.parameters, "dtype")
    shape_text = text_parameter(header.parameters, "shape")
    if datatype is None or shape_text is None:
        raise InputError(f"tensor {shown(header.name)} names a codec but not its dtype and shape")
    if not _SHAPE.fullmatch(shape_text):
        raise InputError(
            f"tensor {shown(header.name)} has shape {shown(shape_text)}; write 1,64,7,7"
        )
    shape = tuple(int(size) for size in shape_text.split(",") if size)
    return Packet(header.name, _dtype(header, datatype), shape, codec, payload)


def _dtype(header: Header, datatype: str) -> str:
    dtype = _DTYPE_OF.get(datatype)
    if dtype is None:
        known = ", ".join(_DTYPE_OF)
        raise InputError(
            f"tensor {shown(header.name)} has datatype {shown(datatype)}; {known} can travel"
        )
    return dtype


def _typed_contents(header: Header) -> bytes:
    """Elements of a tensor that a plain client sent one by one, as raw bytes."""
    dtype = _dtype(header, header.datatype)
    if dtype not in _CONTENTS_OF:
        raise InputError(
            f"tensor {shown(header.name)}: {header.datatype} travels as raw contents only"
        )
    field, field_dtype = _CONTENTS_OF[dtype]
    used = [descriptor.name for descriptor, _ in header.contents.ListFields()]
    if used not in ([], [field]):
        raise InputError(
            f"tensor {shown(header.name)}: {header.datatype} goes into {field}, not {', '.join(used)}"
        )
    values = getattr(header.contents, field)
    if min(header.shape, default=0) < 0 or len(values) != prod(header.shape):
        raise InputError(
            f"tensor {shown(header.name)} of shape {list(header.shape)[:64]} has {len(values)} elements"
        )
    wide = np.array(values, field_dtype)
    narrow = wide.astype(dtype)
    if dtype != field_dtype and not np.array_equal(wide, narrow):
        raise InputError(f"tensor {shown(header.name)} has elements that are no {header.datatype}")
    return narrow.tobytes()
