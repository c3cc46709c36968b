"""Messages of the protocol around large tensors, without copying these once more than needed.

protobuf copies every bytes field when it reads a message, again when it hands the field out, and twice on
the way back. For tensors of a megabyte that is most of the time a request takes. So raw contents are cut
out of a message before protobuf reads the rest of it, and put behind what protobuf wrote: the format
allows fields in any order, and says that messages behind each other are one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

RAW_INPUTS, RAW_OUTPUTS = 7, 6
"""Numbers of the fields ``raw_input_contents`` and ``raw_output_contents``."""
RESPONSE_ID = 3
_PARAMETERS = 4  # of a response
_INFER_RESPONSE = 2  # of a ModelStreamInferResponse

_WORTH_BYTES = 16 << 10
"""A shorter message is read faster by protobuf than in Python."""
_MOST_FIELDS = 256
"""Of a message that is read here; one with more is left to protobuf, which is faster on many."""

_FIXED_BYTES = {1: 8, 5: 4}
_VARINT, _DELIMITED = 0, 2


def cut_out(message: bytes, field: int) -> tuple[bytes, list[memoryview]]:
    """Split a message into the contents of one bytes field, and the rest as a message.

    A message that is short, odd or malformed comes back whole: protobuf knows better what to say of it.
    """
    if len(message) < _WORTH_BYTES:
        return message, []
    view = memoryview(message)
    rest: list[memoryview] = []
    found: list[memoryview] = []
    at = kept = fields = 0
    try:
        while at < len(message):
            fields += 1
            start = at
            tag, at = _varint(message, at)
            kind = tag & 7
            if kind == _DELIMITED:
                size, body = _varint(message, at)
                at = body + size
                if tag >> 3 == field:
                    rest.append(view[kept:start])
                    found.append(view[body:at])
                    kept = at
            elif kind == _VARINT:
                _, at = _varint(message, at)
            else:
                at += _FIXED_BYTES[kind]
            if at > len(message) or fields > _MOST_FIELDS:
                return message, []
    except (IndexError, KeyError):
        return message, []
    return b"".join([*rest, view[kept:]]), found


def join(
    parts: Iterable[bytes],
    field: int,
    payloads: Sequence[bytes | memoryview],
    *,
    is_streamed: bool = False,
) -> bytes:
    """One message of serialised parts and the contents of one bytes field.

    If it is streamed, that is in its turn the ``infer_response`` of a ModelStreamInferResponse.
    """
    pieces: list[bytes | memoryview] = list(parts)
    tag = _tag(field)
    for payload in payloads:
        pieces += (tag, varint(len(payload)), payload)
    if is_streamed:
        pieces[:0] = (_tag(_INFER_RESPONSE), varint(sum(map(len, pieces))))
    return b"".join(pieces)


def text(field: int, value: str) -> bytes:
    """A string field."""
    data = value.encode()
    return _tag(field) + varint(len(data)) + data


def int_parameter(key: str, value: int) -> bytes:
    """An entry of a response's ``parameters`` that holds an int64 of 0 or more."""
    return _parameter(key, b"\x10" + varint(value))


def true_parameter(key: str) -> bytes:
    """An entry of a response's ``parameters`` that holds true."""
    return _parameter(key, b"\x08\x01")


def _parameter(key: str, value: bytes) -> bytes:
    name = key.encode()
    entry = b"\x0a" + varint(len(name)) + name + b"\x12" + varint(len(value)) + value
    return _tag(_PARAMETERS) + varint(len(entry)) + entry


class DoubleParameters:
    """Entries of a response's ``parameters`` that hold doubles, all but their values written already."""

    def __init__(self, *keys: str) -> None:
        self._starts = [_parameter(key, b"\x21" + bytes(8))[:-8] for key in keys]
        self._pack = struct.Struct("<" + "".join(f"{len(s)}sd" for s in self._starts)).pack

    def __call__(self, *values: float) -> bytes:
        """Serialise them, in the order of the keys."""
        pieces: list[bytes | float] = []
        for start, value in zip(self._starts, values, strict=True):
            pieces += (start, value)
        return self._pack(*pieces)


def _tag(field: int) -> bytes:
    return varint(field << 3 | _DELIMITED)


def varint(value: int) -> bytes:
    """A number of 0 or more, seven bits a byte, the lowest first."""
    if value < 0x80:
        return bytes((value,))
    made = bytearray()
    while value >= 0x80:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends; raises IndexError past the end, KeyError where it is too long."""
    value = message[at]
    at += 1
    if value < 0x80:
        return value, at
    value &= 0x7F
    for shift in range(7, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise KeyError(at)
