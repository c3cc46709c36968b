"""Following a link in virtual time: the oracle is no worse than any, and a calm link is what was planned."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from splitter import api
from splitter.graph.model import Model
from splitter.link_parse import find_link
from splitter.partition.manifest import CutCost, CutSpec
from splitter.planning.plan import PlanOptions
from splitter.planning.records import Plan
from splitter.profiling.profile import Profile
from splitter.serving.device.simulation import (
    SPREAD,
    Comparison,
    SimulatedLink,
    Table,
    follow,
    priced_cuts,
)
from splitter.serving.relay.trace import Trace

LINK = msgspec.structs.replace(find_link("lte"), rtt_s=0.02)


def cut(name: str, head_s: float, tail_s: float, up_bytes: int | None) -> CutSpec:
    cost = CutCost(
        head_s=head_s, encode_s=0.0, decode_s=0.0, tail_s=tail_s, up_bytes=up_bytes or 0,
        down_bytes=4000 if up_bytes else 0,
    )  # fmt: skip
    return CutSpec(
        id=name, name=name, head="head.onnx" if head_s else None,
        tail="tail.onnx" if up_bytes else None, crossing=(), head_nodes=(), tail_outputs=(), cost=cost,
    )  # fmt: skip


CUTS = (
    cut("split", 0.06, 0.02, 30_000),
    cut("device", 0.3, 0.0, None),
    cut("input", 0.0, 0.03, 150_000),
    cut("late", 0.15, 0.01, 6_000),
)
TABLE = Table("made up", CUTS, LINK)
RATES = [4e6, 4e5, 4e4, 0.0, 4e5, 4e6]
UNSTEADY = Trace([5.0 * place for place in range(len(RATES))], RATES, 5.0 * len(RATES))


def over(trace: Trace, seconds: float = 20.0) -> SimulatedLink:
    return SimulatedLink(trace, [LINK.rtt_s], deadline_s=1.0, seconds=seconds)


@pytest.mark.parametrize("rate", [5e4, 4e5, 4e6])
@pytest.mark.parametrize("spec", CUTS, ids=lambda spec: spec.name)
def test_over_a_calm_link_a_cut_takes_its_price(spec: CutSpec, rate: float) -> None:
    if spec.name == "input" and rate < 1e5:
        pytest.skip("late for the deadline")
    found = follow(TABLE, over(Trace.constant(rate)), lambda now_s: spec)
    assert not found.late
    assert found.mean_s == pytest.approx(TABLE.price(spec, rate), rel=2 * SPREAD)
    assert not found.switches


def test_no_strategy_beats_the_oracle_by_more_than_chance_and_the_session_follows() -> None:
    found = Comparison(TABLE, over(UNSTEADY, 30.0))
    means = found.over_oracle()
    assert min(means.values()) > 1 - SPREAD
    assert means["fixed"] <= min(means["device"], means["server"])
    assert means["session"] < means["fixed"]
    assert found.session.switches >= 2
    assert found.best_fixed in CUTS


def test_answers_that_would_be_late_are_made_by_the_device() -> None:
    spec = TABLE.server
    found = follow(TABLE, over(Trace.constant(5e4)), lambda now_s: spec)
    assert found.late == len(found.cuts)
    assert max(found.latencies_s) <= 1.0


def test_the_same_run_twice_is_the_same() -> None:
    one, other = (Comparison(TABLE, over(UNSTEADY)).session for _ in range(2))
    assert (one.cuts, one.latencies_s) == (other.cuts, other.latencies_s)


@pytest.fixture(scope="module")
def model(measured: Path) -> Model:
    return api.load(measured / "convolutions.onnx")


@pytest.fixture(scope="module")
def plans(measured: Path, model: Model) -> list[Plan]:
    here = Profile.load(measured / "here.json")
    return [
        api.plan(
            model, device=here.slowed(50.0), server=here, link=link,
            options=PlanOptions(envelope=True),
        )
        for link in ("3g", "ethernet")
    ]  # fmt: skip


def test_a_table_holds_every_cut_of_its_plans_once_with_their_cost(
    model: Model, plans: list[Plan]
) -> None:
    cuts = priced_cuts(model.graph, plans)
    table = Table("plans", cuts, plans[0].link)
    assert len({spec.id for spec in cuts}) == len({spec.name for spec in cuts}) == len(cuts)
    assert table.on_device.cost is not None
    assert table.server.head is None
    for plan in plans:
        at = msgspec.structs.replace(plan.link, down_bytes_per_s=plan.link.up_bytes_per_s)
        here = Table("one", cuts, at)
        best = here.best(at.up_bytes_per_s)
        assert here.price(best, at.up_bytes_per_s) <= plan.predicted.total_s * 1.2


def test_a_plan_of_another_model_is_refused(measured: Path, plans: list[Plan]) -> None:
    other = api.load(measured / "residual.onnx")
    with pytest.raises(api.PlanError.__base__):
        priced_cuts(other.graph, plans)
