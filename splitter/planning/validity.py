"""How far the world may move before another plan is better.

The cost of a plan, its codecs included, is a line in each of: the wire's slowness (1 / bandwidth, both
ways together), the round trip, a factor on every server second (nodes, base, crossings, decoding). The
best cost over all plans is the lower envelope of such lines, so it is concave, and the plan is best on
an interval. Each end of it is found by Newton's method: take a plan known to be better further out, go
to where its line meets the plan's, solve there; a cheaper answer gives a nearer point, none proves the
end. Every plan seen is kept as a line for later searches, and its cut, in the codecs that are best there, is
tried before a solve.

The search ends at slowness 0 (infinite bandwidth), round trip 0 and factor 0 on one side, at infinity on
the other, where the line that rises least wins. At equal cost the plan stays best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import inf

import msgspec

from splitter.planning.cost import Price, objective, price
from splitter.planning.optimum import optimum
from splitter.planning.records import CodecCost, Problem, Range, TierCost, Validity
from splitter.planning.search import SolverChoice

TIE = 1e-9
"""Costs closer than this, relative to the plan's, are equal."""

ROUNDING = 1e-12
"""Slopes closer than this, relative to the plan's cost, differ by rounding alone."""


@dataclass(frozen=True)
class _Factors:
    """On each kind of cost; the round trip is in seconds, as it stands where None."""

    device: float = 1.0
    server: float = 1.0
    wire: float = 1.0
    rtt_s: float | None = None
    bytes_weight: float = 1.0

    def codec(self, choice: CodecCost) -> CodecCost:
        """What a codec costs in this world."""
        return CodecCost(
            codec=choice.codec,
            wire_bytes=choice.wire_bytes,
            encode_s=choice.encode_s * self.device,
            decode_s=choice.decode_s * self.server,
            loss=choice.loss,
        )


_NOTHING = _Factors(device=0, server=0, wire=0, rtt_s=0, bytes_weight=0)


@dataclass(frozen=True)
class _Line:
    at_0: float
    slope: float

    def at(self, value: float) -> float:
        return self.at_0 + self.slope * value


@dataclass(frozen=True)
class _Axis:
    """One parameter, 0 or more, in which every plan's cost is a line."""

    at: float
    factors: Callable[[float], _Factors]
    """The world at a value of the parameter."""
    slopes: _Factors
    """A world in which every plan costs its slope."""
    steepest: float = inf
    """No plan's cost rises faster."""
    flattest: float = -inf
    """No plan's cost rises more slowly."""


def validity(
    problem: Problem, plan: Price, known: Iterable[Price], choice: SolverChoice
) -> Validity | None:
    """Find the three ranges in which the plan stays best; None where a solve is stopped by its limit.

    ``known`` are other cuts that can be carried out; the more, the fewer solves.
    """
    wire = _Axis(1.0, lambda value: _Factors(wire=value), replace(_NOTHING, wire=1), flattest=0)
    server = _Axis(1.0, lambda value: _Factors(server=value), replace(_NOTHING, server=1))
    rtt = _Axis(
        problem.link.rtt_s,
        lambda value: _Factors(rtt_s=value),
        replace(_NOTHING, rtt_s=1),
        steepest=1,
        flattest=0,
    )
    pool = [plan, *known]
    try:
        slowness, round_trip, slowdown = (
            _Search(problem, axis, pool, choice).interval() for axis in (wire, rtt, server)
        )
    except _Stopped:
        return None
    up = problem.link.up_bytes_per_s
    return Validity(
        up_bytes_per_s=Range(
            low=None if slowness.high is None else up / slowness.high,
            high=None if slowness.low is None else up / slowness.low,
            at=up,
        ),
        rtt_s=round_trip,
        server_slowdown=slowdown,
    )


class _Stopped(Exception):
    """A solve reached its time limit, so that nothing is proven."""


