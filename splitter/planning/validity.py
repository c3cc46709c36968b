"""How far the world may move before another plan is better.

The best cost over all plans is concave along each axis of ``worlds``, so the plan is best on an
interval. Each end of it is found by Newton's method: take a plan known to be better further out, go
to where its line meets the plan's, solve there; a cheaper answer gives a nearer point, none proves the
end. Every plan seen is kept as a line for later searches, and its cut, in the codecs that are best there, is
tried before a solve.

The search ends at slowness 0 (infinite bandwidth), round trip 0 and factor 0 on one side, at infinity on
the other, where the line that rises least wins. At equal cost the plan stays best.
"""

from __future__ import annotations

from math import inf

from splitter.planning.cost import Price, price
from splitter.planning.lines import ROUNDING, TIE, Line
from splitter.planning.optimum import optimum
from splitter.planning.records import Problem, Range, Validity
from splitter.planning.search import SolverChoice
from splitter.planning.worlds import (
    Axis,
    Sweep,
    round_trip,
    server_slowdown,
    slowness,
    why_no_lines,
)


def validity(problem: Problem, pool: list[Price], choice: SolverChoice) -> Validity | None:
    """Find the three ranges in which a plan stays best; None where a solve is stopped by its limit.

    None too where plans do not cost lines (``why_no_lines``).

    ``pool`` is the plan and other cuts that can be carried out; the more, the fewer solves. What is found
    on the way is added to it.
    """
    if why_no_lines(problem):
        return None
    try:
        wire, rtt, server = (
            _Search(problem, axis, pool, choice).interval()
            for axis in (slowness(), round_trip(problem), server_slowdown())
        )
    except _Stopped:
        return None
    up = problem.link.up_bytes_per_s
    return Validity(
        up_bytes_per_s=Range(
            low=None if wire.high is None else up / wire.high,
            high=None if wire.low is None else up / wire.low,
            at=up,
        ),
        rtt_s=rtt,
        server_slowdown=server,
    )


class _Stopped(Exception):
    """A solve reached its time limit, so that nothing is proven."""


class _Search:
    """The search along one axis; what it finds is added to the pool, whose first entry is the plan."""

    def __init__(
        self, problem: Problem, axis: Axis, pool: list[Price], choice: SolverChoice
    ) -> None:
        self.sweep, self.axis, self.pool, self.choice = Sweep(problem, axis), axis, pool, choice
        self.lines = [self.sweep.line(known) for known in pool]

    def interval(self) -> Range:
        return Range(low=self.end(0.0), high=self.end(inf), at=self.axis.at)

    def end(self, far: float) -> float | None:
        """Search from the parameter's value towards ``far``; None if the plan is best all the way."""
        if self.axis.at == far or self.extreme(far):
            return None
        points = [self.meeting(line, far) for line in self.lines]
        point = min(
            (point for point in points if point is not None),
            key=lambda point: abs(point - self.axis.at),
            default=None,
        )
        if point is None:
            point = self.nearer(far)
        while point is not None and point != self.axis.at:
            nearer = self.nearer(point)
            if nearer is None:
                break
            point = nearer
        return point

    def nearer(self, far: float) -> float | None:
        """Where a plan that is better at ``far`` meets the plan; None where there is none.

        A cut seen before, in the codecs that are best there, saves a solve.
        """
        world = self.sweep.world(far)
        for head in {known.head for known in self.pool}:
            point = self.meeting(self.add(world, price(world, head)), far)
            if point is not None:
                return point
        return self.meeting(self.solve(world), far)

    def extreme(self, far: float) -> bool:
        """Whether no line can be below the plan's in that direction, as none has a better slope."""
        mine = self.lines[0]
        rounding = ROUNDING * abs(mine.at_0)
        if far > self.axis.at:
            return mine.slope <= self.axis.flattest + rounding
        return mine.slope >= self.axis.steepest - rounding

    def meeting(self, other: Line, far: float) -> float | None:
        """Where the other line falls below the plan's between here and ``far``, if it does."""
        mine, here = self.lines[0], self.axis.at
        falls = mine.slope - other.slope
        if far == inf:
            gains = falls > max(TIE * abs(mine.slope), ROUNDING * abs(mine.at_0))
        else:
            gains = mine.at(far) - other.at(far) > TIE * abs(mine.at(far))
        if not gains:
            return None
        if falls == 0:  # below the plan's by rounding, all along
            return here
        point = (other.at_0 - mine.at_0) / falls
        return max(point, here) if far > here else min(point, here)

    def solve(self, world: Problem) -> Line:
        """Find the best plan of a world."""
        found = optimum(world, self.choice)
        if not found.proven:
            raise _Stopped
        return self.add(world, found.price)

    def add(self, world: Problem, found: Price) -> Line:
        """Keep a plan of another world, in the codecs of the problem's own."""
        self.pool.append(self.sweep.own(world, found))
        self.lines.append(self.sweep.line(self.pool[-1]))
        return self.lines[-1]
