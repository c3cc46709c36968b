"""The elements as they lie in memory."""

from __future__ import annotations

from splitter.codec.base import MAX_TENSOR_BYTES, Array, Codec, array_of, bytes_of, expected_bytes
from splitter.errors import CodecError


class Raw(Codec):
    """Row-major, little-endian, neither stride nor padding."""

    name = "raw"

    def encode(self, array: Array) -> bytes:  # noqa: D102  (the contract says it)
        return bytes_of(array)

    def decode(  # noqa: D102
        self,
        payload: bytes,
        dtype: str,
        shape: tuple[int, ...],
        *,
        max_bytes: int = MAX_TENSOR_BYTES,
    ) -> Array:
        expected = expected_bytes(dtype, shape, max_bytes)
        if len(payload) != expected:
            raise CodecError(
                f"{len(payload)} raw bytes, where {dtype} of shape {list(shape)} takes {expected}"
            )
        return array_of(payload, dtype, shape)
