"""Which cut the next request takes: the cheapest one by the plan's costs, re-priced on the link of now.

The price of a cut is ``planning.cost``'s latency with measured terms in the place of planned ones::

    device * (head_s + encode_s) + transfer_s(up_bytes, down_bytes) + queue_s + server * (decode_s + tail_s)

``device`` and ``server`` are how much slower than planned these are, by their own clocks; a cut without
tail costs its head. The policy moves when it has *seen* enough to gain: each request for which another
cut is cheaper adds what it would have saved, and the sum has to exceed the estimate's uncertainty of that
difference. So a large gain is taken at once, a doubtful one after several requests that agree, and none is
left lying for ever.

While nothing is sent nothing is learnt. Then ``trial`` names, now and then, a cut that the session should
try beside the local answer, whose caller does not wait for it: after 1 s, 2 s, 4 s and so on of requests, and
from 1 s again after a change.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from splitter.link import Link
from splitter.partition.manifest import CutCost, CutSpec
from splitter.planning.records import Latency
from splitter.serving.estimate import LinkEstimate

DEVIATIONS = 1.5
"""Of the estimated gain, that the sum of gains has to exceed."""
LEAST_GAIN = 0.02
"""Of the current cut's price: less than this is no gain."""

FIRST_TRIAL_S = 1.0
LONGEST_TRIAL_S = 32.0
OUTAGE_TRIAL_S = 2.0
SURPRISING = 0.15
OF_DISTANCE = 0.3
TRIAL_BYTES_PER_S = 8_000.0
"""On average: what trials may send at most, a burst of the first minute apart."""

LEARNING = 0.2
"""The part of the newest request in a tier's factor."""
ANCHOR_S = 1e-3
"""Seconds as planned that every factor starts from: terms far below it say little about a tier."""
SURPRISE = 4.0
"""One request is at most so many times off a factor."""


@dataclass
class Factor:
    """How much slower a tier is than the plan says: seconds measured over seconds planned."""

    measured_s: float = ANCHOR_S
    planned_s: float = ANCHOR_S

    @property
    def value(self) -> float:
        """1 where all is as planned."""
        return self.measured_s / self.planned_s

    def observe(self, measured_s: float, planned_s: float) -> None:
        """Learn from one request; both in seconds."""
        expected_s = self.value * planned_s
        measured_s = min(max(measured_s, expected_s / SURPRISE), expected_s * SURPRISE)
        self.measured_s += LEARNING * (measured_s + ANCHOR_S * self.value - self.measured_s)
        self.planned_s += LEARNING * (planned_s + ANCHOR_S - self.planned_s)


