"""The pages say what the code does: their examples run, their documents decode, their links lead somewhere.

Blocks of ``python``, ``sh`` and ``console`` are run: those of a page one after the other, in a folder with
what the page names (``kit``), and what a ``console`` block shows is printed (``pages``). After ``no-run:``
stands why one is not; it is compiled, or its options are parsed; after ``shared:``, what it needs from
beside the project. One marked ``torch`` is run where torch is
installed; else a stand-in for the network that it exports is there. A block marked ``json`` or ``yaml``
parses; ``complete`` after it says that it is a whole document, which is decoded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import onnx
import pytest
import yaml

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
from splitter.profiling.profile import Profile
from splitter.serving.protocol import METHODS
from splitter.serving.server.status import STATUS_OF
from tests import kit as kits
from tests import models, test_layers
from tests.kit import Kit
from tests.pages import FENCE, ROOT, SHELL, Block, Workplace, blocks_of, commands_of

README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").rglob("*.md"))
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

SLOW = ("planning.md", "codec", "calibrate")
"""Pages that plan for a network of real size, again and again, and helps whose commands a page has too."""

SELF_MADE = ("demo", "top")
"""Commands whose examples need more than files: tests of their own run them, here they are parsed."""

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")

BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def of(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


def label(value: Path | Block) -> str:
    return value.name if isinstance(value, Path) else f"{value.page.name}-{value.language}"


def maybe_slow(values: Iterable[Path | str]) -> list[Any]:
    slow = [pytest.mark.slow]
    return [pytest.param(value, marks=slow * (Path(value).name in SLOW)) for value in values]


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return Kit(tmp_path_factory.mktemp("kit"))


@pytest.mark.parametrize("page", maybe_slow(PAGES), ids=label)
def test_a_page_runs_from_top_to_bottom(
    page: Path, kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [block for block in blocks_of(page) if block.language in ("python", *SHELL)]
    for block in found:
        if block.language == "python":
            compile(block.text, str(page), "exec")
    if any("tritonclient" in block.text for block in found):
        pytest.importorskip("tritonclient")
    todo = [block for block in found if block.is_run]
    if not todo:
        return
    kit.lay_out(page, page.read_text(), tmp_path)
    workplace = Workplace(tmp_path, monkeypatch)
    try:
        for block in todo:
            workplace.run(block)
    finally:
        workplace.close()


@pytest.mark.parametrize("name", maybe_slow(name for name in COMMANDS if name not in SELF_MADE))
def test_the_examples_of_every_help_run(
    name: str, kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = app.get_command(None, name)  # type: ignore[arg-type]
    groups = [command, *getattr(command, "commands", {}).values()]
    examples = "".join(f"{group.epilog.partition('Examples:')[2].strip()}\n" for group in groups)
    page = ROOT / "docs" / "reference" / kits.COMMANDS
    kit.lay_out(page, examples, tmp_path)
    workplace = Workplace(tmp_path, monkeypatch)
    try:
        # the network here has no open dimension, and one input: what needs two is parsed elsewhere
        lines = [line for line in examples.splitlines() if "--source" not in line]
        workplace.run(Block(page, "sh", "", "\n".join(lines).replace(" --dim batch=1", "")))
    finally:
        workplace.close()


@pytest.mark.slow
def test_the_stand_in_for_the_tutorial_s_network_is_what_torch_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="of no extra: pip install torch onnxscript")
    (block,) = (block for block in of("python") if block.mark == "torch")
    Workplace(tmp_path, monkeypatch).run(block)
    exported, stand_in = onnx.load(tmp_path / "model.onnx"), models.watcher()

    def shape(model: onnx.ModelProto) -> object:
        nodes = [(node.op_type, *node.input, *node.output) for node in model.graph.node]
        weights = sorted((weight.name, *weight.dims) for weight in model.graph.initializer)
        ports = [value.name for value in (*model.graph.input, *model.graph.output)]
        return nodes, weights, ports

    assert shape(exported) == shape(stand_in)


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_a_block_that_is_not_run_says_why(page: Path) -> None:
    for block in blocks_of(page):
        reason = re.fullmatch(r"torch|(no-run|shared): .{10,}", block.mark)
        assert block.is_run or reason, block.text


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


@pytest.mark.parametrize("block", of(*SHELL), ids=label)
def test_commands_that_are_shown_parse(block: Block) -> None:
    for command in commands_of(block):
        words = [word for word in command.words if word != "&"]
        if words[:1] == ["splitter"] and not words[1].startswith("-"):
            assert words[1] in COMMANDS, command.line
            found = app.get_command(None, words[1])  # type: ignore[arg-type]
            if "--help" not in words:
                found.make_context(words[1], words[2:])


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
