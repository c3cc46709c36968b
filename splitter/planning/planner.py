"""Answer a problem: the best cut with its proof, its rivals, and how far it holds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from splitter.errors import InfeasibleError
from splitter.planning import cost
from splitter.planning.alternatives import alternatives as next_cuts
from splitter.planning.baselines import baselines, whole_cuts
from splitter.planning.candidates import candidate, name_of, planned_cut, title_of
from splitter.planning.cuts import PlannedCut
from splitter.planning.limits import why_not
from splitter.planning.optimum import optimum
from splitter.planning.placed import place
from splitter.planning.placement import Placement
from splitter.planning.records import (
    Candidate,
    CodecCost,
    Problem,
    SolverReport,
    SolverStatus,
    Stage,
    Validity,
)
from splitter.planning.relaxed import conflict, limits_of
from splitter.planning.search import Report, SolverChoice
from splitter.planning.stages import (
    devices_cut,
    next_placements,
    placed_baselines,
    placed_candidate,
    placed_title,
    stages_of,
)
from splitter.planning.validity import validity


@dataclass(frozen=True)
class Solution:
    """All of a plan that follows from the problem alone."""

    head: frozenset[str]
    """Names of nodes of ``Problem.graph``."""
    codecs: Mapping[str, CodecCost]
    """The choice for each crossing tensor."""
    cut: PlannedCut
    predicted: Candidate
    solver: SolverReport
    baselines: tuple[Candidate, ...]
    alternatives: tuple[Candidate, ...]
    validity: Validity | None
    stages: tuple[Stage, ...]
    """Of more than two tiers."""
    pool: tuple[cost.Price, ...]
    """The cut, and others that were found on the way; their costs may be those of another world."""


def solve_problem(
    problem: Problem,
    *,
    alternatives: int = 5,
    solver: str = "cbc",
    time_limit_s: float | None = None,
    with_validity: bool = True,
    report: Report | None = None,
) -> Solution:
    """Choose the best cut.

    ``time_limit_s`` is for each solve; ``report`` hears how far a long one has come. An answer that is left
    unproven has no alternatives and no validity, as both rest on the proof.

    Raises
    ------
    InfeasibleError
        No cut can be carried out; the message names the limit that binds.
    PlanError
        The solver is unknown, not installed, or does not agree with the cost function.
    """
    choice = SolverChoice(solver, time_limit_s, report=report)
    try:
        if problem.relays or problem.sources:
            return _placed(problem, alternatives, choice)
        best = optimum(problem, choice)
    except InfeasibleError:
        if set(limits_of(problem)) <= {"loss_limit"}:
            raise  # it names the tensors
        found = conflict(problem, choice)
        if found is None or not found.limits:
            raise
        raise InfeasibleError(found.message) from None
    others: tuple[cost.Price, ...] = ()
    ranges, pool = None, [best.price]
    if best.proven:
        others = next_cuts(problem, best.price, alternatives, choice)
        pool += [*others, *whole_cuts(problem)]
        if with_validity:
            ranges = validity(problem, pool, choice)
    return _solution(problem, pool, best.report, (others, ranges))


def price(problem: Problem, head: Collection[str]) -> Solution:
    """Price a given cut instead of choosing one: status ``priced``, no alternatives, no validity.

    Raises
    ------
    CutError
        The head is not closed.
    InfeasibleError
        A tier cannot run its part, or a tensor cannot travel.
    """
    reason = why_not(problem, head)
    if reason:
        raise InfeasibleError(f"the cut cannot be carried out: {reason}")
    priced = cost.price(problem, head)
    report = SolverReport(
        name="none",
        status=SolverStatus.PRICED,
        objective=priced.objective,
        bound=priced.objective,
        gap=0.0,
        seconds=0.0,
        variables=0,
        constraints=0,
    )
    return _solution(problem, [priced], report, ((), None))


def _solution(
    problem: Problem,
    pool: list[cost.Price],
    report: SolverReport,
    rest: tuple[tuple[cost.Price, ...], Validity | None],
) -> Solution:
    best, (others, ranges) = pool[0], rest
    return Solution(
        head=best.head,
        codecs=best.codecs,
        cut=planned_cut(problem, best),
        predicted=candidate(problem, best, name_of(problem, best.head)),
        solver=report,
        baselines=baselines(problem),
        alternatives=tuple(candidate(problem, other, title_of(problem, other)) for other in others),
        validity=ranges,
        stages=(),
        pool=tuple(pool),
    )


def _placed(problem: Problem, alternatives: int, choice: SolverChoice) -> Solution:
    """Choose the best placement on more than two tiers."""
    found = place(problem, choice)
    best, others = found.best, list[Placement]()
    devices = best.layout.devices
    if found.proven:
        others = next_placements(problem, best, alternatives, choice)
    return Solution(
        head=frozenset(name for name, where in best.place_of.items() if where in devices),
        codecs={
            tensor: codecs[hop]
            for tensor, codecs in best.sent.items()
            for hop in devices
            if hop in codecs
        },
        cut=devices_cut(problem, best),
        predicted=placed_candidate(problem, best),
        solver=found.report,
        baselines=placed_baselines(problem),
        alternatives=tuple(
            placed_candidate(problem, other, placed_title(other)) for other in others
        ),
        validity=None,
        stages=stages_of(problem, best),
        pool=(),
    )
