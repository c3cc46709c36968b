"""Counts and seconds of one version of a model, as ``ModelStatistics`` reports them."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import NamedTuple

from splitter.serving._pb2 import open_inference_pb2 as pb

_MOST_KEPT = 1024


@dataclass
class Duration:
    """How often, and how long in all."""

    count: float = 0
    ns: int = 0

    def add(self, seconds: float, count: float = 1) -> None:
        """Once more; or a share of a run that several requests were in."""
        self.count += count
        self.ns += int(seconds * 1e9)

    def message(self) -> pb.StatisticDuration:
        """As the protocol has it."""
        return pb.StatisticDuration(count=round(self.count), ns=self.ns)


@dataclass
class _Batches:
    """Of requests, or of the runs of one size."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


class Sample(NamedTuple):
    """A request that was answered; ``tail_s`` is that of the whole run it was in."""

    at_ns: int
    samples: int
    batch_size: int
    queue_s: float
    decode_s: float
    tail_s: float
    encode_s: float


class Statistics:
    """Thread-safe; since the model was loaded.

    Samples are kept as they come and added up when somebody asks, or there are many.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._samples_kept: list[Sample] = []
        self._last_ms = 0
        self._samples = 0
        self._runs = 0.0
        self._success, self._fail = Duration(), Duration()
        self._queue = Duration()
        self._all = _Batches()
        self._by_size: dict[int, _Batches] = {}

    def succeed(self, sample: Sample) -> None:
        """Note a request that was answered."""
        self._samples_kept.append(sample)  # atomic
        if len(self._samples_kept) >= _MOST_KEPT:
            with self._lock:
                self._add_up()

    def fail(self, seconds: float) -> None:
        """Note a request that was refused after it had found the model."""
        with self._lock:
            self._last_ms = time.time_ns() // 1_000_000
            self._fail.add(seconds)

    def message(self, name: str, version: str) -> pb.ModelStatistics:
        """As the protocol has it."""
        with self._lock:
            self._add_up()
            return pb.ModelStatistics(
                name=name,
                version=version,
                last_inference=self._last_ms,
                inference_count=self._samples,
                execution_count=round(self._runs),
                inference_stats=pb.InferStatistics(
                    success=self._success.message(),
                    fail=self._fail.message(),
                    queue=self._queue.message(),
                    compute_input=self._all.compute_input.message(),
                    compute_infer=self._all.compute_infer.message(),
                    compute_output=self._all.compute_output.message(),
                    cache_hit=pb.StatisticDuration(),
                    cache_miss=pb.StatisticDuration(),
                ),
                batch_stats=[
                    pb.InferBatchStatistics(
                        batch_size=size,
                        compute_input=batches.compute_input.message(),
                        compute_infer=batches.compute_infer.message(),
                        compute_output=batches.compute_output.message(),
                    )
                    for size, batches in sorted(self._by_size.items())
                ],
            )

    def _add_up(self) -> None:
        """Call it under the lock; samples that come meanwhile stay for the next time."""
        count = len(self._samples_kept)
        samples = self._samples_kept[:count]
        del self._samples_kept[:count]
        for one in samples:
            self._last_ms = max(self._last_ms, one.at_ns // 1_000_000)
            self._samples += one.samples
            self._runs += one.samples / one.batch_size
            self._success.add(one.queue_s + one.decode_s + one.tail_s + one.encode_s)
            self._queue.add(one.queue_s)
            self._all.compute_input.add(one.decode_s)
            self._all.compute_infer.add(one.tail_s)
            self._all.compute_output.add(one.encode_s)
            runs = self._by_size.setdefault(one.batch_size, _Batches())
            share = one.samples / one.batch_size
            runs.compute_input.add(one.decode_s, share)
            runs.compute_infer.add(one.tail_s * share, share)
            runs.compute_output.add(one.encode_s, share)
