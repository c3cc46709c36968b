"""Every plan that no other beats in two or three terms at once.

The epsilon-constraint method, exact: minimise the first term with the others below given values (limits like
any others), then the rest with the first at what was found, so that a tie never hides a better plan. Each
plan found divides the zone it was found in: what is better than it in the second term, or in the third. A
zone inside another that was solved already is not solved again where the other's plan lies in it, or where
it was empty.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

import msgspec

from splitter.errors import InfeasibleError, PlanError
from splitter.planning.cost import Price
from splitter.planning.optimum import optimum
from splitter.planning.placed import place
from splitter.planning.placement import Placement
from splitter.planning.records import Problem, SolverStatus
from splitter.planning.search import SolverChoice
from splitter.planning.terms import Objective, Term, Terms

APART = 1e-6
"""Terms that differ by less than this part of them are equal."""

FIELDS = {
    Term.LATENCY: "deadline_s",
    Term.THROUGHPUT: "interval_s",
    Term.ENERGY: "energy_j",
    Term.MONEY: "money",
}
"""The limit of each term."""

Zone = tuple[float, ...]
"""What each term but the first stays below."""


@dataclass(frozen=True)
class Front:
    """Plans that nothing beats, the best in the first term first."""

    terms: tuple[Term, ...]
    plans: tuple[Price | Placement, ...]
    knee: int
    """The plan farthest from the chord between the ends, each term in parts of its range: where more of one
    term starts to cost much of another. Of three terms it is the least sum of these parts."""
    is_complete: bool
    """False where the time ran out."""

    def values(self, plan: Price | Placement) -> tuple[float, ...]:
        """The terms that are compared."""
        return values_of(plan.terms, self.terms)


def pareto(problem: Problem, terms: Sequence[Term | str], choice: SolverChoice) -> Front:
    """Find all plans of which no other is as good in every term and better in one.

    Of plans with equal terms one is found. ``choice.time_limit_s`` is for all of it.

    Raises
    ------
    InfeasibleError
        No plan keeps every limit.
    PlanError
        Not two or three different terms, or one that needs what is not known.
    """
    wanted = tuple(Term(term) for term in terms)
    if not 2 <= len(set(wanted)) == len(wanted) <= 3:
        raise PlanError("a front is of two or three different terms, such as latency,energy")
    return _Search(replace(problem, bytes_weight=0.0), wanted, choice).front()


def values_of(found: Terms, terms: Sequence[Term]) -> tuple[float, ...]:
    """Some of the terms, in order."""
    return tuple(found.of(term) for term in terms)


class _Stopped(Exception):
    """The time ran out."""


class _Search:
    def __init__(self, problem: Problem, terms: tuple[Term, ...], choice: SolverChoice) -> None:
        self.problem, self.terms, self.choice = problem, terms, choice
        self.started = time.monotonic()
        self.found: list[Price | Placement] = []
        self.solved: list[tuple[Zone, tuple[float, ...] | None]] = []

    def front(self) -> Front:
        start: Zone = (inf,) * (len(self.terms) - 1)
        pending, is_complete = [start], True
        try:
            while pending:
                zone = pending.pop(0)
                if any(_inside(zone, other) for other in pending):
                    continue
                point = self.point(zone)
                if point is None:
                    if zone == start:
                        raise InfeasibleError("no plan satisfies every limit")
                    continue
                pending += [(*zone[:i], value, *zone[i + 1 :]) for i, value in enumerate(point[1:])]
        except _Stopped:
            is_complete = False
        plans = sorted(self.found, key=self.values)
        return Front(self.terms, tuple(plans), self.knee(plans), is_complete)

    def values(self, plan: Price | Placement) -> tuple[float, ...]:
        return values_of(plan.terms, self.terms)

    def point(self, zone: Zone) -> tuple[float, ...] | None:
        """The terms of a plan in a zone that none beats; None where the zone is empty."""
        for other, known in self.solved:
            if _inside(zone, other):
                if known is None:
                    return None
                if all(_below(value, most) for value, most in zip(known[1:], zone, strict=True)):
                    return known
        plan = self.solve(zone)
        point = None if plan is None else self.values(plan)
        self.solved.append((zone, point))
        if plan is not None and point is not None and point not in map(self.values, self.found):
            self.found.append(plan)
        return point

    def solve(self, zone: Zone) -> Price | Placement | None:
        first, *others = self.terms
        below = {
            FIELDS[term]: most - APART * abs(most)
            for term, most in zip(others, zone, strict=True)
            if most < inf
        }
        if any(most <= 0 for most in below.values()):
            return None
        best = self.least(Objective.of(first), below)
        if best is None:
            return None
        value = best.terms.of(first)
        sizes = {term: abs(best.terms.of(term)) or 1.0 for term in others}
        rest = Objective(**{term.value: 1 / size for term, size in sizes.items()})
        return self.least(rest, {**below, FIELDS[first]: value}) or best

    def least(self, objective: Objective, below: dict[str, float]) -> Price | Placement | None:
        limits = self.problem.limits
        tight = {
            name: min(value, most) if (value := getattr(limits, name)) is not None else most
            for name, most in below.items()
        }
        problem = replace(
            self.problem, objective=objective, limits=msgspec.structs.replace(limits, **tight)
        )
        choice = replace(self.choice, time_limit_s=self.left())
        try:
            if problem.relays or problem.sources:
                placing = place(problem, choice)
                plan: Price | Placement = placing.best
                status = placing.report.status
            else:
                cut = optimum(problem, choice)
                plan, status = cut.price, cut.report.status
        except InfeasibleError:
            return None
        except PlanError:
            if self.choice.time_limit_s is not None and (self.left() or 0) <= 0:
                raise _Stopped from None
            raise
        if status is not SolverStatus.OPTIMAL:
            raise _Stopped
        return plan

    def left(self) -> float | None:
        if self.choice.time_limit_s is None:
            return None
        left = self.choice.time_limit_s - (time.monotonic() - self.started)
        if left <= 0:
            raise _Stopped
        return left

    def knee(self, plans: Sequence[Price | Placement]) -> int:
        points = [self.values(plan) for plan in plans]
        columns = list(zip(*points, strict=True))
        lows = [min(column) for column in columns]
        ranges = [max(column) - min(column) or 1.0 for column in columns]
        sums = [
            sum((v - low) / span for v, low, span in zip(point, lows, ranges, strict=True))
            for point in points
        ]
        return sums.index(min(sums)) if sums else 0


def _inside(zone: Zone, other: Zone) -> bool:
    return all(mine <= theirs for mine, theirs in zip(zone, other, strict=True))


def _below(value: float, most: float) -> bool:
    return most == inf or value < most and value <= most - APART * abs(most)
