"""The notebooks as they are committed: stories without outputs that a reader can run anywhere.

That they run is seen by ``make notebooks``.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").iterdir())
ABSOLUTE = re.compile(r"""["'](/\w+|[A-Z]:\\|~/)""")
LONGEST_CELL = 26
LONGEST_FUNCTION = 5


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def code(path: Path) -> list[str]:
    """Code cells, without what is IPython's own."""
    cells = [source(cell) for cell in read(path)["cells"] if cell["cell_type"] == "code"]
    return [re.sub(r"^%.*$", "", cell, flags=re.MULTILINE) for cell in cells]


def test_they_are_numbered_from_one_and_nothing_else_is_there() -> None:
    assert [path.name[:3] for path in NOTEBOOKS] == [f"{n:02}-" for n in range(1, 6)]
    assert {path.suffix for path in NOTEBOOKS} == {".ipynb"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_of_a_run_is_kept(path: Path) -> None:
    found = read(path)
    for cell in found["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
    assert found["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert (found["nbformat"], found["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in found["cells"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_begins_with_its_title_and_ends_with_a_computed_conclusion(path: Path) -> None:
    first, *_, heading, last = read(path)["cells"]
    assert source(first).startswith(f"# {path.name[:2]} · ")
    assert source(heading) == "## Conclusion"
    assert re.fullmatch(r"Markdown\(\s*f.*findings\..*\)", source(last), re.DOTALL)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_long_is_in_the_package(path: Path) -> None:
    for cell in code(path):
        assert len(cell.splitlines()) <= LONGEST_CELL
        for node in ast.walk(ast.parse(cell)):
            if isinstance(node, ast.FunctionDef):
                assert len(ast.unparse(ast.Module(node.body, [])).splitlines()) <= LONGEST_FUNCTION


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_uses_what_is_public_and_no_place_of_one_machine(path: Path) -> None:
    for cell in code(path):
        assert not ABSOLUTE.search(cell)
        for node in ast.walk(ast.parse(cell)):
            if isinstance(node, ast.ImportFrom):
                names = [*str(node.module).split("."), *(alias.name for alias in node.names)]
                assert not any(name.startswith("_") for name in names)
            if isinstance(node, ast.Attribute):
                assert not node.attr.startswith("_")
