"""Worlds in which the wire, the round trip or the server is another, and what plans cost there.

The cost of a plan, its codecs included, is a line in each of: the wire's slowness (1 / bandwidth, both
ways together), the round trip, a factor on every server second (nodes, base, crossings, decoding). The
best cost over all plans is the lower envelope of such lines: concave, in pieces on which one plan is best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf

import msgspec

from splitter.planning.cost import Price, objective
from splitter.planning.lines import Line
from splitter.planning.records import CodecCost, Problem, TierCost


@dataclass(frozen=True)
class Factors:
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


NOTHING = Factors(device=0, server=0, wire=0, rtt_s=0, bytes_weight=0)


@dataclass(frozen=True)
class Axis:
    """One parameter, 0 or more, in which every plan's cost is a line."""

    at: float
    """Its value as the problem stands."""
    factors: Callable[[float], Factors]
    """The world at a value of the parameter."""
    slopes: Factors
    """A world in which every plan costs its slope."""
    steepest: float = inf
    """No plan's cost rises faster."""
    flattest: float = -inf
    """No plan's cost rises more slowly."""


def slowness(rtt_s: float | None = None) -> Axis:
    """A factor on the seconds of every byte, both ways; ``rtt_s`` in place of the problem's round trip."""
    return Axis(
        1.0, lambda value: Factors(wire=value, rtt_s=rtt_s), replace(NOTHING, wire=1), flattest=0
    )


def server_slowdown() -> Axis:
    """A factor on every server second."""
    return Axis(1.0, lambda value: Factors(server=value), replace(NOTHING, server=1))


def round_trip(problem: Problem) -> Axis:
    """The seconds of a round trip."""
    return Axis(
        problem.link.rtt_s,
        lambda value: Factors(rtt_s=value),
        replace(NOTHING, rtt_s=1),
        steepest=1,
        flattest=0,
    )


class Sweep:
    """A problem along an axis."""

    def __init__(self, problem: Problem, axis: Axis) -> None:
        self.problem, self.axis = problem, axis
        self._at_0, self._slopes = world(problem, axis.factors(0.0)), world(problem, axis.slopes)

    def world(self, value: float) -> Problem:
        """The problem at a value of the parameter; at infinity every plan costs its slope."""
        if value == inf:
            return self._slopes
        return self._at_0 if value == 0 else world(self.problem, self.axis.factors(value))

    def line(self, plan: Price) -> Line:
        """What a plan costs along the axis, its codecs being the problem's own."""
        at_0, slope = (
            objective(there, plan.head, {n: factors.codec(c) for n, c in plan.codecs.items()})
            for there, factors in (
                (self._at_0, self.axis.factors(0.0)),
                (self._slopes, self.axis.slopes),
            )
        )
        return Line(at_0, slope)

    def own(self, there: Problem, found: Price) -> Price:
        """Give a plan of another world the codecs of the problem's own; its costs stay that world's."""
        codecs = {
            name: self.problem.codecs[name][there.codecs[name].index(choice)]
            for name, choice in found.codecs.items()
        }
        return replace(found, codecs=codecs)


def world(problem: Problem, factors: Factors) -> Problem:
    """The problem with its costs scaled."""
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
    if factor == 1:
        return tier
    return replace(
        tier,
        node_s={name: seconds * factor for name, seconds in tier.node_s.items()},
        base_s=tier.base_s * factor,
        crossing_s={name: seconds * factor for name, seconds in tier.crossing_s.items()},
    )
