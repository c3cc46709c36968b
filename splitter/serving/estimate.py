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
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from splitter.link import Link

Array = np.ndarray[Any, np.dtype[np.float64]]

STEP = 0.12
RATES: Array = np.exp(np.arange(math.log(50.0), math.log(4e9), STEP))
"""Bytes a second, from under 1 kbit/s to over 10 Gbit/s."""

DRIFT = 0.3
"""A second: by so much, as a logarithm, the rate changes in one with probability a half."""
FORGET_S = 300.0
"""After so long without a request, most of the belief is the prior again."""

NOISE = 0.1
"""Of what is predicted: the scale of Student's t."""
JITTER_S = 3e-4
"""Of a request, whatever its size: schedulers and timers."""
TRIMMED = 0.05
"""Of the belief at either end, moved to the quantile: a mean of seconds must not hang on a tail."""

NEIGHBOURS_S = 2.0
"""Requests further apart tell nothing of the round trip: the rate has changed."""
SIZES_APART = 1.3
LATE = 32
"""Requests whose shortest bounds the round trip."""
ROUND_TRIP_DRIFT_S = 2e-3
"""A request: the deviation that the round trip gains."""


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
    """Of ``1 / up_bytes_per_s``, where ``rtt_s`` is right."""
    rtt_deviation_s: float
    seen_bytes: float
    """Of late requests, as bytes up: where the seconds are known, however they divide."""
    samples: int
    age_s: float
    """Since the last request; infinite where there was none and this is the prior."""

    def transfer_s(self, up_bytes: float, down_bytes: float) -> float:
        """Expected seconds on the wire, as ``Link.transfer_s``."""
        return up_bytes / self.up_bytes_per_s + self.rtt_s + down_bytes / self.down_bytes_per_s

    def deviation_s(self, up_bytes: float, down_bytes: float, round_trips: int = 1) -> float:
        """One standard deviation of ``transfer_s``; with differences for arguments, of a difference."""
        sent = up_bytes + down_bytes * self.up_bytes_per_s / self.down_bytes_per_s
        divided = self.rtt_deviation_s * (round_trips - sent / max(self.seen_bytes, 1.0))
        return math.hypot(sent * self.deviation_s_per_byte, divided)


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
        self._round_trip = _RoundTrip(prior)
        self._samples = 0
        self._at_s: float | None = None

    def observe(self, exchange: Exchange, now_s: float) -> None:
        """Learn from an answered request; what is not a positive number of seconds is ignored."""
        if not 0 < exchange.link_s < math.inf:
            return
        sent = exchange.up_bytes + exchange.down_bytes * self._ratio
        with self._lock:
            self._round_trip.observe(sent, exchange.link_s, now_s)
            z, scale = _deviations(sent, exchange.link_s, self._round_trip.seconds)
            self._learn(1 / (scale * (1 + z**2 / 3) ** 2), now_s)  # Student's t, 3 degrees

    def failed(self, up_bytes: int, waited_s: float, now_s: float) -> None:
        """Learn from a request that got no answer for so long."""
        if not 0 < waited_s < math.inf:
            return
        with self._lock:
            z, _ = _deviations(up_bytes, waited_s, self._round_trip.seconds)
            # Never 0: a request may also be lost on a link that is well.
            self._learn(0.5 - np.arctan(z) / math.pi, now_s)

    def estimate(self, now_s: float) -> LinkEstimate | None:
        """What is believed now; None before the first request where there is no prior."""
        with self._lock:
            if self._at_s is None and not self._has_prior:
                return None
            slowness, deviation = _mean_slowness(self._drifted(now_s))
            return LinkEstimate(
                up_bytes_per_s=1 / slowness,
                down_bytes_per_s=1 / slowness / self._ratio,
                rtt_s=self._round_trip.seconds,
                deviation_s_per_byte=deviation,
                rtt_deviation_s=self._round_trip.deviation_s,
                seen_bytes=self._round_trip.seen_bytes,
                samples=self._samples,
                age_s=math.inf if self._at_s is None else max(0.0, now_s - self._at_s),
            )

    def _learn(self, likelihood: Array, now_s: float) -> None:
        self._belief = _normal(self._drifted(now_s) * likelihood)
        self._samples += 1
        self._at_s = now_s if self._at_s is None else max(now_s, self._at_s)

    def _drifted(self, now_s: float) -> Array:
        elapsed_s = 0.0 if self._at_s is None else now_s - self._at_s
        if elapsed_s <= 0:
            return self._belief
        moved = _normal(np.convolve(self._belief, _cauchy(DRIFT * elapsed_s), "valid"))
        kept = math.exp(-elapsed_s / FORGET_S)
        return _normal(kept * moved + (1 - kept) * self._prior)


