"""Bandwidth and round trip, learnt from the session's own requests: nothing is ever sent to learn them.

The terms are those of ``Link.transfer_s``::

    link_s = rtt + (up + down * up_rate / down_rate) / up_rate

**The rate** is a belief over a grid of logarithms, updated by Bayes' rule. *Between* requests the logarithm
drifts as a Cauchy process: a little all the time, and now and then a jump of any size. *A request* is worth
its likelihood under Student's t about the logarithm of what a rate predicts. Both have heavy tails, so that
one odd request is taken for an accident, and two that agree for a change; and the longer since the last one,
the more readily a single one is believed. *A request without answer* is worth the chance of waiting longer.

**The round trip** is what two neighbouring requests of different sizes leave where their line meets zero
bytes, filtered; never more than the shortest of late requests. Where all have one size it stays the
prior's, or 0.

The two directions can't be told apart by what a session sends, whose answers all have one size: their
ratio is the prior's. What gRPC and the messages take is in the round trip.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from splitter.link import Link

Array = np.ndarray[Any, np.dtype[np.float64]]

STEP = 0.15
RATES: Array = np.exp(np.arange(math.log(50.0), math.log(4e9), STEP))
"""Bytes a second, from under 1 kbit/s to over 10 Gbit/s."""
ROUND_TRIPS_S: Array = np.exp(np.arange(math.log(1e-4), math.log(3.0), 2 * STEP))

DRIFT = 0.3
"""A second: by so much, as a logarithm, the rate changes in one with probability a half."""
ROUND_TRIP_DRIFT = 0.01
FORGET_S = 300.0
"""After so long without a request, most of the belief is the prior again."""

NOISE = 0.1
"""Of what is predicted: the scale of Student's t."""
JITTER_S = 3e-4
"""Of a request, whatever its size: schedulers and timers."""
TRIMMED = 0.05
"""Of the belief at either end, moved to the quantile: a mean of seconds must not hang on a tail."""
TOLERATED = 1.5
APART = 1.2
"""Times larger or smaller: from there on two requests are of different sizes."""


@dataclass(frozen=True)
class Exchange:
    """One request that was answered."""

    up_bytes: int
    down_bytes: int
    link_s: float
    """What no clock of device or server accounts for."""


@dataclass(frozen=True)
class LinkEstimate:
    """What a request is expected to take on the wire, and how sure that is."""

    up_bytes_per_s: float
    down_bytes_per_s: float
    rtt_s: float
    deviation_s_per_byte: float
    """Of ``1 / up_bytes_per_s``."""
    rtt_deviation_s: float
    correlation: float
    """Of the two: near -1 where it is only known what both take together."""
    samples: int
    failures: int
    """Requests without answer since the last one with."""
    age_s: float
    """Since the last request; infinite where there was none and this is the prior."""

    def transfer_s(self, up_bytes: float, down_bytes: float) -> float:
        """Expected seconds on the wire, as ``Link.transfer_s``."""
        return up_bytes / self.up_bytes_per_s + self.rtt_s + down_bytes / self.down_bytes_per_s

    def deviation_s(self, up_bytes: float, down_bytes: float, round_trips: int = 1) -> float:
        """One standard deviation of ``transfer_s``; with differences for arguments, of a difference."""
        sent = up_bytes + down_bytes * self.up_bytes_per_s / self.down_bytes_per_s
        rate, rtt = sent * self.deviation_s_per_byte, round_trips * self.rtt_deviation_s
        return math.sqrt(max(0.0, rate**2 + rtt**2 + 2 * self.correlation * rate * rtt))


