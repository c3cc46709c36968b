"""The best placement over three tiers or more, over several devices, or over two tiers: one answer for all.

Of a chain of tiers each choice of those that run something is a layout of its own: its links follow from it.
There are few (the device always counts, as inputs are born there), and a layout whose bound is above the
best known is not looked at further.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import inf

from splitter.errors import InfeasibleError, SolverTimeError
from splitter.planning.homes import homes
from splitter.planning.layout import Layout, chain, side_by_side
from splitter.planning.placement import Placement
from splitter.planning.records import Problem, SolverReport, SolverStatus
from splitter.planning.search import SolverChoice
from splitter.planning.settle import Settled, Settling, price_all
from splitter.planning.work import Placed

PREFIXES = 24
"""Cuts along the node order that are priced before anything is solved, at most."""


WIDE = 6
"""Tensors that cross at most in those: codecs of many under shared limits take long to choose."""


@dataclass(frozen=True)
class Placing:
    """A placement, and what the solver says of it."""

    best: Placement
    report: SolverReport

    @property
    def proven(self) -> bool:
        """Nothing is better."""
        return self.report.status is SolverStatus.OPTIMAL


def place(
    problem: Problem,
    choice: SolverChoice,
    *,
    known: Iterable[Mapping[str, int]] = (),
    excluded: Sequence[Placement] = (),
) -> Placing:
    """Find the best placement; where the time runs out, the best at hand.

    ``known`` are placements by numbers of tiers. ``excluded`` are not to be found again.

    Raises
    ------
    InfeasibleError
        No placement keeps every limit.
    PlanError
        The solver is not installed, or its time ran out with nothing at hand.
    """
    start = time.perf_counter()
    search = _Search(problem, choice, excluded)
    search.begin(known)
    for layout in search.layouts():
        search.look(layout, start)
    return search.placing(start)


def layouts(problem: Problem) -> Iterator[Layout]:
    """Every choice of tiers in use, the fewest first."""
    if problem.sources:
        yield side_by_side(problem)
        return
    last = len(problem.tiers) - 1
    wanted = "server" in problem.limits.outputs.values()
    for count in range(last + 1):
        for others in combinations(range(1, last + 1), count):
            if not wanted or last in others:
                yield chain(problem, (0, *others))


class _Search:
    def __init__(
        self, problem: Problem, choice: SolverChoice, excluded: Sequence[Placement]
    ) -> None:
        self.problem, self.choice, self.excluded = problem, choice, excluded
        self.barred = {_key(placement.tier_of) for placement in excluded}
        self.best: Placement | None = None
        self.bound, self.status = inf, SolverStatus.OPTIMAL
        self.size = (0, 0)

    def layouts(self) -> Iterator[Layout]:
        return layouts(self.problem)

    def begin(self, known: Iterable[Mapping[str, int]]) -> None:
        """Price what is at hand: cuts along the node order, and what the caller knows."""
        self.at_hand: dict[tuple[int, ...], list[Placement]] = {}
        wanted = list(known)
        for layout in self.layouts():
            places = [
                {name: layout.numbers.index(k) for name, k in tier_of.items()}
                for tier_of in wanted
                if set(tier_of.values()) <= set(layout.numbers)
            ]
            priced = [
                found
                for found in (
                    *starts(self.problem, layout),
                    *price_all(self.problem, layout, places),
                )
                if _key(found.tier_of) not in self.barred and is_full(found, self.problem)
            ]
            self.at_hand[layout.numbers] = priced
            for found in priced:
                self.offer(found)

    def look(self, layout: Layout, start: float) -> None:
        if len(layout.tiers) == 1:  # priced already
            return
        left = None
        if self.choice.time_limit_s is not None:
            left = max(self.choice.time_limit_s - (time.perf_counter() - start), 0.0)
        choice = replace(self.choice, time_limit_s=left)
        numbers = layout.numbers
        known = [found for found in self.at_hand[numbers] if found.place_of]
        excluded = [placement for placement in self.excluded if placement.layout.numbers == numbers]
        try:
            beaten = inf if self.best is None else self.best.objective
            settling = Settling(self.problem, layout, choice, known, beaten=beaten)
            settled = settling.best(excluded)
        except InfeasibleError:
            return
        self.learn(settled)

    def learn(self, settled: Settled) -> None:
        self.size = max(self.size, settled.size)
        self.bound = min(self.bound, settled.bound)
        if settled.status is not SolverStatus.OPTIMAL:
            self.status = settled.status
        if settled.best is not None and is_full(settled.best, self.problem):
            self.offer(settled.best)

    def floor(self) -> float:
        """What no plan is below, before anything is solved."""
        devices = [self.problem.device, *(source.tier for source in self.problem.sources)]
        tiers = (*devices, *self.problem.tiers)
        seconds = [s for tier in tiers for s in (tier.base_s, *tier.node_s.values())]
        return 0.0 if min(seconds) >= 0 else -inf

    def offer(self, found: Placement) -> None:
        if self.best is None or found.objective < self.best.objective:
            self.best = found

    def placing(self, start: float) -> Placing:
        if self.best is None:
            if self.status is SolverStatus.OPTIMAL:
                raise InfeasibleError("no plan satisfies every limit")
            raise SolverTimeError("the solver's time ran out before it found a plan; allow it more")
        objective = self.best.objective
        bound = objective
        if self.status is not SolverStatus.OPTIMAL:
            bound = min(max(self.bound, self.floor()), objective)
        return Placing(
            self.best,
            SolverReport(
                name=self.choice.name,
                status=self.status,
                objective=objective,
                bound=bound,
                gap=(objective - bound) / abs(objective) if objective > bound else 0.0,
                seconds=time.perf_counter() - start,
                variables=self.size[0],
                constraints=self.size[1],
            ),
        )


def starts(problem: Problem, layout: Layout) -> list[Placement]:
    """Price heads along the order of the nodes, those that keep every limit; of two tiers at most."""
    names = list(problem.graph.node_of)
    last = len(layout.tiers) - 1
    if last == 0 or not names:
        places = [dict.fromkeys(names, 0)]
    elif layout.is_star:
        home_of = homes(problem)
        places = [dict.fromkeys(names, last)]
        at_home = {name: home for name in names if (home := home_of[name]) is not None}
        if len(at_home) == len(names):
            places.append(at_home)
    elif last == 1:
        step = max(len(names) // PREFIXES, 1)
        places = [
            {name: int(i >= cut) for i, name in enumerate(names)}
            for cut in sorted({*range(0, len(names), step), len(names) - 1})
        ]
    else:
        places = []
    places = [found for found in places if len(Placed(problem, layout, found).crossing) <= WIDE]
    return [found for found in price_all(problem, layout, places) if is_full(found, problem)]


def is_full(placement: Placement, problem: Problem) -> bool:
    """Whether every tier of the layout but a device runs something, as its links follow from that."""
    layout = placement.layout
    idle = set(range(len(layout.devices), len(layout.tiers))) - set(placement.place_of.values())
    if "server" in problem.limits.outputs.values():
        idle.discard(len(layout.tiers) - 1)
    return not idle or layout.is_star


def _key(tier_of: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(tier_of.items()))
