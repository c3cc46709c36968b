"""The best ways of sending several tensors at once, where more than their cost is shared.

With a linear objective and nothing but an accuracy budget, ``knapsack`` is the answer. A limit of bytes,
energy or time, or an objective that is the largest of several sums, needs every combination that no other
beats in all of them: tensors are merged one by one, and beaten combinations are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from splitter.planning.knapsack import Allowance
from splitter.planning.layout import LIMITED, Form, Layout, Loads, Target
from splitter.planning.records import CodecCost
from splitter.planning.terms import Limits, Term, Terms, amount

ROUNDING = 1e-9
"""Terms may exceed their limits by this part of them."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Way:
    """One way of sending a tensor over all its hops."""

    added: tuple[float, ...]
    """To the loads, in the order of ``Loads.values``."""
    losses: tuple[float, ...]
    """Of each codec that it goes through."""
    codecs: Mapping[int, CodecCost]

    @property
    def loss(self) -> float:
        """All of it."""
        return sum(self.losses)


def bounds_of(layout: Layout, limits: Limits) -> list[tuple[Form, float, str]]:
    """Every form that has to stay below a value, with the limit's field."""
    found = []
    for name in LIMITED:
        value = getattr(limits, name)
        if value is not None:
            forms = layout.forms(name)
            if not forms:
                Terms().of(Term.ENERGY)  # says what is missing
            found += [(form, value, name) for form in forms]
    return found


def keeps(loads: Loads, bounds: Sequence[tuple[Form, float, str]]) -> bool:
    """Whether all limits of terms hold."""
    return all(form.at(loads) <= allowed(value) for form, value, _ in bounds)


def exceeded(loads: Loads, bounds: Sequence[tuple[Form, float, str]]) -> str:
    """Name the first limit of a term that does not hold, and by how much; empty where all do."""
    for name in LIMITED:
        values = [(form.at(loads), value) for form, value, field in bounds if field == name]
        if values and max(values)[0] > allowed(values[0][1]):
            return f"{amount(name, max(values)[0])} where the limit is {amount(name, values[0][1])}"
    return ""


def allowed(value: float) -> float:
    """A limit with rounding."""
    return value + ROUNDING * abs(value)


def choose(
    ways: Mapping[str, Sequence[Way]],
    start: Loads,
    rules: tuple[Target, Sequence[tuple[Form, float, str]], Allowance],
) -> dict[str, Way] | None:
    """Choose a way for each tensor so that the objective is least; None where nothing is allowed."""
    target, bounds, allowance = rules
    forms = [target.linear, *(form for _, largest in target.largest for form in largest)]
    forms += [form for form, _, _ in bounds]
    merging = _Merging(forms, start, len(bounds), [allowed(value) for _, value, _ in bounds])
    picked = merging.run(ways, allowance)
    if picked is None:
        return None
    values, chosen = picked
    cost = values[:, 0].copy()
    place = 1
    for weight, largest in target.largest:
        cost += weight * values[:, place : place + len(largest)].max(axis=1)
        place += len(largest)
    best = min(range(len(cost)), key=lambda i: (cost[i], values[i, len(forms)]))
    indices = zip(ways, chosen[best], strict=True)
    return {tensor: ways[tensor][int(index)] for tensor, index in indices}


class _Merging:
    """Partial combinations, a row each: values of the forms, then loss, then forbidden combinations."""

    def __init__(
        self, forms: Sequence[Form], start: Loads, bounded: int, bounds: Sequence[float]
    ) -> None:
        self.weights = np.array([form.weights for form in forms])
        self.start, self.bounded, self.bounds = (
            self.weights @ np.array(start.values),
            bounded,
            bounds,
        )

    def run(
        self, ways: Mapping[str, Sequence[Way]], allowance: Allowance
    ) -> tuple[Array, npt.NDArray[np.int64]] | None:
        combinations = [least for least in allowance.combinations if ways.keys() >= least.keys()]
        forms = len(self.weights)
        rows = np.concatenate([self.start, [0.0], np.ones(len(combinations))])[np.newaxis]
        chosen = np.zeros((1, 0), np.int64)
        tables = [self._table(t, options, combinations) for t, options in ways.items()]
        if not all(len(table) for table in tables):
            return None
        rest = np.array([table[:, : forms + 1].min(axis=0) for table in tables])
        for place, table in enumerate(tables):
            grown = np.repeat(rows, len(table), axis=0)
            new = np.tile(table, (len(rows), 1))
            grown[:, : forms + 1] += new[:, : forms + 1]
            grown[:, forms + 1 :] *= new[:, forms + 1 :]
            picks = np.tile(np.arange(len(table)), len(rows))
            chosen = np.column_stack([np.repeat(chosen, len(table), axis=0), picks])
            least = grown[:, : forms + 1] + rest[place + 1 :].sum(axis=0)
            ok = least[:, forms] <= allowance.limit
            for column, bound in zip(range(forms - self.bounded, forms), self.bounds, strict=True):
                ok &= least[:, column] <= bound
            done = set(list(ways)[: place + 1])
            for column, combination in enumerate(combinations, start=forms + 1):
                if combination.keys() <= done:
                    ok &= grown[:, column] == 0
            rows, chosen = _unbeaten(grown[ok], chosen[ok])
            if not len(rows):
                return None
        return rows, chosen

    def _table(
        self, tensor: str, options: Sequence[Way], combinations: Sequence[Mapping[str, float]]
    ) -> Array:
        if not options:
            return np.zeros((0, len(self.weights) + 1 + len(combinations)))
        added = np.array([way.added for way in options]) @ self.weights.T
        losses = np.array([[way.loss] for way in options])
        near = [
            [
                float(max(way.losses) >= least[tensor]) if tensor in least else 1.0
                for least in combinations
            ]
            for way in options
        ]
        return np.hstack([added, losses, np.array(near).reshape(len(options), len(combinations))])


def _unbeaten(rows: Array, chosen: npt.NDArray[np.int64]) -> tuple[Array, npt.NDArray[np.int64]]:
    """Keep those that no other is as good as in everything."""
    order = np.lexsort(rows.T[::-1])
    rows, chosen = rows[order], chosen[order]
    kept: list[int] = []
    for i in range(len(rows)):
        if not kept or not (rows[kept] <= rows[i]).all(axis=1).any():
            kept.append(i)
    return rows[kept], chosen[kept]
