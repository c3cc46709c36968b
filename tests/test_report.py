"""The report as a file: what it holds, what it refuses, and that nothing in a plan becomes markup."""

from __future__ import annotations

import hashlib
import json
import re
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from splitter.calibration.records import Answer, Calibration, CodecResult, DataSource, TensorResult
from splitter.codec import get_codec
from splitter.errors import PlanError
from splitter.planning.plan import PlanOptions
from splitter.planning.records import Plan
from splitter.reporting import html
from splitter.reporting.headline import headline
from splitter.reporting.html import report_html
from splitter.reporting.report import Evidence, write_report
from splitter.reporting.view import view
from splitter.runtime import Settings
from tests.cli import run, succeed
from tests.reports import HOSTILE, measured_of, staged_plan

WEB = Path(html.__file__).parent / "web"
VENDOR = WEB / "vendor"


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return staged_plan(tmp_path_factory.mktemp("report") / "staged.onnx")


def calibration_of(plan: Plan, sha256: str = "") -> Calibration:
    codec = get_codec("zstd")
    answer = Answer(samples=10, agreement=0.98, error=0.01, cosine=0.99)
    results = (
        CodecResult(
            codec=codec,
            wire_bytes=900,
            wire_bytes_p95=950,
            encode_s=0.1,
            decode_s=0.1,
            answer=answer,
        ),
    )
    tensor = TensorResult(
        tensor="s0_pool", dtype="float32", shape=(1, 3, 128, 128), nbytes=196608, results=results
    )
    return Calibration(
        created="", model_file=plan.model.file, model_sha256=sha256 or plan.model.sha256, dims={},
        shapes={}, fingerprint={}, tier="here", settings=Settings(),
        data=DataSource(folder="photos", digest="", samples=10, labelled=False), answer="top1",
        whole_accuracy=None, tensors=(tensor,),
    )  # fmt: skip


