"""Codecs: array <-> bytes as a chain quantise -> pack -> compress."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from splitter.codec.base import Array, numpy_dtype
from splitter.codec.codec import Codec
from splitter.codec.zstd import Zstd
from splitter.errors import CodecError, MissingExtraError

_log = logging.getLogger(__name__)

RAW = Codec("raw")
CODECS: Mapping[str, Codec] = {codec.name: codec for codec in (RAW, Codec("zstd", (Zstd(),)))}
"""Those that need no calibration: lossless, on any tensor. Every server and session knows them."""


def get_codec(name: str) -> Codec:
    """Find a codec that needs no calibration; raises CodecError for a name that is none."""
    codec = CODECS.get(name)
    if codec is None:
        raise CodecError(f"no codec is named {name[:40]!r}; there are {', '.join(CODECS)}")
    return codec


def encode(array: Array, codec: Codec) -> tuple[Codec, bytes]:
    """Encode a tensor and say in which codec, which need not be the one asked for.

    It is a lossless one where that cannot carry the values (a NaN, which no level stands for; an image
    off the grid of its pixels), so that the answer is still the model's; and raw where nothing would be
    gained.

    Raises
    ------
    MissingExtraError
        The codec needs a package that is not installed.
    CodecError
        Tensors of this dtype cannot travel.
    """
    try:
        payload = codec.encode(array)
    except CodecError as exc:
        if codec.name in CODECS or isinstance(exc, MissingExtraError):
            raise
        codec = CODECS["zstd"]
        payload = codec.encode(array)
    if codec.stages and len(payload) >= array.nbytes:
        return RAW, RAW.encode(array)
    return codec, payload


def warm_up(codec: Codec, dtype: str, shape: tuple[int, ...]) -> None:
    """Run a codec once on zeros: the first call loads what it needs, and the entropy coder compiles.

    Those that every server knows need neither.

    Raises
    ------
    MissingExtraError
        It needs a package that is not installed, which is better known before the first tensor.
    """
    if codec.name in CODECS:
        return
    try:
        codec.decode(codec.encode(np.zeros(shape, numpy_dtype(dtype))), dtype, shape)
    except MissingExtraError:
        raise
    except CodecError as exc:  # it cannot carry zeros, as an image off the grid of its pixels
        _log.debug("codec %s starts cold: %s", codec.name, exc)


__all__ = ["CODECS", "RAW", "Codec", "encode", "get_codec", "warm_up"]
