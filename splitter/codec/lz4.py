"""Compress: LZ4 blocks, with the extra ``lz4``; faster than Zstandard and larger."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from splitter.codec.base import Array, Form, Stage, bytes_view, some_bytes
from splitter.errors import CodecError, MissingExtraError


class Lz4(Stage, frozen=True, tag="lz4"):
    """One block without a header: its content's size is the form's. LZ4 blocks have no checksum."""

    def form(self, given: Form) -> Form:  # noqa: D102  (the contract says it)
        if given.is_bound:
            raise CodecError("an lz4 block is made of a tensor of known size, not of a stream")
        # LZ4_COMPRESSBOUND of lz4.h
        return some_bytes(given.nbytes + given.nbytes // 255 + 16 if given.nbytes else 0)

    def encode(self, array: Array) -> Array:  # noqa: D102
        data = bytes_view(array)
        if not data.size:
            return data
        return np.frombuffer(_block().compress(data.data, store_size=False), np.uint8)

    def decode(self, array: Array, given: Form) -> Array:  # noqa: D102
        if not given.nbytes:
            if array.size:
                raise CodecError(f"{array.size} bytes for an empty tensor")
            return given.array(array)
        lz4 = _block()
        try:
            data = lz4.decompress(array.data, uncompressed_size=given.nbytes)
        except lz4.LZ4BlockError as exc:
            raise CodecError(f"the lz4 payload is corrupted: {exc}") from exc
        return given.array(data)


def _block() -> ModuleType:
    try:
        import lz4.block
    except ImportError:
        raise MissingExtraError("lz4 is not installed; pip install 'splitter[lz4]'") from None
    block: ModuleType = lz4.block
    return block
