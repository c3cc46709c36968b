"""Labels: the class of each file, by its index."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from splitter.errors import InputError

MAX_LABEL_BYTES = 64 << 20
_FILE_COLUMNS = ("file", "filename", "path", "image")
_INDEX_COLUMNS = ("class_index", "index", "label", "class")
_LINE = re.compile(r"(.*?)(?:\t|,|\s)\s*([^\s,]+)")


def read_label_file(path: Path, files: Sequence[str], classes: int | None) -> dict[str, int]:
    """Find the label of each of ``files``, which are paths in the data's folder.

    A table has a header with a column of files and one of indices; other text has lines of a file and
    an index, with a tab, comma or space between. A file is named by its path, or by its name alone.

    Raises
    ------
    InputError
        The text cannot be read, a label is no index of a class, or files and labels do not match.
    """
    found: dict[str, int] = {}
    by_name: dict[str, list[str]] = {}
    for name in files:
        by_name.setdefault(PurePosixPath(name).name, []).append(name)
    known = set(files)
    unmatched: list[str] = []
    for line, text, value in _rows(path):
        file = _match(f"{path}:{line}", text, known, by_name)
        if file is None:
            unmatched.append(text)
            continue
        index = _index(f"{path}:{line}", value, classes)
        if found.setdefault(file, index) != index:
            raise InputError(f"{path}:{line}: {file} has label {index}, and before {found[file]}")
    _demand_match(path, files, found, unmatched)
    return found


def _rows(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line number, file and index."""
    lines = _lines(path)
    first = next((line for line in lines if line.strip()), "")
    columns = [name.strip().lower() for name in first.split(",")]
    file_at, index_at = _column(columns, _FILE_COLUMNS), _column(columns, _INDEX_COLUMNS)
    if file_at is not None and index_at is not None:
        yield from _table_rows(path, lines, columns, file_at, index_at)
        return
    for number, line in enumerate(map(str.strip, lines), 1):
        match = _LINE.fullmatch(line)
        if match is not None:
            yield number, match[1].strip(), match[2]
        elif line:
            raise InputError(f"{path}:{number}: {line[:60]!r} is not a file and an index")


def _table_rows(
    path: Path, lines: Sequence[str], columns: Sequence[str], file_at: int, index_at: int
) -> Iterator[tuple[int, str, str]]:
    rows = csv.reader(lines)
    try:
        for row in rows:
            if not row or [name.strip().lower() for name in row] == columns:
                continue
            if len(row) <= max(file_at, index_at):
                raise InputError(f"{path}:{rows.line_num}: has no {columns[len(row)]}")
            yield rows.line_num, row[file_at].strip(), row[index_at].strip()
    except csv.Error as exc:
        raise InputError(f"{path}:{rows.line_num}: cannot be read as a table ({exc})") from exc


def _lines(path: Path) -> list[str]:
    try:
        if path.stat().st_size > MAX_LABEL_BYTES:
            raise InputError(f"{path}: larger than {MAX_LABEL_BYTES} bytes, no labels")
        return path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as exc:
        raise InputError(f"{path}: cannot be read ({exc.strerror})") from exc
    except UnicodeDecodeError as exc:
        raise InputError(f"{path}: cannot be read as text ({exc})") from exc


def _column(columns: Sequence[str], names: Sequence[str]) -> int | None:
    return next((columns.index(name) for name in names if name in columns), None)


def _match(
    where: str, text: str, known: set[str], by_name: Mapping[str, Sequence[str]]
) -> str | None:
    text = PurePosixPath(text.replace("\\", "/")).as_posix()
    if text in known:
        return text
    same = by_name.get(PurePosixPath(text).name, ())
    if len(same) > 1:
        raise InputError(f"{where}: {text!r} may be {same[0]} or {same[1]}; write its path")
    return same[0] if same else None


def _index(where: str, value: str, classes: int | None) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", value):
        raise InputError(f"{where}: label {value[:40]!r} is no index of a class, such as 0")
    index = int(value)
    if classes is not None and index >= classes:
        raise InputError(f"{where}: label {index}, where the model has classes 0 to {classes - 1}")
    return index


def _demand_match(
    path: Path, files: Sequence[str], found: Mapping[str, int], unmatched: Sequence[str]
) -> None:
    if unmatched:
        raise InputError(
            f"{path}: {len(unmatched)} labels are of no file in the data, first {unmatched[0]!r}"
        )
    missing = [file for file in files if file not in found]
    if missing:
        raise InputError(f"{path}: {len(missing)} files have no label, first {missing[0]}")
