from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from math import inf

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import (
    allowed,
    closed_sets,
    graph_of,
    plain_objective,
    problem_of,
    random_problem,
    raw,
    with_losses,
)

from splitter.errors import InfeasibleError, PlanError
from splitter.planning import search as search_module
from splitter.planning.alternatives import alternatives
from splitter.planning.cost import best_codecs, price
from splitter.planning.limits import why_not
from splitter.planning.narrowing import dual_of, narrowed
from splitter.planning.optimum import optimum
from splitter.planning.planner import solve_problem
from splitter.planning.presolve import presolve
from splitter.planning.program import Program
from splitter.planning.records import CodecCost, Problem, SolverStatus
from splitter.planning.search import Search, SolverChoice
from splitter.planning.solver import Solved, solve

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
            assert found.objective == pytest.approx(plain, rel=1e-9, abs=1e-12)
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
    assert found.price.objective == pytest.approx(best, rel=1e-9, abs=1e-12)
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
    assert [other.objective for other in found] == pytest.approx(
        costs[1 : count + 1], rel=1e-9, abs=1e-12
    )
    assert len({plan.head, *(other.head for other in found)}) == len(found) + 1
    assert all(allowed(problem, other.codecs) for other in found)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(0, 7))
def test_without_a_limit_losses_change_nothing(seed: int, size: int) -> None:
    problem = replace(lossy_problem(seed, size, limits=False), loss_limit=None, forbidden=())
    lossless = {
        tensor: tuple(msgspec.structs.replace(choice, loss=0.0) for choice in choices)
        for tensor, choices in problem.codecs.items()
    }
    with_loss, without = (
        optimum(question, CBC) for question in (problem, replace(problem, codecs=lossless))
    )
    assert with_loss.price.head == without.price.head
    assert with_loss.price.objective == without.price.objective
    sizes = [(found.report.variables, found.report.constraints) for found in (with_loss, without)]
    assert sizes[0] == sizes[1]


@settings(max_examples=80, deadline=None)
@given(seeds, st.integers(1, 9), st.floats(0, 1))
def test_narrowing_keeps_every_cut_that_is_no_dearer(seed: int, size: int, share: float) -> None:
    problem = lossy_problem(seed, size)
    program = Search(problem, CBC).program
    try:
        small = presolve(program)
    except InfeasibleError:
        return
    dual = dual_of(small, solve(small.program).tensions)
    costs = {values: weigh(program, values) for values in all_values(problem, program)}
    if not costs:
        return
    assert dual.bound_s <= min(costs.values()) + dual.safety_s
    known_s = min(costs.values()) + share * (max(costs.values()) - min(costs.values()))
    left = narrowed(program, dual, known_s)
    for values, cost in costs.items():
        if cost <= known_s:
            assert all(values[upper] >= values[lower] for upper, lower in left.arcs)
            assert all(values[variable] == value for variable, value in left.fixed.items())


@pytest.mark.parametrize("solver", ["cbc", "highs"])
def test_the_bound_of_a_dual_solution_is_the_objective(solver: str) -> None:
    if solver == "highs":
        pytest.importorskip("highspy")
    for seed in range(20):
        problem = random_problem(seed, 12, limits=False)
        program = Search(problem, CBC).program
        if not program.rows:
            small = presolve(program)
            solved = solve(small.program, solver)
            dual = dual_of(small, solved.tensions)
            assert dual.bound_s == pytest.approx(solved.objective, rel=1e-6, abs=dual.safety_s)


def test_two_tensors_share_the_loss_that_one_may_have() -> None:
    problem = two_inputs(loss_limit=0.02)
    # Each alone would travel in 10 bytes at a loss of 0.02; together one of them has to be better.
    plan = solve_problem(problem)
    assert {tensor: codec.codec for tensor, codec in plan.codecs.items()} == {
        "x": "fine",
        "y": "fine",
    }
    assert plan.predicted.loss == pytest.approx(0.02)
    assert plan.predicted.up_bytes == 100


def test_a_forbidden_combination_is_avoided_by_one_tensor_alone() -> None:
    problem = two_inputs(loss_limit=0.02, forbidden=({"x": "fine", "y": "fine"},))
    plan = solve_problem(problem)
    assert sorted(codec.codec for codec in plan.codecs.values()) == ["coarse", "raw"]
    assert plan.predicted.loss == pytest.approx(0.02)


def test_a_forbidden_combination_forbids_what_is_lossier() -> None:
    problem = two_inputs(loss_limit=None, forbidden=({"x": "fine", "y": "fine"},))
    plan = solve_problem(problem)
    assert sorted(codec.codec for codec in plan.codecs.values()) == ["coarse", "raw"]


def test_a_sum_that_meets_the_limit_but_for_rounding_is_allowed() -> None:
    problem = two_inputs(loss_limit=0.3, losses=(0.1, 0.2))
    assert 0.1 + 0.2 > 0.3
    assert solve_problem(problem).predicted.up_bytes == 60


@pytest.mark.parametrize("solver", ["cbc", "highs"])
def test_an_excess_that_no_solver_notices_is_not_allowed(solver: str) -> None:
    if solver == "highs":
        pytest.importorskip("highspy")
    problem = two_inputs(loss_limit=0.02 * (1 - 2e-9))
    found = optimum(problem, SolverChoice(solver))
    assert allowed(problem, found.price.codecs)
    assert found.report.status is SolverStatus.OPTIMAL
    best = min(plain_objective(problem, head) for head in closed_sets(problem.graph))
    assert found.price.objective == pytest.approx(best)


