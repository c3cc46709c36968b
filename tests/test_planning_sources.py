"""Inputs born on several devices: from a model and its profiles to a plan, its bundles and an answer."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from placements import OBJECTIVES, plain_plans, question
from test_planning_tiers import a_profile

import splitter
from splitter import api
from splitter.errors import InfeasibleError, PlanError
from splitter.graph.cut import cut_of
from splitter.graph.model import Model
from splitter.graph.read import load_model
from splitter.link import Link
from splitter.planning.births import FurtherDevice, check_births, inputs_of
from splitter.planning.plan import PlanOptions, check_model, make_plan
from splitter.planning.planner import solve_problem
from splitter.planning.problem import Wishes, make_problem
from splitter.planning.records import Plan
from splitter.planning.terms import Limits, Pin
from splitter.profiling.profile import CodecSample, Profile
from tests import models
from tests.chains import run_model
from tests.contract import same_bits
from tests.models import save
from tests.serving import EXACT

LINK = Link(name="near", up_bytes_per_s=2e4, down_bytes_per_s=2e4, rtt_s=0.001)
FAR = Link(name="far", up_bytes_per_s=4e3, down_bytes_per_s=9e3, rtt_s=0.004)
PINS = tuple(
    Pin(name, tier)
    for name, tier in (("lr", "device"), ("rc", "device2"), ("rr", "server"), ("n", "server"))
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("sources")
    return load_model(save(models.two_cameras(), folder / "model.onnx"))


def profile(model: Model, seed: int, factor: float = 1.0, name: str = "here") -> Profile:
    """Drawn seconds, and codecs whose bytes and seconds are its own."""
    draw = random.Random(seed)
    graph = model.graph
    samples = tuple(
        CodecSample(
            tensor=tensor, codec=codec, wire_bytes=draw.randint(1, 1 + (found.nbytes or 0)),
            encode_s=draw.random() * 0.002 * factor, decode_s=draw.random() * 0.002 * factor,
        )
        for tensor, found in graph.tensors.items() for codec in ("raw", "zstd")
    )  # fmt: skip
    made = a_profile(graph, [draw.random() * 0.01 * factor for _ in graph.nodes], [])
    return msgspec.structs.replace(
        made, model_sha256=graph.sha256, settings=EXACT, codecs=samples, tier=name
    )


def further(model: Model, seed: int, *patterns: str) -> FurtherDevice:
    inputs = inputs_of(model.graph, patterns)
    return FurtherDevice(profile(model, seed, 3.0, f"phone{seed}"), FAR, inputs)


@pytest.mark.parametrize("objective", ["latency", "throughput", "money"])
@pytest.mark.parametrize("seed", range(6))
def test_no_placement_is_better_than_the_plan_made_of_profiles(model, seed, objective) -> None:
    sources = [further(model, seed + 50, "right"), further(model, seed + 80, "level")]
    profiles = profile(model, seed, 2.0, "camera"), profile(model, seed + 20, 0.3, "cloud")
    wishes = Wishes(objective=OBJECTIVES[objective], server_price_per_hour=0.5)
    problem = make_problem(model.graph, profiles, LINK, wishes, sources=sources[: 1 + seed % 2])
    best = min(plan.objective for plan in plain_plans(problem))
    found = solve_problem(problem, alternatives=2)
    assert found.predicted.objective == pytest.approx(best, rel=1e-6)
    assert found.solver.gap == 0
    for other in found.alternatives:
        assert other.objective >= found.predicted.objective * (1 - 1e-9)


def test_codecs_of_what_a_device_makes_are_those_of_its_own_profile(model: Model) -> None:
    source = further(model, 3, "right", "level")
    camera, cloud = profile(model, 1, name="camera"), profile(model, 2, name="cloud")
    problem = make_problem(model.graph, (camera, cloud), LINK, sources=[source])
    decode_s = {(s.tensor, s.codec): s.decode_s for s in cloud.codecs}
    for tensor, owner in (("left", camera), ("lr", camera), ("rc", source.profile),
                          ("level", source.profile), ("both", camera)):  # fmt: skip
        for choice in problem.codecs[tensor]:
            (own,) = (s for s in owner.codecs if (s.tensor, s.codec) == (tensor, choice.codec))
            assert (choice.wire_bytes, choice.encode_s) == (own.wire_bytes, own.encode_s)
            assert choice.decode_s == decode_s[tensor, choice.codec]


@pytest.mark.parametrize("seed", range(40))
def test_the_cut_of_all_devices_is_one_and_its_terms_are_the_latency(seed: int) -> None:
    problem = question(seed, 5, "latency", (), "devices")
    if not problem.sources:
        return
    try:
        found = solve_problem(problem, alternatives=1)
    except InfeasibleError:
        return
    for candidate in (found.predicted, *found.baselines, *found.alternatives):
        parts = ("head_s", "encode_s", "link_s", "decode_s", "tail_s")
        total_s = sum(getattr(candidate, name) for name in parts)
        assert total_s == pytest.approx(candidate.total_s, abs=0.06)  # a base may be below 0
    cut = cut_of(problem.graph, found.cut.head)
    if any(name not in cut.head for name in problem.graph.node_of):
        assert {item.tensor for item in found.cut.crossing} == set(cut.crossing)
    sent = [item for stage in found.stages for item in stage.sends]
    assert sorted(sent, key=str) == sorted(found.cut.crossing, key=str)


def test_a_plan_says_who_its_devices_are_and_is_deployed_and_answers(
    model: Model, tmp_path: Path
) -> None:
    plan = api.plan(
        model, device=profile(model, 1, name="camera"), server=profile(model, 2, name="cloud"),
        link=LINK, sources=[(profile(model, 3, name="phone"), FAR, ["right", "lev*"])],
        options=PlanOptions(wishes=Wishes(limits=Limits(pins=PINS))),
    )  # fmt: skip
    (source,) = plan.sources
    assert (source.tier.name, source.link, source.inputs) == ("phone", FAR, ("right", "level"))
    assert [stage.role for stage in plan.stages] == ["device", "device2", "server"]
    assert plan.graph is not None
    assert {len(node.seconds) for node in plan.graph.nodes} == {3}
    assert plan.order == ()
    plan.save(tmp_path / "plan.json")
    check_model(Plan.load(tmp_path / "plan.json"), model.graph)
    first = splitter.split(model, tmp_path / "star", plan=tmp_path / "plan.json")
    second, server = first.onward
    assert (first.manifest.link, second.manifest.link) == (LINK, FAR)
    feeds, expected = run_model(model)
    with (
        splitter.serve(server.folder) as running,
        splitter.Session(first.folder, running.address) as one,
        splitter.Session(second.folder, running.address) as two,
        ThreadPoolExecutor(1) as beside,
    ):
        other = beside.submit(two.run, None, {name: feeds[name] for name in source.inputs})
        made = one.infer({"left": feeds["left"]}).outputs
        assert other.result() == []
    for name in model.graph.outputs:
        assert same_bits(expected[name], made[name])


def test_the_rival_is_to_send_every_input(model: Model) -> None:
    profiles = profile(model, 1, name="camera"), profile(model, 2, name="cloud")
    plan = make_plan(model, profiles, LINK, sources=[further(model, 3, "right")])
    (rival,) = plan.baselines
    assert {item.tensor for item in rival.crossing} == {"left", "right", "level"}
    assert rival.head_nodes == 0
    assert rival.objective >= plan.predicted.objective


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"envelope": True}, "more than two tiers"),
        ({"explain": True}, "plan with relays or further devices without --explain"),
    ],
)
def test_what_is_of_two_tiers_is_refused(changes, said, model: Model) -> None:
    profiles = profile(model, 1), profile(model, 2)
    with pytest.raises(PlanError, match=said):
        make_plan(
            model, profiles, LINK, PlanOptions(**changes), sources=[further(model, 3, "right")]
        )


def test_births_that_no_plan_can_mean_are_refused(model: Model) -> None:
    graph = model.graph
    assert inputs_of(graph, ["le*"]) == ("left", "level")
    assert inputs_of(graph, ["level", "right", "ri*"]) == ("right", "level")
    with pytest.raises(PlanError, match="no input is named 'rigth'; did you mean 'right'?"):
        inputs_of(graph, ["rigth"])
    for given, said in (
        ([["right"], ["level", "right"]], "'right' is born on two devices"),
        ([["left", "level"], ["right"]], "every input is born on a further device"),
        ([[]], "has no input"),
        ([["nix"]], "no input is named 'nix'"),
    ):
        with pytest.raises(PlanError, match=said):
            check_births(graph, given)
    source = further(model, 3, "right")
    with pytest.raises(PlanError, match="relays or several devices, not both"):
        make_problem(
            graph, (source.profile, source.profile), LINK,
            relays=[(source.profile, LINK)], sources=[source],
        )  # fmt: skip


def test_what_one_device_of_several_cannot_do_is_not_deployed(model: Model, tmp_path: Path) -> None:
    profiles = profile(model, 1), profile(model, 2)
    options = PlanOptions(wishes=Wishes(limits=Limits(pins=PINS)))
    plan = make_plan(model, profiles, LINK, options, sources=[further(model, 3, "right", "level")])
    for changes, said in (
        ({"fallback": "whole"}, "cannot answer alone"),
        ({"fallback": tmp_path / "model.onnx"}, "cannot answer alone"),
        ({"alternatives": 2}, "alternatives are of two tiers"),
    ):
        with pytest.raises(PlanError, match=said):
            splitter.split(model, tmp_path / "star", plan=plan, **changes)
    with pytest.raises(PlanError, match="for several devices at once"):
        splitter.verify(model, plan, seconds=0.1)
    stages = (plan.stages[0], replace_role(plan.stages[1], "device7"), plan.stages[2])
    with pytest.raises(PlanError, match="has no device 'device7'"):
        splitter.split(model, tmp_path / "star", plan=msgspec.structs.replace(plan, stages=stages))
    assert not (tmp_path / "star").exists()


def replace_role(stage, role):
    return msgspec.structs.replace(stage, role=role)
