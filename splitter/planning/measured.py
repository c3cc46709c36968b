"""A plan whose codecs keep the budget together, by measurement.

What each codec loses alone is measured when calibrating; several together are priced by the sum, which
is a guess. So the combination is measured before it is planned, and one that breaks the budget is cut
off and the program solved again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from splitter.calibration.records import Answer, CodecResult
from splitter.codec import Codec
from splitter.errors import PlanError
from splitter.planning.choices import Calibrated
from splitter.planning.cuts import PlannedCut
from splitter.planning.planner import Solution
from splitter.planning.policy import Policy
from splitter.planning.records import Problem

ROUNDING = 1e-9
"""A loss is over the limit where it is so by more than this."""

Evaluate = Callable[[PlannedCut, Mapping[str, Codec]], Answer]
"""Measures a cut with codecs by crossing tensor on the calibration's data."""


@dataclass(frozen=True)
class Measured:
    """A solution, and what its codecs leave of the answer."""

    solution: Solution
    answer: Answer | None
    """None where they are lossless."""
    problem: Problem
    """With the combinations forbidden that were measured and cut off."""
    refused: int
    """How many those are."""


def within_budget(
    problem: Problem,
    solve: Callable[[Problem], Solution],
    calibrated: Calibrated,
    evaluate: Evaluate | None,
) -> Measured:
    """Solve until the answer, measured, is within the budget.

    Raises
    ------
    PlanError
        Several tensors lose something, and there is nothing to measure them on.
    InfeasibleError
        Nothing keeps the budget.
    """
    refused = 0
    while True:
        solution = solve(problem)
        lossy = _lossy(solution.cut, calibrated)
        if not lossy:
            return Measured(solution, None, problem, refused)
        answer = _answer(solution.cut, lossy, evaluate)
        if calibrated.budget.loss(answer) <= calibrated.budget.limit + ROUNDING:
            return Measured(solution, answer, problem, refused)
        problem = _forbidding(problem, lossy)
        refused += 1


def policy_within_budget(
    problem: Problem,
    make: Callable[[Problem], Policy],
    calibrated: Calibrated,
    evaluate: Evaluate | None,
) -> Policy:
    """Make a policy until the answer of each of its cuts is within the budget; raises PlanError as above.

    ``problem`` is that of a measured plan, which is therefore never cut off.
    """
    kept = set[object]()
    while True:
        policy, broken = make(problem), False
        for plan, cut in zip(policy.plans, policy.table.cuts, strict=True):
            lossy = _lossy(cut.cut, calibrated)
            if not lossy or plan.identity in kept:
                continue
            answer = _answer(cut.cut, lossy, evaluate)
            if calibrated.budget.loss(answer) <= calibrated.budget.limit + ROUNDING:
                kept.add(plan.identity)
            else:
                problem, broken = _forbidding(problem, lossy), True
        if not broken:
            return policy


def _forbidding(problem: Problem, lossy: Mapping[str, CodecResult]) -> Problem:
    names = {tensor: result.codec.name for tensor, result in lossy.items()}
    return replace(problem, forbidden=(*problem.forbidden, names))


def _lossy(cut: PlannedCut, calibrated: Calibrated) -> dict[str, CodecResult]:
    found = {}
    for item in cut.crossing:
        result = calibrated.result_of(item.tensor, item.codec)
        if result is not None and not result.codec.is_lossless:
            found[item.tensor] = result
    return found


def _answer(cut: PlannedCut, lossy: Mapping[str, CodecResult], evaluate: Evaluate | None) -> Answer:
    if len(cut.crossing) == 1:
        # All that the tail knows is this tensor, so calibrating it measured this very combination.
        return next(iter(lossy.values())).answer
    if evaluate is None:
        raise PlanError(
            f"{len(cut.crossing)} tensors cross, so what their codecs leave of the "
            "answer has to be measured: give the calibration's data"
        )
    return evaluate(cut, {tensor: result.codec for tensor, result in lossy.items()})
