"""The contract of a codec: array <-> bytes.

A codec's configuration is its name and travels beside the payload, never in it. ``decode`` is told
the dtype and shape to expect and never allocates more than they need.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

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


class Codec(ABC):
    """Stateless and thread-safe."""

    name: ClassVar[str]

    @abstractmethod
    def encode(self, array: Array) -> bytes:
        """Row-major, little-endian.

        Raises
        ------
        CodecError
            The array's dtype is not one that travels.
        """

    @abstractmethod
    def decode(
        self,
        payload: bytes,
        dtype: str,
        shape: tuple[int, ...],
        *,
        max_bytes: int = MAX_TENSOR_BYTES,
    ) -> Array:
        """Give back the array, bit for bit; it may be read-only and share the payload's memory.

        Raises
        ------
        CodecError
            The payload is truncated, oversized, corrupted, or not of this dtype and shape; or dtype
            and shape themselves are impossible, or take more than ``max_bytes``.
        """


@lru_cache(maxsize=64)
def dtype_name(dtype: np.dtype[Any]) -> str:
    """``dtype.name``, which numpy puts together anew each time: a tenth of a small request."""
    return dtype.name


def bytes_of(array: Array) -> bytes:
    """Elements of an array, row-major and little-endian; raises CodecError for a foreign dtype."""
    name = dtype_name(array.dtype)
    if name not in _DTYPES:
        raise CodecError(f"dtype {name} cannot travel; {', '.join(ITEM_BYTES)} can")
    return array.astype(_DTYPES[name], copy=False).tobytes()


def array_of(data: bytes, dtype: str, shape: tuple[int, ...]) -> Array:
    """Elements as an array that shares their memory; the caller has checked the size.

    Raises
    ------
    CodecError
        A bool is neither 0 nor 1: what later code makes of such a one is undefined.
    """
    flat = np.frombuffer(data, _DTYPES[dtype])
    if dtype == "bool" and flat.size and flat.view(np.uint8).max() > 1:
        raise CodecError("a bool tensor holds bytes that are neither 0 nor 1")
    return flat.reshape(shape)


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
