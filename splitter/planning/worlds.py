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

from splitter.link import Link
from splitter.planning.cost import Price, objective, target_of
from splitter.planning.layout import two_tiers
from splitter.planning.lines import Line
from splitter.planning.records import CodecCost, Problem, TierCost
from splitter.planning.terms import QUANTITIES


@dataclass(frozen=True)
class Factors:
    """On each kind of cost; the round trip is in seconds, as it stands where None."""

    device: float = 1.0
    server: float = 1.0
    wire: float = 1.0
    rtt_s: float | None = None
    per_byte: float = 1.0
    """What bytes cost whatever the time they take: their weight, their price, the radio's joules."""

    bytes_of: tuple[str, float] = ("", 1.0)
    """A tensor, and a factor on the bytes of all its codecs."""

    def codec(self, tensor: str, choice: CodecCost) -> CodecCost:
        """What a codec of a tensor costs in this world, where bytes need not be whole."""
        mine, factor = self.bytes_of
        if mine == tensor:
            choice = msgspec.structs.replace(choice, wire_bytes=choice.wire_bytes * factor)
        return CodecCost(
            codec=choice.codec,
            wire_bytes=choice.wire_bytes,
            encode_s=choice.encode_s * self.device,
            decode_s=choice.decode_s * self.server,
            loss=choice.loss,
        )


NOTHING = Factors(device=0, server=0, wire=0, rtt_s=0, per_byte=0)


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
    most: float = inf
    """Nobody looks beyond."""


def slowness(rtt_s: float | None = None) -> Axis:
    """A factor on the seconds of every byte, both ways; ``rtt_s`` in place of the problem's round trip."""
    return Axis(
        1.0, lambda value: Factors(wire=value, rtt_s=rtt_s), replace(NOTHING, wire=1), flattest=0
    )


def server_slowdown() -> Axis:
    """A factor on every server second."""
    return Axis(1.0, lambda value: Factors(server=value), replace(NOTHING, server=1))


def device_slowdown() -> Axis:
    """A factor on every device second."""
    return Axis(1.0, lambda value: Factors(device=value), replace(NOTHING, device=1))


def tensor_bytes(tensor: str) -> Axis:
    """A factor on the bytes of one tensor, up to a million."""
    return Axis(1.0, lambda value: Factors(bytes_of=(tensor, value)), NOTHING, flattest=0, most=1e6)


def round_trip(problem: Problem) -> Axis:
    """The seconds of all links' round trips together, which every plan with a tail pays alike."""
    slopes = replace(NOTHING, rtt_s=1)
    there = world(problem, slopes)
    second = target_of(there, two_tiers(there)).linear.used[0]
    return Axis(
        trip_s(problem), lambda value: Factors(rtt_s=value), slopes, steepest=second, flattest=0
    )


def trip_s(problem: Problem) -> float:
    """The round trip over all links to the server."""
    return problem.link.rtt_s + sum(link.rtt_s for link in problem.via)


def why_no_lines(problem: Problem) -> str:
    """Say why plans do not cost lines along the axes; empty where they do."""
    if problem.relays or problem.sources:
        return "there are more than two tiers"
    if target_of(problem, two_tiers(problem)).largest:
        return "the objective has throughput in it, which is the slowest stage and no sum"
    moving = [name for name in ("deadline_s", "interval_s", "energy_j", "money")
              if getattr(problem.limits, name) is not None]  # fmt: skip
    if moving:
        return f"the limit of {QUANTITIES[moving[0]]} allows other plans elsewhere"
    return ""


class Sweep:
    """A problem along an axis."""

    def __init__(self, problem: Problem, axis: Axis) -> None:
        self.problem, self.axis = problem, axis
        self._worlds: dict[float, Problem] = {}

    def world(self, value: float) -> Problem:
        """The problem at a value of the parameter; at infinity every plan costs its slope."""
        if value not in self._worlds:
            factors = self.axis.slopes if value == inf else self.axis.factors(value)
            self._worlds[value] = world(self.problem, factors)
        return self._worlds[value]

    def line(self, plan: Price) -> Line:
        """What a plan costs along the axis, its codecs being the problem's own."""
        at_0 = self._cost(plan, 0.0)
        if self.axis.most == inf:
            return Line(at_0, self._cost(plan, inf))
        return Line(at_0, self._cost(plan, 1.0) - at_0)

    def _cost(self, plan: Price, value: float) -> float:
        factors = self.axis.slopes if value == inf else self.axis.factors(value)
        codecs = {name: factors.codec(name, choice) for name, choice in plan.codecs.items()}
        return objective(self.world(value), plan.head, codecs)

    def own(self, there: Problem, found: Price) -> Price:
        """Give a plan of another world the codecs of the problem's own; its costs stay that world's."""
        codecs = {
            name: self.problem.codecs[name][there.codecs[name].index(choice)]
            for name, choice in found.codecs.items()
        }
        return replace(found, codecs=codecs)


def world(problem: Problem, factors: Factors) -> Problem:
    """The problem with its costs scaled."""
    return replace(
        problem,
        device=_scaled(problem.device, factors.device, factors.per_byte),
        server=_scaled(problem.server, factors.server, factors.per_byte),
        link=_link(problem.link, factors, factors.rtt_s),
        via=tuple(
            _link(link, factors, None if factors.rtt_s is None else 0.0) for link in problem.via
        ),
        codecs={
            name: tuple(factors.codec(name, choice) for choice in choices)
            for name, choices in problem.codecs.items()
        },
        bytes_weight=problem.bytes_weight * factors.per_byte,
    )


def _link(link: Link, factors: Factors, rtt_s: float | None) -> Link:
    return msgspec.structs.replace(
        link,
        up_bytes_per_s=link.up_bytes_per_s / factors.wire if factors.wire else inf,
        down_bytes_per_s=link.down_bytes_per_s / factors.wire if factors.wire else inf,
        rtt_s=link.rtt_s if rtt_s is None else rtt_s,
        price_per_gb=link.price_per_gb * factors.per_byte,
    )


def _scaled(tier: TierCost, factor: float, per_byte: float) -> TierCost:
    if factor == per_byte == 1:
        return tier
    power = tier.power
    if power is not None:
        joules = power.radio_j_per_byte * per_byte
        power = msgspec.structs.replace(power, radio_j_per_byte=joules)
    return replace(
        tier,
        power=power,
        node_s={name: seconds * factor for name, seconds in tier.node_s.items()},
        base_s=tier.base_s * factor,
        crossing_s={name: seconds * factor for name, seconds in tier.crossing_s.items()},
    )
