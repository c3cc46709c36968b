"""Reasons and differences of plans, against brute force and by hand."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from problems import (
    closed_sets,
    graph_of,
    plain_costs,
    plain_objective,
    problem_of,
    random_problem,
    with_losses,
)

from splitter.errors import SolverTimeError
from splitter.planning.explain import explain
from splitter.planning.planner import solve_problem
from splitter.planning.reasons import Sensitivity
from splitter.planning.records import Problem, TierCost
from splitter.planning.search import SolverChoice
from splitter.planning.terms import Limits, Objective, Pin

CHOICE = SolverChoice()
CHAIN = problem_of(
    graph_of(
        {"a": ("x",), "b": ("a",), "c": ("b",)},
        {"x": 1000, "a": 400, "b": 50, "c": 4},
        ("c",),
    ),
    {"a": 0.1, "b": 0.1, "c": 0.5},
    {"a": 0.01, "b": 0.01, "c": 0.05},
)
"""The best cut is after b: 0.2 s, 0.01 s round trip, 0.05 s up, 0.002 s down, 0.05 s on the server."""


def moved(problem: Problem, item: Sensitivity, value: float) -> Problem:
    """The problem with one figure at another value, written out apart from ``worlds``."""
    if item.name == "uplink":
        down = problem.link.down_bytes_per_s * value / item.at
        return replace(
            problem,
            link=structs.replace(problem.link, up_bytes_per_s=value, down_bytes_per_s=down),
        )
    if item.name == "round trip":
        return replace(problem, link=structs.replace(problem.link, rtt_s=value))
    if item.name == "device seconds":
        return scaled(problem, value, 1.0)
    if item.name == "server seconds":
        return scaled(problem, 1.0, value)
    tensor = item.name.removeprefix("bytes of ")
    codecs = tuple(
        structs.replace(codec, wire_bytes=codec.wire_bytes * value / item.at)
        for codec in problem.codecs[tensor]
    )
    return replace(problem, codecs={**problem.codecs, tensor: codecs})


def scaled(problem: Problem, device: float, server: float) -> Problem:
    codecs = {
        name: tuple(
            structs.replace(c, encode_s=c.encode_s * device, decode_s=c.decode_s * server)
            for c in choices
        )
        for name, choices in problem.codecs.items()
    }
    return replace(
        problem,
        device=slower(problem.device, device),
        server=slower(problem.server, server),
        codecs=codecs,
    )


def slower(tier: TierCost, factor: float) -> TierCost:
    return replace(
        tier,
        base_s=tier.base_s * factor,
        node_s={name: s * factor for name, s in tier.node_s.items()},
        crossing_s={name: s * factor for name, s in tier.crossing_s.items()},
    )


@pytest.mark.parametrize("budget", [False, True])
@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 5))
def test_a_plan_is_best_within_its_sensitivities_and_not_beyond(
    budget: bool, seed: int, size: int
) -> None:
    problem = random_problem(seed, size, limits=False)
    problem = with_losses(problem, seed) if budget else problem
    plan = solve_problem(problem, alternatives=2)
    chosen = tuple(plan.codecs[n].codec for n in problem.graph.tensors if n in plan.codecs)
    heads = list(closed_sets(problem.graph))
    for item in explain(problem, plan.pool, CHOICE).sensitivities:
        for end, other, beyond in (
            (item.low, item.below, 1 - 1e-3),
            (item.high, item.above, 1 + 1e-3),
        ):
            if end is None:
                continue
            assert other
            for factor, is_best in ((2 - beyond, True), (beyond, False)):
                there = moved(problem, item, end * factor)
                if is_best and not _between(item, end * factor):
                    continue
                mine = plain_costs(there, plan.head)[chosen]
                least = min(plain_objective(there, head) for head in heads)
                slack = 1e-9 + 1e-9 * abs(mine)
                assert mine <= least + slack if is_best else mine > least - slack


def _between(item: Sensitivity, value: float) -> bool:
    return (item.low or 0) <= value <= (inf if item.high is None else item.high)


def test_the_terms_that_decide_and_the_plans_beyond() -> None:
    plan = solve_problem(CHAIN)
    reasons = explain(CHAIN, plan.pool, CHOICE)
    assert (reasons.largest, reasons.share) == ("head", pytest.approx(0.2 / 0.312))
    decides = {rival.name: rival.decides for rival in reasons.rivals}
    assert decides["all on the device"] == "head"
    assert decides["input sent to the server"] == "link"
    found = {item.name: item for item in reasons.sensitivities}
    assert found["server seconds"].above == "all on the device"
    # 0.7 s on the device: the tail may take 0.05 s + 0.388 s.
    assert found["server seconds"].high == pytest.approx(0.438 / 0.05)
    # 0.572 s with the cut after a.
    assert found["bytes of b"].high == pytest.approx(50 + 260)


def test_a_limit_that_binds_says_what_it_costs_and_what_better_plans_need() -> None:
    limited = replace(CHAIN, limits=Limits(sent_bytes=20, deadline_s=5.0))
    plan = solve_problem(limited)
    bytes_, deadline = explain(limited, plan.pool, CHOICE).limits
    assert (bytes_.name, bytes_.binds, bytes_.needs) == ("sent_bytes", True, 54)
    assert bytes_.cost == pytest.approx(0.7 - 0.312)
    assert bytes_.reached_at == 54
    assert bytes_.shadow_price == pytest.approx((0.7 - 0.312) / 34)
    assert bytes_.without == "b"
    assert (deadline.name, deadline.binds, deadline.cost) == ("deadline_s", False, 0)


def test_a_pin_that_binds_has_a_cost_and_no_amount() -> None:
    pinned = replace(CHAIN, limits=Limits(pins=(Pin("c", "device"),)))
    (bound,) = explain(pinned, solve_problem(pinned).pool, CHOICE).limits
    assert (bound.name, bound.binds, bound.needs) == ("pin 'c=device'", True, None)
    assert bound.cost == pytest.approx(0.7 - 0.312)


def test_a_stream_has_no_sensitivities_and_says_why() -> None:
    stream = replace(CHAIN, objective=Objective.of("throughput"))
    reasons = explain(stream, solve_problem(stream).pool, CHOICE)
    assert not reasons.sensitivities
    assert "throughput" in reasons.note


def test_reasons_are_as_many_as_the_time_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = replace(CHAIN, limits=Limits(sent_bytes=100))

    def stopped(*given: object) -> None:
        raise SolverTimeError("the solver's time ran out; allow it more")

    monkeypatch.setattr("splitter.planning.explain.shadow_prices", stopped)
    found = explain(problem, solve_problem(problem).pool, CHOICE)
    assert found.limits == ()
    assert "time limit" in found.note
    assert found.rivals
