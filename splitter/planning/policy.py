"""The policy table of a problem: its envelopes, and the cuts that they are made of.

A plan without a tail pays no round trip and every other pays the same, so one envelope over the bandwidth
at round trip 0 settles all round trips: with ``rtt`` more for plans with a tail, a plan that is not best
without it is not best with it either, but for the one that has no tail, which is priced in any case.

Close to where two pieces meet their cuts cost the same, and a link's estimate moves to and fro. So each piece
has a wider stretch, on which its cut costs at most ``HYSTERESIS`` more than the best: the margin follows from
the lines on either side, wide where they meet at a small angle and narrow where a wrong cut is dear.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf

from splitter.errors import PlanError
from splitter.planning.baselines import whole_cuts
from splitter.planning.candidates import planned_cut, title_of
from splitter.planning.cost import Price, price
from splitter.planning.envelope import Envelope, envelope
from splitter.planning.knapsack import Allowance
from splitter.planning.lines import Line, Stretch, lowest, near
from splitter.planning.records import Problem
from splitter.planning.search import SolverChoice
from splitter.planning.table import Piece, Pieces, PolicyTable, RoundTrips, TableCut
from splitter.planning.worlds import round_trip, server_slowdown, slowness, trip_s, why_no_lines

HYSTERESIS = 0.05
"""Part of the best cost that staying with a cut may cost more."""

BANDWIDTHS = tuple(
    base * 10.0**power / 8 for power in range(5, 9) for base in (1, 2, 5)
) + (1e9 / 8,)  # fmt: skip
"""Of the map: 0.1 Mbit/s to 1 Gbit/s, in bytes per second."""

ROUND_TRIPS = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Policy:
    """A table, and its plans as priced cuts in the order of the table's."""

    table: PolicyTable
    plans: Sequence[Price]


def policy(
    problem: Problem,
    known: Sequence[Price],
    choice: SolverChoice,
    progress: Progress = lambda stage, done, total: None,
) -> Policy:
    """Find what is best at every bandwidth and server slowdown, and on a grid of round trips.

    ``known`` are plans that can be carried out, the problem's best, proven, and others; those in codecs that
    are not allowed are left aside. The choice's time limit is for all of it. Raises PlanError where plans do
    not cost lines.
    """
    reason = why_no_lines(problem)
    if reason:
        raise PlanError(f"no envelope can be found: {reason}; plan without --envelope")
    known = (*_allowed(problem, known), *whole_cuts(problem))
    best, until = known[0], time.monotonic() + (choice.time_limit_s or inf)

    def left(share: float) -> SolverChoice:
        if choice.time_limit_s is None:
            return choice
        return replace(choice, time_limit_s=max(until - time.monotonic(), 0.0) * share)

    # Without a round trip the best plan is still the best, unless it has no tail.
    settled = None if len(best.head) == len(problem.graph.nodes) else 1.0
    wire = envelope(
        problem, slowness(0.0), known, left(0.5),
        lambda done, total: progress("bandwidths", done, total), settled,
    )  # fmt: skip
    server = envelope(
        problem, server_slowdown(), (*known, *wire.plans), left(1.0),
        lambda done, total: progress("server slowdowns", done, total), 1.0,
    )  # fmt: skip
    return _Table(problem, best, wire, server).policy()


