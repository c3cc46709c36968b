"""A server's metrics, read back: Prometheus's text to numbers by name and labels.

The text comes from whoever listens at an address, so lines, their number and the time for them are bounded
before prometheus_client's parser sees any, and only what a server of ours writes is kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_fd_to_metric_families

from splitter.errors import ServingError

CUT = ("model", "version", "bundle", "cut")

LABELS_OF: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "splitter_requests_total": (*CUT, "status"),
    "splitter_received_bytes_total": CUT,
    "splitter_sent_bytes_total": CUT,
    "splitter_received_raw_bytes_total": CUT,
    "splitter_sent_raw_bytes_total": CUT,
    "splitter_term_seconds_bucket": (*CUT, "term", "le"),
    "splitter_term_seconds_sum": (*CUT, "term"),
    "splitter_batch_size_bucket": (*CUT, "le"),
    "splitter_batch_size_sum": CUT,
    "splitter_cut_switches_total": ("model", "version", "bundle"),
    "splitter_turned_away_total": ("limit",),
    "splitter_queue_depth": ("model", "version", "cut"),
    "splitter_cut_info": (*CUT, "name", "planned"),
    "splitter_in_flight": (),
    "splitter_in_flight_bytes": (),
    "splitter_ready": (),
    "splitter_models": (),
    "splitter_build_info": ("version", "python_version"),
    "process_start_time_seconds": (),
})  # fmt: skip
"""What is kept, and in which order its labels stand in a key."""

MAX_TEXT_BYTES = 16 << 20
_MAX_LINE = 2000  # characters; ours have a few hundred
_MAX_LINES = 200_000
_PATIENCE_S = 20.0  # to parse it all
_MAX_LABEL = 200

Key = tuple[str, ...]
Series = Mapping[Key, float]
_NOTHING: Series = MappingProxyType({})


@dataclass(frozen=True)
class Snapshot:
    """What a server had counted at a moment."""

    at_s: float
    """Of this process's monotonic clock."""
    series: Mapping[str, Series]
    """By name of the metric, then by the values of its labels."""

    def of(self, name: str) -> Series:
        """All of one metric."""
        return self.series.get(name, _NOTHING)

    def value(self, name: str) -> float | None:
        """Of a metric without labels."""
        return self.of(name).get(())


def read_metrics(text: bytes, at_s: float, origin: str) -> Snapshot:
    """Read Prometheus's text; ``origin`` names its source in messages.

    Raises
    ------
    ServingError
        It is not what a server of ours writes, or more than that could be.
    """
    if len(text) > MAX_TEXT_BYTES:
        raise ServingError(f"{origin}: more than {MAX_TEXT_BYTES >> 20} MiB of metrics")
    series: dict[str, dict[Key, float]] = {}
    try:
        for family in _families(text, origin):
            for sample in family.samples:
                names = LABELS_OF.get(sample.name)
                if names is not None and names == tuple(n for n in names if n in sample.labels):
                    key = tuple(sample.labels[name][:_MAX_LABEL] for name in names)
                    series.setdefault(sample.name, {})[key] = _number(sample.value, origin)
    except ServingError:
        raise
    except Exception as exc:  # noqa: BLE001  (the parser promises nothing of what it raises)
        raise ServingError(f"{origin}: not the metrics of a splitter server") from exc
    if "splitter_build_info" not in series:
        raise ServingError(f"{origin}: not the metrics of a splitter server")
    return Snapshot(at_s, series)


def _families(text: bytes, origin: str) -> Iterator[Metric]:
    # it wants a file, and asks of it no more than its lines
    yield from text_fd_to_metric_families(cast("object", _lines(text, origin)))  # type: ignore[arg-type]


def _lines(text: bytes, origin: str) -> Iterator[str]:
    until = time.monotonic() + _PATIENCE_S
    for number, line in enumerate(text.decode("utf-8").split("\n")):
        if len(line) > _MAX_LINE or number >= _MAX_LINES:
            raise ServingError(f"{origin}: longer than the metrics of a splitter server")
        if time.monotonic() > until:
            raise ServingError(f"{origin}: its metrics take too long to read")
        yield line


def _number(value: float, origin: str) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ServingError(f"{origin}: a metric is no finite number")
    return max(0.0, number)
