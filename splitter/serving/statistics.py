"""Counts and seconds of one version of a model, as ``ModelStatistics`` reports them."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from splitter.serving._pb2 import open_inference_pb2 as pb


@dataclass
class Duration:
    """How often, and how long in all."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float, count: int = 1) -> None:
        """Once more, or ``count`` times that took so long together."""
        self.count += count
        self.ns += int(seconds * 1e9)

    def message(self) -> pb.StatisticDuration:
        """As the protocol has it."""
        return pb.StatisticDuration(count=self.count, ns=self.ns)


@dataclass
class _Batches:
    """Runs of one size."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


class Statistics:
    """Thread-safe; since the model was loaded."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_ms = 0
        self._samples = 0
        self._runs = 0.0
        self._success, self._fail = Duration(), Duration()
        self._queue = Duration()
        self._all = _Batches()
        self._by_size: dict[int, _Batches] = {}

    def succeed(
        self,
        *,
        samples: int,
        batch_size: int,
        queue_s: float,
        decode_s: float,
        tail_s: float,
        encode_s: float,
    ) -> None:
        """Note a request that was answered; ``tail_s`` is that of the whole run it was in."""
        share = samples / batch_size
        with self._lock:
            self._last_ms = time.time_ns() // 1_000_000
            self._samples += samples
            self._runs += share
            self._success.add(queue_s + decode_s + tail_s + encode_s)
            self._queue.add(queue_s)
            batches = self._by_size.get(batch_size)
            if batches is None:
                batches = self._by_size[batch_size] = _Batches()
            for part in (self._all, batches):
                part.compute_input.add(decode_s)
                part.compute_infer.add(tail_s)
                part.compute_output.add(encode_s)

    def fail(self, seconds: float) -> None:
        """Note a request that was refused after it had found the model."""
        with self._lock:
            self._last_ms = time.time_ns() // 1_000_000
            self._fail.add(seconds)

    def message(self, name: str, version: str) -> pb.ModelStatistics:
        """As the protocol has it."""
        with self._lock:
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
