"""Descriptions of devices and links in YAML: found by name, read strictly.

The project keeps them in ``profiles/``; an installed package carries the same files as
``splitter/_profiles``.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
import yaml
from msgspec import Meta

from splitter.document import Record
from splitter.errors import SplitterError

MAX_DESCRIPTION_BYTES = 1 << 20
LARGEST = 1e30
"""Refuses infinity, which YAML can write."""

Kind = Literal["devices", "links"]
Text = Annotated[str, Meta(min_length=1)]
T = TypeVar("T", bound=Record)


class Figure(Record, frozen=True):
    """A number over 0, and where it comes from."""

    value: Annotated[float, Meta(gt=0, le=LARGEST)]
    source: Text
    """A publication; ``computed: ...`` for arithmetic on one; ``assumption: ...`` for neither."""

    @property
    def is_assumed(self) -> bool:
        """Whether any part of the figure rests on no publication."""
        return "assumption:" in self.source


def names(kind: Kind) -> tuple[str, ...]:
    """The names of the descriptions that come with the package, in order."""
    return tuple(sorted(path.stem for path in _folder(kind).glob("*.yaml")))


def is_path(text: str) -> bool:
    """Whether the text is meant as a file rather than a name."""
    return Path(text).suffix in {".yaml", ".yml"}


def read(text: str, kind: Kind, record: type[T], error: type[SplitterError]) -> T:
    """Read the description of a name (in any case) or of a ``.yaml`` path.

    Raises
    ------
    error
        Nothing has that name (the message lists those that exist), the file cannot be read, or a
        field of it is missing, unknown, of the wrong type, or not a positive finite number.
    """
    if is_path(text):
        return read_path(text, record, error)
    name = text.strip().lower()
    if name in names(kind):
        return read_path(_folder(kind) / f"{name}.yaml", record, error)
    raise error(unknown(text, kind))


def read_path(path: str | Path, record: type[T], error: type[SplitterError]) -> T:
    """Read the description in a YAML file; raises ``error`` as ``read`` does."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_DESCRIPTION_BYTES:
            raise error(f"{path}: larger than {MAX_DESCRIPTION_BYTES} bytes, not a description")
        return msgspec.convert(yaml.safe_load(path.read_bytes()), type=record)
    except OSError as exc:
        raise error(f"{path}: cannot be read ({exc.strerror})") from exc
    except (yaml.YAMLError, msgspec.MsgspecError, RecursionError, ValueError) as exc:
        raise error(f"{path}: {' '.join(str(exc).split())}") from exc


def unknown(text: str, kind: Kind) -> str:
    """The message for a name that does not exist: the nearest ones, then all."""
    known = names(kind)
    near = difflib.get_close_matches(text.strip().lower(), known)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"no {kind[:-1]} is called {text!r}; {hint}there are {', '.join(known)}"


def _folder(kind: Kind) -> Path:
    package = Path(__file__).parent
    installed = package / "_profiles"
    return (installed if installed.is_dir() else package.parent / "profiles") / kind
