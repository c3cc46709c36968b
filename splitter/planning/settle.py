"""The best placement on one layout under every limit, by solving with rows that are added where they bind.

Limits of terms are rows from the start. Memory is one row for each place of the order, tiers that must not
be empty one each; both are added where a solution breaks them, and the program is solved again. What is
left to a solver's tolerance, a limit broken by less than it notices, is excluded as a placement.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf

from splitter.errors import InfeasibleError
from splitter.planning.layout import Layout
from splitter.planning.limits import forbids
from splitter.planning.memory import held_of, live_of
from splitter.planning.memory_rows import MemoryRows
from splitter.planning.placement import (
    MEMORY,
    Placement,
    faults,
    price_placement,
    quantity,
    remembering,
)
from splitter.planning.presolve import presolve
from splitter.planning.program import Row
from splitter.planning.records import CodecCost, Problem, SolverStatus
from splitter.planning.search import Progress, SolverChoice
from splitter.planning.solver import Solved, solve
from splitter.planning.sums import Sum
from splitter.planning.tiered import Tiered
from splitter.planning.ways import allowed
from splitter.planning.work import Placed, Sent
from splitter.planning.written import Goal, write

AGREEMENT = 1e-6
"""How far solver and cost function may differ, relative to the objective's size."""

FULLEST = 12
"""Places of the order, at most, whose rows of memory are added after one solve."""


@dataclass(frozen=True)
class Settled:
    """What is known of a layout."""

    best: Placement | None
    """None where nothing is feasible, or nothing was found in time."""
    bound: float
    """No placement costs less; infinite where none is feasible."""
    status: SolverStatus
    size: tuple[int, int]


