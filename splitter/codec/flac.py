"""Compress: 16-bit samples as FLAC, with the extra ``audio``."""

from __future__ import annotations

import hashlib
import io
import struct
from types import ModuleType
from typing import Annotated

import numpy as np
from msgspec import Meta

from splitter.codec.base import Array, Form, Stage, bytes_view, dtype_name, some_bytes
from splitter.errors import CodecError, MissingExtraError

_MARK = b"fLaC"
_INFO = struct.Struct(">B3sHH3s3sQ16s")
"""STREAMINFO of RFC 9639, section 8.2: flag and kind, length, two sizes of blocks, two of frames, then 20
bits of rate, 3 of channels less 1, 5 of bits less 1 and 36 of samples, then the MD5 of the samples."""
_LAST_AND_INFO = 0x80
_INFO_BYTES = (34).to_bytes(3, "big")
_MAX_RATE = 655_350


class Flac(Stage, frozen=True, tag="flac"):
    """One channel, whatever the shape. Nothing is resampled."""

    rate: Annotated[int, Meta(ge=1, le=_MAX_RATE)] = 16_000
    """Samples a second, for whoever plays the payload."""

    def form(self, given: Form) -> Form:  # noqa: D102  (the contract says it)
        if given.dtype != "int16" or given.is_bound:
            raise CodecError(f"{given.dtype} is not sent as flac; only int16 samples are")
        # verbatim blocks of at least 16 samples: header and check under 20 bytes each
        return some_bytes(
            given.nbytes + 20 * (given.nbytes // 32 + 1) + 16_384 if given.nbytes else 0
        )

    def encode(self, array: Array) -> Array:
        """Compress; raises CodecError for another dtype, or where the extra is not installed."""
        self.form(Form(dtype_name(array.dtype), array.shape))
        if not array.size:
            return np.empty(0, np.uint8)
        file, soundfile = io.BytesIO(), _soundfile()
        try:
            soundfile.write(file, array.reshape(-1), self.rate, format="FLAC", subtype="PCM_16")
        except soundfile.SoundFileError as exc:
            raise CodecError(f"the flac encoder failed ({exc})") from exc
        return np.frombuffer(_without_remarks(file.getvalue()), np.uint8)

    def decode(self, array: Array, given: Form) -> Array:  # noqa: D102
        if not given.nbytes:
            if array.size:
                raise CodecError(f"{array.size} bytes for an empty tensor")
            return given.array(array)
        payload, count = array.tobytes(), given.nbytes // 2
        digest = _check_header(payload, self.rate, count)
        soundfile = _soundfile()
        try:
            with soundfile.SoundFile(io.BytesIO(payload)) as file:
                samples: Array = file.read(count, dtype="int16")
        except (soundfile.SoundFileError, RuntimeError, ValueError) as exc:
            raise CodecError(f"the flac payload is corrupted ({exc})") from exc
        # libsndfile goes on after a damaged frame, with silence
        if hashlib.md5(samples.tobytes(), usedforsecurity=False).digest() != digest:
            raise CodecError(
                "the flac payload is corrupted: its samples are not those of its checksum"
            )
        return given.array(bytes_view(samples))


def _without_remarks(data: bytes) -> bytes:
    """With STREAMINFO alone before the frames: the others are 44 bytes that say who encoded."""
    place, is_last = len(_MARK), False
    while not is_last:
        is_last = data[place] >= _LAST_AND_INFO
        place += 4 + int.from_bytes(data[place + 1 : place + 4], "big")
    info = data[len(_MARK) + 1 : len(_MARK) + _INFO.size]
    return _MARK + bytes([_LAST_AND_INFO]) + info + data[place:]


def _check_header(payload: bytes, rate: int, count: int) -> bytes:
    """The MD5 of the samples; raises CodecError where the header is another than ``encode`` makes."""
    if not payload.startswith(_MARK) or len(payload) < len(_MARK) + _INFO.size:
        raise CodecError("the payload is no flac stream")
    kind, length, *_, numbers, digest = _INFO.unpack_from(payload, len(_MARK))
    if kind != _LAST_AND_INFO or length != _INFO_BYTES:
        raise CodecError("the flac payload has other blocks before its frames than STREAMINFO")
    found = (
        numbers >> 44,
        (numbers >> 41 & 7) + 1,
        (numbers >> 36 & 31) + 1,
        numbers & (1 << 36) - 1,
    )
    if found != (rate, 1, 16, count):
        raise CodecError(
            "the flac payload has (rate, channels, bits, samples) "
            f"{found}, where {(rate, 1, 16, count)} are expected"
        )
    return bytes(digest)


def _soundfile() -> ModuleType:
    try:
        import soundfile
    except (ImportError, OSError):  # the latter where libsndfile is missing
        raise MissingExtraError(
            "soundfile is not installed; pip install 'splitter[audio]'"
        ) from None
    module: ModuleType = soundfile
    return module
