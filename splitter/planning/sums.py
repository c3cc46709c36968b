"""Weighted sums of variables of a program, as they grow."""

from __future__ import annotations

from splitter.planning.program import Row

ZERO, ONE = -1, -2
"""Constants, in the place of a variable."""

Difference = tuple[int, int]
"""Two variables: 1 where the first is 1 and the second is 0."""


class Sum:
    """A weighted sum of variables, as it grows."""

    def __init__(self) -> None:
        self.terms: dict[int, float] = {}
        self.constant = 0.0

    def add(self, variable: int, weight: float) -> None:
        """Add a multiple of a variable, or of a constant."""
        if variable == ONE:
            self.constant += weight
        elif variable != ZERO and weight:
            self.terms[variable] = self.terms.get(variable, 0.0) + weight

    def differ(self, pair: Difference, weight: float) -> None:
        """Add a multiple of a difference."""
        self.add(pair[0], weight)
        self.add(pair[1], -weight)

    def plus(self, other: Sum, weight: float) -> None:
        """Add a multiple of another sum."""
        self.constant += weight * other.constant
        for variable, value in other.terms.items():
            self.add(variable, weight * value)

    def at_most(self, bound: float, size: float = 0.0) -> Row:
        """The row that keeps it so, in parts of ``size``, as solvers know absolute tolerances only."""
        scale = size or max([abs(bound), *map(abs, self.terms.values())]) or 1.0
        terms = {v: -value / scale for v, value in self.terms.items() if value}
        return Row(terms, (self.constant - bound) / scale)
