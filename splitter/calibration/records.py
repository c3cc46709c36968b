"""What codecs do to bytes, seconds and the model's answer, tensor by tensor (``splitter.calibration/1``)."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from msgspec import Meta

from splitter.codec import Codec
from splitter.document import Record, read_document, write_document
from splitter.errors import CalibrationError
from splitter.preprocess import Preprocess
from splitter.runtime import Settings

SCHEMA = "splitter.calibration/1"
Seconds = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]


class Answer(Record, frozen=True, kw_only=True):
    """What is left of the model's answers when a tensor, or several, went through a codec."""

    samples: Annotated[int, Meta(ge=1)]
    agreement: Fraction | None = None
    """Part of the top-1 answers that are the whole model's; None where the answer is no class."""
    accuracy: Fraction | None = None
    """Part of the top-1 answers that are the label's; None without labels."""
    lost: Fraction | None = None
    """Part that the whole model has right and this has wrong; what it has right by luck is not
    counted against that. None without labels."""
    error: Annotated[float, Meta(ge=0)]
    """Mean over samples of the largest ||a - b|| / ||a|| of an output, a being the whole model's. Where
    ||a|| is less than its root mean square over the samples, that stands in its place."""
    cosine: Annotated[float, Meta(ge=-1.001, le=1.001)]
    """Mean over samples of the smallest cosine of an output to the whole model's."""


class CodecResult(Record, frozen=True, kw_only=True):
    """One codec on one tensor."""

    codec: Codec
    wire_bytes: Count
    """Mean over the samples, rounded up."""
    wire_bytes_p95: Count
    encode_s: Seconds
    """Median on the machine that calibrated, one thread."""
    decode_s: Seconds
    answer: Answer


class TensorResult(Record, frozen=True, kw_only=True):
    """A tensor that may cross, and every codec tried on it; the lossless ones first."""

    tensor: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: Count
    results: tuple[CodecResult, ...]
    stopped: tuple[str, ...] = ()
    """Codecs that were given up before the last sample, each with the reason; not for planning."""
    note: str = ""
    """Why there are lossless codecs only, where that is so."""


class DataSource(Record, frozen=True, kw_only=True):
    """Which data the figures are from."""

    folder: str
    digest: str
    """sha256 over the samples' names and file sizes."""
    samples: Count
    labelled: bool
    labels: str = ""
    """The file that they were read from; empty where there are none."""
    skipped: tuple[str, ...] = ()
    """Files that could not be read, with the reason."""
    preprocess: Preprocess | None = None
    """What made inputs of images; None where there were none."""


class Calibration(Record, frozen=True, kw_only=True):
    """``splitter.calibration/1``."""

    schema: str = SCHEMA
    created: str
    model_file: str
    model_sha256: str
    dims: dict[str, int]
    shapes: dict[str, tuple[int, ...]]
    fingerprint: dict[str, str | int | float]
    """Of the machine whose seconds these are, as in a profile."""
    tier: str
    """That machine's name."""
    settings: Settings
    data: DataSource
    answer: Literal["top1", "values"]
    """Whether the model's answer is a class, or values."""
    whole_accuracy: Fraction | None
    """Of the whole model on these samples; None without labels."""
    tensors: tuple[TensorResult, ...]
    is_complete: bool = True
    """False in what a calibration that was stopped leaves behind, to go on from."""

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read one; raises CalibrationError."""
        return read_document(path, cls, SCHEMA, CalibrationError)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it whole or not at all."""
        write_document(path, self)
