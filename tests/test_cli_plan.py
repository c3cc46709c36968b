"""What ``plan`` and ``diff`` take and print beside the cut itself."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from splitter import api
from splitter.cli.quantities import UNITS, quantity
from splitter.partition.manifest import Manifest
from splitter.planning.diff import PlanDiff
from splitter.planning.records import Plan
from tests.cli import run, succeed

PLAN = "plan {m}/convolutions.onnx --device {m}/slow.json --server {m}/here.json --link wifi "


@pytest.fixture(scope="module")
def tiers(tmp_path_factory: pytest.TempPathFactory, measured: Path) -> Path:
    """The measured folder's model and profile, and a device 40 times as slow whose power is known."""
    folder = tmp_path_factory.mktemp("tiers")
    for name in ("convolutions.onnx", "here.json"):
        (folder / name).write_bytes((measured / name).read_bytes())
    profile = json.loads((measured / "here.json").read_text())
    for kernel in profile["kernels"]:
        kernel["seconds"] *= 40
    for anchor in profile["anchors"]:
        anchor["head_s"] *= 40
        anchor["tail_s"] *= 40
    profile |= {"whole_s": profile["whole_s"] * 40, "tier": "slow"}
    profile["power"] = {"active_w": 6.0, "idle_w": 2.0}
    (folder / "slow.json").write_text(json.dumps(profile))
    return folder


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


def words(command: str, folder: Path) -> list[str]:
    return command.format(m=folder).split()


def text_of(capfd: Any, command: str, folder: Path) -> str:
    """What a command prints, in lines of at most 80 characters."""
    out = succeed(capfd, *words(command, folder))
    assert max(map(len, out.splitlines())) <= 80
    return " ".join(out.split())


def test_a_plan_with_a_table_is_split_into_all_of_its_cuts(tiers: Path, capfd: Any) -> None:
    out = text_of(capfd, PLAN + "--envelope -o plan.json", tiers)
    assert "all proven" in out
    table = Plan.load("plan.json").table
    assert table is not None
    succeed(capfd, *words("split {m}/convolutions.onnx --plan plan.json -o bundle", tiers))
    manifest = Manifest.load(Path("bundle"))
    written = {(cut.head_nodes, cut.crossing) for cut in manifest.cuts}
    assert len(written) == len(manifest.cuts) == len(table.cuts)
    for tabled, cut in zip(table.cuts[1:], manifest.cuts[1:], strict=True):
        assert cut.head_nodes == tabled.cut.head
        assert cut.cost is not None
        assert (cut.cost.head_s, cut.cost.up_bytes) == (tabled.head_s, tabled.up_bytes)


def test_the_json_carries_objective_limits_table_and_reasons(tiers: Path, capfd: Any) -> None:
    out = succeed(capfd, *words(
        PLAN + "--objective latency=1,energy=0.5 --device-memory 1GB --server-price 0.5/h "
        "--max-bytes 1MB --envelope --explain --json", tiers,
    ))  # fmt: skip
    plan = msgspec.json.decode(out, type=Plan)
    assert (plan.objective.latency, plan.objective.energy) == (1.0, 0.5)
    assert (plan.limits.device_memory_bytes, plan.limits.sent_bytes) == (10**9, 10**6)
    assert plan.table is not None
    assert plan.reasons is not None
    assert [bound.name for bound in plan.reasons.limits] == ["device_memory_bytes", "sent_bytes"]
    assert plan.predicted.terms.energy_j is not None


