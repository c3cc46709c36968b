"""The accuracy budget, and the exact cheapest codecs of a set of crossing tensors under it.

One codec for each tensor, their losses within a limit, is a multiple-choice knapsack. Tensors are merged
one by one; of the partial choices only those stay that no other beats in cost, in loss and in progress
towards forbidden combinations, and that can still lead to less than the best whole choice known. The
bound for that is Lagrange's: a loss costs ``multiplier`` seconds, and the limit is given back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

from splitter.errors import PlanError
from splitter.planning.records import CodecCost, Problem

ROUNDING = 1e-9
"""Losses may exceed the limit by this part of it: the sum of 0.1 and 0.2 is allowed where 0.3 is."""

TIE = 1e-12
"""Bounds within this of the best known, relative to what was added up, may be below it but for rounding."""

HALVINGS = 30
"""Of the interval that holds the multiplier: any value gives a bound, one this near as good a one."""


@dataclass(frozen=True)
class Option:
    """One way of sending a tensor."""

    cost_s: float
    """What it adds to the objective, the parts' seconds apart."""
    loss: float
    codec: CodecCost


Front = tuple[Option, ...]
"""The ways of sending a tensor worth having, cheapest and most lossy first."""


@dataclass(frozen=True)
class Allowance:
    """What a combination of codecs may do to the answer."""

    limit: float
    """Rounding included; infinite where there is none."""
    combinations: tuple[Mapping[str, float], ...]
    """Forbidden where every tensor crosses and loses at least this much."""

    @classmethod
    def of(cls, problem: Problem) -> Allowance:
        """Read it off a problem; raises PlanError where a forbidden combination means nothing."""
        limit = inf if problem.loss_limit is None else problem.loss_limit * (1 + ROUNDING)
        return cls(limit, tuple(_thresholds(problem, names) for names in problem.forbidden))

    def admits(self, tensor: str, loss: float) -> bool:
        """Whether a tensor may lose this much where nothing else loses anything."""
        return loss <= self.limit and loss < self._forbidden_alone(tensor)

    def allows(self, losses: Mapping[str, float]) -> bool:
        """Whether the crossing tensors may lose this much together."""
        return sum(losses.values()) <= self.limit and not any(
            all(losses.get(tensor, -1.0) >= loss for tensor, loss in least.items())
            for least in self.combinations
        )

    def front(self, tensor: str, costs: Sequence[tuple[float, CodecCost]]) -> Front:
        """Drop what is not admitted, and what costs and loses no less than another choice."""
        unbound = self.limit == inf and not any(tensor in least for least in self.combinations)
        forbidden, lowest = self._forbidden_alone(tensor), inf
        found: list[Option] = []
        for cost_s, choice in sorted(costs, key=_by_cost):
            if choice.loss < lowest and choice.loss <= self.limit and choice.loss < forbidden:
                found.append(Option(cost_s, choice.loss, choice))
                lowest = choice.loss
                if unbound:
                    break
        return tuple(found)

    def _forbidden_alone(self, tensor: str) -> float:
        alone = (least for least in self.combinations if len(least) == 1)
        return min((least[tensor] for least in alone if tensor in least), default=inf)


def _by_cost(item: tuple[float, CodecCost]) -> tuple[float, float]:
    return item[0], item[1].loss


def cheapest(fronts: Mapping[str, Front], allowance: Allowance) -> dict[str, Option] | None:
    """Choose an option of each tensor so that the sum costs least; None where nothing is allowed."""
    if not all(fronts.values()):
        return None
    chosen = {tensor: front[0] for tensor, front in fronts.items()}
    if allowance.allows(_losses(chosen)):
        return chosen
    return _Knapsack(fronts, allowance).solve()


def multiplier(heads: Sequence[tuple[float, Sequence[Front]]], limit: float) -> float:
    """Find where the least of the heads' Lagrangian costs is greatest.

    A head is what it costs apart from sending, and the fronts of what it sends. Its cost with a loss at
    ``multiplier`` seconds a unit, less ``multiplier * limit``, is concave in the multiplier and never
    above what it costs within the limit; the least over all heads is concave too.
    """
    if limit == inf:
        return 0.0
    low, high = 0.0, _steepest(front for _, fronts in heads for front in fronts)
    if _slope(heads, limit, 0.0) <= 0:
        return 0.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if _slope(heads, limit, middle) > 0:
            low = middle
        else:
            high = middle
    return high


def _slope(
    heads: Sequence[tuple[float, Sequence[Front]]], limit: float, second_per_loss: float
) -> float:
    """The loss beyond the limit of the head that is cheapest at a multiplier."""
    least, slope = inf, 0.0
    for fixed_s, fronts in heads:
        best = [_best(front, second_per_loss) for front in fronts]
        loss = sum(option.loss for option in best) - limit
        cost_s = fixed_s + sum(option.cost_s for option in best) + second_per_loss * loss
        if cost_s < least:
            least, slope = cost_s, loss
    return slope


def _steepest(fronts: Iterable[Front]) -> float:
    """A multiplier at which every front's best is its last: seconds for the dearest step down."""
    steps = (
        (better.cost_s - worse.cost_s) / (worse.loss - better.loss)
        for front in fronts
        for worse, better in pairwise(front)
    )
    return 2 * max(steps, default=0.0)


def _best(front: Front, second_per_loss: float) -> Option:
    return min(front, key=lambda option: option.cost_s + second_per_loss * option.loss)


