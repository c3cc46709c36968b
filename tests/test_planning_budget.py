from __future__ import annotations

import itertools
import random
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import (
    allowed,
    closed_sets,
    plain_objective,
    random_problem,
    with_losses,
)

from splitter.errors import InfeasibleError
from splitter.planning.alternatives import alternatives
from splitter.planning.cost import best_codecs, price
from splitter.planning.limits import why_not
from splitter.planning.optimum import optimum
from splitter.planning.records import CodecCost, Problem, SolverStatus
from splitter.planning.search import SolverChoice

seeds = st.integers(0, 10**9)
CBC = SolverChoice("cbc")


def lossy_problem(seed: int, size: int, limits: bool = True) -> Problem:
    return with_losses(random_problem(seed, size, limits), seed)


@settings(max_examples=300, deadline=None)
@given(seeds, st.integers(1, 4))
def test_the_cheapest_codecs_are_those_of_all_combinations(seed: int, count: int) -> None:
    problem = lossy_problem(seed, 6)
    crossing = random.Random(seed).sample(sorted(problem.codecs), min(count, len(problem.codecs)))
    costs = {}
    for choices in itertools.product(*(problem.codecs[tensor] for tensor in crossing)):
        sent = dict(zip(crossing, choices, strict=True))
        if allowed(problem, sent):
            costs[choices] = sum(sending_s(problem, choice) for choice in choices)
    if not costs:
        with pytest.raises(InfeasibleError, match="within the loss allowed"):
            best_codecs(problem, crossing)
        return
    found = best_codecs(problem, crossing)
    assert allowed(problem, found)
    assert sum(sending_s(problem, choice) for choice in found.values()) == pytest.approx(
        min(costs.values()), rel=1e-9, abs=1e-12
    )


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(0, 7))
def test_the_cost_function_keeps_the_budget(seed: int, size: int) -> None:
    problem = lossy_problem(seed, size)
    for head in closed_sets(problem.graph):
        plain = plain_objective(problem, head)
        assert (plain == inf) == bool(why_not(problem, head))
        if plain < inf:
            found = price(problem, head)
            assert found.objective_s == pytest.approx(plain, rel=1e-9, abs=1e-12)
            assert found.loss == pytest.approx(sum(codec.loss for codec in found.codecs.values()))


@pytest.mark.parametrize("solver", ["cbc", "highs"])
@settings(max_examples=150, deadline=None)
@given(seeds, st.integers(0, 9))
def test_the_plan_costs_the_least_over_all_cuts_and_codecs(
    solver: str, seed: int, size: int
) -> None:
    if solver == "highs":
        pytest.importorskip("highspy")
    problem = lossy_problem(seed, size)
    best = min(plain_objective(problem, head) for head in closed_sets(problem.graph))
    if best == inf:
        with pytest.raises(InfeasibleError, match="no cut is feasible"):
            optimum(problem, SolverChoice(solver))
        return
    found = optimum(problem, SolverChoice(solver))
    assert found.price.objective_s == pytest.approx(best, rel=1e-9, abs=1e-12)
    assert allowed(problem, found.price.codecs)
    assert (found.report.status, found.report.gap) == (SolverStatus.OPTIMAL, 0)


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(1, 8), st.integers(0, 5))
def test_alternatives_are_the_next_best_cuts_within_the_budget(
    seed: int, size: int, count: int
) -> None:
    problem = lossy_problem(seed, size)
    costs = sorted(plain_objective(problem, head) for head in closed_sets(problem.graph))
    costs = [cost for cost in costs if cost < inf]
    if not costs:
        return
    plan = optimum(problem, CBC).price
    found = alternatives(problem, plan, count, CBC)
    assert [other.objective_s for other in found] == pytest.approx(
        costs[1 : count + 1], rel=1e-9, abs=1e-12
    )
    assert len({plan.head, *(other.head for other in found)}) == len(found) + 1
    assert all(allowed(problem, other.codecs) for other in found)


def sending_s(problem: Problem, choice: CodecCost) -> float:
    second_per_byte = 1 / problem.link.up_bytes_per_s + problem.bytes_weight
    return choice.encode_s + choice.wire_bytes * second_per_byte + choice.decode_s
