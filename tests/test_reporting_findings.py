"""Sentences and plots say what the documents say, also where that is not to split."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from splitter import api
from splitter.calibration.records import Calibration
from splitter.graph.model import Model
from splitter.planning.budget import Budget, default_budget
from splitter.planning.plan import PlanOptions
from splitter.planning.problem import Wishes
from splitter.planning.records import Plan
from splitter.planning.terms import PowerDraw, Term
from splitter.planning.verify import Verification
from splitter.profiling.profile import Profile
from splitter.reporting import findings, plots
from splitter.reporting.units import seconds
from splitter.serving.device.simulation import Comparison, SimulatedLink, Table, priced_cuts
from splitter.serving.relay.trace import Trace
from tests.calibrations import save_arrays

pytest.importorskip("matplotlib")

LINKS = ("3g", "lte", "wifi", "ethernet")
WISHES = Wishes(power=PowerDraw(active_w=6.0, idle_w=2.0), server_price_per_hour=0.5)


@pytest.fixture(scope="module")
def model(measured: Path) -> Model:
    return api.load(measured / "convolutions.onnx")


@pytest.fixture(scope="module")
def here(measured: Path) -> Profile:
    return Profile.load(measured / "here.json")


@pytest.fixture(scope="module")
def calibration(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    data = save_arrays(tmp_path_factory.mktemp("data"), model, 3)
    return api.calibrate(model, data, tensors=2)


@pytest.fixture(scope="module")
def plans(model: Model, here: Profile, calibration: Calibration) -> Mapping[str, Plan]:
    """Of a device so slow that links differ in what is best."""
    options = PlanOptions(wishes=WISHES, envelope=True, pareto=(Term.LATENCY, Term.ENERGY))
    device = here.slowed(200.0)
    return {
        link: api.plan(
            model, device=device, server=here, link=link, calibration=calibration, options=options
        )
        for link in LINKS
    }  # fmt: skip


@pytest.fixture(scope="module")
def clocked(model: Model, plans: Mapping[str, Plan]) -> Verification:
    return api.verify(model, plans["wifi"], seconds=0.1)


@pytest.fixture(scope="module")
def compared(model: Model, plans: Mapping[str, Plan]) -> Comparison:
    cuts = priced_cuts(model.graph, plans.values())
    trace = Trace([0.0, 1.0, 2.0], [1e5, 1e7, 1e5], 3.0)
    path = SimulatedLink(trace, [0.001], deadline_s=1.0, seconds=1.5)
    return Comparison(Table("plans", cuts, plans["wifi"].link), path)


def decided(plan: Plan, decision: str) -> Plan:
    """The same, as if one of its candidates had been the best."""
    pool = (plan.predicted, *plan.baselines, *plan.alternatives)
    wanted: dict[str, Callable[[Any], bool]] = {
        "device": lambda item: not item.tail_nodes,
        "server": lambda item: not item.head_nodes,
        "split": lambda item: bool(item.head_nodes and item.tail_nodes),
    }
    item = next(item for item in pool if wanted[decision](item))
    others = tuple(other for other in pool if other != item)
    return msgspec.structs.replace(plan, decision=decision, predicted=item, alternatives=others)


@pytest.mark.parametrize("decision", ["device", "server", "split"])
def test_a_plan_is_called_what_it_is(plans: Mapping[str, Plan], decision: str) -> None:
    plan = decided(plans["wifi"], decision)
    said = findings.plan_finding(plan)
    assert ("do not split" in said) == (decision != "split")
    assert seconds(plan.predicted.total_s) in said
    assert plan.link.name in said
    split = findings.best_split(plan)
    assert split is not None
    assert seconds(split.total_s) in said


def test_each_link_is_said_to_have_what_it_has(plans: Mapping[str, Plan]) -> None:
    mixed = {
        "a": decided(plans["wifi"], "device"), "b": decided(plans["wifi"], "split"),
        "c": decided(plans["wifi"], "server"), "d": decided(plans["wifi"], "device"),
    }  # fmt: skip
    said = findings.links_finding(mixed)
    assert said.startswith("A split is best over 1 of 4 links (b by ")
    assert "all on the device over a and d" in said
    assert "input sent to the server over c" in said
    none = {name: plan for name, plan in mixed.items() if name != "b"}
    assert findings.links_finding(none).startswith("A split is best over 0 of 3 links; ")


def test_bits_are_those_of_the_smallest_codec_that_keeps_the_budget(
    calibration: Calibration,
) -> None:
    budget = default_budget(calibration)
    for tensor in calibration.tensors:
        found = budget.smallest(tensor)
        assert found is not None
        assert budget.loss(found.answer) <= budget.limit
        smaller = [r for r in tensor.results if r.wire_bytes < found.wire_bytes]
        assert all(budget.loss(result.answer) > budget.limit for result in smaller)
    assert str(budget) in findings.bits_finding(calibration, budget)
    assert str(budget) in findings.sizes_finding(calibration, budget)


def test_a_budget_of_nothing_leaves_what_is_lossless(calibration: Calibration) -> None:
    for tensor in calibration.tensors:
        found = Budget(kind="error", limit=0.0).smallest(tensor)
        assert found is not None
        assert found.answer.error == 0


def test_codecs_that_change_nothing_are_said_to(plans: Mapping[str, Plan]) -> None:
    plan = plans["wifi"]
    assert "change nothing" in findings.codecs_finding(plan, plan)
    dear = msgspec.structs.replace(
        plan,
        predicted=msgspec.structs.replace(plan.predicted, total_s=2 * plan.predicted.total_s),
    )
    assert "50% less" in findings.codecs_finding(dear, plan)


def test_the_clock_has_the_last_word(clocked: Verification) -> None:
    right = msgspec.structs.replace(clocked, regret=0.0, best=clocked.rows[0].name)
    wrong = msgspec.structs.replace(clocked, regret=0.25, best="another")
    assert "the planned cut was the fastest" in findings.verification_finding(right)
    assert "another was the fastest" in findings.verification_finding(wrong)
    assert "25.0% slower" in findings.verification_finding(wrong)


def test_following_is_compared_with_what_would_have_been_best(compared: Comparison) -> None:
    said = findings.following_finding({"a trace": compared})
    means = compared.over_oracle()
    assert f"{means['session'] - 1:.1%} more than an oracle" in said
    assert ("less" if means["session"] < means["fixed"] else "more") in said


def test_one_plan_that_is_best_in_everything_is_said_to_be(plans: Mapping[str, Plan]) -> None:
    plan = plans["wifi"]
    assert plan.tradeoff is not None
    alone = msgspec.structs.replace(plan.tradeoff, candidates=plan.tradeoff.candidates[:1], knee=0)
    said = findings.front_finding(msgspec.structs.replace(plan, tradeoff=alone))
    assert "is best in latency and energy" in said


PLOTS: Mapping[str, Callable[[Any], Any]] = {
    "profile": lambda made: plots.profile_plot(made["plan"], "title"),
    "order": lambda made: plots.order_plot(made["plan"], "title"),
    "rivals": lambda made: plots.rivals_plot(made["plan"], "title"),
    "links": lambda made: plots.links_plot(made["plans"], "title"),
    "bits": lambda made: plots.bits_plot(made["calibration"], "title"),
    "sizes": lambda made: plots.sizes_plot(
        made["calibration"], default_budget(made["calibration"]), "title"
    ),
    "envelope": lambda made: plots.envelope_plot(made["plan"], "title"),
    "run": lambda made: plots.run_plot(made["compared"], "title"),
    "strategies": lambda made: plots.strategies_plot({"a trace": made["compared"]}, "title"),
    "verification": lambda made: plots.verification_plot(made["clocked"], "title"),
    "front": lambda made: plots.front_plot(made["plan"], "title"),
    "memory": lambda made: plots.memory_plot(list(made["plans"].values()), "title"),
}


@pytest.mark.parametrize("name", PLOTS)
def test_every_plot_has_its_title_and_names_its_axes(
    name: str,
    plans: Mapping[str, Plan],
    calibration: Calibration,
    clocked: Verification,
    compared: Comparison,
) -> None:
    made = {
        "plan": plans["wifi"], "plans": plans, "calibration": calibration, "clocked": clocked,
        "compared": compared,
    }  # fmt: skip
    figure = PLOTS[name](made)
    assert figure.get_suptitle() == "title"
    for axes in figure.axes:
        assert axes.has_data()
        assert axes.get_ylabel() or axes.get_yticklabels()
    assert figure.axes[-1].get_xlabel()
    figure.savefig(io.BytesIO(), format="png")
