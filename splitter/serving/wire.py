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
from typing import Any

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


@dataclass(frozen=True)
class Packet:
    """One tensor as it travels: what it is, and its bytes in its codec."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    codec: str
    payload: bytes


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
    wanted = {tensor.name: tensor for tensor in expected}
    arrays: dict[str, Array] = {}
    for packet in packets:
        tensor = wanted.get(packet.name)
        if tensor is None:
            raise InputError(
                f"no tensor is named {shown(packet.name)}{nearest(packet.name, wanted)}"
            )
        if packet.name in arrays:
            raise InputError(f"tensor {shown(packet.name)} is given twice")
        if packet.dtype != tensor.dtype:
            raise InputError(f"tensor {tensor.name!r} is {packet.dtype}, expected {tensor.dtype}")
        if packet.shape != tensor.shape:
            found, right = list(packet.shape), list(tensor.shape or ())
            raise InputError(f"tensor {tensor.name!r} has shape {found}, expected {right}")
        codec = _codec(packet, codecs.get(packet.name))
        arrays[packet.name] = codec.decode(packet.payload, packet.dtype, packet.shape)
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise InputError(f"tensor {missing[0]!r} is missing")
    return arrays


def write_packets(
    message: pb.ModelInferRequest | pb.ModelInferResponse, packets: Iterable[Packet]
) -> None:
    """Append tensors to a message that has none, or none but raw ones."""
    headers: Any
    if isinstance(message, pb.ModelInferRequest):
        headers, raw = message.inputs, message.raw_input_contents
    else:
        headers, raw = message.outputs, message.raw_output_contents
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
        raw.append(packet.payload)


def read_packets(message: pb.ModelInferRequest | pb.ModelInferResponse) -> list[Packet]:
    """Tensors of a message, their payloads not yet decoded.

    Raises
    ------
    InputError
        Raw and typed contents are mixed, their number or size is wrong, or a header is malformed.
    """
    headers: Sequence[Header]
    if isinstance(message, pb.ModelInferRequest):
        headers, raw = message.inputs, message.raw_input_contents
    else:
        headers, raw = message.outputs, message.raw_output_contents
    if not raw:
        return [_packet(header, _typed_contents(header)) for header in headers]
    if len(raw) != len(headers):
        raise InputError(f"{len(raw)} raw contents for {len(headers)} tensors; give one for each")
    for header in headers:
        if header.HasField("contents"):
            raise InputError(f"tensor {shown(header.name)} has typed contents beside raw ones")
    return [_packet(header, payload) for header, payload in zip(headers, raw, strict=True)]


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


def _packet(header: Any, payload: bytes) -> Packet:
    codec = text_parameter(header.parameters, "codec")
    if codec is None:
        dtype, shape = _dtype(header, header.datatype), tuple(header.shape)
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
