"""The library's verbs, as a notebook calls them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import splitter
from splitter import api, arguments
from splitter.errors import (
    CutError,
    DimensionError,
    InfeasibleError,
    InputError,
    LinkError,
    PlanError,
    ProfileError,
)
from splitter.link_parse import find_link
from splitter.planning.plan import PlanOptions
from splitter.planning.records import Plan
from splitter.profiling.measure import Effort
from splitter.profiling.profile import Profile
from splitter.profiling.timing import Rounds
from splitter.runtime import Optimisation, Runner, Settings
from splitter.serving.server.serve import serve

BRIEF = Effort(0.05, 0.05, rounds=Rounds(least=2, most=2, budget_s=0.0), trace_runs=2)


@pytest.fixture
def model(measured: Path) -> api.Model:
    return api.load(measured / "convolutions.onnx")


@pytest.fixture
def here(measured: Path) -> Profile:
    return Profile.load(measured / "here.json")


@pytest.fixture
def never_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise AssertionError("it measured")

    for module in (api, arguments):
        monkeypatch.setattr(module, "measure", fail)


def test_the_package_offers_the_verbs_and_nothing_by_another_name() -> None:
    for name in set(splitter.__all__) - {"__version__"}:
        assert getattr(splitter, name) is getattr(api, name)
    with pytest.raises(AttributeError, match="no attribute 'slice'"):
        _ = splitter.slice


def test_loading_binds_dimensions_by_name_or_by_shape(measured: Path) -> None:
    path = measured / "dynamic_reshape.onnx"
    assert api.load(path, dims={"batch": 2}).graph.tensors["x"].shape == (2, 3, 4)
    assert api.load(str(path), shapes={"x": [2, 3, 4]}).graph.tensors["x"].shape == (2, 3, 4)
    with pytest.raises(DimensionError, match="batch"):
        api.load(path)


def test_a_profile_tells_its_progress_its_settings_and_its_input(model: api.Model) -> None:
    told: list[tuple[str, int, int]] = []
    feeds = {"image": np.zeros((1, 3, 16, 16), np.float32)}
    settings = Settings(optimisation=Optimisation.BASIC)
    profile = api.profile(
        model, settings=settings, feeds=feeds, effort=BRIEF,
        progress=lambda stage, done, total: told.append((stage, done, total)),
    )  # fmt: skip
    assert (profile.settings, profile.sample, profile.origin) == (settings, "given", "measured")
    assert {"kernels", "heads and tails"} <= {stage for stage, _, _ in told}
    assert all(0 <= done <= total for _, done, total in told)
    assert profile.nodes == tuple(model.graph.node_of)
    assert sorted(name for k in profile.kernels for name in k.nodes) == sorted(profile.nodes)


@pytest.mark.usefixtures("never_measures")
def test_an_estimate_scales_a_base_of_this_model_only(
    model: api.Model, measured: Path, here: Profile
) -> None:
    slow = api.profile(model, device="raspberry-pi-4", base=here)
    assert slow.origin == "estimated"
    assert slow.tier == "raspberry-pi-4"
    assert slow.kernels != here.kernels
    again = api.profile(model, device="raspberry-pi-4", base=measured / "here.json")
    assert again.kernels == slow.kernels
    with pytest.raises(ProfileError, match="another model"):
        api.profile(api.load(measured / "chain.onnx"), device="raspberry-pi-4", base=here)
    with pytest.raises(ProfileError):
        api.profile(model, device="raspberry-pi-4", base=slow)
    with pytest.raises(ProfileError, match="name the device"):
        api.profile(model, base=here)


@pytest.mark.usefixtures("never_measures")
def test_wrong_names_are_said_before_anything_is_measured(model: api.Model, here: Profile) -> None:
    with pytest.raises(ProfileError, match="toaster"):
        api.profile(model, device="toaster")
    for device, server in (("raspberry-pi-4", "toaster"), ("toaster", "nvidia-t4")):
        with pytest.raises(ProfileError, match="toaster"):
            api.plan(model, device=device, server=server, link="lte")
    with pytest.raises(LinkError, match="string"):
        api.plan(model, device="raspberry-pi-4", server="nvidia-t4", link="string")
    with pytest.raises(CutError, match="p2"):
        api.plan(model, device="raspberry-pi-4", server="nvidia-t4", link="lte", at=["p2"])


def test_a_tier_is_a_profile_its_file_or_a_description(
    model: api.Model, measured: Path, here: Profile
) -> None:
    described = Path(__file__).parents[1] / "profiles/devices/raspberry-pi-4.yaml"
    for device in (here, measured / "here.json", str(measured / "here.json")):
        plan = api.plan(model, device=device, server=here, link="lte")
        assert plan.device.origin.value == "measured"
    estimates = [
        api.plan(model, device=device, server=here, link="lte").device.whole_s
        for device in ("raspberry-pi-4", described, str(described))
    ]
    assert len(set(estimates)) == 1


def test_one_measurement_serves_two_described_tiers(
    model: api.Model, here: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    def measure(*arguments: Any, **options: Any) -> Profile:
        calls.append(arguments)
        return here

    monkeypatch.setattr(arguments, "measure", measure)
    plan = api.plan(model, device="raspberry-pi-4", server="nvidia-t4", link="wifi")
    assert len(calls) == 1
    assert plan.device.whole_s != plan.server.whole_s


@pytest.mark.usefixtures("never_measures")
def test_a_description_is_scaled_from_the_base_rather_than_the_other_tier(
    model: api.Model, here: Profile
) -> None:
    other = msgspec.structs.replace(here, tier="elsewhere")
    plan = api.plan(model, device="raspberry-pi-4", server=here, link="lte", base=other)
    assert "elsewhere" in plan.device.note
    plan = api.plan(model, device="raspberry-pi-4", server=here, link="lte")
    assert here.tier in plan.device.note


def test_a_link_may_be_a_name_a_text_or_a_value(model: api.Model, here: Profile) -> None:
    found = [
        api.plan(model, device=here, server=here, link=link, options=PlanOptions(alternatives=0))
        for link in ("wifi", find_link("wifi"))
    ]
    assert found[0].link == found[1].link
    assert found[0].predicted == found[1].predicted
    assert found[0].alternatives == ()


def test_a_given_cut_costs_what_the_plan_says_of_it_as_an_alternative(
    model: api.Model, here: Profile
) -> None:
    best = api.plan(
        model, device=here, server=here, link="lte", options=PlanOptions(alternatives=50)
    )
    assert best.alternatives
    for candidate in best.alternatives:
        at = [item.tensor for item in candidate.crossing]
        if candidate.head_nodes and candidate.tail_nodes:
            priced = api.plan(model, device=here, server=here, link="lte", at=at)
            assert priced.predicted.total_s == pytest.approx(candidate.total_s)
            assert priced.predicted.total_s >= best.predicted.total_s


def test_a_cut_that_a_tier_cannot_run_is_infeasible(model: api.Model, here: Profile) -> None:
    weak = msgspec.structs.replace(here, unsupported=("Conv",))
    with pytest.raises(InfeasibleError, match="Conv"):
        api.plan(model, device=weak, server=here, link="lte", at=["p1"])
    assert api.plan(model, device=weak, server=here, link="lte").decision == "server"
    with pytest.raises(InfeasibleError, match="Conv"):
        api.plan(model, device=weak, server=weak, link="lte")


def test_a_split_needs_a_plan_or_a_cut_and_not_both(
    model: api.Model, measured: Path, tmp_path: Path
) -> None:
    for given in ({}, {"plan": measured / "plan.json", "at": ["p1"]}):
        with pytest.raises(PlanError, match="one of plan and at"):
            api.split(model, tmp_path / "out", **given)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_plan_and_its_file_give_the_same_bundle(
    model: api.Model, measured: Path, tmp_path: Path
) -> None:
    plan = Plan.load(measured / "plan.json")
    bundles = [
        api.split(model, tmp_path / name, plan=chosen)
        for name, chosen in (("a", plan), ("b", measured / "plan.json"))
    ]
    assert bundles[0].manifest.digest == bundles[1].manifest.digest
    assert bundles[0].manifest.plan_predicted_s == plan.predicted.total_s


def test_a_plan_for_other_dimensions_is_refused(measured: Path, tmp_path: Path) -> None:
    path = measured / "dynamic_reshape.onnx"
    two, three = (api.load(path, dims={"batch": size}) for size in (2, 3))
    profile = api.profile(two, effort=BRIEF)
    plan = api.plan(two, device=profile, server=profile, link="lte", at=["b"])
    with pytest.raises(ProfileError, match="batch=3"):
        api.plan(three, device=profile, server=profile, link="lte")
    for refuse in (
        lambda: api.split(three, tmp_path / "b", plan=plan),
        lambda: api.verify(three, plan),
    ):
        with pytest.raises(PlanError, match="dimensions"):
            refuse()
    assert not (tmp_path / "b").exists()


def test_a_verification_measures_every_feasible_cut_in_the_plan_s_terms(
    model: api.Model, here: Profile
) -> None:
    plan = api.plan(
        model, device=here, server=here, link="lte", options=PlanOptions(alternatives=2)
    )
    found = api.verify(model, plan, seconds=0)
    assert found.rows[0].predicted.total_s == pytest.approx(plan.predicted.total_s)
    assert len(found.rows) >= 3
    assert found.regret >= 0
    assert found.best in [row.name for row in found.rows]
    for row in found.rows:
        if row.measured.link_s:
            assert row.measured.link_s >= plan.link.rtt_s
            assert row.up_bytes > 0
        terms = [
            row.measured.head_s,
            row.measured.encode_s,
            row.measured.decode_s,
            row.measured.tail_s,
        ]
        assert min(terms) >= 0
        assert row.measured.total_s == pytest.approx(sum(terms) + row.measured.link_s)


def test_a_session_answers_as_the_whole_model_and_says_what_is_wrong_with_a_feed(
    measured: Path,
) -> None:
    image = np.random.default_rng(3).standard_normal((1, 3, 16, 16)).astype(np.float32)
    expected = Runner(measured / "convolutions.onnx").run({"image": image})
    with (
        serve(measured / "bundle") as server,
        splitter.Session(measured / "bundle", server.address) as session,
    ):
        for fed in (image, image.astype(">f4")):
            np.testing.assert_allclose(session.run(None, {"image": fed})[0], expected[0], rtol=1e-5)
        for feeds in ({}, {"imag": image}, {"image": image[0]}, {"image": image.astype("f8")}):
            with pytest.raises(InputError, match="image"):
                session.run(None, feeds)
