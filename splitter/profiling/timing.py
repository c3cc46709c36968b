"""Interleaved timing: every round runs each call once, so that a disturbed stretch hits all alike.

Back-to-back timing of two things on a shared machine has shown differences of 40 % that were not there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Clock = Callable[[], float]

QUICK_S = 2e-3


@dataclass(frozen=True)
class Samples:
    """Seconds of one call, a figure a round."""

    seconds: tuple[float, ...]

    @property
    def median_s(self) -> float:
        """The figure to quote."""
        return float(np.median(self.seconds))

    @property
    def spread_s(self) -> float:
        """Interquartile range."""
        low, high = np.percentile(self.seconds, [25, 75])
        return float(high - low)


def relative(call: Samples, reference: Samples) -> Samples:
    """The call's seconds over the reference's, round by round: what drifts for both cancels out."""
    return Samples(tuple(a / b for a, b in zip(call.seconds, reference.seconds, strict=True)))


@dataclass(frozen=True)
class Rounds:
    """How often to measure: at least ``least``, then until ``budget_s`` is spent, at most ``most``."""

    least: int = 7
    most: int = 30
    budget_s: float = 0.5
    warmup: int = 2


def interleaved(
    calls: Sequence[Callable[[], object]], rounds: Rounds, clock: Clock = time.perf_counter
) -> tuple[Samples, ...]:
    """Time the calls in turn (A B C, A B C ...) and return the samples of each, in their order.

    A quick call is run once untimed before each timing, or it would be charged for finding the others'
    data in the caches; a longer one turns the caches over by itself.
    """
    quick = [True] * len(calls)
    for _ in range(rounds.warmup):
        quick = [_timed(call, clock) < QUICK_S for call in calls]
    seconds: list[list[float]] = [[] for _ in calls]
    started = clock()
    for done in range(rounds.most):
        if done >= rounds.least and clock() - started > rounds.budget_s:
            break
        for index, call in enumerate(calls):
            if quick[index]:
                call()
            seconds[index].append(_timed(call, clock))
    return tuple(Samples(tuple(series)) for series in seconds)


def _timed(call: Callable[[], object], clock: Clock) -> float:
    before = clock()
    call()
    return clock() - before
