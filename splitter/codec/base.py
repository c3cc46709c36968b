"""The contract of a stage of a codec: array -> array, and back.

A codec is a chain of stages, quantise -> pack -> compress, each of which may be absent. What a stage
was configured with is the stage itself, a record that travels beside the payload (in plan and
manifest), never in it. A decoder is told the form that encoding was given and never makes more than
that form needs.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
from msgspec import Struct

from splitter.document import Record
from splitter.errors import CodecError
from splitter.graph.values import ITEM_BYTES

Array = np.ndarray[Any, Any]

MAX_TENSOR_BYTES = (1 << 31) - 1
"""What one gRPC message could hold at most."""

_MAX_RANK = 64  # numpy's

_DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name).newbyteorder("<")
    for name in ITEM_BYTES
}


class Form(Struct, frozen=True):
    """What is known of an array before it is there."""

    dtype: str
    shape: tuple[int, ...]
    is_bound: bool = False
    """The array is flat, and has as many elements as ``shape`` says or fewer."""

    @property
    def nbytes(self) -> int:
        """Of the array; at most, where it is bound."""
        return prod(self.shape) * ITEM_BYTES[self.dtype]

    def array(self, data: bytes | memoryview | Array) -> Array:
        """Elements as an array of this form that shares their memory.

        Raises
        ------
        CodecError
            They are too many or too few; or a bool is neither 0 nor 1, and what later code makes of
            such a one is undefined.
        """
        flat = np.frombuffer(data, np.uint8)
        if flat.size > self.nbytes or (flat.size < self.nbytes and not self.is_bound):
            limit = "at most " if self.is_bound else ""
            raise CodecError(
                f"{flat.size} bytes, where {self.dtype} of shape {list(self.shape)} takes "
                f"{limit}{self.nbytes}"
            )
        if self.dtype == "bool" and flat.size and flat.max() > 1:
            raise CodecError("a bool tensor holds bytes that are neither 0 nor 1")
        if self.is_bound:
            if flat.size % ITEM_BYTES[self.dtype]:
                raise CodecError(f"{flat.size} bytes are no whole number of {self.dtype}")
            return flat.view(_DTYPES[self.dtype])
        return flat.view(_DTYPES[self.dtype]).reshape(self.shape)


def some_bytes(at_most: int) -> Form:
    """The form of a stream whose length depends on what is in it."""
    return Form("uint8", (at_most,), is_bound=True)


class Stage(Record, frozen=True, tag_field="kind"):
    """One step of a codec: frozen, thread-safe, and its own configuration."""

    is_lossless: ClassVar[bool] = True

    def form(self, given: Form) -> Form:
        """The form of what ``encode`` makes of an array of the form ``given``.

        Raises
        ------
        CodecError
            This stage does not take such arrays.
        """
        raise NotImplementedError

    def encode(self, array: Array) -> Array:
        """Transform an array, row-major and little-endian.

        Raises
        ------
        CodecError
            It is none that this stage takes, or holds values that this stage cannot carry.
        """
        raise NotImplementedError

    def decode(self, array: Array, given: Form) -> Array:
        """Give back the array that had the form ``given``; it may be read-only and share memory.

        ``array`` has the form that ``form(given)`` says, and may hold anything.

        Raises
        ------
        CodecError
            It was not made from an array of that form: truncated, oversized, corrupted, mismatched.
        """
        raise NotImplementedError


@lru_cache(maxsize=64)
def dtype_name(dtype: np.dtype[Any]) -> str:
    """``dtype.name``, which numpy puts together anew each time: a tenth of a small request."""
    return dtype.name


def travelling(array: Array) -> Array:
    """The array row-major and little-endian; raises CodecError for a foreign dtype or over 2 GB."""
    name = dtype_name(array.dtype)
    expected_bytes(name, array.shape)
    # of an array without dimensions numpy's ascontiguousarray makes one with one
    return np.asarray(array, _DTYPES[name], order="C")


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The dtype of that name, little-endian."""
    return _DTYPES[name]


def bytes_view(array: Array) -> Array:
    """The bytes of a contiguous array, flat, sharing its memory."""
    return array.reshape(-1).view(np.uint8)


def expected_bytes(dtype: str, shape: tuple[int, ...], max_bytes: int = MAX_TENSOR_BYTES) -> int:
    """Bytes that a tensor takes, found without allocating any; raises CodecError if it cannot exist."""
    if dtype not in ITEM_BYTES:
        raise CodecError(f"dtype {dtype[:40]!r} cannot travel; {', '.join(ITEM_BYTES)} can")
    if len(shape) > _MAX_RANK:
        raise CodecError(f"a shape of {len(shape)} dimensions, more than {_MAX_RANK}")
    room = bounded = ITEM_BYTES[dtype]
    for size in shape:
        if size < 0:
            raise CodecError(f"a shape with a negative dimension: {list(shape)}")
        room *= size
        # An empty tensor is bounded too: numpy multiplies the dimensions that are not 0.
        bounded *= max(size, 1)
        if bounded > max_bytes:
            raise CodecError(
                f"a {dtype} tensor of shape {list(shape)} takes over {max_bytes} bytes"
            )
    return room
