"""What this machine reaches with the profile's threads: the source that estimates scale from.

On an accelerator the products include the copy of their operands to it, and the memory copy is the
host's: estimates are best made from a profile of a processor.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from splitter.errors import ModelError
from splitter.partition.probe import matrix_product
from splitter.profiling.profile import Rates
from splitter.profiling.timing import Rounds, interleaved
from splitter.runtime import Runner, Settings

_SIZE = 512
_COPIED_BYTES = 64 << 20
_ROUNDS = Rounds(least=3, most=40, budget_s=0.12, warmup=2)


def measure_rates(settings: Settings) -> Rates:
    """Measure arithmetic and memory, under a second in all; the best of several runs.

    The best and not the median: a rate is what the machine can do, and disturbance only lowers it.
    """
    operations = 2 * _SIZE**3
    return Rates(
        flops_per_s=operations / _product_s(settings, integer=False),
        bytes_per_s=2 * _COPIED_BYTES / _copy_s(settings.threads or os.cpu_count() or 1),
        int8_ops_per_s=_int8_ops_per_s(settings, operations),
    )


def _int8_ops_per_s(settings: Settings, operations: int) -> float | None:
    """None where the provider has no integer product."""
    try:
        return operations / _product_s(settings, integer=True)
    except ModelError:
        return None


def _product_s(settings: Settings, *, integer: bool) -> float:
    runner = Runner(matrix_product(_SIZE, integer=integer), settings)
    feeds = {"x": np.ones((_SIZE, _SIZE), np.uint8 if integer else np.float32)}
    return _best_s(lambda: runner.run(feeds))


def _copy_s(threads: int) -> float:
    """Each thread copies its own stretch; numpy lets go of the interpreter's lock for that."""
    source = np.ones(_COPIED_BYTES // 8)
    target = np.empty_like(source)
    stretches = list(
        zip(np.array_split(target, threads), np.array_split(source, threads), strict=True)
    )
    if threads == 1:
        return _best_s(lambda: np.copyto(target, source))
    with ThreadPoolExecutor(threads) as pool:
        return _best_s(lambda: list(pool.map(lambda pair: np.copyto(*pair), stretches)))


def _best_s(call: Callable[[], object]) -> float:
    (samples,) = interleaved([call], _ROUNDS)
    return min(samples.seconds)
