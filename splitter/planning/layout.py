"""Tiers in use, the hops between them, and every term of a plan as the largest of a few weighted sums.

A plan loads its tiers and hops: seconds that each tier is busy (its part and its codecs), bytes up and down
on each hop, and whether a hop is used at all. Every term of a plan is a weighted sum of these loads
(``Form``), or the largest of several: of a stream's stages, or of devices that work side by side. The
weights are written here and nowhere else: ``cost`` evaluates them, and the integer program takes them as
coefficients.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

from splitter.link import Link
from splitter.planning.records import Problem, TierCost
from splitter.planning.terms import Objective, Term, Terms

Route = tuple[Link, ...]
"""Links that traffic passes one after the other."""

LIMITED = ("sent_bytes", "energy_j", "deadline_s", "interval_s", "money")
"""Fields of ``Limits`` that bound a term, and not the memory of a tier."""


@dataclass(frozen=True)
class Loads:
    """What a plan asks of tiers and hops."""

    busy_s: Sequence[float]
    up_bytes: Sequence[float]
    down_bytes: Sequence[float]
    used: Sequence[float]
    """1 where anything passes the hop, or is waited for over it."""

    @property
    def values(self) -> tuple[float, ...]:
        """All, in the order of a form's weights."""
        return (*self.busy_s, *self.up_bytes, *self.down_bytes, *self.used)


@dataclass(frozen=True)
class Form:
    """A weighted sum of loads."""

    busy_s: tuple[float, ...]
    up: tuple[float, ...]
    down: tuple[float, ...]
    used: tuple[float, ...]

    @property
    def weights(self) -> tuple[float, ...]:
        """In the order of ``Loads.values``."""
        return (*self.busy_s, *self.up, *self.down, *self.used)

    def at(self, loads: Loads) -> float:
        """The sum."""
        return sum(w * value for w, value in zip(self.weights, loads.values, strict=True) if w)

    def plus(self, other: Form, factor: float) -> Form:
        """Add a multiple of another."""
        parts = (
            tuple(a + factor * b for a, b in zip(mine, others, strict=True))
            for mine, others in zip(self._parts, other._parts, strict=True)
        )
        return Form(*parts)

    @property
    def _parts(self) -> tuple[tuple[float, ...], ...]:
        return self.busy_s, self.up, self.down, self.used


@dataclass(frozen=True)
class Target:
    """The objective: a form, and weighted largest of forms on top."""

    linear: Form
    largest: tuple[tuple[float, tuple[Form, ...]], ...]

    def at(self, loads: Loads) -> float:
        """What is minimised."""
        found = self.linear.at(loads)
        return found + sum(w * max(form.at(loads) for form in forms) for w, forms in self.largest)


