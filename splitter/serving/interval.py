"""What a server did between two readings of its metrics.

Counters are subtracted. One that is smaller than before, or a server that began anew, has counted from zero
since; a series that is new has too. Quantiles are read off the buckets of a histogram, between whose bounds
its values are taken to lie evenly, as Prometheus does.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from splitter.document import Record
from splitter.serving.scrape import Key, Series, Snapshot

SCHEMA = "splitter.top/1"

TERMS = ("receive", "queue", "decode", "tail", "encode")

T = TypeVar("T")
Buckets = tuple[tuple[float, float], ...]
"""Upper bounds, the last infinite, and how many values lie below each and above the one before."""


class TermSeconds(Record, frozen=True, kw_only=True):
    """Of the requests that ended well; a quantile beyond the last bucket is infinite (JSON: null)."""

    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float


class BatchSizes(Record, frozen=True, kw_only=True):
    """Requests by the samples in the run that they were in."""

    over: float
    up_to: float
    """Infinite (JSON: null) of the last."""
    requests: float


class CutLoad(Record, frozen=True, kw_only=True):
    """One cut that is loaded or was asked for."""

    model: str
    version: str
    bundle: str
    cut: str
    name: str = ""
    """Empty where the server no longer has it."""
    planned: bool = False
    requests_per_s: float = 0.0
    waiting: int = 0


class Interval(Record, frozen=True, kw_only=True):
    """Rates between two readings, and what the second one says of now."""

    schema: str = SCHEMA
    server: str
    seconds: float
    ready: bool
    version: str
    up_s: float | None = None
    """Since the server's process began; None where its machine does not say."""
    restarted: bool = False
    """It began anew in between."""
    requests_per_s: float = 0.0
    """That ended, well or not."""
    status_per_s: dict[str, float] = {}
    """By gRPC status."""
    turned_away_per_s: dict[str, float] = {}
    """Calls refused before they were read, by limit: ``calls`` of a kind, or of a ``peer``."""
    in_flight: int = 0
    in_flight_bytes: int = 0
    waiting: int = 0
    batches: tuple[BatchSizes, ...] = ()
    terms: dict[str, TermSeconds] = {}
    """Empty where no request ended well."""
    received_bytes_per_s: float = 0.0
    received_raw_bytes_per_s: float = 0.0
    """Of the same tensors without codec."""
    sent_bytes_per_s: float = 0.0
    sent_raw_bytes_per_s: float = 0.0
    cuts: tuple[CutLoad, ...] = ()
    """Those with most requests first."""
    switches: dict[str, float] = {}
    """By model: requests for another cut than the one before them on their connection."""

    @property
    def refused_per_s(self) -> float:
        """For lack of room."""
        return self.status_per_s.get("RESOURCE_EXHAUSTED", 0.0) + sum(
            self.turned_away_per_s.values()
        )


def interval(before: Snapshot, after: Snapshot, server: str, now_s: float) -> Interval:
    """Work out what happened; ``now_s`` is Unix time, of which a server's start is told."""
    seconds = max(after.at_s - before.at_s, 1e-6)
    started, was = (one.value("process_start_time_seconds") for one in (after, before))
    restarted = started is not None and was is not None and started > was
    if restarted:
        before = Snapshot(before.at_s, {})

    def grown(name: str) -> dict[Key, float]:
        earlier = before.of(name)
        return {key: _increase(earlier.get(key), value) for key, value in after.of(name).items()}

    def rates(name: str, label: Callable[[Key], T]) -> dict[T, float]:
        return {key: value / seconds for key, value in _summed(grown(name), label).items()}

    def rate(name: str) -> float:
        return sum(grown(name).values()) / seconds

    asked = rates("splitter_requests_total", lambda key: key[:4])
    version = next(iter(after.of("splitter_build_info")), ("", ""))[0]
    return Interval(
        server=server,
        seconds=seconds,
        ready=bool(after.value("splitter_ready")),
        version=version,
        up_s=None if started is None else max(0.0, now_s - started),
        restarted=restarted,
        requests_per_s=sum(asked.values()),
        status_per_s=_present(rates("splitter_requests_total", lambda key: key[4])),
        turned_away_per_s=_present(rates("splitter_turned_away_total", lambda key: key[0])),
        in_flight=int(after.value("splitter_in_flight") or 0),
        in_flight_bytes=int(after.value("splitter_in_flight_bytes") or 0),
        waiting=int(sum(after.of("splitter_queue_depth").values())),
        batches=_batches(grown("splitter_batch_size_bucket")),
        terms=_terms(grown("splitter_term_seconds_bucket"), grown("splitter_term_seconds_sum")),
        received_bytes_per_s=rate("splitter_received_bytes_total"),
        received_raw_bytes_per_s=rate("splitter_received_raw_bytes_total"),
        sent_bytes_per_s=rate("splitter_sent_bytes_total"),
        sent_raw_bytes_per_s=rate("splitter_sent_raw_bytes_total"),
        cuts=_cuts(after.of("splitter_cut_info"), after.of("splitter_queue_depth"), asked),
        switches=_present(_summed(grown("splitter_cut_switches_total"), lambda key: key[0])),
    )