class Policy:
    """Thread-safe. Time is the caller's, of the same clock as the estimator's."""

    def __init__(self, cuts: Sequence[CutSpec], prior: Link | None = None) -> None:
        """Start with the first cut, or with the cheapest on the planned link; ValueError for none."""
        if not cuts:
            raise ValueError("a policy needs a cut")
        self._lock = threading.Lock()
        self._priced = [(cut, cut.cost) for cut in cuts if cut.cost is not None]
        self._device, self._server, self._queue_s = Factor(), Factor(), 0.0
        self._current = cuts[0]
        if prior is not None and self._priced and cuts[0].cost is not None:
            self._current = min(
                self._priced, key=lambda pair: self._price_s(pair[0], pair[1], prior)
            )[0]
        self._owed_s: dict[str, float] = {}
        self._interval_s = FIRST_TRIAL_S
        self._link: LinkEstimate | None = None
        self._next_trial_s: float | None = None
        self._tried: tuple[CutSpec, float, int] | None = None
        self.switches = 0
        self.trials = 0
        self.trial_bytes = 0
        """Of payloads, as planned."""

    @property
    def current(self) -> CutSpec:
        """What ``choose`` answered last."""
        return self._current

    def price(self, cut: CutSpec, estimate: LinkEstimate | Link) -> float:
        """Expected seconds of a request; infinite for a cut that was never priced."""
        if cut.cost is None:
            return float("inf")
        return self._price_s(cut, cut.cost, estimate)

    def choose(self, estimate: LinkEstimate | None, now_s: float) -> CutSpec:
        """The cut of the next request."""
        with self._lock:
            cost = self._current.cost
            self._link = estimate
            self._judge()
            if estimate is None or cost is None:
                return self._current
            price_s = self._price_s(self._current, cost, estimate)
            best, best_cost = min(
                self._priced, key=lambda pair: self._price_s(pair[0], pair[1], estimate)
            )
            gain_s = price_s - self._price_s(best, best_cost, estimate)
            if gain_s <= LEAST_GAIN * price_s:
                self._owed_s.clear()
                return self._current
            owed_s = self._owed_s.get(best.id, 0.0) + gain_s
            self._owed_s = {best.id: owed_s}
            if owed_s >= DEVIATIONS * _deviation_s(self._current, cost, best, best_cost, estimate):
                self._switch(best, now_s)
            return self._current

    def observe(self, cut: CutSpec, timing: Latency, queue_s: float = 0.0) -> None:
        """Learn how fast device and server are; not from a trial, whose parts ran beside another."""
        cost = cut.cost
        if cost is None:
            return
        with self._lock:
            self._device.observe(timing.head_s + timing.encode_s, cost.head_s + cost.encode_s)
            if cut.tail is not None:
                self._server.observe(timing.decode_s + timing.tail_s, cost.decode_s + cost.tail_s)
                self._queue_s += LEARNING * (queue_s - self._queue_s)

    def trial(self, now_s: float) -> CutSpec | None:
        """The cut to send beside this request's local answer, if it is time; asking is taking."""
        with self._lock:
            if self._current.tail is not None:
                return None
            tailed = [(cut, cost) for cut, cost in self._priced if cut.tail is not None]
            if not tailed:
                return None
            if self._next_trial_s is None:
                self._next_trial_s = now_s + self._interval_s
            if now_s < self._next_trial_s:
                return None
            cut, cost = min(tailed, key=lambda pair: self._needed(pair[0], pair[1]))
            self._tried = (cut, self._link.up_bytes_per_s, self._link.samples)
            self._next_trial_s = now_s + self._interval_s
            self.trials += 1
            self.trial_bytes += cost.up_bytes + cost.down_bytes
            return cut

    def _judge(self) -> None:
        """Have the next trial soon where the last one was a surprise, later where it was none."""
        link = self._link
        if self._tried is None or link is None or link.samples == self._tried[2]:
            return
        cut, before, _ = self._tried
        self._tried = None
        assert cut.cost is not None
        change = abs(math.log(link.up_bytes_per_s / before))
        distance = abs(math.log(self._needed(cut, cut.cost) / link.up_bytes_per_s))
        longest = OUTAGE_TRIAL_S if link.failures else LONGEST_TRIAL_S
        surprise = change > max(SURPRISING, OF_DISTANCE * distance)
        self._interval_s = FIRST_TRIAL_S if surprise else min(2 * self._interval_s, longest)

    def _needed(self, cut: CutSpec, cost: CutCost) -> float:
        """The rate, as bytes up a second, from which a cut beats the current one."""
        link = self._link
        assert link is not None and self._current.cost is not None
        sent = cost.up_bytes + cost.down_bytes * link.up_bytes_per_s / link.down_bytes_per_s
        rest = self._price_s(cut, cost, link) - sent / link.up_bytes_per_s
        slack = self._price_s(self._current, self._current.cost, link) - rest
        if slack <= 0:
            return 1e12 - slack
        return sent / slack

    def _switch(self, cut: CutSpec, now_s: float) -> None:
        self._current = cut
        self._owed_s = {}
        self._interval_s = FIRST_TRIAL_S
        self._next_trial_s = now_s + FIRST_TRIAL_S
        self.switches += 1

    def _price_s(self, cut: CutSpec, cost: CutCost, link: LinkEstimate | Link) -> float:
        device_s = self._device.value * (cost.head_s + cost.encode_s)
        if cut.tail is None:
            return device_s
        server_s = self._queue_s + self._server.value * (cost.decode_s + cost.tail_s)
        return device_s + link.transfer_s(cost.up_bytes, cost.down_bytes) + server_s


def _deviation_s(
    one: CutSpec, one_cost: CutCost, other: CutSpec, other_cost: CutCost, estimate: LinkEstimate
) -> float:
    """Of the difference of two prices: the round trip is in both, in one, or in none."""
    sent = [
        (cost.up_bytes, cost.down_bytes) if cut.tail is not None else (0, 0)
        for cut, cost in ((one, one_cost), (other, other_cost))
    ]
    up, down = (a - b for a, b in zip(*sent, strict=True))
    round_trips = (one.tail is not None) - (other.tail is not None)
    return estimate.less_s(up, down, round_trips)