def test_an_explained_plan_says_what_decides_and_what_would_change_it(
    tiers: Path, capfd: Any
) -> None:
    out = text_of(capfd, PLAN + "--explain --pin c1=device", tiers)
    assert "Why this plan:" in out
    assert "Another plan is better, all else equal, when:" in out
    assert "Limit pin 'c1=device'" in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--objective energy", "J on the device"),
        ("--objective throughput", "between answers of a stream"),
        ("--objective money --server-price 0.5/h", "of money"),
        ("--device-power 5W,1W,0.5W --max-energy 1kJ", "J on the device"),
        ("--deadline 5s --max-interval 5s", "between answers of a stream"),
        ("--server-memory 1GB", "of memory on the device"),
        ("--output-on scores=device --max-money 5", "of money"),
    ],
)
def test_what_a_plan_is_judged_by_is_in_its_first_lines(
    options: str, said: str, tiers: Path, capfd: Any
) -> None:
    assert said in text_of(capfd, PLAN + options, tiers).partition("profile")[0]


BAD_USAGE = {
    "a deadline in bytes": ("--deadline 5kB", "'kB', which is no unit of time"),
    "a deadline in nothing": ("--deadline 50", "'50' has no unit of time"),
    "memory in seconds": ("--device-memory 5s", "'s', which is no unit of bytes"),
    "energy in watts": ("--max-energy 5W", "'W', which is no unit of energy"),
    "money in euros": ("--max-money 5EUR", "no unit of money"),
    "no price": ("--server-price 0/h", "not over 0"),
    "a negative price": ("--server-price -1/h", "not over 0"),
    "an endless amount": ("--max-bytes 1e999B", "not over 0 and finite"),
    "no number": ("--deadline soon", "'soon' is not a number and a unit"),
    "an unknown term": ("--objective speed", "'speed' is not one of the terms latency"),
    "a term twice": ("--objective latency,latency", "latency twice"),
    "a weight of nothing": ("--objective latency=0", "over 0"),
    "a weight of NaN": ("--objective latency=nan", "over 0"),
    "one term to trade": ("--pareto latency", "two or three terms"),
    "power of one figure": ("--device-power 5W", "ACTIVE,IDLE"),
    "a pin to nowhere": ("--pin c1", "PATTERN=TIER"),
    "an output to nowhere": ("--output-on scores", "OUTPUT=TIER"),
    "state without an output": ("--keep-state h", "INPUT=OUTPUT"),
    "a relay without a link": ("--relay nvidia-t4", "each relay needs the link"),
    "a link without a relay": ("--relay-link wifi", "each relay needs the link"),
    "a table of a given cut": ("--at p1 --envelope", "leave --envelope out"),
    "a given cut over relays": ("--at p1 --relay nvidia-t4 --relay-link wifi", "leave --relay out"),
    "a source without a link": ("--source x=nvidia-t4", "each source needs its link"),
    "a link without a source": ("--source-link wifi", "each source needs its link"),
    "a source of nothing": ("--source nvidia-t4 --source-link wifi", "INPUTS=PROFILE"),
    "a given cut of devices": (
        "--at p1 --source x=nvidia-t4 --source-link wifi",
        "leave --source out",
    ),
    "an output twice": ("--output-on s=device --output-on s=server", "twice"),
}


@pytest.mark.parametrize(("options", "said"), BAD_USAGE.values(), ids=BAD_USAGE.keys())
def test_a_wrong_option_is_one_line_that_says_what_to_write(
    options: str, said: str, tiers: Path, capfd: Any
) -> None:
    outcome = run(capfd, *words(PLAN + options, tiers))
    assert (outcome.status, outcome.out) == (2, "")
    assert said in outcome.err.splitlines()[-1]


BAD_WISHES = {
    "a pin that matches nothing": ("--pin nix*=device", "matches no node"),
    "a pin to an unknown tier": ("--pin c1=moon", "no tier is called 'moon'"),
    "pins that contradict": ("--pin c1=device --pin c*=server", "contradicts"),
    "an unknown output": ("--output-on scoers=device", "scoers"),
    "a table of a stream": ("--objective throughput --envelope", "throughput"),
    "a table over relays": ("--relay nvidia-t4 --relay-link wifi --envelope", "two tiers"),
    "reasons over relays": ("--relay nvidia-t4 --relay-link wifi --explain", "two tiers"),
    "an unknown input": ("--source imge=nvidia-t4 --source-link wifi", "did you mean 'image'?"),
    "no input for the device": (
        "--source im*=nvidia-t4 --source-link wifi",
        "every input is born on a further device",
    ),
    "an input born twice": (
        "--source im*=nvidia-t4 --source-link wifi --source image=nvidia-t4 --source-link lte",
        "'image' is born on two devices",
    ),
    "relays and sources": (
        "--source image=nvidia-t4 --source-link wifi --relay nvidia-t4 --relay-link lte",
        "not both",
    ),
    "a table under a deadline": ("--deadline 5s --envelope", "deadline"),
}


