"""Bandwidth and round trip, learnt from the session's own requests: nothing is ever sent to learn them.

A belief over pairs (round trip, rate) on a grid of logarithms, updated by Bayes' rule. The terms are those of
``Link.transfer_s``::

    link_s = rtt + (up + down * up_rate / down_rate) / up_rate

- *Between* requests the logarithm of the rate drifts as a Cauchy process: a little all the time, and now and
  then a jump of any size. Of what is believed of both, a little is given back to the prior.
- *A request* is worth its likelihood under Student's t about the logarithm of what a pair predicts. Both
  tails are heavy, so that one odd request is taken for an accident, and two that agree for a change; and the
  longer since the last one, or the longer it took, the more readily a single one is believed. How noisy the
  path is, of two kinds, is learnt by which foretold the late requests better.
- *A request without answer* is worth the chance of waiting longer than that.

Requests of different sizes tell round trip and rate apart, with caution, since the rate is not the same for
both. Those of one size leave the round trip as it was: the prior's, as long as they take no less. The two
directions can't be told apart by what a session sends, whose answers all have one size: their ratio is the
prior's. What gRPC and the messages take is in the round trip. Learning from a request takes a quarter of
a millisecond.
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
ROUND_TRIPS_S: Array = np.exp(np.arange(math.log(1e-4), math.log(3.0), 2 * STEP))[:, None]
"""A column: a belief has a row for each."""

DRIFT = 0.3
"""A second: by so much, as a logarithm, the rate changes in one with probability a half."""
STILL_S = 0.1
"""Not drifted for an estimate sooner than this after a request."""
FORGET_S = 300.0
"""After so long without a request, most of the belief is the prior again."""

NOISES: Array = np.array([0.1, 0.3])
"""Of what is predicted: scales of Student's t with two degrees of freedom, on a quiet path and on one whose
round trips vary."""
LATE = 0.95
"""What the evidence for either is still worth a request later."""
JITTER_S = 3e-4
"""Of a request, whatever its size: schedulers and timers."""
TRIMMED = 0.05
"""Of the belief at either end, moved to the quantile: the mean must not hang on a tail."""
UNPLANNED_ROUND_TRIP_S = 2e-3
SHORTEST_S, LONGEST_S = 1e-6, 1e6
"""Longer than this is no measurement."""
APART = 1.2
"""Times larger or smaller: from there on two requests are of different sizes."""
TOLD = 0.25
"""Of what the likelihood of a request of another size says of the round trip: two neighbours differ by more
than their sizes."""
TOLERATED = 1.5
"""Times a request's seconds: only a longer round trip is refuted by it, since they all vary."""

