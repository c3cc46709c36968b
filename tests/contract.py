"""What every codec must do, checked on one array or one payload at a time."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from splitter.codec import Codec
from splitter.errors import CodecError
from splitter.graph.values import ITEM_BYTES

Array = np.ndarray[Any, Any]


def numpy_dtype(name: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def sample(dtype: str, shape: tuple[int, ...], seed: int = 0) -> Array:
    """Any bit pattern that the dtype has: NaNs with payloads, negative zeros, subnormals."""
    generator = np.random.default_rng(seed)
    if dtype == "bool":
        return np.asarray(generator.integers(0, 2, shape).astype(bool))
    size = int(np.prod(shape)) * ITEM_BYTES[dtype]
    return np.frombuffer(generator.bytes(size), numpy_dtype(dtype)).reshape(shape)


def same_bits(left: Array, right: Array) -> bool:
    same_kind = left.dtype.name == right.dtype.name and left.shape == right.shape
    return same_kind and left.tobytes() == right.tobytes()


def check_round_trip(codec: Codec, array: Array) -> None:
    payload = codec.encode(array)
    assert isinstance(payload, bytes)
    assert same_bits(codec.decode(payload, array.dtype.name, array.shape), array)


def check_size(codec: Codec, array: Array) -> None:
    """A payload of one tensor is refused as any tensor of another size, and over ``max_bytes``."""
    payload, dtype = codec.encode(array), array.dtype.name
    for shape in [(*array.shape, 2), (array.size + 1,), (1 << 40,), (-1, *array.shape)]:
        with pytest.raises(CodecError):
            codec.decode(payload, dtype, shape)
    with pytest.raises(CodecError, match="over"):
        codec.decode(payload, dtype, array.shape, max_bytes=array.nbytes - 1)


def check_hostile(codec: Codec, payload: bytes, dtype: str, shape: tuple[int, ...]) -> Array | None:
    """Any bytes at all: an array of the shape and dtype asked for, or CodecError, and nothing else."""
    try:
        array = codec.decode(payload, dtype, shape)
    except CodecError:
        return None
    assert array.shape == shape
    assert array.dtype.name == dtype
    return array
