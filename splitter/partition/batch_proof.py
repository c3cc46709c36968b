"""Whether a tail with a free number of samples does what the fixed one does, by running both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from splitter.errors import SplitterError
from splitter.partition.batches import SIZES
from splitter.partition.check import Values, chain, compare_each, run_one
from splitter.partition.manifest import BATCH
from splitter.partition.parts import Parts, check_file
from splitter.partition.reference import EXACT, Reference
from splitter.runtime import Array, Runner, Settings


def is_proven(parts: Parts, free: Path, reads: Sequence[str], reference: Reference) -> bool:
    """Whether one sample gives the fixed tail's bits, and each of several what it gives alone.

    Products of other sizes round differently, so there the tolerance of the model's dtype is allowed, with
    optimisation on and off. Samples that the model refuses, or that reach the tail as one and the same,
    prove nothing.
    """
    assert parts.tail is not None
    try:
        check_file(free)
        samples = [{n: sample[n] for n in reads} for sample in _samples(parts.head, reference)]
        return _differ(samples) and all(
            _agree(parts.tail, free, samples, (a.settings, max(a.limit, reference.rounding)))
            for a in reference.answers
        )
    except SplitterError:
        return False  # the runtime refuses a sample, or the free tail


def _samples(head: Path | None, reference: Reference) -> list[dict[str, Array]]:
    """What crosses for the feeds, and for their elements in another order: these are valid too."""
    runner = Runner(head, EXACT) if head else None
    rng = np.random.default_rng(0)
    samples = [chain(runner, None, reference.feeds)]
    while len(samples) < max(SIZES):
        feeds = {
            name: rng.permutation(value.ravel()).reshape(value.shape)
            for name, value in reference.feeds.items()
        }
        samples.append(chain(runner, None, feeds))
    return samples


def _differ(samples: list[dict[str, Array]]) -> bool:
    seen = {tuple((n, v.tobytes()) for n, v in sorted(sample.items())) for sample in samples}
    return len(seen) == len(samples)


def _agree(
    fixed: Path, free: Path, samples: list[dict[str, Array]], rule: tuple[Settings, float]
) -> bool:
    settings, limit = rule
    runner = Runner(fixed, settings)
    alone = [run_one(runner, sample) for sample in samples]
    runner = Runner(free, settings, free_dims={BATCH: 1})
    for sample, expected in zip(samples, alone, strict=True):
        if not all(d.is_equal for d in compare_each(expected, run_one(runner, sample))):
            return False
    runner = Runner(free, settings)
    for size in SIZES:
        together = run_one(runner, _stacked(samples[:size]))
        if not all(d.is_within(limit) for d in compare_each(_stacked(alone[:size]), together)):
            return False
    return True


def _stacked(values: Sequence[Values]) -> dict[str, Array]:
    return {name: np.concatenate([value[name] for value in values]) for name in values[0]}
