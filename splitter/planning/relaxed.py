"""Limits as questions: which of them conflict, what it takes to keep the others, and what a limit is worth.

All three ask for the least that a limited quantity can be, the other limits kept: an integer program with
the quantity in the place of the objective (``least``). So a conflict is answered with figures, and a
limit's price is a difference between two plans, not a dual value of a relaxation.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import msgspec

from splitter.errors import InfeasibleError, SolverTimeError
from splitter.planning.placed import layouts, place, starts
from splitter.planning.placement import Placement, quantity
from splitter.planning.records import Problem, SolverStatus
from splitter.planning.search import SolverChoice
from splitter.planning.settle import Settling
from splitter.planning.terms import LATENCY, QUANTITIES, Limits, amount
from splitter.planning.written import Goal

APART = 1e-6
"""Plans whose objectives differ by less than this part are as good as each other."""

LIMITS = (*QUANTITIES, "loss_limit")
"""Limits of numbers, all of which can be relaxed."""


@dataclass(frozen=True)
class Conflict:
    """A smallest set of limits that no plan keeps together."""

    limits: tuple[str, ...]
    """Fields of ``Limits``, ``loss_limit``, pins, outputs and states as they are given."""
    needed: dict[str, float]
    """Limit -> the least value with which a plan exists that keeps all others."""
    message: str
    """Both in one line."""


@dataclass(frozen=True)
class ShadowPrice:
    """What a binding limit costs."""

    limit: str
    value: float
    reached_at: float
    """The next value at which another plan is better."""
    gain: float
    """By how much the objective is then smaller."""

    @property
    def per_unit(self) -> float:
        """Of the objective, for one unit of the limit, on the way to the next plan."""
        return self.gain / (self.reached_at - self.value)


def least(
    problem: Problem, name: str, choice: SolverChoice, ceiling: float | None = None
) -> tuple[float, Placement] | None:
    """Find the least that a limited quantity can be with all other limits kept; None where they cannot be.

    ``ceiling`` is what the objective may be. Raises PlanError where the solver's time runs out.
    """
    free = without(problem, (name,))
    best: tuple[float, Placement] | None = None
    for layout in layouts(free):
        known = starts(free, layout)
        if len(layout.tiers) == 1:
            found = [one for one in known if ceiling is None or one.objective <= ceiling]
        else:
            try:
                settled = Settling(free, layout, choice, known, Goal(name, ceiling)).best()
            except InfeasibleError:
                continue
            if settled.status is not SolverStatus.OPTIMAL:
                raise SolverTimeError("the solver's time ran out; allow it more")
            found = [] if settled.best is None else [settled.best]
        for one in found:
            value = quantity(free, one, name)
            if best is None or value < best[0]:
                best = value, one
    return best


def conflict(problem: Problem, choice: SolverChoice) -> Conflict | None:
    """Name a smallest set of limits that conflict, and what each of them would have to be.

    Exact: every smaller set of limits was found to be feasible. None where a plan exists.
    """
    given = limits_of(problem)
    if feasible(problem, choice):
        return None
    kept = list(given)
    for limit in given:  # deletion filter: what is left conflicts, and nothing of it can be spared
        fewer = [other for other in kept if other != limit]
        if not feasible(without(problem, set(given) - set(fewer)), choice):
            kept = fewer
    smallest = _smaller(problem, given, len(kept), choice) or tuple(kept)
    needed = {}
    for limit in smallest:
        if limit in LIMITS:
            found = least(problem, limit, choice)
            if found is not None:
                needed[limit] = found[0]
    return Conflict(smallest, needed, _message(problem, smallest, needed))


def shadow_prices(
    problem: Problem, objective: float, choice: SolverChoice
) -> tuple[ShadowPrice, ...]:
    """Price each limit that binds: the objective that the next plan beyond it reaches.

    ``objective`` is of the best plan within the limits.
    """
    found = []
    for name in LIMITS:
        if value_of(problem, name) is None:
            continue
        ceiling = objective - APART * abs(objective)
        reached = least(problem, name, choice, ceiling)
        if reached is None:
            continue
        value = value_of(problem, name)
        assert value is not None
        gain = objective - _best_at(problem, name, reached, choice)
        if reached[0] > value and gain > 0:
            found.append(ShadowPrice(name, value, reached[0], gain))
    return tuple(found)


def limits_of(problem: Problem) -> tuple[str, ...]:
    """Everything that a plan is asked to keep, by name."""
    numbers = [name for name in LIMITS if value_of(problem, name) is not None]
    limits = problem.limits
    pins = [f"pin {str(pin)!r}" for pin in limits.pins]
    outputs = [
        f"output {name!r} on {tier}" for name, tier in limits.outputs.items() if tier != "device"
    ]
    states = [f"state {state.input}={state.output}" for state in limits.states]
    return (*numbers, *pins, *outputs, *states)


def value_of(problem: Problem, name: str) -> float | None:
    """The value of a limit of numbers; None where there is none."""
    value = problem.loss_limit if name == "loss_limit" else getattr(problem.limits, name)
    return None if value is None else float(value)


def without(problem: Problem, dropped: Collection[str]) -> Problem:
    """The same problem with some of its limits left out, by the names of ``limits_of``."""
    limits = problem.limits
    kept = Limits(
        pins=tuple(pin for pin in limits.pins if f"pin {str(pin)!r}" not in dropped),
        outputs={
            name: tier
            for name, tier in limits.outputs.items()
            if f"output {name!r} on {tier}" not in dropped
        },
        states=tuple(s for s in limits.states if f"state {s.input}={s.output}" not in dropped),
        **{name: None if name in dropped else getattr(limits, name) for name in QUANTITIES},
    )
    loss = None if "loss_limit" in dropped else problem.loss_limit
    return replace(problem, limits=kept, loss_limit=loss)


def with_value(problem: Problem, name: str, value: float) -> Problem:
    """The same problem with another value of a limit."""
    if name == "loss_limit":
        return replace(problem, loss_limit=value)
    whole = round(value) if name.endswith("_bytes") else value
    return replace(problem, limits=msgspec.structs.replace(problem.limits, **{name: whole}))


def feasible(problem: Problem, choice: SolverChoice) -> bool:
    """Whether any plan keeps every limit; raises PlanError where the solver's time runs out."""
    try:
        place(replace(problem, objective=LATENCY, bytes_weight=0.0), choice)
    except InfeasibleError:
        return False
    return True


def _smaller(
    problem: Problem, given: Sequence[str], count: int, choice: SolverChoice
) -> tuple[str, ...] | None:
    for size in range(count):
        for some in combinations(given, size):
            if not feasible(without(problem, set(given) - set(some)), choice):
                return some
    return None


def _best_at(
    problem: Problem, name: str, reached: tuple[float, Placement], choice: SolverChoice
) -> float:
    value, found = reached
    known = [found.tier_of]
    return place(with_value(problem, name, value), choice, known=known).best.objective


def _message(problem: Problem, limits: Sequence[str], needed: dict[str, float]) -> str:
    def said(name: str, value: float | None) -> str:
        if value is None:
            return name
        return f"loss of {value:.6g}" if name == "loss_limit" else amount(name, value)

    named = [said(name, value_of(problem, name) if name in LIMITS else None) for name in limits]
    if not named:
        return "no plan is feasible: a tensor that cannot travel, or an operator, leaves no cut"
    verb = "conflict" if len(named) > 1 else "cannot be kept"
    instead = " or ".join(said(name, value) for name, value in needed.items())
    hint = f"; it takes {instead} instead" if instead else "; leave one of them out"
    return f"no plan is feasible: {' and '.join(named)} {verb}{hint}"
