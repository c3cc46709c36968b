"""The site that `make docs` writes: built without a warning, whole, and of nothing that lies elsewhere."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

import splitter
from splitter import api, errors
from splitter.cli.app import COMMANDS
from tests.pages import ROOT

pytestmark = pytest.mark.slow

FETCHED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
"""What a browser loads by itself when it shows a page: attribute of each element."""

OF_A_PAGE = ("canonical", "prev", "next", "edit")
"""Relations that name a page and fetch nothing."""


class Fetched(HTMLParser):
    """Addresses of what a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        address = given.get(FETCHED.get(tag, ""))
        if address and given.get("rel") not in OF_A_PAGE:
            self.found.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built here; proxies lead nowhere, so that what would be fetched cannot be."""
    pytest.importorskip("material", reason="needs the extra docs: make docs")
    folder = tmp_path_factory.mktemp("site")
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
        env=os.environ | nowhere | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def pages_of(site: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(site.rglob("*.html")):
        yield path, path.read_text(encoding="utf-8")


def test_every_page_is_there(site: Path) -> None:
    sources = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    made = {path.relative_to(site) for path, _ in pages_of(site)}
    assert {path.with_suffix(".html") for path in sources} <= made
    assert Path("changelog.html") in made


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for path, text in pages_of(site):
        parser = Fetched()
        parser.feed(text)
        assert not [address for address in parser.found if "//" in address], path
    for path in site.rglob("*.css"):
        assert not re.findall(r"url\(\s*[\"']?(?:https?:)?//", path.read_text()), path


def test_what_a_page_loads_is_part_of_the_site(site: Path) -> None:
    for path, text in pages_of(site):
        if path.name == "404.html":
            continue  # shown at any address: its links are from the root
        parser = Fetched()
        parser.feed(text)
        for address in parser.found:
            if not address.startswith("data:"):
                assert (path.parent / re.split("[?#]", address)[0]).is_file(), (path, address)


def test_the_reference_has_every_command_and_every_public_name(site: Path) -> None:
    commands = (site / "reference" / "commands.html").read_text()
    assert not [name for name in COMMANDS if f'id="splitter-{name}"' not in commands]
    library = (site / "reference" / "library.html").read_text()
    verbs = [name for name in {*splitter.__all__, *api.__all__} if not name.startswith("_")]
    raised = [name for name in vars(errors) if name.endswith("Error")]
    names = [
        *(f"splitter.{name}" for name in verbs),
        *(f"splitter.errors.{name}" for name in raised),
    ]
    assert not [name for name in names if f'id="{name}"' not in library]


def test_a_rendered_notebook_becomes_a_page_with_its_pictures(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs the extra docs: make docs")
    spec = spec_from_file_location("hooks", ROOT / "docs" / "_build" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    hooks = module_from_spec(spec)
    spec.loader.exec_module(hooks)
    cell = nbformat.v4.new_code_cell("draw()")
    picture = base64.b64encode(b"a picture").decode()
    cell.outputs = [nbformat.v4.new_output("display_data", {"image/png": picture})]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# 01 Story"), cell])
    nbformat.write(notebook, tmp_path / "01-story.ipynb")
    made = dict(hooks._rendered(tmp_path / "01-story.ipynb"))
    page = made.pop("notebooks/01-story.md")
    ((path, content),) = made.items()
    assert "# 01 Story" in page
    assert "draw()" in page
    assert content == b"a picture"
    assert f"({Path(path).relative_to('notebooks')})" in page


def test_the_search_knows_the_pages(site: Path) -> None:
    index = (site / "search" / "search_index.json").read_text()
    assert "how-to/offline.html" in index
