"""Compress: Zstandard frames (RFC 8878); the only user of zstandard.

Floats are not byte-shuffled first: on activations after a ReLU that makes them larger.

Packed levels hardly repeat but for runs of zeros; what is left is Huffman's. ``matches="long"`` looks for
those runs only: on activations of 2 to 256 levels it is up to 8 % smaller than level 3 and twice as fast.
"""

from __future__ import annotations

import threading
from typing import Annotated, Literal

import numpy as np
import zstandard
from msgspec import Meta

from splitter.codec.base import Array, Form, Stage, bytes_view, some_bytes
from splitter.errors import CodecError

MAX_WINDOW_BYTES = 8 << 20
"""What RFC 8878 recommends that decoders support; a larger one only where the tensor is as large."""

MAX_DICTIONARY_BYTES = 64 << 10


class Zstd(Stage, frozen=True, tag="zstd"):
    """One frame that declares its content size and carries a checksum; nothing for an empty tensor."""

    level: Annotated[int, Meta(ge=1, le=22)] = 1
    """How hard to look for what repeats."""
    matches: Literal["any", "long"] = "any"
    """``long``: of 7 bytes or more, and recent. For levels; floats repeat in shorter ones."""
    dictionary: Annotated[bytes, Meta(max_length=MAX_DICTIONARY_BYTES)] = b""
    """Trained on like payloads, for tensors so small that a frame of its own learns nothing."""

    def form(self, given: Form) -> Form:  # noqa: D102  (the contract says it)
        return some_bytes(_most_bytes(given.nbytes))

    def encode(self, array: Array) -> Array:  # noqa: D102
        data = bytes_view(array)
        if not data.size:
            return data
        try:
            return np.frombuffer(_instances(self).compressor.compress(data.data), np.uint8)
        except zstandard.ZstdError as exc:
            raise CodecError(f"zstd cannot compress, the dictionary may be broken: {exc}") from exc

    def decode(self, array: Array, given: Form) -> Array:  # noqa: D102
        if not array.size and (given.is_bound or not given.nbytes):
            return given.array(array)
        payload = array.data
        _check_header(payload, given)
        try:
            data = _instances(self).decompressor.decompress(
                payload, read_across_frames=False, allow_extra_data=False
            )
        except zstandard.ZstdError as exc:
            raise CodecError(f"the zstd payload is corrupted: {exc}") from exc
        return given.array(data)


class _Pair:
    """zstandard's objects are not thread-safe; a fresh pair a message costs a third more time."""

    def __init__(self, stage: Zstd) -> None:
        known = None
        if stage.dictionary:
            known = zstandard.ZstdCompressionDict(stage.dictionary)
        # 0 leaves it to the level. The smallest table there is forgets all but what was just seen
        is_long = stage.matches == "long"
        parameters = zstandard.ZstdCompressionParameters(
            compression_level=stage.level,
            min_match=7 if is_long else 0,
            hash_log=6 if is_long else 0,
            write_checksum=True,
            write_dict_id=False,
        )
        self.compressor = zstandard.ZstdCompressor(compression_params=parameters, dict_data=known)
        self.decompressor = zstandard.ZstdDecompressor(dict_data=known)


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.pairs: dict[Zstd, _Pair] = {}


_of_thread = _OfThread()
_MOST_PAIRS = 64  # a process that reads many plans must not keep all their dictionaries


def _instances(stage: Zstd) -> _Pair:
    pairs = _of_thread.pairs
    found = pairs.get(stage)
    if found is None:
        if len(pairs) >= _MOST_PAIRS:
            pairs.clear()
        found = pairs[stage] = _Pair(stage)
    return found


def _most_bytes(size: int) -> int:
    """ZSTD_COMPRESSBOUND of zstd.h, and the checksum."""
    small = ((128 << 10) - size) >> 11 if size < 128 << 10 else 0
    return size + (size >> 8) + small + 4 if size else 0


def _check_header(payload: memoryview, given: Form) -> None:
    expected = given.nbytes
    if not expected:  # zstandard takes any frame that declares no content, and reads no further
        raise CodecError(f"{len(payload)} bytes for an empty tensor")
    # zstandard allocates what the header declares, whatever limit it is given: so look there first.
    try:
        frame = zstandard.get_frame_parameters(payload)
    except zstandard.ZstdError as exc:
        raise CodecError(f"the payload is not a zstd frame: {exc}") from exc
    unknown = frame.content_size == zstandard.CONTENTSIZE_UNKNOWN
    fits = frame.content_size <= expected if given.is_bound else frame.content_size == expected
    if unknown or not fits:
        found = "no content size" if unknown else f"{frame.content_size} bytes"
        limit = "at most " if given.is_bound else ""
        raise CodecError(f"the zstd frame declares {found}, the tensor takes {limit}{expected}")
    if not frame.has_checksum:
        raise CodecError("the zstd frame has no checksum; compress with one")
    if frame.window_size > max(MAX_WINDOW_BYTES, expected):
        raise CodecError(f"the zstd frame asks for a window of {frame.window_size} bytes")
