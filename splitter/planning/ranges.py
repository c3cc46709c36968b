"""How far one parameter may move before another plan is better, and which plan that is.

The best cost over all plans is concave along each axis of ``worlds``, so a plan is best on an interval.
Each end of it is found by Newton's method: take a plan known to be better further out, go to where its
line meets the plan's, solve there; a cheaper answer gives a nearer point, none proves the end. Every plan
seen is kept as a line for later searches, and its cut, in the codecs that are best there, is tried before a
solve.

The search ends at 0 on one side, at infinity (or ``Axis.most``) on the other, where the line that rises
least wins. At equal cost the plan stays best.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from splitter.planning.cost import Price, price
from splitter.planning.lines import ROUNDING, TIE, Line
from splitter.planning.optimum import optimum
from splitter.planning.records import Problem, Range
from splitter.planning.search import SolverChoice
from splitter.planning.worlds import Axis, Sweep


class StoppedError(Exception):
    """A solve reached its time limit, so that nothing is proven."""


class End(NamedTuple):
    """Where a plan stops being the best."""

    value: float
    plan: Price
    """The one that is better beyond."""


class Interval(NamedTuple):
    """Where a plan is best; without an end it is so all the way."""

    low: End | None
    high: End | None

    def range(self, at: float) -> Range:
        """The same without the plans beyond."""
        return Range(
            low=self.low.value if self.low else None,
            high=self.high.value if self.high else None,
            at=at,
        )


def interval(problem: Problem, axis: Axis, pool: list[Price], choice: SolverChoice) -> Interval:
    """Find where the first plan of the pool, the best as the problem stands, is the best along an axis.

    The others of the pool can be carried out; the more, the fewer solves. What is found is added to it.

    Raises
    ------
    StoppedError
        The time limit of a solve.
    """
    search = _Search(problem, axis, pool, choice)
    return Interval(search.end(0.0), search.end(axis.most))


class _Search:
    def __init__(
        self, problem: Problem, axis: Axis, pool: list[Price], choice: SolverChoice
    ) -> None:
        self.sweep, self.axis, self.pool, self.choice = Sweep(problem, axis), axis, pool, choice
        self.lines = [self.sweep.line(known) for known in pool]

    def end(self, far: float) -> End | None:
        """Search from the parameter's value towards ``far``; None if the plan is best all the way."""
        if self.axis.at == far or self.extreme(far):
            return None
        ends = [self.meeting(index, far) for index in range(len(self.lines))]
        found = min(
            (end for end in ends if end is not None),
            key=lambda end: abs(end.value - self.axis.at),
            default=None,
        )
        if found is None:
            found = self.nearer(far)
        while found is not None and found.value != self.axis.at:
            nearer = self.nearer(found.value)
            if nearer is None:
                break
            found = nearer
        return found

    def nearer(self, far: float) -> End | None:
        """Where a plan that is better at ``far`` meets the plan; None where there is none.

        A cut seen before, in the codecs that are best there, saves a solve.
        """
        there = self.sweep.world(far)
        for head in {known.head for known in self.pool}:
            end = self.meeting(self.add(there, price(there, head)), far)
            if end is not None:
                return end
        found = optimum(there, self.choice)
        if not found.proven:
            raise StoppedError
        return self.meeting(self.add(there, found.price), far)

    def extreme(self, far: float) -> bool:
        """Whether no line can be below the plan's in that direction, as none has a better slope."""
        mine = self.lines[0]
        rounding = ROUNDING * abs(mine.at_0)
        if far > self.axis.at:
            return mine.slope <= self.axis.flattest + rounding
        return mine.slope >= self.axis.steepest - rounding

    def meeting(self, index: int, far: float) -> End | None:
        """Where another line falls below the plan's between here and ``far``, if it does."""
        mine, other, here = self.lines[0], self.lines[index], self.axis.at
        falls = mine.slope - other.slope
        if far == inf:
            gains = falls > max(TIE * abs(mine.slope), ROUNDING * abs(mine.at_0))
        else:
            gains = mine.at(far) - other.at(far) > TIE * abs(mine.at(far))
        if not gains:
            return None
        return End(self._between(mine, other, far) if falls else here, self.pool[index])

    def _between(self, mine: Line, other: Line, far: float) -> float:
        point = (other.at_0 - mine.at_0) / (mine.slope - other.slope)
        return max(point, self.axis.at) if far > self.axis.at else min(point, self.axis.at)

    def add(self, there: Problem, found: Price) -> int:
        """Keep a plan of another world; return its place."""
        self.pool.append(self.sweep.own(there, found))
        self.lines.append(self.sweep.line(self.pool[-1]))
        return len(self.pool) - 1
