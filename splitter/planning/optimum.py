"""The cheapest cut of a problem: build the program, make it small, solve it, check the answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from splitter.errors import PlanError
from splitter.planning.cost import Price, price
from splitter.planning.limits import smallest_head, why_not
from splitter.planning.presolve import presolve
from splitter.planning.program import Program, Row, build, head_of
from splitter.planning.records import Problem, SolverReport, SolverStatus
from splitter.planning.solver import Solved, solve

AGREEMENT = 1e-6
"""How far solver and cost function may differ, relative to the objective."""

ROUNDING = 1e-12
"""The same, relative to the sum of all weights: what is left of an objective that is 0."""


@dataclass(frozen=True)
class SolverChoice:
    """Which solver, and how long each solve may take."""

    name: str = "cbc"
    time_limit_s: float | None = None


@dataclass(frozen=True)
class Optimum:
    """A cut, priced by the cost function, and what the solver says of it."""

    price: Price
    report: SolverReport

    @property
    def proven(self) -> bool:
        """Nothing is cheaper."""
        return self.report.status is SolverStatus.OPTIMAL


def optimum(problem: Problem, choice: SolverChoice) -> Optimum:
    """Find the cheapest cut; where the time runs out, the cheapest at hand.

    Raises
    ------
    InfeasibleError
        No cut can be carried out; the message names the limit that binds.
    PlanError
        The solver is not installed, or it and the cost function do not agree.
    """
    start = time.perf_counter()
    smallest = smallest_head(problem)
    program = build(problem)
    solved = _solved(program, choice)
    if solved.values is not None:
        best = _checked(problem, program, solved)
    else:
        heads = (smallest, frozenset(problem.graph.node_of))
        known = [price(problem, head) for head in heads if not why_not(problem, head)]
        best = min(known, key=lambda candidate: candidate.objective_s)
    return Optimum(best, _report(program, solved, (choice.name, best.objective_s, start)))


def next_best(
    problem: Problem, program: Program, excluded: Sequence[Row], choice: SolverChoice
) -> Price | None:
    """Find the cheapest cut apart from those excluded; None where the time runs out.

    Raises
    ------
    InfeasibleError
        Every cut is excluded.
    """
    solved = _solved(replace(program, rows=(*program.rows, *excluded)), choice)
    return _checked(problem, program, solved) if solved.status is SolverStatus.OPTIMAL else None


def _solved(program: Program, choice: SolverChoice) -> Solved:
    small = presolve(program)
    solved = solve(small.program, choice.name, choice.time_limit_s)
    return replace(
        solved, values=small.expand(solved.values) if solved.values is not None else None
    )


def _checked(problem: Problem, program: Program, solved: Solved) -> Price:
    """Price the solver's cut, and compare with the objective that it reports."""
    assert solved.values is not None
    assert solved.objective is not None
    priced = price(problem, head_of(problem, solved.values))
    rounding = ROUNDING * (abs(program.constant) + sum(map(abs, program.weights)))
    allowed = max(AGREEMENT * abs(priced.objective_s), rounding)
    if abs(solved.objective - priced.objective_s) > allowed:
        raise PlanError(
            f"the solver's objective is {solved.objective!r} s, the cost of its cut "
            f"{priced.objective_s!r} s; please report this"
        )
    return priced


def _report(program: Program, solved: Solved, found: tuple[str, float, float]) -> SolverReport:
    name, objective_s, start = found
    variables, constraints = program.size
    bound = objective_s if solved.status is SolverStatus.OPTIMAL else min(solved.bound, objective_s)
    return SolverReport(
        name=name,
        status=solved.status,
        objective_s=objective_s,
        bound_s=bound,
        gap=(objective_s - bound) / objective_s if objective_s > bound else 0.0,
        seconds=time.perf_counter() - start,
        variables=variables,
        constraints=constraints,
    )
