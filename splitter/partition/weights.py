"""External weights: copied from the model's files into a bundle's, range by range, never whole.

The locations in a model file are as hostile as the file: one that leaves the model's folder, or a range
outside its file, is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path, PureWindowsPath

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from splitter.errors import ModelError
from splitter.graph.scope import bodies

INLINE_BELOW_BYTES = 1024
"""Weights this small stay in the model file: shape inference reads their values."""
_CHUNK_BYTES = 1 << 20
_ALIGN_BYTES = 4096  # lets the runtime map the file into memory
_PACKED_BITS: dict[int, int] = {
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.FLOAT4E2M1: 4,
    TensorProto.INT2: 2,
    TensorProto.UINT2: 2,
}
_DATA_FIELDS = [
    "raw_data",
    "float_data",
    "double_data",
    "int32_data",
    "int64_data",
    "uint64_data",
    "external_data",
]


@dataclass(frozen=True)
class Range:
    """Bytes of a weights file."""

    path: Path
    offset: int
    length: int


class WeightsFile:
    """A file that weights are appended to, each once: the same range, and the same bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb")
        self._offset_of: dict[Range | bytes, int] = {}

    def __enter__(self) -> WeightsFile:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file; one that nothing was written to goes."""
        is_empty = self._file.tell() == 0
        self._file.close()
        if is_empty:
            self.path.unlink()

    def copy(self, found: Range) -> tuple[int, int]:
        """Append a range unless it is there; returns its offset and length here."""
        if found not in self._offset_of:
            self._offset_of[found] = self._align()
            for chunk in _chunks(found):
                self._file.write(chunk)
        return self._offset_of[found], found.length

    def write(self, raw: bytes) -> tuple[int, int]:
        """Append bytes unless they are there; returns their offset and length."""
        digest = hashlib.sha256(raw).digest()
        if digest not in self._offset_of:
            self._offset_of[digest] = self._align()
            self._file.write(raw)
        return self._offset_of[digest], len(raw)

    def flush(self) -> None:
        """Let others read what was appended so far."""
        self._file.flush()

    def _align(self) -> int:
        self._file.write(b"\0" * (-self._file.tell() % _ALIGN_BYTES))
        return self._file.tell()


def has_external(model: ModelProto) -> bool:
    """Whether any weight lies outside the model file."""
    return any(_is_external(tensor) for tensor in _tensors(model))


def weight_bytes(model: ModelProto) -> int:
    """Bytes of the initializers, external ones included."""
    return sum(_nbytes(tensor) for tensor in model.graph.initializer)


def externalise(part: ModelProto, folder: Path, weights: WeightsFile) -> None:
    """Move a part's weights to a file beside it, and make the part refer to it.

    Moved are the initializers and whatever else lay in the model's weights files, in ``folder``; the
    small ones come, or stay, inside.

    Raises
    ------
    ModelError
        A location leaves the folder, is not a file, or ends before the weight does.
    """
    for tensor in _tensors(part):
        if _is_external(tensor):
            found = locate(tensor, folder)
            if found.length < INLINE_BELOW_BYTES:
                _set_inline(tensor, b"".join(_chunks(found)))
            else:
                _set_external(tensor, weights.path.name, *weights.copy(found))
    for tensor in part.graph.initializer:
        is_movable = tensor.data_type != TensorProto.STRING and not _is_external(tensor)
        if is_movable and _nbytes(tensor) >= INLINE_BELOW_BYTES:
            _set_external(tensor, weights.path.name, *weights.write(_raw(tensor)))
    weights.flush()


def lift_constants(part: ModelProto) -> None:
    """Make initializers of the large constants that nodes make, so that they can lie outside too."""
    outputs = {value.name for value in part.graph.output}
    kept = []
    for node in part.graph.node:
        value = _constant(node)
        if value is None or node.output[0] in outputs or _nbytes(value) < INLINE_BELOW_BYTES:
            kept.append(node)
        else:
            part.graph.initializer.add().CopyFrom(value)
            part.graph.initializer[-1].name = node.output[0]
    if len(kept) < len(part.graph.node):
        del part.graph.node[:]
        part.graph.node.extend(kept)


def locate(tensor: TensorProto, folder: Path) -> Range:
    """Find an external weight's bytes; raises ModelError, see ``externalise``."""
    entry_of = {entry.key: entry.value for entry in tensor.external_data}
    location = entry_of.get("location", "")
    asked = PureWindowsPath(location)  # knows both separators, and drives
    path = folder / location
    if not location or "\0" in location or asked.anchor or ".." in asked.parts:
        raise ModelError(
            f"weight {tensor.name!r}: its location {location!r} leaves the model's folder"
        )
    if not path.is_file():
        raise ModelError(f"weight {tensor.name!r}: its file {location!r} is not beside the model")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ModelError(
            f"weight {tensor.name!r}: {location!r} is a link out of the model's folder"
        )
    length = _nbytes(tensor)
    try:
        offset, given = int(entry_of.get("offset", 0)), int(entry_of.get("length", length))
    except ValueError as exc:
        raise ModelError(f"weight {tensor.name!r}: its offset or length is not a number") from exc
    size = path.stat().st_size
    if given != length or length < 0 or offset < 0 or offset + length > size:
        raise ModelError(
            f"weight {tensor.name!r}: needs {length} bytes, its reference is to {given} at {offset} "
            f"of {location!r}, which has {size}; export the model again"
        )
    return Range(path.resolve(), offset, length)


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every constant of a model, in nested bodies and functions too."""
    yield from _tensors_of(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _attribute_tensors(node)


def _tensors_of(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _attribute_tensors(node)


def _attribute_tensors(node: NodeProto) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.TENSOR:
            yield attribute.t
        yield from attribute.tensors
    for body in bodies(node):
        yield from _tensors_of(body)


def _constant(node: NodeProto) -> TensorProto | None:
    """The tensor that a ``Constant`` node makes, if it is one that an initializer can be."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    found = next((a.t for a in node.attribute if a.name == "value"), None)
    return None if found is None or found.data_type == TensorProto.STRING else found


def _is_external(tensor: TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL


def _nbytes(tensor: TensorProto) -> int:
    """Bytes in a file, sub-byte types packed; 0 for strings, negative for a malformed shape."""
    if tensor.data_type in (TensorProto.STRING, TensorProto.UNDEFINED):
        return 0
    if min(tensor.dims, default=0) < 0:
        return -1
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    bits: int = _PACKED_BITS.get(tensor.data_type, dtype.itemsize * 8)
    return -(-prod(tensor.dims) * bits // 8)


def _chunks(found: Range) -> Iterator[bytes]:
    with found.path.open("rb") as file:
        file.seek(found.offset)
        left = found.length
        while left:
            chunk = file.read(min(left, _CHUNK_BYTES))
            if not chunk:
                raise ModelError(f"{found.path}: ended before the weight did")
            left -= len(chunk)
            yield chunk


def _raw(tensor: TensorProto) -> bytes:
    if tensor.HasField("raw_data"):
        return bytes(tensor.raw_data)
    return bytes(numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data)


def _set_inline(tensor: TensorProto, raw: bytes) -> None:
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.raw_data = raw


def _set_external(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    for name in _DATA_FIELDS:
        tensor.ClearField(name)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