@pytest.mark.parametrize(("options", "said"), BAD_WISHES.values(), ids=BAD_WISHES.keys())
def test_wishes_that_nothing_fulfils_are_one_line(
    options: str, said: str, tiers: Path, capfd: Any
) -> None:
    outcome = run(capfd, *words(PLAN + options + " -o plan.json", tiers))
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err.count("\n") == 1
    assert said in outcome.err
    assert not Path("plan.json").exists()


def test_plans_over_a_relay_say_what_each_tier_does(tiers: Path, capfd: Any) -> None:
    out = text_of(capfd, PLAN + "--relay {m}/here.json --relay-link ethernet -o plan.json", tiers)
    plan = Plan.load("plan.json")
    assert [relay.link.name for relay in plan.relays] == ["ethernet"]
    assert plan.stages[0].nodes == plan.cut.head
    made = [name for stage in plan.stages for name in stage.nodes]
    assert len(made) == len(set(made)) == len(plan.cut.head) + plan.cut.tail_nodes
    assert "tier nodes takes" in out
    assert plan.predicted.total_s <= min(rival.total_s for rival in plan.baselines)


PINNED = "--pin c1=device --pin c2=relay --pin scores=server -o plan.json"
RELAY = "--relay {m}/here.json --relay-link ethernet "


def test_a_plan_over_three_tiers_becomes_a_folder_of_bundles(tiers: Path, capfd: Any) -> None:
    text_of(capfd, PLAN + RELAY + PINNED, tiers)
    plan = Plan.load("plan.json")
    assert [stage.role for stage in plan.stages] == ["device", "relay", "server"]
    out = text_of(
        capfd, "split {m}/convolutions.onnx --plan plan.json --fallback whole -o out", tiers
    )
    first, second = (Manifest.load(f"out/{name}") for name in ("1-device-relay", "2-relay-server"))
    assert first.planned.head_nodes == plan.cut.head
    assert set(second.planned.head_nodes) == set(plan.stages[1].nodes)
    assert (first.link, second.link) == (plan.link, plan.relays[0].link)
    for manifest, stage in zip((first, second), plan.stages, strict=False):
        sent = {spec.tensor: spec.codec.name for spec in manifest.planned.crossing}
        assert sent == {item.tensor: item.codec for item in stage.sends}
        assert manifest.on_device is not None
    assert "checked: one after the other they give the whole model's outputs" in out
    assert "splitter serve out/1-device-relay --via out/2-relay-server --next HOST:PORT" in out
    refused = "split {m}/convolutions.onnx --plan plan.json --alternatives 1 -o other"
    outcome = run(capfd, *words(refused, tiers))
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (1, "", 1)
    assert not Path("other").exists()


def test_a_plan_that_skips_the_relay_is_one_bundle(tiers: Path, capfd: Any) -> None:
    pins = "--pin c1=device --pin c2=server --pin scores=server -o plan.json"
    text_of(capfd, PLAN + RELAY + pins, tiers)
    assert [stage.role for stage in Plan.load("plan.json").stages] == ["device", "server"]
    text_of(capfd, "split {m}/convolutions.onnx --plan plan.json -o out", tiers)
    assert Manifest.load("out").planned.head_nodes == Plan.load("plan.json").cut.head


