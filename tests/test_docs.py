"""The pages say what the code does: their examples run, their documents decode, their links lead somewhere.

A block marked ``python`` is run: those of a page one after the other, as one program, in a folder with a
small ``model.onnx`` and its profile ``here.json``. One marked ``python no-run`` is only compiled. A block
marked ``json`` or ``yaml`` parses; ``complete`` after it says that it is a whole document, which is decoded.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, get_args

import click
import msgspec
import pytest
import yaml

from splitter import api
from splitter.calibration.records import Answer, Calibration, DataSource
from splitter.cli.app import COMMANDS, app
from splitter.codec import Codec
from splitter.document import decode_document
from splitter.errors import SplitterError
from splitter.link_parse import LinkDescription
from splitter.partition.manifest import Manifest
from splitter.planning.diff import PlanDiff
from splitter.planning.records import Plan
from splitter.planning.verify import Verification
from splitter.preprocess import Preprocess
from splitter.profiling.device import DeviceDescription
from splitter.profiling.measure import Effort
from splitter.profiling.profile import Profile
from splitter.profiling.timing import Rounds
from splitter.serving.protocol import METHODS
from splitter.serving.server.status import STATUS_OF
from tests import models, test_layers

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [path for path in (README, ROOT / "CHANGELOG.md", *DOCS) if path.is_file()]

RECORDS: dict[str, type[msgspec.Struct]] = {
    "splitter.plan/4": Plan, "splitter.bundle/3": Manifest, "splitter.profile/1": Profile,
    "splitter.verification/1": Verification, "splitter.calibration/1": Calibration,
    "splitter.device/1": DeviceDescription, "splitter.link/1": LinkDescription,
}  # fmt: skip
PAGE_OF = {
    "plan-format.md": (Plan, Verification, PlanDiff),
    "bundle-format.md": (Manifest,),
    "calibration.md": (Calibration,),
    "profiles.md": (Profile, DeviceDescription, LinkDescription),
}

ELSEWHERE: dict[type, str] = {
    Codec: "codecs.md", Answer: "calibration.md", DataSource: "calibration.md", Preprocess: "inputs.md",
}  # fmt: skip
"""Records that are parts of several documents, and the page that has their fields."""

TINY = Effort(
    anchors_s=0.2, codecs_s=0.2, rounds=Rounds(least=3, most=5, budget_s=0.01), trace_runs=3
)
PRELUDE = f"""
from splitter import api, arguments
from splitter.profiling.measure import Effort
from splitter.profiling.timing import Rounds
arguments.QUICK = api.profile.__kwdefaults__["effort"] = {TINY!r}
del api, arguments, Effort, Rounds
"""
"""Measures what a page does not ask to be measured well as quickly as can be."""

FENCE = re.compile(r"^```(\w+)?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


class Block(NamedTuple):
    page: Path
    language: str
    mark: str
    text: str

    @property
    def is_complete(self) -> bool:
        return self.mark == "complete"


def blocks_of(page: Path) -> Iterator[Block]:
    for language, mark, text in FENCE.findall(page.read_text()):
        yield Block(page, language, mark.strip(), text)


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def of(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


def label(value: Path | Block) -> str:
    return value.name if isinstance(value, Path) else f"{value.page.name}-{value.language}"


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    path = models.save(models.convolutions(), folder / "model.onnx")
    api.profile(api.load(path), effort=TINY).save(folder / "here.json")
    return folder


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, start, tmp_path):
    found = [block for block in blocks_of(page) if block.language == "python"]
    for block in found:
        compile(block.text, str(page), "exec")
    program = "\n".join(block.text for block in found if block.mark != "no-run")
    if not program:
        return
    if "tritonclient" in program:
        pytest.importorskip("tritonclient")
    for path in start.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + program],
        capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", of("json"), ids=label)
def test_json_parses_and_a_complete_document_decodes(block):
    found = json.loads(block.text)
    if block.is_complete:
        schema = found["schema"]
        decode_document(block.text, RECORDS[schema], schema, SplitterError, block.page.name)


@pytest.mark.parametrize("block", of("yaml"), ids=label)
def test_yaml_parses_and_a_complete_description_converts(block):
    found = yaml.safe_load(block.text)
    if block.is_complete:
        msgspec.convert(found, type=RECORDS[found["schema"]])


@pytest.mark.parametrize("block", of("sh", "bash", "console"), ids=label)
def test_commands_that_are_shown_exist_with_their_options(block):
    for line in block.text.replace("\\\n", " ").splitlines():
        command_line = line.removeprefix("$ ")
        if not command_line.startswith("splitter "):
            continue  # what a command prints, or another command
        words = shlex.split(command_line, comments=True)
        if words[1].startswith("-"):
            continue
        assert words[1] in COMMANDS, line
        command = app.get_command(None, words[1])  # type: ignore[arg-type]
        if isinstance(command, click.Group):
            command = command.commands[words[2]]
        known = {"--help", "-h"} | {opt for p in command.params for opt in p.opts}
        used = {word.partition("=")[0] for word in words[2:] if re.match(r"-{1,2}[a-z]", word)}
        assert used <= known, line


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_relative_links_lead_to_files(page):
    text = FENCE.sub("", page.read_text())
    targets = [target.partition("#")[0] for target in LINK.findall(text) if "://" not in target]
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


def test_the_readme_names_every_command():
    if not README.is_file():
        pytest.skip("there is no README yet")
    text = README.read_text()
    assert not [name for name in COMMANDS if f"splitter {name}" not in text]


@pytest.mark.parametrize("name", PAGE_OF)
def test_a_format_has_every_field_on_its_page(name):
    text = (ROOT / "docs" / name).read_text()
    fields = {field for record in PAGE_OF[name] for field in fields_of(record, name)}
    assert not [field for field in sorted(fields) if f"`{field}`" not in text]


@pytest.mark.parametrize("page", DOCS, ids=label)
def test_a_complete_example_has_the_schema_that_its_page_names(page):
    text = page.read_text()
    for block in blocks_of(page):
        if block.is_complete:
            schema = yaml.safe_load(block.text)["schema"]  # YAML holds JSON
            assert f"`{schema}`" in text


def test_the_map_of_layers_is_the_one_that_is_tested():
    text = (ROOT / "docs" / "design.md").read_text()
    table = text.partition("## Layers")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == test_layers.LAYERS


def test_every_method_and_status_of_the_server_is_on_the_page_of_the_wire():
    text = (ROOT / "docs" / "wire.md").read_text()
    names = [*METHODS, *(code.name for _, code in STATUS_OF)]
    assert not [name for name in names if f"`{name}`" not in text]


def fields_of(kind: type, page: str) -> Iterator[str]:
    """Names of a record's fields and of those of the records in it that no other page is for."""
    if ELSEWHERE.get(kind, page) != page:
        return
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        for field in msgspec.structs.fields(kind):
            yield field.name
            yield from fields_of(field.type, page)
    else:
        for inner in get_args(kind):
            yield from fields_of(inner, page)