def test_the_report_counts_the_rows_of_the_budget_only_where_they_are_needed() -> None:
    free = solve_problem(two_inputs(loss_limit=1.0)).solver
    bound = solve_problem(two_inputs(loss_limit=0.02)).solver
    assert bound.variables > free.variables
    assert bound.constraints > free.constraints
    assert bound.bound == bound.objective > free.objective


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 8))
def test_stopped_before_the_budget_is_kept_the_best_cut_at_hand_is_reported_with_an_honest_bound(
    seed: int, size: int
) -> None:
    problem = lossy_problem(seed, size, limits=False)
    best = min(plain_objective(problem, head) for head in closed_sets(problem.graph))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_module, "solve", solve_without_rows)
        report = optimum(problem, CBC).report
    assert report.bound <= best + 1e-9 * abs(best) + 1e-12
    assert report.objective >= best - 1e-9 * abs(best) - 1e-12
    if report.status is SolverStatus.FEASIBLE and report.objective > 0:
        assert report.gap == pytest.approx(1 - report.bound / report.objective)


def test_a_tensor_that_loses_too_much_is_named() -> None:
    problem = two_inputs(loss_limit=0.001)
    problem = replace(problem, codecs={**problem.codecs, "y": problem.codecs["y"][1:]})
    plan = solve_problem(problem)
    assert plan.predicted.name == "all on the device"
    assert plan.baselines[1].why_not == "tensor 'y' cannot travel within the loss allowed"
    stuck = replace(problem, device=replace(problem.device, unsupported=frozenset("a")))
    with pytest.raises(InfeasibleError, match="input 'y' cannot travel within the loss allowed"):
        solve_problem(stuck)


def test_tensors_that_lose_too_much_together_are_named() -> None:
    problem = two_inputs(loss_limit=0.03)
    codecs = {
        name: choices[2:] if name in "xy" else choices for name, choices in problem.codecs.items()
    }
    problem = replace(problem, codecs=codecs)
    assert solve_problem(problem).baselines[1].why_not == (
        "tensors 'x', 'y' cannot travel together within the loss allowed"
    )
    stuck = replace(problem, device=replace(problem.device, unsupported=frozenset("a")))
    with pytest.raises(InfeasibleError, match=r"no cut is feasible: .* the limit of 0\.03"):
        solve_problem(stuck)


@pytest.mark.parametrize(
    ("forbidden", "message"),
    [({}, "names no tensor"), ({"x": "gone"}, "sends 'x' in 'gone'"), ({"z": "raw"}, "sends 'z'")],
)
def test_a_forbidden_combination_that_means_nothing_is_refused(
    forbidden: dict[str, str], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        solve_problem(two_inputs(loss_limit=0.02, forbidden=(forbidden,)))


def test_many_tensors_with_many_codecs_are_settled() -> None:
    problem, draw = lossy_problem(1, 1), random.Random(3)
    names = [f"in{i}" for i in range(10)]
    codecs = {}
    for name in names:
        losses = [draw.randrange(41) / 2000 for _ in range(39)]
        lossy = [codec(i, int(9000 * (1 - 30 * loss) ** 2), loss) for i, loss in enumerate(losses)]
        codecs[name] = (raw(20000), *lossy)
    problem = replace(problem, codecs=codecs, loss_limit=0.05, forbidden=())
    found = best_codecs(problem, names)
    assert sum(choice.loss for choice in found.values()) <= 0.05 * (1 + 1e-9)


def codec(index: int, nbytes: int, loss: float) -> CodecCost:
    return CodecCost(codec=f"c{index}", wire_bytes=nbytes, encode_s=0, decode_s=0, loss=loss)


def two_inputs(
    loss_limit: float | None,
    forbidden: tuple[dict[str, str], ...] = (),
    losses: tuple[float, float] = (0.01, 0.02),
) -> Problem:
    """Two inputs of 100 bytes, 50 in a fine codec and 10 in a coarse one; the device is too slow."""
    graph = graph_of({"a": ("x", "y")}, {"x": 100, "y": 100, "a": 1}, ("a",))
    problem = problem_of(graph, {"a": 9.0}, {"a": 0.1})
    fine, coarse = (
        CodecCost(codec=name, wire_bytes=nbytes, encode_s=0, decode_s=0, loss=loss)
        for name, nbytes, loss in zip(("fine", "coarse"), (50, 10), losses, strict=True)
    )
    codecs = {**problem.codecs, "x": (raw(100), fine, coarse), "y": (raw(100), fine, coarse)}
    return replace(problem, codecs=codecs, loss_limit=loss_limit, forbidden=forbidden)


def solve_without_rows(program: Program, *_: object) -> Solved:
    if program.rows:
        return Solved(SolverStatus.FEASIBLE, None, None, bound=-inf)
    return solve(program)


def all_values(problem: Problem, program: Program) -> Iterator[tuple[int, ...]]:
    """The values of a program's variables for every head that its fixed variables and arcs allow."""
    graph = problem.graph
    for head in closed_sets(graph):
        nodes = [int(node.name in head) for node in graph.nodes]
        values = [int(bool(head)), *nodes, *[0] * (len(program.weights) - len(nodes) - 1)]
        values[-1] = int(len(head) == len(nodes))
        for tensor, (_, read) in program.sent.items():
            values[read] = int(all(node.name in head for node in graph.consumers_of[tensor]))
        if all(values[variable] == value for variable, value in program.fixed.items()) and all(
            values[upper] >= values[lower] for upper, lower in program.arcs
        ):
            yield tuple(values)


def weigh(program: Program, values: tuple[int, ...]) -> float:
    return program.constant + sum(
        weight * value for weight, value in zip(program.weights, values, strict=True)
    )


def sending_s(problem: Problem, choice: CodecCost) -> float:
    second_per_byte = 1 / problem.link.up_bytes_per_s + problem.bytes_weight
    return choice.encode_s + choice.wire_bytes * second_per_byte + choice.decode_s
