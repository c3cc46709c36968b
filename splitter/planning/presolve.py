"""Make a program smaller without losing its optimum, before a solver sees it.

Five exact rules, repeated until none applies. They rest on all constraints but ``rows`` being arcs
``upper >= lower``; a variable in a row is kept, though others may be merged into it.

1. Variables on a cycle of arcs are equal: merge them.
2. What is above a 1 is 1, what is below a 0 is 0.
3. A variable of positive weight falls to the highest of its lowers: if it has one, they are equal;
   if it has none, it is 0.
4. A variable of negative weight rises to the lowest of its uppers: if it has one, they are equal;
   if it has none, it is 1.
5. An arc that two others imply is dropped, so that rules 3 and 4 apply to more.

Together they leave of a chain of operators its cheapest place to cut, and treat a residual block, whose
shortcut is such an arc, as a chain; of most models almost nothing is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import networkx as nx

from splitter.errors import InfeasibleError
from splitter.planning.program import Program, Row

NEARBY = 32
"""Arcs of a variable up to which its neighbours are looked at again whenever it changes."""


@dataclass(frozen=True)
class Presolved:
    """The smaller program and the way back."""

    program: Program
    place_of: tuple[int, ...]
    """For each variable of the original, its index in the smaller program, or ~value where decided."""

    def expand(self, values: Sequence[int]) -> tuple[int, ...]:
        """Values of the original's variables."""
        return tuple(values[place] if place >= 0 else ~place for place in self.place_of)


def presolve(program: Program) -> Presolved:
    """Apply the rules.

    Raises
    ------
    InfeasibleError
        No values satisfy the fixed variables and the rows.
    """
    merged = _Merger(program)
    merged.join_cycles()
    merged.fix(program.fixed.items())
    merged.reduce()
    return merged.presolved()


_ZERO, _ONE = -1, -2  # constants, as the roots of decided variables


