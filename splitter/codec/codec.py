"""A codec: a named chain of stages, array <-> bytes."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from splitter.codec.affine import Affine
from splitter.codec.base import (
    MAX_TENSOR_BYTES,
    Array,
    Form,
    bytes_view,
    dtype_name,
    expected_bytes,
    travelling,
)
from splitter.codec.bitmap import Bitmap
from splitter.codec.bits import Bits
from splitter.codec.cast import Cast
from splitter.codec.flac import Flac
from splitter.codec.image import Jpeg, Png, Webp, WebpLossless
from splitter.codec.levels import Levels
from splitter.codec.lz4 import Lz4
from splitter.codec.pcm import Pcm
from splitter.codec.pixels import NearPixels, Pixels
from splitter.codec.rans import Rans
from splitter.codec.rans_predicted import Predicted
from splitter.codec.shuffle import Shuffle
from splitter.codec.zstd import Zstd
from splitter.document import Record
from splitter.errors import CodecError

_MOST_STAGES = 8  # each may bound its stream a little more loosely than the one before
AnyStage = (
    Cast | Affine | Levels | Pixels | NearPixels | Pcm
    | Bits | Shuffle | Bitmap
    | Zstd | Lz4 | Rans | Predicted | Png | Jpeg | Webp | WebpLossless | Flac
)  # fmt: skip


class Codec(Record, frozen=True):
    """Quantise -> pack -> compress, each at will. Stateless and thread-safe; itself its configuration."""

    name: str
    """What messages, tables and plans call it; among the codecs of one tensor it is unique."""
    stages: Annotated[tuple[AnyStage, ...], Meta(max_length=_MOST_STAGES)] = ()

    @property
    def is_lossless(self) -> bool:
        """What comes out equals what went in, bit for bit."""
        return all(stage.is_lossless for stage in self.stages)

    def encode(self, array: Array) -> bytes:
        """Encode row-major, little-endian.

        Raises
        ------
        CodecError
            The array's dtype is not one that travels, it takes over 2 GB, or one of the stages cannot
            carry it.
        """
        value = travelling(array)
        self.forms(dtype_name(value.dtype), value.shape)
        for stage in self.stages:
            value = stage.encode(value)
        # what a compressor made is bytes already, and a copy would be one tensor more in memory
        made = value.base
        if isinstance(made, bytes) and len(made) == value.nbytes:
            return made
        return bytes_view(value).tobytes()

    def decode(
        self,
        payload: bytes | memoryview,
        dtype: str,
        shape: tuple[int, ...],
        *,
        max_bytes: int = MAX_TENSOR_BYTES,
    ) -> Array:
        """Give back the array; it may be read-only and share the payload's memory.

        Raises
        ------
        CodecError
            The payload is truncated, oversized, corrupted, or not of this dtype and shape; or dtype
            and shape themselves are impossible, or take more than ``max_bytes``.
        """
        expected_bytes(dtype, shape, max_bytes)
        forms = self.forms(dtype, shape)
        value = forms[-1].array(payload)
        for stage, given in zip(reversed(self.stages), reversed(forms[:-1]), strict=True):
            value = stage.decode(value, given)
            _demand_form(value, given)
        return value

    def forms(self, dtype: str, shape: tuple[int, ...]) -> list[Form]:
        """The tensor's own form, then what each stage makes of it; raises CodecError."""
        forms = [Form(dtype, shape)]
        for stage in self.stages:
            forms.append(stage.form(forms[-1]))
        return forms


def _demand_form(array: Array, form: Form) -> None:
    """A stage that decodes to anything else is a bug, and must not get past here as an answer."""
    fits = array.size <= form.shape[0] if form.is_bound else array.shape == form.shape
    if not fits or dtype_name(array.dtype) != form.dtype:
        raise CodecError(
            f"decoding gave {array.dtype} of shape {list(array.shape)}, not {form.dtype} of "
            f"{list(form.shape)}"
        )