class _Search:
    """The search along one axis; what it finds is added to the pool, whose first entry is the plan."""

    def __init__(
        self, problem: Problem, axis: _Axis, pool: list[Price], choice: SolverChoice
    ) -> None:
        self.problem, self.axis, self.pool, self.choice = problem, axis, pool, choice
        self.at_0, self.at_1 = (_world(problem, axis.factors(value)) for value in (0.0, 1.0))
        self.lines = [self.line(known) for known in pool]

    def interval(self) -> Range:
        return Range(low=self.end(0.0), high=self.end(inf), at=self.axis.at)

    def end(self, far: float) -> float | None:
        """Search from the parameter's value towards ``far``; None if the plan is best all the way."""
        if self.axis.at == far or self.extreme(far):
            return None
        points = [self.meeting(line, far) for line in self.lines]
        point = min(
            (point for point in points if point is not None),
            key=lambda point: abs(point - self.axis.at),
            default=None,
        )
        if point is None:
            point = self.nearer(far)
        while point is not None and point != self.axis.at:
            nearer = self.nearer(point)
            if nearer is None:
                break
            point = nearer
        return point

    def nearer(self, far: float) -> float | None:
        """Where a plan that is better at ``far`` meets the plan; None where there is none.

        A cut seen before, in the codecs that are best there, saves a solve.
        """
        factors = self.axis.slopes if far == inf else self.axis.factors(far)
        world = _world(self.problem, factors)
        for head in {known.head for known in self.pool}:
            point = self.meeting(self.add(world, price(world, head)), far)
            if point is not None:
                return point
        return self.meeting(self.solve(world), far)

    def extreme(self, far: float) -> bool:
        """Whether no line can be below the plan's in that direction, as none has a better slope."""
        mine = self.lines[0]
        rounding = ROUNDING * abs(mine.at_0)
        if far > self.axis.at:
            return mine.slope <= self.axis.flattest + rounding
        return mine.slope >= self.axis.steepest - rounding

    def meeting(self, other: _Line, far: float) -> float | None:
        """Where the other line falls below the plan's between here and ``far``, if it does."""
        mine, here = self.lines[0], self.axis.at
        falls = mine.slope - other.slope
        if far == inf:
            gains = falls > max(TIE * abs(mine.slope), ROUNDING * abs(mine.at_0))
        else:
            gains = mine.at(far) - other.at(far) > TIE * abs(mine.at(far))
        if not gains:
            return None
        if falls == 0:  # below the plan's by rounding, all along
            return here
        point = (other.at_0 - mine.at_0) / falls
        return max(point, here) if far > here else min(point, here)

    def solve(self, world: Problem) -> _Line:
        """Find the best plan of a world."""
        found = optimum(world, self.choice)
        if not found.proven:
            raise _Stopped
        return self.add(world, found.price)

    def add(self, world: Problem, found: Price) -> _Line:
        """Keep a plan of another world, in the codecs of the problem's own."""
        codecs = {
            name: self.problem.codecs[name][world.codecs[name].index(choice)]
            for name, choice in found.codecs.items()
        }
        self.pool.append(replace(found, codecs=codecs))
        self.lines.append(self.line(self.pool[-1]))
        return self.lines[-1]

    def line(self, plan: Price) -> _Line:
        """Evaluate a fixed plan at 0 and 1."""
        costs = []
        for value, world in ((0.0, self.at_0), (1.0, self.at_1)):
            factors = self.axis.factors(value)
            codecs = {name: factors.codec(choice) for name, choice in plan.codecs.items()}
            costs.append(objective(world, plan.head, codecs))
        return _Line(costs[0], costs[1] - costs[0])


def _world(problem: Problem, factors: _Factors) -> Problem:
    link = problem.link
    return replace(
        problem,
        device=_scaled(problem.device, factors.device),
        server=_scaled(problem.server, factors.server),
        link=msgspec.structs.replace(
            link,
            up_bytes_per_s=link.up_bytes_per_s / factors.wire if factors.wire else inf,
            down_bytes_per_s=link.down_bytes_per_s / factors.wire if factors.wire else inf,
            rtt_s=link.rtt_s if factors.rtt_s is None else factors.rtt_s,
        ),
        codecs={
            name: tuple(factors.codec(choice) for choice in choices)
            for name, choices in problem.codecs.items()
        },
        bytes_weight=problem.bytes_weight * factors.bytes_weight,
    )


def _scaled(tier: TierCost, factor: float) -> TierCost:
    return replace(
        tier,
        node_s={name: seconds * factor for name, seconds in tier.node_s.items()},
        base_s=tier.base_s * factor,
        crossing_s={name: seconds * factor for name, seconds in tier.crossing_s.items()},
    )
