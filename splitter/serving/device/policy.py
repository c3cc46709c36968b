"""Which cut the next request takes: the cheapest one by the plan's costs, re-priced on the link of now.

The price of a cut is ``planning.cost``'s latency with measured terms in the place of planned ones::

    a * head_s + b * encode_s + transfer_s(up_bytes, down_bytes) + queue_s + c * decode_s + d * tail_s

The factors are how much slower than planned models and codecs run on device and server, by their own clocks:
a codec's says nothing of a model's. A cut that has been used is priced with the bytes it sent. A cut without
tail costs its head. The policy moves when it has *seen* enough to gain: each request for which another cut
is cheaper adds what it would have saved, and the sum has to exceed what the estimate may be wrong by. So
a large gain is taken at once, a doubtful one after several requests that agree, and none is left lying
for ever.

While nothing is sent nothing is learnt. Then ``trial`` names, now and then, a cut that the session should
try beside the local answer, whose caller does not wait for it: the one that pays first when the link gets
better. Trials come 1 s, 2 s and then 4 s after each other, less often the more is missing, from 1 s again
when one finds the link changed, and only while requests flow. Their bytes are counted, and bounded on
average.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from splitter.link import Link
from splitter.partition.manifest import CutCost, CutSpec
from splitter.planning.records import Latency
from splitter.serving.device.estimate import LinkEstimate

DOUBT = 1.5
"""Deviations of the estimated gain that the sum of gains has to exceed."""
LEAST_GAIN = 0.02
"""Of the current cut's price: less than this is no gain."""

FIRST_TRIAL_S = 1.0
LONGEST_TRIAL_S = 4.0
"""And as many times that as the logarithm of what the rate lacks."""
HOPELESS_TRIAL_S = 60.0
"""Instead, where only a shorter round trip could make a cut pay."""
OUTAGE_TRIAL_S = 2.0
"""Instead, where the last request got no answer: then next to nothing is sent, and the return matters."""
CHANGED = 0.15
"""A trial that moves the logarithm of the rate by more than this found a change,"""
CHANGED_OF_DISTANCE = 0.3
"""and by more than this part of what is missing to where the cut would pay."""
TRIAL_BYTES_PER_S = 8_000.0
"""What trials may send on average; the bytes of half a minute may be saved up, or those of one trial."""
SAVED_S = 30.0

LEARNING = 0.2
"""The part of what the newest request says that a factor takes over."""
SURPRISE = 4.0
"""One request is at most so many times off a factor."""
SHORT_S = 1e-3
"""As planned: terms far below it are not worth a factor."""


@dataclass
class Factor:
    """How many times slower something is than the plan says."""

    value: float = 1.0

    def observe(self, measured_s: float, planned_s: float) -> None:
        """Learn from one request."""
        off = max(measured_s, 1e-9) / max(self.value * planned_s, 1e-9)
        weight = LEARNING * planned_s / (planned_s + SHORT_S)
        self.value *= min(max(off, 1 / SURPRISE), SURPRISE) ** weight


@dataclass
class _Trials:
    """When the next one is due, and what it may send."""

    interval_s: float = FIRST_TRIAL_S
    next_s: float | None = None
    saved_bytes: float = TRIAL_BYTES_PER_S * SAVED_S
    saved_at_s: float = 0.0
    tried: tuple[CutSpec, LinkEstimate] | None = None
    """The last one, and what was believed before it; None once it was judged."""

    def restart(self, now_s: float) -> None:
        self.interval_s, self.next_s = FIRST_TRIAL_S, now_s + FIRST_TRIAL_S

    def take(self, cut: CutSpec, nbytes: int, link: LinkEstimate, now_s: float) -> bool:
        """Whether it is time, and the bytes are there; then it counts as begun."""
        if self.next_s is None:
            self.restart(now_s)
        assert self.next_s is not None
        if now_s < self.next_s:
            return False
        most = max(TRIAL_BYTES_PER_S * SAVED_S, nbytes)
        earned = TRIAL_BYTES_PER_S * max(0.0, now_s - self.saved_at_s)
        self.saved_bytes, self.saved_at_s = min(most, self.saved_bytes + earned), now_s
        if self.saved_bytes < nbytes:
            return False
        self.saved_bytes -= nbytes
        self.tried, self.next_s = (cut, link), now_s + self.interval_s
        return True

    def judge(self, link: LinkEstimate, needed_bytes_per_s: float) -> None:
        """The next one soon where the last was a surprise, later where it was none."""
        assert self.tried is not None
        _, before = self.tried
        self.tried = None
        change = abs(math.log(link.up_bytes_per_s / before.up_bytes_per_s))
        distance = abs(math.log(needed_bytes_per_s / link.up_bytes_per_s))
        longest_s = min(LONGEST_TRIAL_S * max(1.0, distance), HOPELESS_TRIAL_S)
        if link.failures:
            longest_s = OUTAGE_TRIAL_S
        if change > max(CHANGED, CHANGED_OF_DISTANCE * distance):
            self.interval_s = FIRST_TRIAL_S
        else:
            self.interval_s = min(2 * self.interval_s, longest_s)