@dataclass(frozen=True)
class Layout:
    """The tiers that run something, and how traffic gets from one to the next.

    Of a chain, hop k leads from tier k to tier k + 1. Of devices side by side, hop k leads from device k to
    the server, which is the last tier.
    """

    tiers: tuple[TierCost, ...]
    hops: tuple[Route, ...]
    is_star: bool = False
    numbers: tuple[int, ...] = (0, 1)
    """Of the tiers, in ``Problem.tiers``."""

    def forms(self, name: Term | str) -> tuple[Form, ...]:
        """A term, or the quantity that a field of ``Limits`` bounds; its value is the largest of these.

        Nothing for energy where a device's power is not known.
        """
        if name in {Term.LATENCY, "deadline_s"}:
            return self._latency()
        if name in {Term.THROUGHPUT, "interval_s"}:
            return self._stages()
        if name in {Term.ENERGY, "energy_j"}:
            return self._energy()
        return (self._money() if name == Term.MONEY else self._sent(),)

    def target(self, objective: Objective, bytes_weight: float) -> Target:
        """The weighted sum that is minimised."""
        linear, largest = self._form().plus(self._sent(), bytes_weight), []
        for term, weight in objective.weights.items():
            forms = self.forms(term)
            if len(forms) == 1:
                linear = linear.plus(forms[0], weight)
            else:
                largest.append((weight, forms))
        return Target(linear, tuple(largest))

    def terms(self, loads: Loads) -> Terms:
        """Every term of a plan."""
        value = {term: max((f.at(loads) for f in self.forms(term)), default=inf) for term in Term}
        return Terms(
            latency_s=value[Term.LATENCY],
            bottleneck_s=value[Term.THROUGHPUT],
            energy_j=None if value[Term.ENERGY] == inf else value[Term.ENERGY],
            money=value[Term.MONEY],
            sent_bytes=round(self._sent().at(loads)),
        )

    @property
    def devices(self) -> range:
        """Those whose energy counts: where inputs are born."""
        return range(len(self.tiers) - 1) if self.is_star else range(1)

    def _form(
        self,
        busy: Mapping[int, float] | None = None,
        hops: Mapping[int, tuple[float, float, float]] | None = None,
    ) -> Form:
        """From weights of busy seconds by tier, and of bytes up, bytes down and use by hop."""
        busy, hops = busy or {}, hops or {}
        ups, downs, uses = (
            tuple(hops.get(hop, (0.0, 0.0, 0.0))[i] for hop in range(len(self.hops)))
            for i in range(3)
        )
        return Form(tuple(busy.get(k, 0.0) for k in range(len(self.tiers))), ups, downs, uses)

    def _latency(self) -> tuple[Form, ...]:
        moving = {hop: _transfer(route) for hop, route in enumerate(self.hops)}
        if not self.is_star:
            return (self._form(dict.fromkeys(range(len(self.tiers)), 1.0), moving),)
        server, back = len(self.tiers) - 1, (0.0, moving[0][1], 0.0)
        return tuple(
            self._form({k: 1.0, server: 1.0}, {0: back} | {k: (up, down if k == 0 else 0.0, trip)})
            for k, (up, down, trip) in moving.items()
        )

    def _stages(self) -> tuple[Form, ...]:
        stages = [self._form({k: 1.0}) for k in range(len(self.tiers))]
        for hop, route in enumerate(self.hops):
            stages.append(
                self._form(None, {hop: (max(1 / x.up_bytes_per_s for x in route), 0.0, 0.0)})
            )
            stages.append(
                self._form(None, {hop: (0.0, max(1 / x.down_bytes_per_s for x in route), 0.0)})
            )
        return tuple(stages)

    def _energy(self) -> tuple[Form, ...]:
        own, idle_w = self._form(), 0.0
        for k in self.devices:
            power = self.tiers[k].power
            if power is None:
                return ()
            up, down, _ = _transfer(self.hops[k][:1]) if self.hops else (0.0, 0.0, 0.0)
            radio = (
                power.radio_j_per_byte + power.radio_w * up,
                power.radio_j_per_byte + power.radio_w * down,
                0.0,
            )
            moved = {k: radio} if self.hops else {}
            own = own.plus(self._form({k: power.active_w - power.idle_w}, moved), 1.0)
            idle_w += power.idle_w
        return tuple(own.plus(latency, idle_w) for latency in self._latency())

    def _money(self) -> Form:
        per_byte = {
            hop: sum(link.price_per_gb for link in route) / 1e9
            for hop, route in enumerate(self.hops)
        }
        return self._form(
            {k: tier.price_per_hour / 3600 for k, tier in enumerate(self.tiers)},
            {hop: (price, price, 0.0) for hop, price in per_byte.items()},
        )

    def _sent(self) -> Form:
        return self._form(
            None, {hop: (len(route), len(route), 0.0) for hop, route in enumerate(self.hops)}
        )


def two_tiers(problem: Problem) -> Layout:
    """The device and the server alone."""
    return Layout((problem.device, problem.server), ((problem.link, *problem.via),))


def side_by_side(problem: Problem) -> Layout:
    """Devices, each with its own link, and the server."""
    devices = (problem.device, *(source.tier for source in problem.sources))
    links = ((problem.link, *problem.via), *((source.link,) for source in problem.sources))
    numbers = tuple(range(len(devices) + 1))
    return Layout((*devices, problem.server), links, is_star=True, numbers=numbers)


def chain(problem: Problem, numbers: Sequence[int]) -> Layout:
    """The device and some of the other tiers, in order."""
    tiers = problem.tiers
    hops = tuple(route(problem, a, b) for a, b in zip(numbers, numbers[1:], strict=False))
    return Layout(tuple(tiers[k] for k in numbers), hops, numbers=tuple(numbers))


def route(problem: Problem, start: int, end: int) -> Route:
    """The fewest links that lead from one tier to a later one, over tiers in between where it must."""
    links = {(0, 1): (problem.link, *problem.via)}
    links |= {(k, k + 1): (relay.link,) for k, relay in enumerate(problem.relays, start=1)}
    links |= {pair: (link,) for pair, link in problem.shortcuts.items()}
    found: dict[int, Route] = {start: ()}
    pending = deque([start])
    while end not in found:
        here = pending.popleft()
        for there in range(here + 1, end + 1):
            if (here, there) in links and there not in found:
                found[there] = found[here] + links[here, there]
                pending.append(there)
    return found[end]


def _transfer(route: Route) -> tuple[float, float, float]:
    """Seconds a byte up, a byte down, and a round trip."""
    up = sum(1 / link.up_bytes_per_s for link in route)
    down = sum(1 / link.down_bytes_per_s for link in route)
    return up, down, sum(link.rtt_s for link in route)