class Settling:
    """One layout of a problem, with what was learnt about it.

    It is not looked at further where nothing on it can be below ``beaten``.
    """

    def __init__(
        self,
        problem: Problem,
        layout: Layout,
        choice: SolverChoice,
        known: Sequence[Placement] = (),
        goal: Goal | None = None,
        beaten: float = inf,
    ) -> None:
        self.problem, self.layout, self.choice, self.goal = problem, layout, choice, goal
        self.beaten = beaten
        self.known = [found for found in known if self.keeps(found)]
        self.size = self._size(known)
        self.tiered = Tiered(problem, layout, self.size)
        if goal is not None and goal.name in MEMORY:
            self.goal = replace(goal, memory=self.tiered.largest())
        self.memory: dict[int, MemoryRows] = {}
        self.rows: list[Row] = []
        self.learnt: set[tuple[str, int]] = set()
        self.started = time.monotonic()

    def best(self, excluded: Iterable[Placement] = ()) -> Settled:
        """Solve until a solution keeps everything; never raises InfeasibleError."""
        barred = [self.excluding(placement) for placement in excluded]
        size, bound = (0, 0), -inf
        while True:
            left = self._left()
            try:
                program = write(self.tiered, (*self.rows, *barred), self.goal)
                size = program.size
                if left is not None and left <= 0:
                    return self._stopped(bound, size)
                small = presolve(program)
                solved = solve(
                    small.program,
                    self.choice.name,
                    left,
                    near_cut=False,
                    cutoff=self.beaten,
                    watch=None if self.choice.report is None else self._tell,
                )
            except InfeasibleError:
                return self._settled(inf, size)
            bound = max(bound, solved.bound)
            if bound >= self.beaten:  # another layout has a better one
                return self._settled(bound, size)
            if solved.values is not None:
                solved = replace(solved, values=small.expand(solved.values))
            if solved.values is None:
                return self._stopped(bound, size)
            found = self._read(solved)
            if self._learn(solved, found):
                continue
            if found is None:  # broken by less than the solver notices, in any codecs
                barred.append(self._excluding_places(self._places(solved)))
                continue
            if self.keeps(found):
                self.known.append(found)
            else:  # but for the codecs it was: another may keep the objective below its ceiling
                barred.append(self._excluding_places(found.place_of))
                continue
            if solved.status is not SolverStatus.OPTIMAL:
                return self._stopped(bound, size)
            return self._settled(bound, size)

    def keeps(self, placement: Placement) -> bool:
        """Whether a placement keeps every limit, and the objective below its ceiling."""
        ceiling = None if self.goal is None else self.goal.ceiling
        if ceiling is not None and placement.objective > allowed(ceiling):
            return False
        return not faults(self.problem, placement)

    def value(self, placement: Placement) -> float:
        """What is minimised."""
        if self.goal is None:
            return placement.objective
        return quantity(self.problem, placement, self.goal.name)

    def excluding(self, placement: Placement) -> Row:
        """The row that every placement but this one satisfies."""
        return self._excluding_places(placement.place_of)

    def _settled(self, bound: float, size: tuple[int, int]) -> Settled:
        best = min(self.known, key=self.value, default=None)
        if best is not None:
            value = self.value(best)
            bound = min(bound, value)
            if value - bound <= AGREEMENT * max(abs(value), self.size):
                bound = value
        return Settled(best, bound, SolverStatus.OPTIMAL, size)

    def _stopped(self, bound: float, size: tuple[int, int]) -> Settled:
        best = min(self.known, key=self.value, default=None)
        if best is not None:
            bound = min(bound, self.value(best))
        return Settled(best, bound, SolverStatus.FEASIBLE, size)

    def _tell(self, best: float | None, bound: float) -> None:
        """Report on a long solve: of a plan that the solver has, or of the best that was priced."""
        assert self.choice.report is not None
        known = [self.value(found) for found in self.known]
        objective = min([*known, *([] if best is None else [best])], default=None)
        self.choice.report(Progress(time.monotonic() - self.started, objective, bound))

    def _left(self) -> float | None:
        if self.choice.time_limit_s is None:
            return None
        return self.choice.time_limit_s - (time.monotonic() - self.started)

    def _size(self, known: Iterable[Placement]) -> float:
        """What the objective is about, for the solver's tolerances."""
        sizes = [abs(self.value(found)) for found in known]
        if any(sizes):
            return min(size for size in sizes if size)
        totals = [sum(map(abs, tier.node_s.values())) for tier in self.layout.tiers]
        return min(totals) or 1.0

    def _places(self, solved: Solved) -> dict[str, int]:
        assert solved.values is not None
        found = {}
        for node in self.problem.graph.nodes:
            for place in range(len(self.layout.tiers)):
                upper, lower = self.tiered.on(node.name, place)
                if _value(solved, upper) and not _value(solved, lower):
                    found[node.name] = place
        return found

    def _read(self, solved: Solved) -> Placement | None:
        """Price what the solver found; in other codecs where its own break a limit, None where all do."""
        places = self._places(solved)
        found = price_placement(self.problem, self.layout, places, self._sent(solved, places))
        if "loss_limit" in (broken := faults(self.problem, found)) or self._codecs_at_fault(broken):
            try:
                found = price_placement(self.problem, self.layout, places)
            except InfeasibleError:
                return None
        return found

    def _codecs_at_fault(self, broken: Sequence[str]) -> bool:
        return any(name not in MEMORY for name in broken)

    def _sent(self, solved: Solved, places: dict[str, int]) -> Sent:
        placed = Placed(self.problem, self.layout, places)
        found: dict[str, dict[int, CodecCost]] = {}
        for tensor, hops in placed.crossing.items():
            options = self.tiered.options(tensor)
            for hop in hops:
                pairs = [self.tiered.sent(tensor, hop, k) for k in range(len(options))]
                on = [_value(solved, a) - _value(solved, b) for a, b in pairs]
                found.setdefault(tensor, {})[hop] = options[on.index(1)]
        return found

    def _learn(self, solved: Solved, found: Placement | None) -> bool:
        """Add rows that the solution breaks and that are not there yet; whether there were any."""
        places = self._places(solved)
        before = len(self.rows)
        for place in range(len(self.layout.tiers)):
            if place not in self.layout.devices and place not in places.values():
                self._demand_running(place)
        if found is not None:
            for name in faults(self.problem, found):
                if name in MEMORY:
                    self._demand_memory(name, places, getattr(self.problem.limits, name))
            if self.goal is not None and self.goal.memory is not None:
                assert solved.objective is not None
                self._demand_memory(self.goal.name, places, solved.objective * (1 + AGREEMENT))
        return len(self.rows) > before

    def _demand_running(self, place: int) -> None:
        if ("running", place) in self.learnt or self._server_may_idle(place):
            return
        self.learnt.add(("running", place))
        found = Sum()
        for node in self.problem.graph.nodes:
            found.differ(self.tiered.on(node.name, place), -1.0)
        self.rows.append(found.at_most(-1.0, 1.0))

    def _server_may_idle(self, place: int) -> bool:
        wanted = "server" in self.problem.limits.outputs.values()
        return place == self.tiered.last and wanted

    def _demand_memory(self, name: str, places: dict[str, int], most: float) -> None:
        limit = getattr(self.problem.limits, name)
        for place in remembering(self.problem, self.layout, name):
            taken = held_of(self.problem, self.layout, places, place)
            live = live_of(self.problem, self.layout, places, place)
            over = [p for p, nbytes in enumerate(live) if taken + nbytes > most]
            fullest = sorted(over, key=lambda p: -live[p])[:FULLEST]
            if place not in self.memory:
                largest = -1 if self.goal is None else self.goal.memory or 0
                self.memory[place] = MemoryRows(self.tiered, place, limit, largest)
            for position in fullest:
                if (f"{name}{place}", position) not in self.learnt:
                    self.learnt.add((f"{name}{place}", position))
                    self.rows.append(self.memory[place].row(position))

    def _excluding_places(self, places: dict[str, int] | object) -> Row:
        assert isinstance(places, dict)
        found = Sum()
        for (name, hop), variable in self.tiered.x.items():
            place = places[name]
            before = place <= hop if not self.layout.is_star else place < self.tiered.last
            found.add(variable, 1.0 if before else -1.0)
        ones = sum(weight > 0 for weight in found.terms.values())
        return found.at_most(ones - 1.0, 1.0)


def _value(solved: Solved, variable: int) -> int:
    assert solved.values is not None
    return solved.values[variable] if variable >= 0 else ~variable


def price_all(
    problem: Problem, layout: Layout, placements: Iterable[dict[str, int]]
) -> list[Placement]:
    """Price those that keep every limit."""
    found = []
    for places in placements:
        if forbids(problem, Placed(problem, layout, places)):
            continue
        try:
            priced = price_placement(problem, layout, places)
        except InfeasibleError:
            continue
        if not faults(problem, priced):
            found.append(priced)
    return found