def quantile(buckets: Buckets, share: float) -> float:
    """The value below which a share of all lie; infinite beyond the last bound; 0 of none."""
    total = sum(count for _, count in buckets)
    wanted, low = share * total, 0.0
    for bound, count in buckets:
        if count and wanted <= count:
            return bound if math.isinf(bound) else low + (bound - low) * wanted / count
        wanted, low = wanted - count, bound
    return low if total else 0.0


def _increase(before: float | None, after: float) -> float:
    return after if before is None or after < before else after - before


def _summed(found: Mapping[Key, float], label: Callable[[Key], T]) -> dict[T, float]:
    sums: dict[T, float] = defaultdict(float)
    for key, value in found.items():
        sums[label(key)] += value
    return dict(sums)


def _present(rates: Mapping[str, float]) -> dict[str, float]:
    """Without what did not happen; the most frequent first."""
    return dict(sorted(((k, v) for k, v in rates.items() if v), key=lambda item: -item[1]))


def _buckets(cumulative: Iterable[tuple[str, float]]) -> Buckets:
    """From counts of what is at most each bound."""
    found, below = [], 0.0
    for bound, count in sorted((_bound(text), count) for text, count in cumulative):
        found.append((bound, max(0.0, count - below)))
        below = max(below, count)
    return tuple(found)


def _bound(text: str) -> float:
    try:
        bound = float(text)
    except ValueError:
        return math.inf
    return math.inf if math.isnan(bound) else bound


def _batches(grown: Mapping[Key, float]) -> tuple[BatchSizes, ...]:
    buckets = _buckets(_summed(grown, lambda key: key[4]).items())
    bounds = [0.0, *(bound for bound, _ in buckets)]
    return tuple(
        BatchSizes(over=low, up_to=bound, requests=count)
        for low, (bound, count) in zip(bounds, buckets, strict=False)
        if count
    )


def _terms(grown: Mapping[Key, float], sums: Mapping[Key, float]) -> dict[str, TermSeconds]:
    counts = _summed(grown, lambda key: (key[4], key[5]))
    seconds = _summed(sums, lambda key: key[4])
    found = {}
    for term in TERMS:
        buckets = _buckets((le, count) for (name, le), count in counts.items() if name == term)
        total = sum(count for _, count in buckets)
        if total:
            found[term] = TermSeconds(
                mean_s=seconds.get(term, 0.0) / total,
                p50_s=quantile(buckets, 0.5),
                p95_s=quantile(buckets, 0.95),
                p99_s=quantile(buckets, 0.99),
            )
    return found


def _cuts(info: Series, depths: Series, asked: Mapping[Key, float]) -> tuple[CutLoad, ...]:
    described = {key[:4]: (key[4], key[5] == "true") for key in info}
    found = []
    for key in {**described, **{key: None for key, rate in asked.items() if rate and any(key)}}:
        model, version, bundle, cut = key
        name, planned = described.get(key, ("", False))
        found.append(
            CutLoad(
                model=model, version=version, bundle=bundle, cut=cut, name=name, planned=planned,
                requests_per_s=asked.get(key, 0.0),
                waiting=int(depths.get((model, version, cut), 0.0)) if key in described else 0,
            )
        )  # fmt: skip
    return tuple(sorted(found, key=lambda one: (-one.requests_per_s, one.model, one.version)))
