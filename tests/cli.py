"""Commands run as a user types them, in this process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from splitter.cli import main


@dataclass(frozen=True)
class Outcome:
    """What a command left: its status and what it wrote to each stream, C libraries included."""

    status: int
    out: str
    err: str


def run(capfd: pytest.CaptureFixture[str], *arguments: str | os.PathLike[str]) -> Outcome:
    """Run ``splitter`` with these arguments."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([os.fspath(argument) for argument in arguments])
    out, err = capfd.readouterr()
    status = ended.value.code
    return Outcome(0 if status is None else int(status), out, err)


def succeed(capfd: pytest.CaptureFixture[str], *arguments: str | os.PathLike[str]) -> str:
    """Run it, demand status 0 and a quiet standard error, and return what it printed."""
    outcome = run(capfd, *arguments)
    assert (outcome.status, outcome.err) == (0, "")
    return outcome.out


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder and what it holds, hidden ones included; None for a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
