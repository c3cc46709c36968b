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

Where rule 3 or 4 applies, the weight is what a solution pays that differs: the ``tensions``. An objective
is the smaller program's plus theirs, so they tell which variables are equal in all solutions that are
nearly as good.

Together they leave of a chain of operators its cheapest place to cut, and treat a residual block, whose
shortcut is such an arc, as a chain; of most models almost nothing is left.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import networkx as nx

from splitter.errors import InfeasibleError
from splitter.planning.program import Program, Row, Tension

NEARBY = 32
"""Arcs of a variable up to which its neighbours are looked at again whenever it changes."""


@dataclass(frozen=True)
class Presolved:
    """The smaller program and the way back."""

    program: Program
    place_of: tuple[int, ...]
    """For each variable of the original, its index in the smaller program, or ~value where decided."""
    stands_for: tuple[int, ...]
    """The variable of the original whose value each variable of the smaller program has."""
    tensions: tuple[Tension, ...]
    """By variables of the original: what its solutions cost beyond the smaller program's objective."""

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


def ties(program: Program) -> tuple[int, ...]:
    """Apply rules 1 and 2 alone, which hold for every solution: equal numbers are equal variables.

    ``ZERO`` and ``ONE`` are those that are decided; raises InfeasibleError as ``presolve`` does.
    """
    merged = _Merger(program)
    merged.join_cycles()
    merged.fix(program.fixed.items())
    return tuple(merged.root(variable) for variable in range(len(program.weights)))


ZERO, ONE = -1, -2  # constants, as the roots of decided variables


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
        self.stands_for = list(range(count))
        self.tensions: list[Tension] = []
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
                self.charge(variable, value)
                if bounds:
                    self.merge(variable, next(iter(bounds)))
                else:
                    self.decide(variable, value)
                return

    def charge(self, variable: int, value: int) -> None:
        """Note what a solution pays in which the variable is not what rule 3 (0) or 4 (1) makes it."""
        bounds = self.uppers[variable] if value else self.lowers[variable]
        other = self.stands_for[next(iter(bounds))] if bounds else None
        pair = (other, self.stands_for[variable])
        weight = abs(self.weights[variable])
        if weight:
            self.tensions.append(Tension(weight, *(pair if value else pair[::-1])))

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
        """Make a variable equal to another, under the name of the one with more arcs; return it."""
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
        self.stands_for[keep] = self.stands_for[other]
        self.pending.append(keep)
        if degree[keep == other] <= NEARBY:  # new arcs may imply some of the neighbours'
            self.pending.extend(self.uppers[keep])
            self.pending.extend(self.lowers[keep])
        return keep

    def decide(self, variable: int, value: int) -> None:
        """Give a value to a variable, and with it to all above (1) or below it (0)."""
        constant, beyond = (ONE, self.uppers) if value else (ZERO, self.lowers)
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
        place |= {ZERO: ~0, ONE: ~1}
        arcs = tuple((place[upper], place[v]) for v in left for upper in self.uppers[v])
        place_of = tuple(place[root] for root in roots)
        unbounded = frozenset(place_of[v] for v in self.program.unbounded)
        continuous = self.program.continuous | self.program.unbounded
        # Where a whole number was merged with a continuous variable, both are whole.
        integral = {place for v, place in enumerate(place_of) if v not in continuous} | unbounded
        rows = (_substituted(row, place_of, unbounded) for row in self.program.rows)
        return Presolved(
            Program(
                tuple(self.weights[variable] for variable in left),
                self.constant,
                arcs,
                rows=tuple(row for row in rows if row is not None),
                continuous=frozenset(range(len(left))) - integral,
                unbounded=unbounded,
            ),
            place_of,
            tuple(self.stands_for[variable] for variable in left),
            tuple(self.tensions),
        )


def _substituted(row: Row, place_of: Sequence[int], unbounded: Collection[int]) -> Row | None:
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
    if coefficients.keys().isdisjoint(unbounded) and (
        sum(max(value, 0) for value in coefficients.values()) < at_least
    ):
        raise InfeasibleError("no cut satisfies every limit: too many are excluded")
    return Row(coefficients, at_least)
