"""What solutions that are nearly as good as the best have in common, from a dual solution.

A program without rows is a minimum cut. Its dual solution, a price for each arc, writes the objective of
any values as a bound plus prices of the arcs that they cut (``Tension``). Where a solution within some
cost is known, an arc whose price lifts the bound above that cost is cut by no better one: its two ends are
equal. So a cut that is not yet the best rules out most others, and what is left is small enough for the
rows of an accuracy budget.

The bound follows from the prices alone, whatever they are (weak duality); a solver that returns poor ones
rules out less, and nothing wrongly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from splitter.planning.presolve import ONE, Presolved, ties
from splitter.planning.program import Program, Tension

SAFETY = 1e-9
"""Tensions count from this much above the known cost, relative to the sizes of what was added up."""


@dataclass(frozen=True)
class Dual:
    """Objective of any values >= ``bound_s`` + the tensions that they pay."""

    bound_s: float
    tensions: tuple[Tension, ...]
    """By variables of the program before presolve."""
    safety_s: float


def dual_of(small: Presolved, prices: Sequence[Tension]) -> Dual:
    """Join the tensions of presolve, the solver's prices, and what these leave of each weight."""
    weights = list(small.program.weights)
    tensions = list(small.tensions)
    for weight, upper, lower in prices:
        if upper is not None:
            weights[upper] -= weight
        if lower is not None:
            weights[lower] += weight
        ends = (None if end is None else small.stands_for[end] for end in (upper, lower))
        tensions.append(Tension(weight, *ends))
    bound = small.program.constant - sum(weight for weight, upper, _ in prices if upper is None)
    for variable, weight in enumerate(weights):
        bound += min(weight, 0.0)
        place = small.stands_for[variable]
        tensions.append(Tension(abs(weight), *((None, place) if weight < 0 else (place, None))))
    size = abs(small.program.constant) + sum(map(abs, small.program.weights))
    return Dual(bound, tuple(tensions), SAFETY * size)


def narrowed(program: Program, dual: Dual, known_s: float) -> Program:
    """Make equal what is equal in every solution that costs no more than what is known."""
    excess = max(known_s - dual.bound_s, 0.0) + dual.safety_s
    arcs, fixed = dict.fromkeys(program.arcs), dict(program.fixed)
    for weight, upper, lower in dual.tensions:
        if weight <= excess:
            continue
        if upper is None or lower is None:
            fixed |= {lower: 1} if lower is not None else {upper: 0} if upper is not None else {}
        else:
            arcs[lower, upper] = None
    return replace(program, arcs=tuple(arcs), fixed=fixed)


def crossable(program: Program) -> list[str]:
    """Tensors that its arcs and fixed values let cross."""
    tie = ties(program)
    return [
        tensor
        for tensor, (made, read) in program.sent.items()
        if (ONE if made is None else tie[made]) != tie[read]
    ]