class _Merger:
    def __init__(self, program: Program) -> None:
        count = len(program.weights)
        self.program = program
        self.weights = list(program.weights)
        self.constant = program.constant
        self.uppers: list[set[int]] = [set() for _ in range(count)]
        self.lowers: list[set[int]] = [set() for _ in range(count)]
        for upper, lower in program.arcs:
            self.uppers[lower].add(upper)
            self.lowers[upper].add(lower)
        self.parent = list(range(count))
        self.kept = [False] * count
        for row in program.rows:
            for variable in row.coefficients:
                self.kept[variable] = True
        self.pending: list[int] = []

    def root(self, variable: int) -> int:
        """Follow merges, shortening the path."""
        path = []
        while variable >= 0 and self.parent[variable] != variable:
            path.append(variable)
            variable = self.parent[variable]
        for passed in path:
            self.parent[passed] = variable
        return variable

    def join_cycles(self) -> None:
        # Every other arc leads to a later variable, so that no cycle can be without one of these.
        if all(upper < lower for upper, lower in self.program.arcs):
            return
        for group in nx.strongly_connected_components(nx.DiGraph(self.program.arcs)):
            first, *others = group
            for other in others:
                first = self.merge(first, other)

    def fix(self, values: Iterable[tuple[int, int]]) -> None:
        for variable, value in values:
            self.decide(self.root(variable), value)

    def reduce(self) -> None:
        self.pending = list(range(len(self.weights)))
        while self.pending:
            variable = self.pending.pop()
            if self.parent[variable] == variable and not self.kept[variable]:
                self.step(variable)

    def step(self, variable: int) -> None:
        """Apply rule 5, then 3 or 4; either holds at weight 0."""
        self.drop_implied(variable)
        weight = self.weights[variable]
        for value, bounds, applies in (
            (0, self.lowers[variable], weight >= 0),
            (1, self.uppers[variable], weight <= 0),
        ):
            if applies and len(bounds) <= 1:
                if bounds:
                    self.merge(variable, next(iter(bounds)))
                else:
                    self.decide(variable, value)
                return

    def drop_implied(self, variable: int) -> None:
        for lower in list(self.lowers[variable]):
            if not self.lowers[variable].isdisjoint(self.uppers[lower]):
                self.drop(variable, lower)
        for upper in list(self.uppers[variable]):
            if not self.uppers[variable].isdisjoint(self.lowers[upper]):
                self.drop(upper, variable)

    def drop(self, upper: int, lower: int) -> None:
        self.lowers[upper].discard(lower)
        self.uppers[lower].discard(upper)
        self.pending += (upper, lower)

    def merge(self, one: int, other: int) -> int:
        """Make two variables one, under the name of the one with more arcs; return it."""
        degree = [len(self.uppers[v]) + len(self.lowers[v]) for v in (one, other)]
        keep, gone = (one, other) if degree[0] > degree[1] else (other, one)
        self.detach(gone)
        for upper in self.uppers[gone] - {keep}:
            self.lowers[upper].add(keep)
            self.uppers[keep].add(upper)
        for lower in self.lowers[gone] - {keep}:
            self.uppers[lower].add(keep)
            self.lowers[keep].add(lower)
        self.weights[keep] += self.weights[gone]
        self.kept[keep] = self.kept[keep] or self.kept[gone]
        self.parent[gone] = keep
        self.pending.append(keep)
        if degree[keep == other] <= NEARBY:  # new arcs may imply some of the neighbours'
            self.pending.extend(self.uppers[keep])
            self.pending.extend(self.lowers[keep])
        return keep

    def decide(self, variable: int, value: int) -> None:
        """Give a value to a variable, and with it to all above (1) or below it (0)."""
        constant, beyond = (_ONE, self.uppers) if value else (_ZERO, self.lowers)
        pending = [variable]
        while pending:
            variable = self.root(pending.pop())
            if variable == constant:
                continue
            if variable < 0:
                raise InfeasibleError("no cut satisfies every limit: a node is forced both ways")
            self.detach(variable)
            pending.extend(beyond[variable])
            self.constant += value * self.weights[variable]
            self.parent[variable] = constant

    def detach(self, variable: int) -> None:
        """Take a variable out of its neighbours' arcs, and look at them again."""
        for upper in self.uppers[variable]:
            self.lowers[upper].discard(variable)
        for lower in self.lowers[variable]:
            self.uppers[lower].discard(variable)
        self.pending.extend(self.uppers[variable])
        self.pending.extend(self.lowers[variable])

    def presolved(self) -> Presolved:
        roots = [self.root(variable) for variable in range(len(self.weights))]
        left = [variable for variable, root in enumerate(roots) if root == variable]
        place = {variable: index for index, variable in enumerate(left)}
        place |= {_ZERO: ~0, _ONE: ~1}
        arcs = tuple((place[upper], place[v]) for v in left for upper in self.uppers[v])
        place_of = tuple(place[root] for root in roots)
        rows = (_substituted(row, place_of) for row in self.program.rows)
        return Presolved(
            Program(
                tuple(self.weights[variable] for variable in left),
                self.constant,
                arcs,
                rows=tuple(row for row in rows if row is not None),
            ),
            place_of,
        )


def _substituted(row: Row, place_of: Sequence[int]) -> Row | None:
    """Rewrite a row for merged and decided variables; None where it then always holds."""
    coefficients: dict[int, float] = {}
    at_least = row.at_least
    for variable, coefficient in row.coefficients.items():
        place = place_of[variable]
        if place >= 0:
            coefficients[place] = coefficients.get(place, 0) + coefficient
        else:
            at_least -= coefficient * ~place
    coefficients = {place: value for place, value in coefficients.items() if value}
    if sum(min(value, 0) for value in coefficients.values()) >= at_least:
        return None
    if sum(max(value, 0) for value in coefficients.values()) < at_least:
        raise InfeasibleError("no cut satisfies every limit: too many are excluded")
    return Row(coefficients, at_least)
