"""Codecs: array <-> bytes as a chain quantise -> pack -> compress."""

from __future__ import annotations

from collections.abc import Mapping

from splitter.codec.codec import Codec
from splitter.codec.zstd import Zstd
from splitter.errors import CodecError

RAW = Codec("raw")
CODECS: Mapping[str, Codec] = {codec.name: codec for codec in (RAW, Codec("zstd", (Zstd(),)))}
"""Those that need no calibration: lossless, on any tensor. Every server and session knows them."""


def get_codec(name: str) -> Codec:
    """Find a codec that needs no calibration; raises CodecError for a name that is none."""
    codec = CODECS.get(name)
    if codec is None:
        raise CodecError(f"no codec is named {name[:40]!r}; there are {', '.join(CODECS)}")
    return codec


__all__ = ["CODECS", "RAW", "Codec", "get_codec"]
