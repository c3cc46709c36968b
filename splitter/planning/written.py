"""A program written down from the loads of a layout: the objective, or a limited quantity in its place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from splitter.errors import InfeasibleError
from splitter.planning.cost import target_of
from splitter.planning.layout import Form
from splitter.planning.program import Program, Row
from splitter.planning.sums import Sum
from splitter.planning.tiered import Tiered
from splitter.planning.ways import ROUNDING, bounds_of

SLACK = 1e-7
"""Limits are that much wider, relatively, than they are: what meets one exactly must not fall to rounding.
What breaks it is excluded when it is priced."""


@dataclass(frozen=True)
class Goal:
    """A quantity that a limit bounds, to be made as small as it can be."""

    name: str
    """A field of ``Limits``, or ``loss_limit``."""
    ceiling: float | None = None
    """What the objective may be."""
    memory: int | None = None
    """The variable above all rows of memory, where that is the quantity."""


def write(tiered: Tiered, more: Iterable[Row] = (), goal: Goal | None = None) -> Program:
    """Write it with rows that were learnt; of a goal, with its quantity to be minimised.

    Raises
    ------
    InfeasibleError
        A row has no variable and does not hold.
    """
    return _Writing(tiered).program(more, goal)


class _Writing:
    """Rows as they are gathered, and the variables that are the largest of several sums."""

    def __init__(self, tiered: Tiered) -> None:
        self.tiered, self.size = tiered, tiered.size
        self.rows, self.unbounded = list(tiered.rows), list(tiered.unbounded)
        self.count = tiered.count

    def program(self, more: Iterable[Row], goal: Goal | None) -> Program:
        tiered = self.tiered
        objective = self.objective()
        if goal is not None:
            if goal.ceiling is not None:
                self.rows.append(objective.at_most(goal.ceiling + SLACK * abs(goal.ceiling)))
            objective = self.quantity(goal)
        for form, value, _ in bounds_of(tiered.layout, tiered.problem.limits):
            self.rows.append(tiered.expression(form).at_most(value + SLACK * abs(value)))
        self.rows += more
        if any(not row.coefficients and row.at_least > ROUNDING for row in self.rows):
            raise InfeasibleError("no plan satisfies every limit")
        weights = [0.0] * self.count
        for variable, weight in objective.terms.items():
            weights[variable] = weight
        return Program(
            tuple(weights),
            objective.constant,
            tuple(tiered.arcs),
            tiered.fixed,
            tuple(row for row in self.rows if row.coefficients),
            continuous=frozenset(tiered.continuous),
            unbounded=frozenset(self.unbounded),
        )

    def objective(self) -> Sum:
        target = target_of(self.tiered.problem, self.tiered.layout)
        found = self.tiered.expression(target.linear)
        for weight, forms in target.largest:
            found.add(self.above(forms), weight * self.size)
        return found

    def quantity(self, goal: Goal) -> Sum:
        found = Sum()
        if goal.memory is not None:
            found.add(goal.memory, self.size)
        elif goal.name == "loss_limit":
            found.plus(self.tiered.loss, 1.0)
        else:
            forms = self.tiered.layout.forms(goal.name)
            if len(forms) == 1:
                return self.tiered.expression(forms[0])
            found.add(self.above(forms), self.size)
        return found

    def above(self, forms: Sequence[Form]) -> int:
        """A variable of this program alone: the largest of some forms, in parts of ``size``."""
        self.unbounded.append(self.count)
        self.count += 1
        for form in forms:
            value = self.tiered.expression(form)
            value.add(self.unbounded[-1], -self.size)
            self.rows.append(value.at_most(0.0, self.size))
        return self.unbounded[-1]