class Tags(HTMLParser):
    """Counts elements, and gathers what they refer to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.references += [value or "" for name, value in attrs if name in {"src", "href"}]


def tags(page: str) -> Tags:
    parser = Tags()
    parser.feed(page)
    return parser


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


def test_the_first_screen_says_where_why_and_until_which_bandwidth(plan):
    answer = headline(plan)
    lines = dict(answer.lines)
    assert answer.title == "Split after s0_pool (MaxPool)"
    assert "runs 1 of the 24 nodes and sends s0_pool, 197 kB (uncompressed)" in lines["Where"]
    assert "69% less than all on the device" in lines["What it buys"]
    assert "saves 1.15 s on the device" in lines["Why"]
    assert "between 6.55 Mbit/s and 105 Mbit/s (now 8 Mbit/s)" in lines["Until when"]
    assert "Below 6.55 Mbit/s, a cut after s1_pool is better" in lines["Until when"]
    assert "Above 105 Mbit/s, sending the input to the server is better" in lines["Until when"]
    page = report_html(plan)
    assert all(escape(sentence) in page for sentence in lines.values())


@pytest.mark.parametrize(
    ("link", "device_s", "title"),
    [
        ("100kbit/s,90ms", 0.2, "Do not split: run it all on the device"),
        ("1Gbit/s,1ms", 5.0, "Do not split: send the input to the server"),
    ],
)
def test_not_splitting_is_worded_as_an_answer(link, device_s, title, tmp_path):
    found = headline(staged_plan(tmp_path / "m.onnx", link, device_s))
    assert found.title == title
    assert "That is a good answer: the best true split" in dict(found.lines)["What it buys"]


def test_reasons_say_what_is_better_beyond_where_there_is_no_table(tmp_path):
    options = PlanOptions(explain=True)
    lines = dict(headline(staged_plan(tmp_path / "m.onnx", options=options)).lines)
    assert "Below 6.55 Mbit/s, a cut after s1_pool is better" in lines["Until when"]
    plain = dict(headline(staged_plan(tmp_path / "m.onnx", options=PlanOptions())).lines)
    assert "Below 6.55 Mbit/s, another plan is better" in plain["Until when"]


def test_the_page_refers_to_nothing_outside_of_itself(plan):
    page = report_html(plan, (measured_of(plan),), (calibration_of(plan),))
    found = tags(page)
    assert found.references == ["#model"]
    assert not {"link", "img", "iframe", "object", "base"} & set(found.found)
    assert "@import" not in page.partition("</style>")[0]
    assert "url(" not in page.partition("</style>")[0]


def test_every_script_is_allowed_by_its_digest_and_no_other(plan):
    page = report_html(plan)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    assert policy[1].startswith("default-src &#x27;none&#x27;")
    allowed = re.findall(r"sha256-([^&]+)&", policy[1])
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == len(allowed) == len(html.LIBRARIES) + 1
    for text, digest in zip(scripts, allowed, strict=True):
        assert html.base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() == digest


def test_names_that_are_markup_stay_data(plan, tmp_path):
    hostile = staged_plan(tmp_path / "m.onnx", suffix=HOSTILE)
    page = report_html(hostile, (measured_of(hostile),), (calibration_of(hostile),))
    names = [node["name"] for node in data_of(page)["graph"]["nodes"]]
    assert f"s0_pool{HOSTILE}" in names
    expected = tags(report_html(plan, (measured_of(plan),), (calibration_of(plan),)))
    assert tags(page).found == expected.found
    assert tags(page).references == expected.references


def test_no_name_is_taken_for_a_place_of_the_template(tmp_path):
    hostile = staged_plan(tmp_path / "m.onnx", suffix="<!--scripts--><!--style-->")
    assert report_html(hostile).count('id="data"') == 1


def test_heads_are_runs_of_places_along_the_nodes(plan):
    found = view(plan, (), ())
    names = [node["name"] for node in found["graph"]["nodes"]]
    for cut, source in zip(
        found["table"]["cuts"], plan.table.cuts if plan.table else (), strict=True
    ):
        runs = zip(cut["head"][::2], cut["head"][1::2], strict=True)
        head = {names[i] for start, length in runs for i in range(start, start + length)}
        assert head == set(source.cut.head)
        assert cut["has_tail"] == (source.cut.tail_nodes > 0)


def test_a_plan_without_a_picture_is_still_a_report(plan):
    bare = msgspec.structs.replace(
        plan, graph=None, order=(), table=None, tradeoff=None, reasons=None
    )
    data = data_of(report_html(bare))
    assert (data["graph"], data["order"], data["table"]) == (None, [], None)


def test_the_command_takes_measurements_and_calibrations(plan, tmp_path, capfd):
    plan.save(tmp_path / "plan.json")
    measured_of(plan).save(tmp_path / "measured.json")
    calibration_of(plan).save(tmp_path / "calibration.json")
    names = [tmp_path / f"{name}.json" for name in ("plan", "calibration", "measured")]
    out = succeed(capfd, "report", *names, "-o", tmp_path / "report.html")
    assert out.startswith("wrote ")
    data = data_of((tmp_path / "report.html").read_text())
    assert [row["head_nodes"] for row in data["measured"]][:3] == [1, 24, 0]
    assert [one["tensor"] for one in data["tensors_in_codecs"]] == ["s0_pool"]


BAD = {
    "a plan for a measurement": (
        "plan",
        "schema is 'splitter.plan/4'; give what splitter verify -o",
    ),
    "another model's calibration": ("other", "is of another model"),
    "no JSON": ("text", "not a document of splitter"),
    "nothing": ("absent", "cannot be read"),
    "a later verification": ("later", "'splitter.verification/9', this version reads"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_evidence_is_refused_in_one_line(case, plan, tmp_path, capfd):
    plan.save(tmp_path / "plan.json")
    calibration_of(plan, sha256="0" * 64).save(tmp_path / "other.json")
    (tmp_path / "text.json").write_text("hello")
    (tmp_path / "later.json").write_text('{"schema": "splitter.verification/9"}')
    name, said = BAD[case]
    outcome = run(
        capfd,
        "report",
        tmp_path / "plan.json",
        tmp_path / f"{name}.json",
        "-o",
        tmp_path / "r.html",
    )
    assert outcome.status == 1
    assert said in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "r.html").exists()


def test_a_picture_that_contradicts_itself_is_refused(plan, tmp_path):
    replace, graph = msgspec.structs.replace, plan.graph
    broken = {
        "holds no tensor 's0_pool'": replace(plan, graph=replace(
            graph, tensors={n: t for n, t in graph.tensors.items() if n != "s0_pool"})),
        "contradict one another": replace(plan, graph=replace(graph, nodes=graph.nodes * 2)),
        "counts nodes that its picture has not": replace(plan, graph=replace(graph, nodes=graph.nodes[:5])),
    }  # fmt: skip
    for said, wrong in broken.items():
        with pytest.raises(PlanError, match=said):
            write_report(wrong, Evidence(), tmp_path / "r.html")


def test_an_older_plan_is_refused_with_its_version(plan, tmp_path, capfd):
    built = msgspec.to_builtins(plan) | {"schema": "splitter.plan/3"}
    (tmp_path / "plan.json").write_text(json.dumps(built))
    outcome = run(capfd, "report", tmp_path / "plan.json", "-o", tmp_path / "r.html")
    assert outcome.status == 1
    assert (
        "schema is 'splitter.plan/3', this version reads 'splitter.plan/4'; make it again"
        in outcome.err
    )


def test_what_is_vendored_is_what_was_published():
    sums = dict(reversed(line.split()) for line in (VENDOR / "SHA256SUMS").read_text().splitlines())
    files = {path.name: path for path in VENDOR.iterdir()}
    assert sums.keys() == files.keys() - {"SHA256SUMS", "README.md", "package.json"}
    for name, digest in sums.items():
        assert hashlib.sha256(files[name].read_bytes()).hexdigest() == digest
    assert all("*/" not in files[name].read_text() for name in files if name.endswith(".LICENSE"))
    versions = json.loads((VENDOR / "package.json").read_text())["dependencies"]
    assert f'"{versions["cytoscape"]}"' in files["cytoscape.min.js"].read_text()


def test_the_page_carries_the_licences_of_what_is_in_it(plan):
    page = report_html(plan)
    for path in VENDOR.glob("*.LICENSE"):
        assert path.read_text() in page


def test_no_script_of_ours_makes_markup_of_text():
    for path in WEB.glob("*.js"):
        text = path.read_text()
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "fetch(",
        ):
            assert word not in text, f"{path.name}: {word}"
        assert "</script" not in text


def test_every_file_of_the_page_is_part_of_it():
    listed = {*html.SCRIPTS, "report.html", "report.css"}
    assert listed == {path.name for path in WEB.iterdir() if path.is_file()}
