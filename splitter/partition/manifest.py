"""The manifest of a bundle: what a device and a server must agree on (``splitter.bundle/2``)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from splitter.codec import Codec
from splitter.document import Record, read_document
from splitter.errors import BundleError
from splitter.preprocess import Preprocess
from splitter.runtime import Settings

SCHEMA = "splitter.bundle/2"
MANIFEST = "manifest.json"
HEAD = "head.onnx"
TAIL = "tail.onnx"


class PortSpec(Record, frozen=True, kw_only=True):
    """An input or output of the whole model."""

    name: str
    dtype: str
    shape: tuple[Annotated[int, Meta(ge=0)], ...] | None
    """None where it depends on the data."""
    part: str
    """Input: ``head``, ``tail``, ``both`` or ``none``, by who reads it. Output: the part that makes
    it; one that no node makes (an input or constant handed through) is the head's."""


class CrossingSpec(Record, frozen=True, kw_only=True):
    """A tensor that the device sends; it may be a model input."""

    tensor: str
    dtype: str
    shape: tuple[Annotated[int, Meta(ge=0)], ...]
    nbytes: Annotated[int, Meta(ge=0)]
    codec: Codec
    """With all that it was fitted to: the payload names it and holds none of that."""


class FileSpec(Record, frozen=True, kw_only=True):
    """A file of the bundle, by its path inside the folder."""

    nbytes: int
    sha256: str


class Manifest(Record, frozen=True, kw_only=True):
    """Read by session and server before anything else of the bundle."""

    schema: str = SCHEMA
    name: str
    """What the server calls the model; from the file's stem."""
    model_sha256: str
    digest: str
    """sha256 over the parts' digests and the crossing tensors: device and server must have the same."""
    dims: dict[str, int]
    crossing: tuple[CrossingSpec, ...]
    head_nodes: tuple[str, ...]
    inputs: tuple[PortSpec, ...]
    outputs: tuple[PortSpec, ...]
    files: dict[str, FileSpec]
    """``head.onnx`` is absent where everything runs on the server, ``tail.onnx`` where nothing does."""
    settings: Settings = Settings()
    """How the head is run."""
    tail_settings: Settings = Settings()
    preprocess: Preprocess | None = None
    """What makes inputs of photos; None where none was said."""
    plan_predicted_s: float | None = None
    """The plan's total, to print beside the measured one; None when no plan was used."""

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Manifest:
        """Read the manifest of a bundle folder; raises BundleError."""
        return read_document(Path(folder) / MANIFEST, cls, SCHEMA, BundleError)
