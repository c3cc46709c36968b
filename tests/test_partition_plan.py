"""Which cuts of a plan a bundle holds, at what cost, and what answers without a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from splitter import api
from splitter.errors import CutError, PlanError
from splitter.partition.bundle import Bundle
from splitter.partition.check import chain, random_feeds
from splitter.partition.manifest import STAND_IN, CutSpec
from splitter.planning.candidates import ON_DEVICE, ON_SERVER
from splitter.planning.plan import PlanOptions
from splitter.planning.records import Candidate, Plan
from splitter.profiling.profile import Profile
from splitter.runtime import Optimisation, Runner, Settings
from tests.cli import run, succeed

EXACT = Settings(optimisation=Optimisation.NONE)
TERMS = ("head_s", "encode_s", "decode_s", "tail_s", "up_bytes", "down_bytes")


@pytest.fixture(scope="module")
def model(measured: Path) -> api.Model:
    return api.load(measured / "convolutions.onnx")


@pytest.fixture(scope="module")
def plan(model: api.Model, measured: Path) -> Plan:
    here = Profile.load(measured / "here.json")
    options = PlanOptions(alternatives=4)
    found = api.plan(model, device=here, server=here, link="lte", options=options)
    assert len(found.alternatives) == 4
    return found


def costs(cut: CutSpec | Candidate) -> list[float]:
    found = cut.cost if isinstance(cut, CutSpec) else cut
    assert found is not None
    return [getattr(found, term) for term in TERMS]


def test_the_planned_cut_is_alone_unless_more_are_asked_for(
    model: api.Model, plan: Plan, tmp_path: Path
) -> None:
    manifest = api.split(model, tmp_path / "out", plan=plan).manifest
    assert manifest.cuts == (manifest.planned,)
    assert manifest.planned.head_nodes == plan.cut.head
    assert costs(manifest.planned) == costs(plan.predicted)
    assert (manifest.link, manifest.plan_predicted_s) == (plan.link, plan.predicted.total_s)


def test_alternatives_come_after_the_planned_cut_and_then_the_rivals(
    model: api.Model, plan: Plan, tmp_path: Path
) -> None:
    bundle = api.split(model, tmp_path / "out", plan=plan, alternatives=3)
    candidates = [plan.predicted, *plan.alternatives[:3], *plan.baselines]
    named = {(c.name, c.head_nodes): c for c in reversed(candidates)}
    expected = list(dict.fromkeys((c.name, c.head_nodes) for c in candidates))
    assert [(cut.name, len(cut.head_nodes)) for cut in bundle.manifest.cuts] == expected
    for cut in bundle.manifest.cuts:
        assert costs(cut) == costs(named[cut.name, len(cut.head_nodes)])
    assert {ON_DEVICE, ON_SERVER} <= {cut.name for cut in bundle.manifest.cuts}
    assert len({cut.id for cut in bundle.manifest.cuts}) == len(bundle.manifest.cuts)
    feeds = random_feeds(model.graph, 5)
    whole = Runner(model.path, EXACT).run(feeds)[0]
    for cut in bundle.manifest.cuts:
        paths = (bundle.path(cut.head), bundle.path(cut.tail))
        head, tail = (Runner(path, EXACT) if path else None for path in paths)
        np.testing.assert_array_equal(chain(head, tail, feeds)["scores"], whole)


def test_what_cannot_be_carried_out_is_left_out(
    model: api.Model, measured: Path, tmp_path: Path
) -> None:
    here = Profile.load(measured / "here.json")
    weak = msgspec.structs.replace(here, unsupported=("Gemm",))
    plan = api.plan(model, device=weak, server=here, link="lte")
    bundle = api.split(model, tmp_path / "out", plan=plan, alternatives=9)
    assert bundle.manifest.on_device is None
    assert ON_SERVER in {cut.name for cut in bundle.manifest.cuts}
    with pytest.raises(
        PlanError, match="device cannot run the whole model .operator Gemm.*smaller"
    ):
        api.split(model, tmp_path / "other", plan=plan, fallback="whole")


@pytest.mark.parametrize("how", ["plan", "at"])
def test_the_whole_model_can_be_the_fallback(
    how: str, model: api.Model, plan: Plan, tmp_path: Path
) -> None:
    priced = plan if plan.decision != "device" else None
    chosen: dict[str, Any] = {"plan": priced} if how == "plan" and priced else {"at": ["p1"]}
    bundle = api.split(model, tmp_path / "out", fallback="whole", **chosen)
    on_device = bundle.manifest.on_device
    assert on_device is not None
    assert len(bundle.manifest.cuts) == 2
    if "plan" in chosen:
        assert costs(on_device) == costs(plan.baselines[0])
    else:
        assert on_device.cost is None
    feeds = random_feeds(model.graph, 5)
    path = bundle.path(on_device.head)
    assert path is not None
    whole = Runner(model.path, EXACT).run(feeds)[0]
    np.testing.assert_array_equal(Runner(path, EXACT).run(feeds)[0], whole)


def test_a_fallback_that_the_bundle_holds_already_is_there_once(
    model: api.Model, plan: Plan, tmp_path: Path
) -> None:
    with_it = api.split(model, tmp_path / "a", plan=plan, alternatives=2, fallback="whole")
    without = api.split(model, tmp_path / "b", plan=plan, alternatives=2)
    assert with_it.manifest.cuts == without.manifest.cuts


def test_alternatives_need_a_plan(model: api.Model, plan: Plan, tmp_path: Path) -> None:
    for arguments in ({"at": ["p1"], "alternatives": 1}, {"plan": plan, "alternatives": -1}):
        with pytest.raises(PlanError, match="alternatives are a plan's"):
            api.split(model, tmp_path / "out", **arguments)  # type: ignore[arg-type]


def test_a_planned_cut_keeps_the_codecs_of_its_alternatives(
    model: api.Model, plan: Plan, tmp_path: Path
) -> None:
    manifest = api.split(model, tmp_path / "out", plan=plan, alternatives=4).manifest
    by_head = {len(c.head_nodes): c for c in manifest.cuts}
    for candidate in (plan.predicted, *plan.alternatives):
        sent = {item.tensor: item.codec for item in candidate.crossing}
        found = by_head[candidate.head_nodes].crossing
        assert {spec.tensor: spec.codec.name for spec in found} == sent


def test_the_command_shows_every_cut_in_80_columns(
    measured: Path, plan: Plan, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    plan.save("plan.json")
    source = measured / "convolutions.onnx"
    out = succeed(
        capfd, "split", source, "--plan", "plan.json", "--alternatives", "4", "--fallback", "whole",
        "-o", "b",
    )  # fmt: skip
    manifest = Bundle.open("b").manifest
    table = out.partition("device  server")[2]
    assert max(map(len, table.splitlines())) <= 80
    for cut in manifest.cuts:
        for file in (cut.head, cut.tail):
            assert file is None or file in table
    assert "runs the whole model" in " ".join(out.split())
    for name in manifest.files:
        assert name in out


def test_the_command_takes_a_stand_in_or_says_what_is_wrong_with_it(
    measured: Path, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = measured / "convolutions.onnx"
    split = ["split", source, "--at", "p1", "-o", "b", "--fallback"]
    out = succeed(capfd, *split, source)
    assert "without a server the device answers with convolutions.onnx" in out
    assert Bundle.open("b").manifest.files_of("device") == {"head.onnx", STAND_IN}
    for name in ("chain.onnx", "absent.onnx", "here.json"):
        failed = run(capfd, *split, measured / name)
        assert failed.status == 1
        assert failed.err.startswith(f"splitter: error: {measured / name}: cannot stand in for ")
        assert failed.err.count("\n") == 1


def test_the_command_refuses_alternatives_without_a_plan(measured: Path, capfd: Any) -> None:
    failed = run(
        capfd, "split", measured / "chain.onnx", "--at", "b", "--alternatives", "2", "-o", "b"
    )
    assert (failed.status, failed.err.splitlines()[-1]) == (
        2, "Error: --alternatives are a plan's: give --plan",
    )  # fmt: skip


def test_a_damaged_candidate_of_a_plan_is_refused(
    model: api.Model, plan: Plan, tmp_path: Path
) -> None:
    text = json.loads(msgspec.json.encode(plan))
    split = next(c for c in text["alternatives"] if c["crossing"])
    text["alternatives"] = [split | {"crossing": [split["crossing"][0] | {"tensor": "nowhere"}]}]
    damaged = msgspec.json.decode(json.dumps(text), type=Plan)
    with pytest.raises(CutError, match="no tensor is named 'nowhere'"):
        api.split(model, tmp_path / "out", plan=damaged, alternatives=1)