def _losses(chosen: Mapping[str, Option]) -> dict[str, float]:
    return {tensor: option.loss for tensor, option in chosen.items()}


def _thresholds(problem: Problem, names: Mapping[str, str]) -> dict[str, float]:
    if not names:
        raise PlanError("a forbidden combination names no tensor")
    found = {}
    for tensor, codec in names.items():
        losses = [c.loss for c in problem.codecs.get(tensor, ()) if c.codec == codec]
        if not losses:
            raise PlanError(
                f"a forbidden combination sends {tensor!r} in {codec!r}, which is none of its codecs"
            )
        found[tensor] = min(losses)
    return found


@dataclass(frozen=True)
class _Partial:
    """Options for the first tensors."""

    cost_s: float
    loss: float
    near: int
    """A bit for each forbidden combination that the options so far do not rule out."""
    picked: tuple[Option, ...]


@dataclass(frozen=True)
class _Rest:
    """The least that the tensors without an option can add."""

    loss: float
    cost_s: float
    priced_s: float
    """With the losses at the multiplier."""


class _Knapsack:
    """The search; its fronts are not empty, and the first option of each is not allowed."""

    def __init__(self, fronts: Mapping[str, Front], allowance: Allowance) -> None:
        self.fronts, self.allowance = fronts, allowance
        self.combinations = [c for c in allowance.combinations if fronts.keys() >= c.keys()]
        self.price = multiplier([(0.0, tuple(fronts.values()))], allowance.limit)
        self.known = self.rounded()
        charged = self.price * allowance.limit if self.price else 0.0
        self.tie = TIE * (abs(self.known) + charged)
        self.fronts = {tensor: self.promising(tensor) for tensor in fronts}

    def solve(self) -> dict[str, Option] | None:
        if not all(self.fronts.values()):
            return None
        partials = [_Partial(0.0, 0.0, (1 << len(self.combinations)) - 1, ())]
        left = list(self.fronts)
        while left:
            tensor = left.pop(0)
            done = self.fronts.keys() - set(left)
            broken = sum(
                1 << bit for bit, least in enumerate(self.combinations) if least.keys() <= done
            )
            grown = [
                self.grow(one, tensor, option) for one in partials for option in self.fronts[tensor]
            ]
            rest = self.rest(left)
            partials = _undominated(
                [new for new in grown if not new.near & broken and self.promises(new, rest)]
            )
        if not partials:
            return None
        best = min(partials, key=lambda partial: (partial.cost_s, partial.loss))
        return dict(zip(self.fronts, best.picked, strict=True))

    def grow(self, partial: _Partial, tensor: str, option: Option) -> _Partial:
        near = partial.near
        for bit, least in enumerate(self.combinations):
            if option.loss < least.get(tensor, 0.0):
                near &= ~(1 << bit)
        return _Partial(
            partial.cost_s + option.cost_s,
            partial.loss + option.loss,
            near,
            (*partial.picked, option),
        )

    def promising(self, tensor: str) -> Front:
        """Options that lead to less than the best choice known where all others are at their best."""
        others = self.rest([name for name in self.fronts if name != tensor])
        return tuple(
            option
            for option in self.fronts[tensor]
            if self.promises(_Partial(option.cost_s, option.loss, 0, ()), others)
        )

    def rest(self, left: Sequence[str]) -> _Rest:
        fronts = [self.fronts[tensor] for tensor in left]
        best = [_best(front, self.price) for front in fronts]
        return _Rest(
            sum(front[-1].loss for front in fronts),
            sum(front[0].cost_s for front in fronts),
            sum(option.cost_s + self.price * option.loss for option in best),
        )

    def promises(self, partial: _Partial, rest: _Rest) -> bool:
        """Whether it can still become a whole choice within the limit and cheaper than the best known."""
        if partial.loss + rest.loss > self.allowance.limit:
            return False
        bound = partial.cost_s + rest.cost_s
        if self.price:
            over = self.price * (partial.loss - self.allowance.limit)
            bound = max(bound, partial.cost_s + rest.priced_s + over)
        return bound <= self.known + self.tie

    def rounded(self) -> float:
        """The cost of a choice that is allowed: the bound's own, made less lossy step by step."""
        start = {tensor: _best(front, self.price) for tensor, front in self.fronts.items()}
        at = {tensor: self.fronts[tensor].index(option) for tensor, option in start.items()}
        while True:
            chosen = {tensor: self.fronts[tensor][index] for tensor, index in at.items()}
            if self.allowance.allows(_losses(chosen)):
                return sum(option.cost_s for option in chosen.values())
            better = [
                (self.fronts[tensor][index + 1].cost_s - chosen[tensor].cost_s, tensor)
                for tensor, index in at.items()
                if index + 1 < len(self.fronts[tensor])
            ]
            if not better:
                return inf
            at[min(better)[1]] += 1


def _undominated(partials: list[_Partial]) -> list[_Partial]:
    """Keep those that none beats in cost, loss and what forbidden combinations are near."""
    kept: list[_Partial] = []
    least: dict[int, float] = {}
    for partial in sorted(partials, key=lambda partial: (partial.cost_s, partial.loss)):
        if all(loss > partial.loss or near & ~partial.near for near, loss in least.items()):
            kept.append(partial)
            least[partial.near] = min(partial.loss, least.get(partial.near, inf))
    return kept