class _Table:
    """The table as its cuts are gathered."""

    def __init__(self, problem: Problem, best: Price, wire: Envelope, server: Envelope) -> None:
        self.problem, self.wire, self.server = problem, wire, server
        self.second = round_trip(problem).steepest
        self.plans: list[Price] = []
        self.index_of: dict[object, int] = {}
        self.index(best)

    def policy(self) -> Policy:
        bandwidths = self.bandwidths()
        slowdowns = self.pieces(self.server, self.server.lines, self.server.stretches)
        trips = self.round_trips()
        cuts = tuple(_table_cut(self.problem, plan) for plan in self.plans)
        return Policy(PolicyTable(
            cuts=cuts, hysteresis=HYSTERESIS, up_bytes_per_s=bandwidths,
            server_slowdown=slowdowns, round_trip=trips,
        ), self.plans)  # fmt: skip

    def index(self, plan: Price) -> int:
        """The place of a plan among the cuts, where it is put if it is new."""
        found = self.index_of.setdefault(plan.identity, len(self.plans))
        if found == len(self.plans):
            self.plans.append(price(self.problem, plan.head, plan.codecs))
        return found

    def delayed(self, rtt_s: float) -> list[Line]:
        """The lines over the wire's slowness, of the plans that are on its envelope, at a round trip."""
        whole, cost = len(self.problem.graph.nodes), rtt_s * self.second
        return [
            replace(line, at_0=line.at_0 + (cost if len(plan.head) < whole else 0.0))
            for plan, line in zip(self.wire.plans, self.wire.lines, strict=True)
        ]

    def bandwidths(self) -> Pieces:
        """Slowness turned around: bytes per second, in rising order."""
        lines = self.delayed(trip_s(self.problem))
        found = self.pieces(self.wire, lines, lowest(lines))
        up = self.problem.link.up_bytes_per_s
        return Pieces(
            at=up,
            pieces=tuple(
                Piece(
                    low=_over(up, piece.high), high=_over(up, piece.low) or None, cut=piece.cut,
                    stay_low=_over(up, piece.stay_high), stay_high=_over(up, piece.stay_low) or None,
                    proven=piece.proven,
                )
                for piece in reversed(found.pieces)
            ),
            gap=found.gap,
            solves=found.solves,
        )  # fmt: skip

    def pieces(
        self, found: Envelope, lines: Sequence[Line], stretches: Sequence[Stretch]
    ) -> Pieces:
        pieces = []
        for low, high, line in stretches:
            stay = near(lines, stretches, line, HYSTERESIS)
            pieces.append(
                Piece(
                    low=low, high=None if high == inf else high, cut=self.index(found.plans[line]),
                    stay_low=stay.low, stay_high=None if stay.high == inf else stay.high,
                    proven=found.proven(low, high),
                )
            )  # fmt: skip
        gap = max(found.gaps)
        return Pieces(
            at=1.0, pieces=tuple(pieces), gap=None if gap == inf else gap, solves=found.solves
        )

    def round_trips(self) -> RoundTrips:
        up = self.problem.link.up_bytes_per_s
        rows = []
        for rtt_s in ROUND_TRIPS:
            lines = self.delayed(rtt_s)
            stretches = lowest(lines)
            rows.append(tuple(
                self.index(self.wire.plans[_at(stretches, up / bandwidth)])
                for bandwidth in BANDWIDTHS
            ))  # fmt: skip
        return RoundTrips(up_bytes_per_s=BANDWIDTHS, rtt_s=ROUND_TRIPS, cuts=tuple(rows))


def _allowed(problem: Problem, known: Iterable[Price]) -> list[Price]:
    allowance = Allowance.of(problem)
    return [
        plan
        for plan in known
        if allowance.allows({tensor: choice.loss for tensor, choice in plan.codecs.items()})
    ]


def _over(up: float, slowness: float | None) -> float:
    """A bandwidth from a slowness; 0 stands for the infinite one, which callers make None."""
    return up / slowness if slowness else 0.0


def _at(stretches: Sequence[Stretch], value: float) -> int:
    return next(stretch.line for stretch in stretches if value <= stretch.high)


def _table_cut(problem: Problem, plan: Price) -> TableCut:
    latency = plan.latency
    return TableCut(
        name=title_of(problem, plan),
        cut=planned_cut(problem, plan),
        head_s=latency.head_s,
        encode_s=latency.encode_s,
        decode_s=latency.decode_s,
        tail_s=latency.tail_s,
        up_bytes=plan.up_bytes,
        down_bytes=plan.down_bytes,
        loss=plan.loss,
    )
