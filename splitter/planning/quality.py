"""The accuracy budget as a part of the integer program.

The front of a tensor t is its options from the cheapest and most lossy, 0, to the dearest and least lossy,
n, with costs c_k and losses l_k. Beside m_t = m_0 it gets variables m_1 .. m_n, each 0 or 1, with

    m_0 <= m_1 <= ... <= m_n <= x_producer            (1 for a model input)

``x_producer - m_k`` is "t is sent in option k or a dearer one", which adds c_k - c_(k-1) to the
objective, and ``m_(k+1) - m_k`` is "in option k", where m_(n+1) is x_producer. All of these are
differences of two variables, so that the matrix stays totally unimodular but for one row, and one more for
each forbidden combination S of tensors, with the dearest option k of each that it forbids::

    sum over t and k of l_k (m_(k+1) - m_k) <= limit
    sum over S of (m_(k+1) - m_0) <= |S| - 1

Without the rows the limit can be charged for: a loss costs ``multiplier`` seconds, and each tensor takes
the option that is then the cheapest. That is Lagrange's relaxation, a minimum cut again; the best
multiplier gives the same bound as the program with its row, without integrality.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf

from splitter.planning.knapsack import Allowance, Front
from splitter.planning.program import Program, Row

Fronts = Mapping[str, Front]


def at_multiplier(program: Program, fronts: Fronts, multiplier: float, limit: float) -> Program:
    """Charge for losses: what a cut within the limit costs here is never more than its true cost."""
    weights, constant = list(program.weights), program.constant - multiplier * limit
    for tensor, (made, read) in program.sent.items():
        front = fronts[tensor]
        least = min(option.cost_s + multiplier * option.loss for option in front)
        extra = least - front[0].cost_s
        weights[read] -= extra
        if made is None:
            constant += extra
        else:
            weights[made] += extra
    return replace(program, weights=tuple(weights), constant=constant)


@dataclass(frozen=True)
class Budgeted:
    """A program with the budget in it."""

    program: Program
    """Its first variables are those of the program without."""
    fronts: Fronts
    levels: Mapping[str, tuple[int | None, ...]]
    """m_0 .. m_n and x_producer of each tensor that may cross, None where that is 1."""

    def losses(self, values: Sequence[int]) -> dict[str, float]:
        """What each crossing tensor loses in the option that the values choose."""
        found = {}
        for tensor, levels in self.levels.items():
            steps = [1 if level is None else values[level] for level in levels]
            if steps[-1] > steps[0]:
                found[tensor] = self.fronts[tensor][steps.index(1) - 1].loss
        return found


def with_budget(
    program: Program, fronts: Fronts, allowance: Allowance, tensors: Collection[str]
) -> Budgeted:
    """Add the options of the tensors that may cross, and the rows."""
    options = _Options(program, fronts, tensors)
    return Budgeted(options.program(allowance), fronts, options.levels)


class _Options:
    """Variables and arcs as they are gathered."""

    def __init__(self, program: Program, fronts: Fronts, tensors: Collection[str]) -> None:
        self.base, self.fronts = program, fronts
        self.weights, self.constant = list(program.weights), program.constant
        self.arcs = dict.fromkeys(program.arcs)
        self.levels = {tensor: self.add(tensor) for tensor in tensors}

    def add(self, tensor: str) -> tuple[int | None, ...]:
        """Give m_0 .. m_n and x_producer, None where that is 1."""
        made, read = self.base.sent[tensor]
        levels = [read]
        front = self.fronts[tensor]
        for cheaper, dearer in pairwise(front):
            step_s = dearer.cost_s - cheaper.cost_s
            self.arcs[len(self.weights), levels[-1]] = None
            levels.append(len(self.weights))
            self.weights.append(-step_s)
            if made is None:
                self.constant += step_s
            else:
                self.weights[made] += step_s
        if made is not None and len(levels) > 1:
            self.arcs[made, levels[-1]] = None
        return (*levels, made)

    def program(self, allowance: Allowance) -> Program:
        rows = [self.forbidding(least) for least in allowance.combinations]
        if 0 < allowance.limit < inf:
            rows.append(self.sharing(allowance.limit))
        return replace(
            self.base,
            weights=tuple(self.weights),
            constant=self.constant,
            arcs=tuple(self.arcs),
            rows=(*self.base.rows, *(row for row in rows if row is not None)),
        )

    def sharing(self, limit: float) -> Row:
        """In parts of the limit, as solvers know absolute tolerances only."""
        terms: list[tuple[float, int | None]] = []
        for tensor, levels in self.levels.items():
            options = zip(self.fronts[tensor], pairwise(levels), strict=True)
            for option, (below, above) in options:
                terms += ((option.loss / limit, above), (-option.loss / limit, below))
        return _at_most(terms, 1.0)

    def forbidding(self, least: Mapping[str, float]) -> Row | None:
        """None where the tensors cannot all cross, and lose that much."""
        terms: list[tuple[float, int | None]] = []
        for tensor, loss in least.items():
            forbidden = sum(option.loss >= loss for option in self.fronts.get(tensor, ()))
            if tensor not in self.levels or not forbidden:
                return None
            levels = self.levels[tensor]
            terms += ((1.0, levels[forbidden]), (-1.0, levels[0]))
        return _at_most(terms, len(least) - 1)


def _at_most(terms: Iterable[tuple[float, int | None]], limit: float) -> Row:
    """Sum up coefficients by variable; None is the constant 1."""
    coefficients: dict[int, float] = {}
    for value, variable in terms:
        if variable is None:
            limit -= value
        else:
            coefficients[variable] = coefficients.get(variable, 0.0) - value
    return Row({variable: value for variable, value in coefficients.items() if value}, -limit)
