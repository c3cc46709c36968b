"""The cheapest cut of a problem, with its proof."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import msgspec

from splitter.errors import InfeasibleError, SolverTimeError
from splitter.planning.cost import Price, price, target_of
from splitter.planning.layout import chain, two_tiers
from splitter.planning.limits import smallest_head, why_not
from splitter.planning.placed import place
from splitter.planning.placement import Placement, places_of_head, price_placement
from splitter.planning.records import Problem, SolverReport, SolverStatus
from splitter.planning.search import Outcome, Search, SolverChoice
from splitter.planning.terms import QUANTITIES, Limits

TIE = 1e-9
"""Costs closer than this, relative to the objective, are equal."""


@dataclass(frozen=True)
class Optimum:
    """A cut, priced by the cost function, and what the solver says of it."""

    price: Price
    report: SolverReport

    @property
    def proven(self) -> bool:
        """Nothing is cheaper."""
        return self.report.status is SolverStatus.OPTIMAL


def optimum(problem: Problem, choice: SolverChoice, known: Iterable[Price] = ()) -> Optimum:
    """Find the cheapest cut; where the time runs out, the cheapest at hand.

    ``known`` are cuts with the prices that they have here; the better they are, the less is looked at.

    Raises
    ------
    InfeasibleError
        No cut can be carried out; the message names the limit that binds.
    PlanError
        The solver is not installed, or it and the cost function do not agree, or its time ran out with no
        cut at hand.
    """
    start = time.perf_counter()
    smallest = smallest_head(problem)
    if is_plain(problem):
        return _optimum(problem, choice, known, (smallest, start))
    relaxed = replace(problem, limits=structural(problem.limits))
    heads = [price.head for price in known]
    if is_plain(relaxed):
        found = _optimum(relaxed, choice, (), (smallest, start))
        if found.proven and not why_not(problem, found.price.head):
            priced = price(problem, found.price.head)
            if priced.objective <= found.price.objective + TIE * abs(found.price.objective):
                return replace(found, price=priced)
        heads.append(found.price.head)
    placing = place(problem, choice, known=[places_of_head(problem, head) for head in heads])
    return Optimum(as_price(problem, placing.best), placing.report)


def is_plain(problem: Problem) -> bool:
    """Whether a minimum cut with an accuracy budget answers it: no limit of a number, no largest of sums."""
    numbers = any(getattr(problem.limits, name) is not None for name in QUANTITIES)
    return not numbers and not target_of(problem, two_tiers(problem)).largest


def structural(limits: Limits) -> Limits:
    """Those that say where nodes, outputs and states are."""
    return msgspec.structs.replace(limits, **dict.fromkeys(QUANTITIES))


def as_price(problem: Problem, placement: Placement) -> Price:
    """A placement on two tiers as a cut."""
    if len(placement.layout.tiers) == 1:
        return price(problem, placement.place_of.keys())
    codecs = {tensor: choice[0] for tensor, choice in placement.sent.items()}
    return price(problem, placement.head, codecs)


def as_placement(problem: Problem, plan: Price) -> Placement:
    """A cut as a placement on the tiers that it uses."""
    places = places_of_head(problem, plan.head)
    if len(plan.head) == len(places):
        return price_placement(problem, chain(problem, (0,)), places)
    sent = {tensor: {0: codec} for tensor, codec in plan.codecs.items()}
    return price_placement(problem, two_tiers(problem), places, sent)


def _optimum(
    problem: Problem,
    choice: SolverChoice,
    known: Iterable[Price],
    begun: tuple[frozenset[str], float],
) -> Optimum:
    smallest, start = begun
    whole = frozenset(problem.graph.node_of)
    search = Search(problem, choice)
    search.known.update((price.head, price) for price in known)
    found = search.unlimited()
    if found.solved.values is not None and not search.agreed(found):
        _note_feasible(search, (smallest, whole))
        found = _within_budget(search)
    best = found.price if found.solved.values is not None else None
    if best is None:
        _note_feasible(search, (smallest, whole))
        best = _at_hand(search)
    return Optimum(best, _report(search, found, (best, start)))


def _within_budget(search: Search) -> Outcome:
    try:
        return search.settle(search.narrow(0))
    except InfeasibleError as exc:
        limit = search.problem.loss_limit
        within = "" if limit is None else f" of {limit:g}"
        raise InfeasibleError(
            f"no cut is feasible: each loses more than the limit{within} allows, or sends a combination "
            "of codecs that was measured and lost too much; allow more loss, or calibrate lossless codecs"
        ) from exc


def _note_feasible(search: Search, heads: tuple[frozenset[str], ...]) -> None:
    for head in heads:
        if not why_not(search.problem, head):
            search.note(head)


def _at_hand(search: Search) -> Price:
    if not search.known:
        raise SolverTimeError("the solver's time ran out before it found a cut; allow it more")
    return min(search.known.values(), key=lambda known: known.objective)


def _report(search: Search, found: Outcome, answer: tuple[Price, float]) -> SolverReport:
    best, start = answer
    variables, constraints = found.program.size
    proven = found.solved.status is SolverStatus.OPTIMAL
    objective = best.objective
    bound = objective if proven else min(max(found.solved.bound, search.bound), objective)
    return SolverReport(
        name=search.choice.name,
        status=found.solved.status,
        objective=objective,
        bound=bound,
        gap=(objective - bound) / (abs(objective) or 1.0) if objective > bound else 0.0,
        seconds=time.perf_counter() - start,
        variables=variables,
        constraints=constraints,
    )
