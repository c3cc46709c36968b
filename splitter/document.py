"""JSON documents on disk: read strictly, written whole or not at all.

The one home of file formats: every document is a frozen ``msgspec.Struct`` whose unknown fields are
refused and whose ``schema`` field names its kind and version, for example ``splitter.plan/4``.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from splitter.errors import SplitterError

MAX_DOCUMENT_BYTES = 256 << 20

T = TypeVar("T", bound=msgspec.Struct)


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value that crosses a file: immutable, compared by value, unknown fields refused."""


def read_document(
    path: str | os.PathLike[str], kind: type[T], schema: str, error: type[SplitterError]
) -> T:
    """Read a JSON document and check its schema before its fields.

    Raises
    ------
    error
        The file is missing, too large, not JSON, of another schema or version, or has a wrong field.
    """
    path = Path(path)
    return decode_document(_bytes_of(path, schema, error), kind, schema, error, str(path))


def read_schema(path: str | os.PathLike[str], error: type[SplitterError]) -> str:
    """Say what a JSON document calls itself, so that a reader of several kinds can choose; raises error."""
    path = Path(path)
    data = _bytes_of(path, "splitter", error)
    try:
        return msgspec.json.decode(data, type=_Schema).schema
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise error(f"{path}: not a document of splitter ({_one_line(exc)})") from exc


def decode_document(
    data: bytes | str, kind: type[T], schema: str, error: type[SplitterError], origin: str
) -> T:
    """Decode a document from memory; ``origin`` names it in messages."""
    try:
        found = msgspec.json.decode(data, type=_Schema).schema
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise error(f"{origin}: not a {schema} document ({_one_line(exc)})") from exc
    if found != schema:
        raise error(
            f"{origin}: schema is {found!r}, this version reads {schema!r}{_hint(found, schema)}"
        )
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise error(f"{origin}: {_one_line(exc)}") from exc


def _bytes_of(path: Path, schema: str, error: type[SplitterError]) -> bytes:
    try:
        if path.stat().st_size > MAX_DOCUMENT_BYTES:
            raise error(f"{path}: larger than {MAX_DOCUMENT_BYTES} bytes, not a {schema} document")
        return path.read_bytes()
    except OSError as exc:
        raise error(f"{path}: cannot be read ({exc.strerror})") from exc


def _hint(found: str, schema: str) -> str:
    """What to do where only the version is another."""
    (kind, _, version), (mine, _, known) = found.rpartition("/"), schema.rpartition("/")
    if kind != mine or not (version.isdecimal() and known.isdecimal()):
        return ""
    return "; make it again" if int(version) < int(known) else "; install a newer splitter"


def encode_document(value: object) -> bytes:
    """Indented JSON with a closing newline; refuses nothing (NaN becomes null)."""
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"


def write_document(path: str | os.PathLike[str], value: msgspec.Struct) -> None:
    """Write a document beside its place and rename it there."""
    with replacing(path) as file:
        file.write(encode_document(value))


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a new file that takes the place of ``path`` when the block ends well, and vanishes else.

    Raises
    ------
    SplitterError
        The folder does not exist or cannot be written, or the disk is full.
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as exc:
        raise SplitterError(f"{path}: cannot be written ({exc.strerror})") from exc
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except OSError as exc:
        raise SplitterError(f"{path}: cannot be written ({exc.strerror or exc})") from exc
    finally:
        with contextlib.suppress(FileNotFoundError):  # it has been renamed where all went well
            os.unlink(name)


class _Schema(msgspec.Struct):
    schema: str


def _one_line(exc: Exception) -> str:
    return " ".join(str(exc).split())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
