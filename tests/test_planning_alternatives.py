from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import closed_sets, graph_of, plain_objective, problem_of, random_problem

from splitter.planning.alternatives import alternatives
from splitter.planning.cost import objective
from splitter.planning.optimum import optimum
from splitter.planning.planner import solve_problem
from splitter.planning.program import excluding
from splitter.planning.search import SolverChoice

CBC = SolverChoice("cbc")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 8), st.integers(0, 5))
def test_alternatives_are_the_next_best_over_all_closed_sets(
    seed: int, size: int, count: int
) -> None:
    problem = random_problem(seed, size)
    costs = sorted(plain_objective(problem, head) for head in closed_sets(problem.graph))
    costs = [cost for cost in costs if cost < inf]
    if not costs:
        return
    plan = optimum(problem, CBC).price
    found = alternatives(problem, plan, count, CBC)
    assert [other.objective for other in found] == pytest.approx(
        costs[1 : count + 1], rel=1e-9, abs=1e-12
    )
    assert len({plan.head, *(other.head for other in found)}) == len(found) + 1


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 7), st.integers(0, 10**6))
def test_a_row_excludes_one_closed_set_and_no_other(seed: int, size: int, pick: int) -> None:
    graph = random_problem(seed, size).graph
    heads = list(closed_sets(graph))
    chosen = heads[pick % len(heads)]
    row = excluding(graph, chosen)
    for head in heads:
        value = sum(
            coefficient * (graph.nodes[index - 1].name in head)
            for index, coefficient in row.coefficients.items()
        )
        assert (value >= row.at_least) == (head != chosen)


def test_a_baseline_among_the_alternatives_keeps_its_name() -> None:
    graph = graph_of({"a": ("x",)}, {"x": 100, "a": 10}, ("a",))
    plan = solve_problem(problem_of(graph, {"a": 0.01}, {"a": 0.01}))
    assert plan.predicted.name == "all on the device"
    assert [other.name for other in plan.alternatives] == ["input sent to the server"]


def test_an_alternative_is_named_by_what_it_sends() -> None:
    graph = graph_of({"a": ("x",), "b": ("a", "x")}, {"x": 100, "a": 10, "b": 1}, ("b",))
    problem = problem_of(graph, {"a": 0.01, "b": 0.1}, {"a": 0.01, "b": 0.01})
    plan = solve_problem(problem)
    split = next(other for other in plan.alternatives if other.head_nodes == 1)
    assert split.name == "x, a"
    assert split.objective == pytest.approx(objective(problem, {"a"}))
