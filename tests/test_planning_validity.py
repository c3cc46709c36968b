from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import (
    World,
    closed_sets,
    graph_of,
    plain_costs,
    problem_of,
    random_problem,
    with_losses,
)

from splitter.planning.planner import Solution, solve_problem
from splitter.planning.records import Problem, Range


@pytest.mark.parametrize("budget", [False, True])
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 6))
def test_each_range_is_where_no_line_is_below_the_plans(budget: bool, seed: int, size: int) -> None:
    problem = random_problem(seed, size, limits=False)
    if budget:
        problem = with_losses(problem, seed)
    plan = solve_problem(problem, alternatives=seed % 4)
    found = plan.validity
    assert found is not None
    up = problem.link.up_bytes_per_s
    slow, fast = _interval(problem, plan, lambda value: World(wire=value), 1.0)
    _check(found.up_bytes_per_s, up / fast if fast else None, up / slow if slow else None)
    low, high = _interval(problem, plan, lambda value: World(rtt_s=value), problem.link.rtt_s)
    _check(found.rtt_s, low, high)
    low, high = _interval(problem, plan, lambda value: World(server=value), 1.0)
    _check(found.server_slowdown, low, high)


def test_a_faster_server_or_link_never_ends_a_plan_that_sends_the_input() -> None:
    graph = graph_of({"a": ("x",)}, {"x": 100, "a": 10}, ("a",))
    plan = solve_problem(problem_of(graph, {"a": 1.0}, {"a": 0.1}))
    assert plan.validity is not None
    # 1 s on the device against 0.01 s round trip + 0.105 s of bytes + 0.1 s on the server.
    assert plan.validity.rtt_s == Range(low=None, high=pytest.approx(0.795), at=0.01)
    assert plan.validity.up_bytes_per_s.high is None
    assert plan.validity.up_bytes_per_s.low == pytest.approx(1000 * 0.105 / 0.89)
    assert plan.validity.server_slowdown.high == pytest.approx(0.885 / 0.1)


def _interval(
    problem: Problem, plan: Solution, world: Callable[[float], World], at: float
) -> tuple[float | None, float | None]:
    """Intersect the plan's line with that of every other cut and choice of codecs."""

    def lines(head: frozenset[str]) -> dict[tuple[str, ...], tuple[float, float]]:
        zero, one = (plain_costs(problem, head, world(value)) for value in (0.0, 1.0))
        return {codecs: (zero[codecs], one[codecs] - zero[codecs]) for codecs in zero}

    chosen = tuple(plan.codecs[name].codec for name in problem.graph.tensors if name in plan.codecs)
    mine_at_0, mine_slope = lines(plan.head)[chosen]
    low, high = 0.0, inf
    for head in closed_sets(problem.graph):
        for at_0, slope in lines(head).values():
            if abs(slope - mine_slope) < 1e-12:
                continue
            meeting = (at_0 - mine_at_0) / (mine_slope - slope)
            if slope < mine_slope:
                high = min(high, max(meeting, at))
            else:
                low = max(low, min(meeting, at))
    return low or None, None if high == inf else high


def _check(found: Range, low: float | None, high: float | None) -> None:
    for value, expected in ((found.low, low), (found.high, high)):
        if expected is None:
            assert value is None
        else:
            assert value == pytest.approx(expected, rel=1e-6)
