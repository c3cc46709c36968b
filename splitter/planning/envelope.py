"""The best plan at every value of a parameter at once.

Along an axis of ``worlds`` plans cost lines, and the best cost is their lower envelope: concave, so that it
is known between two values where the chord from one to the other is met. The search solves at both ends
of the axis, then where the lines of known plans meet: an answer as dear as these proves the stretch on
either side of the meeting, a cheaper one is a new line, with new meetings. Every solve proves a meeting
or finds a plan of the envelope, so K plans take at most 2K - 1, and one more at an end where plans tie. Cuts
seen before are priced first, in the codecs that are best there, which finds most of the plans that differ
by their codecs alone, and leaves a solve with an accuracy budget less to look at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf

from splitter.planning.cost import Price, price
from splitter.planning.lines import ROUNDING, TIE, Line, Stretch, bound, lowest
from splitter.planning.optimum import optimum
from splitter.planning.records import Problem
from splitter.planning.search import SolverChoice
from splitter.planning.worlds import Axis, Sweep

NEAREST = 3
"""Cuts that are priced before a solve: those that cost least there in codecs known so far."""

SHARE = 4
"""A solve gets this part of the time that is left, at most."""

ENOUGH_S = 0.5
"""But no less than this while there is any."""

Advance = Callable[[int, int], None]
"""Told how many meetings are proven, of those there are."""


@dataclass(frozen=True)
class Envelope:
    """Plans, their lines, and which is the lowest where."""

    plans: Sequence[Price]
    """In the codecs of the problem's own."""
    lines: Sequence[Line]
    stretches: Sequence[Stretch]
    gaps: Sequence[float]
    """At the beginning of each stretch: by how much, as a part of its cost, a better plan may still cost
    less there; 0 is proven, infinite where a time limit left the ends unsolved."""
    solves: int

    def proven(self, low: float, high: float) -> bool:
        """Whether no plan is better anywhere between two values."""
        return not any(
            max(self.gaps[place], self.gaps[place + 1] if place + 1 < len(self.gaps) else 0.0)
            for place, stretch in enumerate(self.stretches)
            if stretch.low < high and low < stretch.high
        )


def envelope(
    problem: Problem,
    axis: Axis,
    known: Iterable[Price],
    choice: SolverChoice,
    advance: Advance = lambda done, total: None,
    settled: float | None = None,
) -> Envelope:
    """Find the plans that are best somewhere on an axis, and where.

    ``known`` are plans that can be carried out, one or more; the more, the fewer solves. The first is the
    best at ``settled``, if that is given. The choice's time limit is for all solves together; where it stops
    them, the gaps say what is left open.
    """
    search = _Search(problem, axis, known, settled)
    end = None if choice.time_limit_s is None else time.monotonic() + choice.time_limit_s
    while (value := search.open(advance)) is not None:
        if end is None:
            search.settle(value, choice)
            continue
        left_s = end - time.monotonic()
        if left_s <= 0:
            break
        # One hard solve is not to take the time of all others; it has a bound in any case.
        until = time.monotonic() + max(left_s / SHARE, min(left_s, ENOUGH_S))
        search.settle(value, replace(choice, time_limit_s=None, until=until))
    return search.result()


class _Search:
    def __init__(
        self, problem: Problem, axis: Axis, known: Iterable[Price], settled: float | None
    ) -> None:
        self.sweep = Sweep(problem, axis)
        self.plans, self.lines = list[Price](), list[Line]()
        self.seen = set[object]()
        self.proven: dict[float, float] = {}
        """By value, what no plan costs less than; what the best costs, but where time ran out."""
        self.hard = set[float]()
        """Values at which it did."""
        self.solves = 0
        for plan in known:
            self.add(plan)
        self.stretches = lowest(self.lines)
        if settled is not None:
            self.proven[settled] = self.lines[0].at(settled)
        flattest = self.lines[self.stretches[-1].line]
        if flattest.slope <= axis.flattest + ROUNDING * abs(flattest.at_0):
            self.proven[inf] = flattest.slope

    def open(self, advance: Advance) -> float | None:
        """Choose where to solve next: the ends first, then where most can still be gained."""
        for end in (0.0, inf):
            if end not in self.proven and end not in self.hard:
                return end
        gaps = self.gaps()
        advance(sum(gap == 0 for gap in gaps), len(gaps))
        left = [
            (gap, stretch.low)
            for gap, stretch in zip(gaps, self.stretches, strict=True)
            if gap and stretch.low not in self.hard
        ]
        return max(left)[1] if left else None

    def settle(self, value: float, choice: SolverChoice) -> None:
        """Find a plan that is better at a value, or prove that there is none."""
        there = self.sweep.world(value)
        least = min(line.at(value) for line in self.lines)
        tie = TIE * abs(least)
        by_cost = sorted(range(len(self.lines)), key=lambda index: self.lines[index].at(value))
        heads = dict.fromkeys(self.plans[index].head for index in by_cost)
        priced = [price(there, head) for head in list(heads)[:NEAREST]]
        better = min(priced, key=lambda found: found.objective)
        if better.objective < least - tie:
            self.add(self.sweep.own(there, better))
            self.stretches = lowest(self.lines)
            return
        best = optimum(there, choice, priced)
        self.solves += 1
        self.add(self.sweep.own(there, best.price))
        self.stretches = lowest(self.lines)
        if best.report.bound > -inf:
            self.proven[value] = min(least, best.price.objective, best.report.bound)
        if not best.proven:
            self.hard.add(value)

    def gaps(self) -> list[float]:
        if not {0.0, inf} <= self.proven.keys():
            return [inf] * len(self.stretches)
        found = []
        for stretch in self.stretches:
            cost = self.lines[stretch.line].at(stretch.low)
            gap = cost - bound(self.proven, stretch.low)
            found.append(gap / abs(cost) if gap > TIE * abs(cost) else 0.0)
        return found

    def add(self, plan: Price) -> None:
        if plan.identity not in self.seen:
            self.seen.add(plan.identity)
            self.plans.append(plan)
            self.lines.append(self.sweep.line(plan))

    def result(self) -> Envelope:
        return Envelope(
            tuple(self.plans), tuple(self.lines), self.stretches, self.gaps(), self.solves
        )
