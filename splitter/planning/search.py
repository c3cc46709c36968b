"""The solves behind a plan and its alternatives, and what they teach about cuts never looked at.

The accuracy budget comes last. First each tensor travels in its cheapest codec that keeps the budget by
itself: a minimum cut. Where the codecs of what it cuts do not keep the budget together, losses are charged
for (``quality.at_multiplier``), at the multiplier that makes the cuts seen so far as dear as can be. Each
such solve gives a bound, a cut to compare with, and from both what no better cut does (``narrowing``).
After a few, little is left to be solved with the rows of the budget.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf

from splitter.errors import InfeasibleError, PlanError
from splitter.planning.cost import Price, fronts_of, placed_at, price
from splitter.planning.knapsack import Allowance, Front, multiplier
from splitter.planning.layout import two_tiers
from splitter.planning.narrowing import crossable, dual_of, narrowed
from splitter.planning.presolve import Presolved, presolve
from splitter.planning.program import Program, Row, build, head_of
from splitter.planning.quality import Budgeted, at_multiplier, with_budget
from splitter.planning.records import Problem
from splitter.planning.solver import Solved, solve

AGREEMENT = 1e-6
"""How far solver and cost function may differ, relative to the objective."""

ROUNDING = 1e-12
"""The same, relative to the sum of all weights: what is left of an objective that is 0."""

ROUNDS = 4
"""Relaxations at most before the rows of the budget are added."""

FEW = 60
"""Options of tensors that may still cross, from which on another relaxation is no cheaper than the rows."""


@dataclass(frozen=True)
class Progress:
    """How far a long solve has come."""

    seconds: float
    objective: float | None
    """Of the best plan so far."""
    bound: float
    """No plan costs less."""


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class SolverChoice:
    """Which solver, and how long each solve may take."""

    name: str = "cbc"
    time_limit_s: float | None = None
    until: float | None = None
    """By ``time.monotonic()``, when all solves of one question have to end."""
    report: Report | None = None
    """Called now and then while a program with limits, a stream or more tiers is solved by CBC, from a
    thread of its own."""

    def left_s(self) -> float | None:
        """How long the next solve may take."""
        if self.until is None:
            return self.time_limit_s
        left = max(self.until - time.monotonic(), 0.0)
        return left if self.time_limit_s is None else min(left, self.time_limit_s)


@dataclass(frozen=True)
class Outcome:
    """What a solve settled; without a cut where its time ran out."""

    price: Price | None
    program: Program
    solved: Solved


@dataclass(frozen=True)
class Narrowed:
    """A program with more arcs, and the tensors that these let cross."""

    program: Program
    tensors: Sequence[str]


class Search:
    """The cuts of a problem priced so far, and the least that any other can cost."""

    def __init__(self, problem: Problem, choice: SolverChoice) -> None:
        self.problem, self.choice = problem, choice
        self.allowance = Allowance.of(problem)
        self.fronts = fronts_of(problem, problem.graph.tensors, self.allowance)
        self.program = build(problem, self.fronts)
        self.known: dict[frozenset[str], Price] = {}
        self.heads: list[tuple[float, Sequence[Front]]] = []
        # Those whose cheapest codecs lose too much.
        self.over: list[tuple[float, Sequence[Front]]] = []
        self.bound = -inf
        self.charge = 0.0
        self.root: tuple[Presolved, Solved] | None = None

    @property
    def limited(self) -> bool:
        """Whether a cut can cost more than its tensors in their cheapest codecs."""
        return self.allowance.limit < inf or bool(self.allowance.combinations)

    def unlimited(self, rows: Sequence[Row] = ()) -> Outcome:
        """Find the cut that would be the best without the budget; its price is within it.

        Raises
        ------
        InfeasibleError
            The rows exclude every cut.
        PlanError
            The solver and the cost function do not agree, which the budget does not explain.
        """
        program = replace(self.program, rows=(*self.program.rows, *rows))
        small, reduced = self._reduced(program)
        solved = _expanded(small, reduced)
        if solved.values is None:
            return Outcome(None, program, solved)
        if not rows:
            self.root = small, reduced
        priced = self.note(head_of(self.problem, solved.values))
        outcome = Outcome(priced, program, solved)
        if not self.agreed(outcome) and not self._dearer(priced, solved):
            raise _disagreement(priced, solved)
        return outcome

    def note(self, head: frozenset[str]) -> Price | None:
        """Price a cut that the arcs allow, and remember it; None where no codecs keep the budget."""
        if head in self.known:
            return self.known[head]
        try:
            found = price(self.problem, head)
        except InfeasibleError:
            return None
        self.known[head] = found
        return found

    def agreed(self, outcome: Outcome) -> bool:
        """Whether the cost function gives the objective that the solver reports."""
        return _agree(outcome.price, outcome.solved, outcome.program)

    def charged(self, rows: Sequence[Row]) -> Outcome:
        """Find the best cut where losses are charged for as they last were: no other costs less.

        Its price is not what the solver minimised, but within the budget; raises InfeasibleError where the
        rows exclude every cut.
        """
        limit = self.allowance.limit if self.charge else 0.0
        program = at_multiplier(self.program, self.fronts, self.charge, limit)
        program = replace(program, rows=(*program.rows, *rows))
        solved = _expanded(*self._reduced(program))
        found = None if solved.values is None else self.note(head_of(self.problem, solved.values))
        return Outcome(found, program, solved)

    def narrow(self, rank: int) -> Narrowed:
        """Leave of the program what may hold one of the ``rank`` + 1 best cuts."""
        program, tensors = self.program, list(self.program.sent)
        self.charge = 0.0
        # A best cut that keeps the budget free of charge says nothing of where to look for the next ones.
        heads = self.over if rank else self.heads
        small, solved = self.root or self._reduced(program)
        for _ in range(ROUNDS):
            if solved.values is None or program.rows:
                break
            self._learn(head_of(self.problem, small.expand(solved.values)))
            dual = dual_of(small, solved.tensions)
            self.bound = max(self.bound, dual.bound_s)
            smaller = narrowed(program, dual, self._worth(rank))
            if smaller.size != program.size:
                program, tensors = smaller, crossable(smaller)
            tried, self.charge = self.charge, multiplier(heads, self.allowance.limit)
            options = sum(len(self.fronts[tensor]) for tensor in tensors)
            if options <= FEW or abs(self.charge - tried) <= AGREEMENT * self.charge:
                break
            charged = at_multiplier(program, self.fronts, self.charge, self.allowance.limit)
            small, solved = self._reduced(charged)
        return Narrowed(program, tensors)

    def settle(self, narrow: Narrowed, rows: Sequence[Row] = ()) -> Outcome:
        """Find the best cut within the budget among those that a narrowed program has, rows excluding some.

        Raises
        ------
        InfeasibleError
            No cut is left.
        PlanError
            The solver and the cost function do not agree.
        """
        left = replace(narrow.program, rows=(*narrow.program.rows, *rows))
        while True:
            budgeted = with_budget(left, self.fronts, self.allowance, narrow.tensors)
            solved = _expanded(*self._reduced(budgeted.program))
            if solved.values is None:
                return Outcome(None, budgeted.program, solved)
            found = self.note(head_of(self.problem, solved.values))
            if _agree(found, solved, budgeted.program):
                return Outcome(found, budgeted.program, solved)
            self._forbid(budgeted, solved, found)

    def _forbid(self, budgeted: Budgeted, solved: Solved, found: Price | None) -> None:
        """Exclude codecs that exceed the limit by less than a solver notices."""
        assert solved.values is not None
        losses = {t: loss for t, loss in budgeted.losses(solved.values).items() if loss}
        if self.allowance.allows(losses):
            raise _disagreement(found, solved)
        combinations = (*self.allowance.combinations, losses)
        self.allowance = replace(self.allowance, combinations=combinations)

    def _learn(self, head: frozenset[str]) -> None:
        """Note a cut, and what it costs apart from sending."""
        self.note(head)
        crossing = placed_at(self.problem, two_tiers(self.problem), head).crossing
        cheap = {tensor: self.fronts[tensor][0] for tensor in crossing}
        codecs = {tensor: option.codec for tensor, option in cheap.items()}
        sending_s = sum(option.cost_s for option in cheap.values())
        rest_s = price(self.problem, head, codecs).objective - sending_s
        seen = (rest_s, [self.fronts[tensor] for tensor in crossing])
        self.heads.append(seen)
        if not self.allowance.allows({tensor: option.loss for tensor, option in cheap.items()}):
            self.over.append(seen)

    def _worth(self, rank: int) -> float:
        """What a cut may cost and still be looked for."""
        costs = sorted(found.objective for found in self.known.values())
        return costs[rank] if rank < len(costs) else inf

    def _dearer(self, found: Price | None, solved: Solved) -> bool:
        assert solved.objective is not None
        return self.limited and (found is None or found.objective > solved.objective)

    def _reduced(self, program: Program) -> tuple[Presolved, Solved]:
        small = presolve(program)
        return small, solve(small.program, self.choice.name, self.choice.left_s())


def _expanded(small: Presolved, solved: Solved) -> Solved:
    values = None if solved.values is None else small.expand(solved.values)
    return replace(solved, values=values)


def _agree(found: Price | None, solved: Solved, program: Program) -> bool:
    if found is None or solved.objective is None:
        return False
    rounding = ROUNDING * (abs(program.constant) + sum(map(abs, program.weights)))
    allowed = max(AGREEMENT * abs(found.objective), rounding)
    return abs(solved.objective - found.objective) <= allowed


def _disagreement(found: Price | None, solved: Solved) -> PlanError:
    cost = "infinite" if found is None else f"{found.objective!r} s"
    return PlanError(
        f"the solver's objective is {solved.objective!r} s, the cost of its cut {cost}; "
        "please report this"
    )