class LinkEstimator:
    """Thread-safe. Time is the caller's, in seconds, of a clock that does not go back."""

    def __init__(self, prior: Link | None = None) -> None:
        """Start from the planned link, or from nothing."""
        self._lock = threading.Lock()
        self._has_prior = prior is not None
        self._ratio = prior.up_bytes_per_s / prior.down_bytes_per_s if prior else 1.0
        """Bytes down count as so many bytes up."""
        self._prior = _prior(prior)
        self._belief = self._prior
        self._last_sent: float | None = None
        self._samples = self._failures = 0
        self._at_s: float | None = None

    def observe(self, exchange: Exchange, now_s: float) -> None:
        """Learn from an answered request; what is not a positive number of seconds is ignored."""
        if not 0 < exchange.link_s < math.inf:
            return
        sent = max(1.0, exchange.up_bytes + exchange.down_bytes * self._ratio)
        z, scale = _deviations(sent, exchange.link_s)
        likelihood = 1 / (scale * (1 + z**2 / 3) ** 2)
        with self._lock:
            before, drifted = self._last_sent, self._drifted(now_s)
            self._last_sent, self._failures = sent, 0
            belief = drifted * likelihood
            if before is not None and max(sent, before) < APART * min(sent, before):
                belief *= _kept(drifted, belief, exchange.link_s)
            self._learn(belief, now_s)

    def failed(self, up_bytes: int, waited_s: float, now_s: float) -> None:
        """Learn from a request that got no answer for so long."""
        if not 0 < waited_s < math.inf:
            return
        z, _ = _deviations(max(1.0, up_bytes), waited_s)
        # Never 0: a request may also be lost on a link that is well.
        likelihood = 0.5 - np.arctan(z) / math.pi
        with self._lock:
            self._failures += 1
            drifted = self._drifted(now_s)
            belief = drifted * likelihood
            self._learn(belief * _kept(drifted, belief, waited_s), now_s)

    def estimate(self, now_s: float) -> LinkEstimate | None:
        """What is believed now; None before the first request where there is no prior."""
        with self._lock:
            if self._at_s is None and not self._has_prior:
                return None
            belief, ratio = self._drifted(now_s), self._ratio
            samples, failures = self._samples, self._failures
            age_s = math.inf if self._at_s is None else max(0.0, now_s - self._at_s)
        slowness, deviation, rtt_s, rtt_deviation, correlation = _moments(belief)
        return LinkEstimate(
            up_bytes_per_s=1 / slowness,
            down_bytes_per_s=1 / slowness / ratio,
            rtt_s=rtt_s,
            deviation_s_per_byte=deviation,
            rtt_deviation_s=rtt_deviation,
            correlation=correlation,
            samples=samples,
            failures=failures,
            age_s=age_s,
        )

    def _learn(self, belief: Array, now_s: float) -> None:
        self._belief = _normal(belief)
        self._samples += 1
        self._at_s = now_s if self._at_s is None else max(now_s, self._at_s)

    def _drifted(self, now_s: float) -> Array:
        elapsed_s = 0.0 if self._at_s is None else now_s - self._at_s
        if elapsed_s <= 0:
            return self._belief
        moved = _cauchy(RATES, DRIFT * elapsed_s) @ self._belief
        moved = moved @ _cauchy(ROUND_TRIPS_S, ROUND_TRIP_DRIFT * elapsed_s)
        kept = math.exp(-elapsed_s / FORGET_S)
        return _normal(kept * _normal(moved) + (1 - kept) * self._prior)


def _prior(link: Link | None) -> Array:
    """About the planned link, with heavy tails; without one, every order of magnitude alike."""
    if link is None:
        return _normal(np.ones((len(RATES), len(ROUND_TRIPS_S))))
    rate = 1 / (1 + (np.log(RATES / link.up_bytes_per_s) / 0.7) ** 2)
    rtt = 1 / (1 + (np.log(ROUND_TRIPS_S / max(link.rtt_s, ROUND_TRIPS_S[0])) / 0.3) ** 2)
    return _normal(np.outer(rate, rtt))


def _normal(belief: Array) -> Array:
    return np.asarray(belief / belief.sum())


def _cauchy(grid: Array, scale: float) -> Array:
    """Row i, column j: the chance of moving between these places of a grid of equal steps."""
    step, size = math.log(grid[1] / grid[0]), len(grid)
    edges = np.arctan((np.arange(-size, size) + 0.5) * (step / scale)) / math.pi
    # Windows over what lies so many places away, the last first: a row for each place to come from.
    return np.lib.stride_tricks.sliding_window_view(np.diff(edges), size)[::-1]


def _deviations(sent: float, seconds: float) -> tuple[Array, Array]:
    """How many scales of the noise the seconds are above each pair's prediction; the scales."""
    predicted = sent / RATES[:, None] + ROUND_TRIPS_S
    scale = np.sqrt(NOISE**2 + (JITTER_S / predicted) ** 2)
    return np.log(seconds / predicted) / scale, scale


def _kept(before: Array, after: Array, seconds: float) -> Array:
    """What keeps each round trip's weight, but of those longer than the seconds.

    Requests of one size do not tell how their seconds divide; that a round trip explains steady ones better
    than a rate that might have drifted is no evidence.
    """
    ratio = before.sum(axis=0) / after.sum(axis=0)
    possible = ROUND_TRIPS_S <= TOLERATED * seconds
    if not possible.any():
        return np.ones_like(ratio)
    return np.asarray(np.minimum(ratio, ratio[possible].max()))


def _moments(belief: Array) -> tuple[float, float, float, float, float]:
    """Mean and deviation of seconds a byte and of the round trip, tails drawn in; correlation."""
    by_rate, by_rtt = belief.sum(axis=1), belief.sum(axis=0)
    low, high = np.interp([TRIMMED, 1 - TRIMMED], np.cumsum(by_rate), RATES)
    slowness = 1 / np.clip(RATES, low, high)
    mean, rtt_s = float(by_rate @ slowness), float(by_rtt @ ROUND_TRIPS_S)
    off, rtt_off = slowness - mean, ROUND_TRIPS_S - rtt_s
    deviation, rtt_deviation = math.sqrt(by_rate @ off**2), math.sqrt(by_rtt @ rtt_off**2)
    together = float(off @ belief @ rtt_off)
    return mean, deviation, rtt_s, rtt_deviation, together / max(deviation * rtt_deviation, 1e-300)
