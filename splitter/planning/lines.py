"""Costs that are lines in one parameter from 0 to infinity, and their lower envelope."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

TIE = 1e-9
"""Costs closer than this, relative to a plan's, are equal."""

ROUNDING = 1e-12
"""Slopes closer than this, relative to a plan's cost, differ by rounding alone."""


@dataclass(frozen=True)
class Line:
    """A plan's cost along an axis."""

    at_0: float
    slope: float

    def at(self, value: float) -> float:
        """The cost at a value of the parameter; at infinity how fast it rises."""
        return self.slope if value == inf else self.at_0 + self.slope * value


class Stretch(NamedTuple):
    """Where one line is the lowest."""

    low: float
    high: float
    line: int
    """Its place among the lines."""


def lowest(lines: Sequence[Line]) -> list[Stretch]:
    """Find the lower envelope; a stretch on which a line is lower by less than ``TIE`` is left out."""
    if not lines:
        return []
    current = min(range(len(lines)), key=lambda i: (lines[i].at_0, lines[i].slope))
    here, found = 0.0, list[Stretch]()
    while True:
        point, after = _next(lines, current, here)
        if after is None:
            return [*found, Stretch(here, inf, current)]
        mine = lines[current]
        if lines[after].at(here) - mine.at(here) > TIE * abs(mine.at(here)):
            found.append(Stretch(here, point, current))
            here = point
        current = after


def _next(lines: Sequence[Line], current: int, here: float) -> tuple[float, int | None]:
    """Where the first flatter line falls below the current one; of those that do so there, the flattest."""
    mine = lines[current]
    point, after = inf, None
    for index, line in enumerate(lines):
        falls = mine.slope - line.slope
        if falls <= max(TIE * abs(mine.slope), ROUNDING * abs(mine.at_0)):
            continue
        meeting = max(here, (line.at_0 - mine.at_0) / falls)
        if meeting < point or (
            after is not None and meeting == point and line.slope < lines[after].slope
        ):
            point, after = meeting, index
    return point, after


def bound(proven: Mapping[float, float], value: float) -> float:
    """The least that a concave function can be at a value, where it is known at others.

    ``proven`` is by value of the parameter; at infinity it is the slope that the function falls to.
    """
    if value in proven:
        return proven[value]
    below = max((known for known in proven if known <= value), default=None)
    above = min((known for known in proven if known > value), default=None)
    if below is None or above is None:
        return -inf
    if above == inf:
        return proven[below] + proven[inf] * (value - below)
    share = (value - below) / (above - below)
    return (1 - share) * proven[below] + share * proven[above]


def near(lines: Sequence[Line], stretches: Sequence[Stretch], mine: int, slack: float) -> Stretch:
    """Where a stretch's line costs at most ``1 + slack`` times the lowest.

    The lowest is concave, so that this is an interval around the stretch; no wider than the stretch where
    costs are not positive.
    """
    place = next(i for i, stretch in enumerate(stretches) if stretch.line == mine)
    low, high = stretches[place].low, stretches[place].high
    for stretch in stretches[place + 1 :]:
        high = _until(lines[mine], lines[stretch.line], slack, (stretch.low, stretch.high))
        if high < stretch.high:
            break
    for stretch in reversed(stretches[:place]):
        low = _until(lines[mine], lines[stretch.line], slack, (stretch.high, stretch.low))
        if low > stretch.low:
            break
    return Stretch(low, high, mine)


def _until(line: Line, best: Line, slack: float, ends: tuple[float, float]) -> float:
    """From the first end towards the other, how far the line is within the slack of the best one."""
    start, far = ends
    excess = Line(line.at_0 - (1 + slack) * best.at_0, line.slope - (1 + slack) * best.slope)
    if best.at(start) <= 0:
        return start
    if excess.at(far) <= 0:
        return far
    point = -excess.at_0 / excess.slope if excess.slope else far
    return min(max(point, min(ends)), max(ends))