class _RoundTrip:
    """A scalar Kalman filter over the intercepts of neighbouring requests."""

    def __init__(self, prior: Link | None) -> None:
        self._mean_s = prior.rtt_s if prior else 0.0
        self._variance = (0.5 * prior.rtt_s + 1e-3) ** 2 if prior else 0.25
        self._late: deque[float] = deque(maxlen=LATE)
        self._last: tuple[float, float, float] | None = None
        self.seen_bytes = 0.0

    @property
    def seconds(self) -> float:
        return min(self._mean_s, 0.9 * min(self._late, default=math.inf))

    @property
    def deviation_s(self) -> float:
        return min(math.sqrt(self._variance), min(self._late, default=math.inf))

    def observe(self, sent: float, link_s: float, now_s: float) -> None:
        self._late.append(link_s)
        self.seen_bytes += (sent - self.seen_bytes) * (0.3 if self._last else 1.0)
        self._variance += ROUND_TRIP_DRIFT_S**2
        if self._last is not None:
            before, before_s, at_s = self._last
            apart = max(sent, before) / max(min(sent, before), 1.0)
            if now_s - at_s <= NEIGHBOURS_S and apart >= SIZES_APART:
                self._learn((before, before_s), (sent, link_s))
        self._last = (sent, link_s, now_s)

    def _learn(self, one: tuple[float, float], other: tuple[float, float]) -> None:
        """The line through two requests, each with the rate's noise, at zero bytes."""
        difference = other[0] - one[0]
        parts = one[1] * other[0] / difference, other[1] * one[0] / difference
        variance = (2 * NOISE) ** 2 * (parts[0] ** 2 + parts[1] ** 2) + JITTER_S**2
        surprise = parts[0] - parts[1] - self._mean_s
        most = 3 * math.sqrt(self._variance + variance)
        gain = self._variance / (self._variance + variance)
        self._mean_s = max(0.0, self._mean_s + gain * min(max(surprise, -most), most))
        self._variance *= 1 - gain


def _prior(link: Link | None) -> Array:
    """About the planned link, with heavy tails; without one, every order of magnitude alike."""
    if link is None:
        return _normal(np.ones(len(RATES)))
    return _normal(1 / (1 + (np.log(RATES / link.up_bytes_per_s) / 0.7) ** 2))


def _normal(belief: Array) -> Array:
    return np.asarray(belief / belief.sum())


def _cauchy(scale: float) -> Array:
    """The chances of moving so many places up or down the grid."""
    places = np.arange(-len(RATES) + 1, len(RATES)) * STEP
    return np.asarray(
        np.arctan((places + STEP / 2) / scale) - np.arctan((places - STEP / 2) / scale)
    )


def _deviations(sent: float, seconds: float, rtt_s: float) -> tuple[Array, Array]:
    """How many scales of the noise the seconds are above each rate's prediction; the scales."""
    predicted = rtt_s + sent / RATES
    scale = np.sqrt(NOISE**2 + (JITTER_S / predicted) ** 2)
    return np.log(seconds / predicted) / scale, scale


def _mean_slowness(belief: Array) -> tuple[float, float]:
    """Mean and deviation of seconds a byte, the tails drawn in."""
    reached = np.cumsum(belief)
    low, high = np.interp([TRIMMED, 1 - TRIMMED], reached, RATES)
    slowness = 1 / np.clip(RATES, low, high)
    mean = float(belief @ slowness)
    return mean, math.sqrt(float(belief @ (slowness - mean) ** 2))