def test_a_plan_whose_stages_are_not_the_models_is_refused(tiers: Path, capfd: Any) -> None:
    text_of(capfd, PLAN + RELAY + PINNED, tiers)
    plan = json.loads(Path("plan.json").read_text())
    plan["stages"][1]["nodes"].pop()
    Path("plan.json").write_text(json.dumps(plan))
    outcome = run(capfd, *words("split {m}/convolutions.onnx --plan plan.json -o out", tiers))
    assert (outcome.status, outcome.out) == (1, "")
    assert "stages are not the nodes of this model" in outcome.err
    assert not Path("out").exists()


def test_a_tradeoff_lists_plans_that_none_beats(tiers: Path, capfd: Any) -> None:
    out = text_of(capfd, PLAN + "--pareto latency,energy -o plan.json", tiers)
    found = Plan.load("plan.json").tradeoff
    assert found is not None
    points = [(c.terms.latency_s, c.terms.energy_j or 0.0) for c in found.candidates]
    assert points == sorted(points)
    assert all(one[1] > other[1] for one, other in itertools.pairwise(points))
    assert found.is_complete
    assert "Nothing beats these in latency and energy: latency energy" in out
    assert "knee" in out


def test_diff_names_cut_codecs_terms_and_inputs(tiers: Path, capfd: Any) -> None:
    succeed(capfd, *words(PLAN + "--at p1 -o a.json", tiers))
    succeed(capfd, *words(PLAN.replace("wifi", "20Mbit/s,15ms") + "--at r2 -o b.json", tiers))
    out = text_of(capfd, "diff a.json b.json", tiers)
    assert "Another cut." in out
    assert "link.up_bytes_per_s 120 Mbit/s 20 Mbit/s" in out
    found = msgspec.json.decode(succeed(capfd, "diff", "a.json", "b.json", "--json"), type=PlanDiff)
    before, after = Plan.load("a.json").cut.head, Plan.load("b.json").cut.head
    assert set(found.to_device) == set(after) - set(before)
    assert set(found.to_server) == set(before) - set(after)
    assert {item.tensor for item in found.sending} == {"p1", "r2"}
    assert {term.name for term in found.terms} >= {"head_s", "link_s", "total_s", "up_bytes"}


def test_a_plan_does_not_differ_from_itself(tiers: Path, capfd: Any) -> None:
    succeed(capfd, *words(PLAN + "-o a.json", tiers))
    assert "the same, from the same" in text_of(capfd, "diff a.json a.json", tiers)


@pytest.mark.parametrize("schema", ["splitter.plan/1", "splitter.plan/2", "splitter.plan/3"])
def test_an_older_plan_is_refused_by_name(schema: str, tiers: Path, capfd: Any) -> None:
    succeed(capfd, *words(PLAN + "-o a.json", tiers))
    plan = json.loads(Path("a.json").read_text())
    Path("old.json").write_text(json.dumps(plan | {"schema": schema}))
    outcome = run(capfd, "diff", "old.json", "a.json")
    assert outcome.status == 1
    assert (
        f"schema is '{schema}', this version reads 'splitter.plan/4'; make it again" in outcome.err
    )


@pytest.mark.parametrize("kind", UNITS)
def test_every_unit_is_read_as_it_is_written(kind: str) -> None:
    units, example = UNITS[kind]
    assert quantity(example, kind) > 0
    for unit, factor in units.items():
        assert quantity(f"2{unit}", kind) == 2 * factor
        assert quantity(f" 2.5 {unit}", kind) == 2.5 * factor


def test_a_tables_cut_that_contradicts_itself_is_refused(tiers: Path, capfd: Any) -> None:
    succeed(capfd, *words(PLAN + "--envelope -o plan.json", tiers))
    plan = json.loads(Path("plan.json").read_text())
    cut = max((tabled["cut"] for tabled in plan["table"]["cuts"]), key=lambda cut: len(cut["head"]))
    cut["head"] = cut["head"][:1]
    Path("plan.json").write_text(json.dumps(plan))
    with pytest.raises(api.PlanError, match="not its own"):
        api.split(api.load(tiers / "convolutions.onnx"), "bundle", plan="plan.json")
