from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from placements import NUMBERS, OBJECTIVES, Plain, all_plans, keeps, plain_plans, question

from splitter.errors import InfeasibleError, PlanError
from splitter.planning.pareto import FIELDS, pareto
from splitter.planning.planner import solve_problem
from splitter.planning.records import Problem
from splitter.planning.relaxed import conflict, limits_of, shadow_prices, value_of, without
from splitter.planning.search import SolverChoice
from splitter.planning.terms import Limits, Objective, Term

CBC = SolverChoice("cbc")
APART = 2e-6


def value(plan: Plain, name: str) -> float:
    return plan.loss if name == "loss_limit" else plan.values[name]


def drawn(seed: int, kind: str = "two") -> Problem:
    names = list(itertools.islice(itertools.cycle(NUMBERS), seed % 8, seed % 8 + 3))[
        :: 1 + seed % 2
    ]
    return question(seed, 1 + seed % 4, [*OBJECTIVES][seed % 5], tuple(names), kind)


def conflicts(problem: Problem, plans: list[Plain], some: tuple[str, ...]) -> bool:
    """Whether no plan keeps these limits alone."""
    left = without(problem, set(limits_of(problem)) - set(some))
    return not any(keeps(left, plan) for plan in plans)


def test_a_conflict_is_a_smallest_set_with_the_least_that_each_would_have_to_be() -> None:
    seen = 0
    for seed in range(120):
        problem = drawn(seed)
        plans = list(all_plans(problem))
        if any(keeps(problem, plan) for plan in plans):
            continue
        seen += 1
        given = limits_of(problem)
        found = conflict(problem, CBC)
        assert found is not None

        assert conflicts(problem, plans, found.limits)
        smaller = itertools.combinations(given, max(len(found.limits) - 1, 0))
        assert not found.limits or not any(conflicts(problem, plans, some) for some in smaller)
        for name in found.limits:
            others = without(problem, (name,))
            needed = [value(plan, name) for plan in plans if keeps(others, plan)]
            if needed:
                assert found.needed[name] == pytest.approx(min(needed), rel=1e-5, abs=1e-9)
            else:
                assert name not in found.needed
        if seen == 5:
            return
    raise AssertionError("no conflict was drawn")


def test_a_shadow_price_is_the_difference_that_the_next_plan_makes() -> None:
    seen = 0
    for seed in range(200, 260):
        problem = drawn(seed)
        plans = list(all_plans(problem))
        best = min((p.objective for p in plans if keeps(problem, p)), default=None)
        if best is None:
            continue
        prices = {price.limit: price for price in shadow_prices(problem, best, CBC)}
        for name in limits_of(problem):
            left = without(problem, (name,))
            better = [p for p in plans if keeps(left, p) and p.objective < best - 1e-6 * abs(best)]
            if not better:
                assert name not in prices
                continue
            seen += 1
            at = min(value(plan, name) for plan in better)
            reached = min(p.objective for p in better if value(p, name) <= at * (1 + 1e-9))
            assert prices[name].value == value_of(problem, name)
            assert prices[name].reached_at == pytest.approx(at, rel=1e-5)
            assert prices[name].gain == pytest.approx(best - reached, rel=1e-5, abs=1e-6 * best)
        if seen >= 5:
            return
    raise AssertionError("no limit bound")


def test_what_conflicts_is_said_in_one_line() -> None:
    problem = question(7, 4, "latency", (), "two")
    values = [plan.values["deadline_s"] for plan in plain_plans(problem)]
    tight = replace(problem, limits=Limits(deadline_s=min(values) / 2))
    with pytest.raises(InfeasibleError) as caught:
        solve_problem(tight)
    assert "deadline of" in str(caught.value)
    assert f"it takes deadline of {min(values):.6g} s instead" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["two", "relay", "devices"])
@pytest.mark.parametrize(
    "terms",
    [("latency", "energy"), ("throughput", "money"), ("latency", "throughput", "energy")],
    ids="+".join,
)
def test_a_front_has_every_plan_that_nothing_beats(kind: str, terms: tuple[str, ...]) -> None:
    for seed in range(2):
        problem = replace(question(seed, 3, "latency", (), kind), bytes_weight=0.0)
        fields = [FIELDS[Term(term)] for term in terms]
        points = sorted({tuple(p.values[f] for f in fields) for p in plain_plans(problem)})
        if not points:
            continue
        wanted: list[tuple[float, ...]] = []
        for point in points:
            beaten = any(_beats(other, point) for other in points)
            if not beaten and not any(_equal(point, other) for other in wanted):
                wanted.append(point)
        front = pareto(problem, terms, CBC)
        found = [front.values(plan) for plan in front.plans]
        assert front.is_complete
        assert len(found) == len(wanted)
        for mine, other in zip(sorted(found), wanted, strict=True):
            assert mine == pytest.approx(other, rel=1e-5, abs=1e-12)
        assert 0 <= front.knee < len(found)


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a <= b * (1 + APART) + 1e-15 for a, b in pairs) and any(
        a < b * (1 - APART) for a, b in pairs
    )


def _equal(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(abs(a - b) <= APART * max(abs(a), 1e-15) for a, b in zip(one, other, strict=True))


def test_the_knee_is_the_plan_farthest_from_the_chord() -> None:
    problem = question(1, 5, "latency", (), "two")
    front = pareto(replace(problem, bytes_weight=0.0), ("latency", "energy"), CBC)
    points = [front.values(plan) for plan in front.plans]
    (x0, y0), (x1, y1) = points[0], points[-1]
    width, height = (x1 - x0) or 1.0, (y0 - y1) or 1.0
    below = [1 - (x - x0) / width - (y - y1) / height for x, y in points]
    assert below[front.knee] == max(below)


def test_a_front_of_one_term_or_of_the_same_twice_is_refused() -> None:
    problem = question(1, 2, "latency", (), "two")
    for terms in (("latency",), ("latency", "latency")):
        with pytest.raises(PlanError, match="two or three different terms"):
            pareto(problem, terms, CBC)


def test_a_front_of_which_only_one_plan_is_left_has_it_as_its_knee() -> None:
    problem = question(1, 2, "latency", (), "two")
    free = replace(problem, objective=Objective.of("money"))
    front = pareto(replace(free, bytes_weight=0.0), ("money", "latency"), CBC)
    assert len(front.plans) >= 1
