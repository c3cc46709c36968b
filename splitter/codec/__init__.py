"""Codecs by name. Lossless: what comes out equals what went in, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping

from splitter.codec.base import Codec
from splitter.codec.raw import Raw
from splitter.codec.zstd import Zstd
from splitter.errors import CodecError

CODECS: Mapping[str, Codec] = {codec.name: codec for codec in (Raw(), Zstd())}


def get_codec(name: str) -> Codec:
    """Find a codec; raises CodecError for a name that is none."""
    codec = CODECS.get(name)
    if codec is None:
        raise CodecError(f"no codec is named {name[:40]!r}; there are {', '.join(CODECS)}")
    return codec


__all__ = ["CODECS", "Codec", "get_codec"]