class Policy:
    """Thread-safe. Time is the caller's, of the same clock as the estimator's."""

    def __init__(self, cuts: Sequence[CutSpec], prior: Link | None = None) -> None:
        """Start with the first cut, or with the cheapest on the planned link; ValueError for none."""
        if not cuts:
            raise ValueError("a policy needs a cut")
        self._lock = threading.Lock()
        self._priced = [(cut, cut.cost) for cut in cuts if cut.cost is not None]
        self._factors = {term: Factor() for term in ("head_s", "encode_s", "decode_s", "tail_s")}
        self._queue_s = 0.0
        self._sent_bytes: dict[str, tuple[float, float]] = {}
        """Up and down, by cut: what late requests sent."""
        self._current = cuts[0]
        if prior is not None and cuts[0].cost is not None:
            self._current = self._cheapest(prior)[0]
        self._owed: tuple[str, float] = ("", 0.0)
        """The cut that was cheaper for the last requests, and by how many seconds in all."""
        self._link: LinkEstimate | None = None
        self._trials = _Trials()
        self.switches = 0
        self.trials = 0
        self.trial_bytes = 0
        """Both ways, as planned."""

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
            current, cost, self._link = self._current, self._current.cost, estimate
            if estimate is None or cost is None:
                return current
            self._judge_trial(estimate)
            price_s = self._price_s(current, cost, estimate)
            best, best_cost = self._cheapest(estimate)
            gain_s = price_s - self._price_s(best, best_cost, estimate)
            if gain_s <= LEAST_GAIN * price_s:
                self._owed = ("", 0.0)
                return current
            before_s = self._owed[1] if self._owed[0] == best.id else 0.0
            self._owed = (best.id, before_s + gain_s)
            doubt_s = DOUBT * self._doubt_s((current, cost), (best, best_cost), estimate)
            # To send once more where no answer came risks another deadline, to stay here little.
            flees = estimate.failures > 0 and best.tail is None
            if flees or self._owed[1] >= doubt_s:
                self._current, self._owed = best, ("", 0.0)
                self._trials.restart(now_s)
                self.switches += 1
            return self._current

    def observe(
        self,
        cut: CutSpec,
        timing: Latency,
        queue_s: float = 0.0,
        sent_bytes: tuple[int, int] | None = None,
    ) -> None:
        """Learn how fast device and server are, and from messages up and down how much a cut sends.

        Not from a trial, whose parts ran beside another.
        """
        cost = cut.cost
        if cost is None:
            return
        with self._lock:
            for term, factor in self._factors.items():
                factor.observe(getattr(timing, term), getattr(cost, term))
            if cut.tail is None:
                return
            self._queue_s += LEARNING * (queue_s - self._queue_s)
            if sent_bytes is not None:
                before = self._sent_bytes.get(cut.id, sent_bytes)
                up, down = (a + LEARNING * (b - a) for a, b in zip(before, sent_bytes, strict=True))
                self._sent_bytes[cut.id] = up, down

    def trial(self, now_s: float) -> CutSpec | None:
        """The cut to send beside this request's local answer, if it is time; asking is taking."""
        with self._lock:
            tailed = [pair for pair in self._priced if pair[0].tail is not None]
            if self._current.tail is not None or self._link is None or not tailed:
                return None
            cut, cost = min(
                tailed,
                key=lambda pair: (self._needed_bytes_per_s(pair[0], pair[1]), pair[1].up_bytes),
            )
            nbytes = cost.up_bytes + cost.down_bytes
            if not self._trials.take(cut, nbytes, self._link, now_s):
                return None
            self.trials += 1
            self.trial_bytes += nbytes
            return cut

    def _judge_trial(self, estimate: LinkEstimate) -> None:
        tried = self._trials.tried
        if tried is not None and estimate.samples > tried[1].samples:
            cut, _ = tried
            assert cut.cost is not None
            self._trials.judge(estimate, self._needed_bytes_per_s(cut, cut.cost))

    def _needed_bytes_per_s(self, cut: CutSpec, cost: CutCost) -> float:
        """The rate from which a cut beats the current one; infinite where none does."""
        link, current = self._link, self._current
        assert link is not None
        assert current.cost is not None
        up, down = self._bytes(cut, cost)
        sent = up + down * link.up_bytes_per_s / link.down_bytes_per_s
        rest_s = self._price_s(cut, cost, link) - sent / link.up_bytes_per_s
        slack_s = self._price_s(current, current.cost, link) - rest_s
        return max(1.0, sent) / slack_s if slack_s > 1e-9 else math.inf

    def _cheapest(self, link: LinkEstimate | Link) -> tuple[CutSpec, CutCost]:
        return min(self._priced, key=lambda pair: self._price_s(pair[0], pair[1], link))

    def _price_s(self, cut: CutSpec, cost: CutCost, link: LinkEstimate | Link) -> float:
        head, encode, decode, tail = (factor.value for factor in self._factors.values())
        parts_s = head * cost.head_s + encode * cost.encode_s
        parts_s += decode * cost.decode_s + tail * cost.tail_s
        if cut.tail is None:
            return parts_s
        return parts_s + self._queue_s + link.transfer_s(*self._bytes(cut, cost))

    def _bytes(self, cut: CutSpec, cost: CutCost) -> tuple[float, float]:
        return self._sent_bytes.get(cut.id, (cost.up_bytes, cost.down_bytes))

    def _doubt_s(
        self, one: tuple[CutSpec, CutCost], other: tuple[CutSpec, CutCost], link: LinkEstimate
    ) -> float:
        """How much less than expected may be gained by moving; a round trip in both cancels."""
        sent = [
            (0.0, 0.0, 0) if cut.tail is None else (*self._bytes(cut, cost), 1)
            for cut, cost in (one, other)
        ]
        up, down, round_trips = (a - b for a, b in zip(*sent, strict=True))
        return link.less_s(up, down, int(round_trips))