_PADDED = 256
_FREQUENCIES: Array = np.pi / STEP * np.arange(_PADDED // 2 + 1) / (_PADDED // 2)


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
    faster_s_per_byte: float
    """How much less than expected a byte may take: the root of the mean square on this side."""
    slower_s_per_byte: float
    """How much more: many times that where a request got no answer."""
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

    def less_s(self, up_bytes: float, down_bytes: float, round_trips: int = 1) -> float:
        """How much less than ``transfer_s`` it may be; with differences for arguments, of a difference."""
        sent = up_bytes + down_bytes * self.up_bytes_per_s / self.down_bytes_per_s
        rate = sent * (self.faster_s_per_byte if sent > 0 else self.slower_s_per_byte)
        rtt = round_trips * self.rtt_deviation_s
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
        self._noises = np.full(len(NOISES), 1 / len(NOISES))
        """How much either is believed."""
        self._samples = self._failures = 0
        self._at_s: float | None = None

    def observe(self, exchange: Exchange, now_s: float) -> None:
        """Learn from an answered request; what is not a positive number of seconds is ignored."""
        if not 0 < exchange.link_s < LONGEST_S:
            return
        sent = max(1.0, exchange.up_bytes + exchange.down_bytes * self._ratio)
        likelihoods = _likelihoods(sent, exchange.link_s)
        with self._lock:
            before, drifted = self._last_sent, self._drifted(now_s)
            self._last_sent, self._failures = sent, 0
            belief = drifted * self._mixed(drifted, likelihoods)
            is_apart = before is None or max(sent, before) >= APART * min(sent, before)
            belief = belief * _kept(drifted, belief, exchange.link_s, TOLD if is_apart else 0.0)
            self._learn(belief, now_s)

    def failed(self, up_bytes: int, waited_s: float, now_s: float) -> None:
        """Learn from a request that got no answer for so long."""
        if not 0 < waited_s < LONGEST_S:
            return
        off, variance = _deviations(max(1.0, up_bytes), waited_s)
        # Never 0: a request may also be lost on a link that is well.
        likelihood = 1 / (1 + np.maximum(off, 0.0) ** 2 / (NOISES[0] ** 2 + variance))
        with self._lock:
            self._failures += 1
            drifted = self._drifted(now_s)
            belief = drifted * likelihood
            self._learn(belief * _kept(drifted, belief, waited_s, 0.0), now_s)

    def estimate(self, now_s: float) -> LinkEstimate | None:
        """What is believed now; None before the first request where there is no prior."""
        with self._lock:
            if self._at_s is None and not self._has_prior:
                return None
            age_s = math.inf if self._at_s is None else max(0.0, now_s - self._at_s)
            is_still = self._at_s is None or age_s < STILL_S
            belief = self._belief if is_still else self._drifted(now_s)
            ratio, samples, failures = self._ratio, self._samples, self._failures
            seen = self._last_sent
        slowness, faster, slower, rtt_s, rtt_deviation, correlation = _moments(belief, seen)
        return LinkEstimate(
            up_bytes_per_s=1 / slowness,
            down_bytes_per_s=1 / slowness / ratio,
            rtt_s=rtt_s,
            faster_s_per_byte=faster,
            slower_s_per_byte=slower,
            rtt_deviation_s=rtt_deviation,
            correlation=correlation,
            samples=samples,
            failures=failures,
            age_s=age_s,
        )

    def _mixed(self, drifted: Array, likelihoods: list[Array]) -> Array:
        """Of the noises, as far as each is believed; which is by what it foretold late requests."""
        mixed = sum(noise * each for noise, each in zip(self._noises, likelihoods, strict=True))
        foretold = np.array([np.sum(drifted * each) for each in likelihoods])
        self._noises = _normal(self._noises**LATE * foretold + 1e-12)
        return np.asarray(mixed)

    def _learn(self, belief: Array, now_s: float) -> None:
        self._belief = _normal(belief)
        self._samples += 1
        self._at_s = now_s if self._at_s is None else max(now_s, self._at_s)

    def _drifted(self, now_s: float) -> Array:
        elapsed_s = 0.0 if self._at_s is None else now_s - self._at_s
        if elapsed_s <= 0:
            return self._belief
        # The Fourier transform of a Cauchy distribution; the padding keeps one end from the other.
        moved = np.fft.rfft(self._belief, _PADDED) * np.exp(-DRIFT * elapsed_s * _FREQUENCIES)
        belief = np.maximum(np.fft.irfft(moved, _PADDED)[:, : len(RATES)], 0.0)
        kept = math.exp(-elapsed_s / FORGET_S)
        return _normal(kept * _normal(belief) + (1 - kept) * self._prior)


def _prior(link: Link | None) -> Array:
    """About the planned link, with heavy tails; without one any rate, and rather a short round trip."""
    rtt_s, wide = (link.rtt_s, 0.3) if link else (UNPLANNED_ROUND_TRIP_S, 1.0)
    rtt = 1 / (1 + (np.log(ROUND_TRIPS_S / max(rtt_s, float(ROUND_TRIPS_S[0, 0]))) / wide) ** 2)
    if link is None:
        return _normal(rtt * np.ones(len(RATES)))
    return _normal(rtt / (1 + (np.log(RATES / link.up_bytes_per_s) / 0.7) ** 2))


def _normal(belief: Array) -> Array:
    return np.asarray(belief / belief.sum())


def _deviations(sent: float, seconds: float) -> tuple[Array, Array]:
    """Logarithms of the seconds over each pair's prediction; what the jitter adds to their variance."""
    predicted = ROUND_TRIPS_S + sent / RATES
    return np.log(max(seconds, SHORTEST_S) / predicted), (JITTER_S / predicted) ** 2


def _likelihoods(sent: float, seconds: float) -> list[Array]:
    """Student's, for each noise."""
    off, jitter = _deviations(sent, seconds)
    half = off**2 / 2
    found = []
    for noise in NOISES:
        variance = noise**2 + jitter
        total = variance + half
        found.append(variance / (total * np.sqrt(total)))  # a power of 1.5 takes ten times as long
    return found


def _kept(before: Array, after: Array, seconds: float, told: float) -> Array:
    """What keeps each round trip's weight, but of those that are too long for the seconds.

    Requests of one size do not tell how their seconds divide; that a round trip explains steady ones better
    than a rate that might have drifted is no evidence.
    """
    ratio = before.sum(axis=1, keepdims=True) / np.maximum(after.sum(axis=1, keepdims=True), 1e-300)
    possible = TOLERATED * seconds >= ROUND_TRIPS_S
    if not possible.any():
        return np.ones_like(ratio)
    return np.asarray(np.minimum(ratio, ratio[possible].max()) ** (1 - told))


def _moments(belief: Array, seen: float | None) -> tuple[float, float, float, float, float, float]:
    """Seconds a byte and deviations to either side, round trip and deviation, correlation.

    The means are geometric, so that a belief about a link is that link, however wide; and such that for so
    many bytes, whose seconds are known better than either, their sum is right.
    """
    by_rate, by_rtt = belief.sum(axis=0), belief.sum(axis=1)
    slowness, rtts_s = _drawn_in(1 / RATES, by_rate), _drawn_in(ROUND_TRIPS_S[:, 0], by_rtt)
    mean, rtt_s = math.exp(by_rate @ np.log(slowness)), math.exp(by_rtt @ np.log(rtts_s))
    if seen is not None:
        together_s = math.exp(np.sum(belief * np.log(rtts_s[:, None] + seen * slowness)))
        wrong = together_s / (rtt_s + seen * mean)
        mean, rtt_s = mean * wrong, rtt_s * wrong
    off, rtt_off = slowness - mean, rtts_s - rtt_s
    faster = math.sqrt(2 * by_rate @ np.minimum(off, 0.0) ** 2)
    slower = math.sqrt(2 * by_rate @ np.maximum(off, 0.0) ** 2)
    rtt_deviation = math.sqrt(by_rtt @ rtt_off**2)
    spread = math.sqrt(by_rate @ off**2) * rtt_deviation
    correlation = float(rtt_off @ belief @ off) / max(spread, 1e-300)
    return mean, faster, slower, rtt_s, rtt_deviation, correlation


def _drawn_in(values: Array, weights: Array) -> Array:
    reached = np.cumsum(weights)
    low, high = np.interp([TRIMMED, 1 - TRIMMED], reached, values)
    return np.clip(values, min(low, high), max(low, high))
