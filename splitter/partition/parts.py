"""Writing the parts of a model: a head and a tail for each cut, their weights inside, beside or shared."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import onnx

from splitter.errors import BundleError
from splitter.graph.cut import Cut
from splitter.graph.model import Model
from splitter.partition.extract import Extractor, Part
from splitter.partition.manifest import HEAD, TAIL, WEIGHTS
from splitter.partition.weights import (
    WeightsFile,
    externalise,
    has_external,
    lift_constants,
    weight_bytes,
)

EXTERNAL_OVER_BYTES = 64 << 20
"""Weights of a model that together are larger are kept beside the parts, as those already external."""


@dataclass(frozen=True)
class Parts:
    """The files of a cut; None for a part that would make nothing and is not written."""

    head: Path | None
    tail: Path | None
    tail_outputs: tuple[str, ...]


class PartWriter:
    """Writes and checks parts, one at a time in memory beside the model; also a context manager.

    Parts of several cuts share ``WEIGHTS``, which holds each weight once. Those of one have their weights
    inside, or in a file each where the model's own are external or take over ``external_over_bytes``.
    """

    def __init__(
        self,
        model: Model,
        folder: Path,
        *,
        shares: bool = False,
        external_over_bytes: int = EXTERNAL_OVER_BYTES,
    ) -> None:
        self._extractor = Extractor(model)
        self._folder, self._weights_dir = folder, model.weights_dir
        self._stack = ExitStack()
        self._shared = WeightsFile(folder / WEIGHTS) if shares else None
        self._is_external = (
            has_external(model.proto) or weight_bytes(model.proto) > external_over_bytes
        )
        self._path_of: dict[bytes, Path] = {}

    def __enter__(self) -> PartWriter:
        if self._shared is not None:
            self._stack.enter_context(self._shared)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def write(self, cut: Cut, number: int = 0) -> Parts:
        """Write a cut's parts, under the names that its number gives them; raises BundleError."""
        head = self._write(self._extractor.head(cut), numbered(HEAD, number))
        tail = self._extractor.tail(cut)
        return Parts(head, self._write(tail, numbered(TAIL, number)), tail.outputs)

    def write_part(
        self, nodes: Collection[str], outputs: tuple[str, ...], name: str
    ) -> Path | None:
        """Write some nodes as one part; None where it would make nothing. Raises BundleError, CutError."""
        return self._write(self._extractor.part(nodes, outputs), name)

    def write_whole(self, outputs: tuple[str, ...], name: str) -> Path:
        """Write all nodes as one part that makes the outputs in this order; raises BundleError."""
        path = self._write(self._extractor.whole(outputs), name)
        assert path is not None, "a model has outputs"
        return path

    def once(self, path: Path) -> Path:
        """Keep a part that is finished; one of the same bytes as an earlier one goes for that."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        kept = self._path_of.setdefault(digest, path)
        if kept != path:
            path.unlink()
        return kept

    def _write(self, part: Part, name: str) -> Path | None:
        if not part.outputs:
            return None
        path = self._folder / name
        if self._shared is not None:
            lift_constants(part.proto)
            externalise(part.proto, self._weights_dir, self._shared)
        elif self._is_external:
            with WeightsFile(path.with_name(f"{name}.data")) as weights:
                externalise(part.proto, self._weights_dir, weights)
        path.write_bytes(part.to_bytes())
        check_file(path)
        return path


def check_file(path: Path) -> None:
    """Let the ONNX checker look at a model; raises BundleError."""
    try:
        onnx.checker.check_model(os.fspath(path))
    except (onnx.checker.ValidationError, ValueError) as exc:
        first_line = str(exc).strip().splitlines()[0]
        raise BundleError(f"{path.name}: the checker refuses it: {first_line}") from exc


def numbered(kind: str, number: int) -> str:
    """``head.onnx`` of the planned cut, ``head-1.onnx`` of the next."""
    return kind if number == 0 else f"{Path(kind).stem}-{number}.onnx"
