"""A server's metrics read back, and what happened between two readings."""

from __future__ import annotations

import dataclasses
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from splitter.errors import ServingError
from splitter.serving import scrape
from splitter.serving.interval import Interval, interval, quantile
from splitter.serving.observe import Served
from splitter.serving.scrape import LABELS_OF, Snapshot, read_metrics
from splitter.serving.server.metrics import BUCKETS_S, Metrics
from tests.test_serving_metrics import GOOD, Now


def counting(*requests: Served) -> Metrics:
    metrics = Metrics()
    metrics.watch(Now())
    for served in requests:
        metrics.request(served)
    return metrics


def text_of(metrics: Metrics) -> bytes:
    registry = CollectorRegistry()
    registry.register(metrics)
    return generate_latest(registry)


def read(metrics: Metrics, at_s: float = 0.0) -> Snapshot:
    return read_metrics(text_of(metrics), at_s, "here")


def between(before: Snapshot, after: Snapshot) -> Interval:
    return interval(before, after, "here:1", now_s=1000.0)


def test_all_that_a_server_writes_of_what_is_kept_is_read_back() -> None:
    metrics = counting(GOOD, dataclasses.replace(GOOD, cut="beef"))
    found = read(metrics)
    absent = {"process_start_time_seconds"}  # of the process, not of the counts
    assert set(LABELS_OF) - set(found.series) == absent
    assert found.of("splitter_requests_total") == {
        ("net", "1", "0123456789ab", "cafe", "OK"): 1, ("net", "1", "0123456789ab", "beef", "OK"): 1,
    }  # fmt: skip
    assert found.value("splitter_in_flight") == 5


def test_rates_are_of_what_was_counted_in_between() -> None:
    metrics = counting(*[GOOD] * 7)
    before = read(metrics, 10.0)
    busy = dataclasses.replace(GOOD, status="RESOURCE_EXHAUSTED", raw_up_bytes=0, up_bytes=0)
    for served in (GOOD, GOOD, busy, dataclasses.replace(GOOD, cut="beef", batch_size=1)):
        metrics.request(served)
    found = between(before, read(metrics, 12.0))
    assert found.seconds == 2
    assert (found.requests_per_s, found.status_per_s) == (2, {"OK": 1.5, "RESOURCE_EXHAUSTED": 0.5})
    assert found.refused_per_s == 0.5
    assert (found.received_bytes_per_s, found.received_raw_bytes_per_s) == (150, 600)
    assert (found.sent_bytes_per_s, found.sent_raw_bytes_per_s) == (20, 80)
    assert [(one.over, one.up_to, one.requests) for one in found.batches] == [(0, 1, 1), (2, 4, 2)]
    loads = {one.cut: (one.requests_per_s, one.waiting, one.planned) for one in found.cuts}
    assert loads == {"cafe": (1.5, 2, True), "beef": (0.5, 0, False)}
    assert found.switches == {"net": 1}
    assert (found.waiting, found.in_flight, found.ready) == (3, 5, True)
    tail = found.terms["tail"]
    assert (tail.mean_s, tail.p50_s) == (20, math.inf)
    assert found.terms["decode"].p99_s <= BUCKETS_S[0]


def test_nothing_between_two_readings_is_nothing() -> None:
    snapshot = read(counting(GOOD))
    found = between(snapshot, dataclasses.replace(snapshot, at_s=1.0))
    assert (found.requests_per_s, found.status_per_s, found.terms, found.batches) == (0, {}, {}, ())


def test_a_server_that_began_anew_has_counted_since_then() -> None:
    start = b"# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds %d\n"
    before = read_metrics(text_of(counting(*[GOOD] * 3)) + start % 100, 0.0, "here")
    after = read_metrics(text_of(counting(*[GOOD] * 5)) + start % 990, 1.0, "here")
    found = between(before, after)
    assert (found.restarted, found.requests_per_s, found.up_s) == (True, 5, 10)


def test_a_counter_that_fell_has_begun_from_zero() -> None:
    found = between(read(counting(*[GOOD] * 5), 0.0), read(counting(*[GOOD] * 2), 1.0))
    assert found.requests_per_s == 2


values = st.lists(st.floats(0, 20), min_size=1, max_size=60)


@given(values, st.floats(0.01, 1.0))
def test_a_quantile_lies_in_the_bucket_of_the_value_that_has_that_rank(
    seconds: list[float], share: float
) -> None:
    bounds = [*BUCKETS_S, math.inf]
    edges = list(zip([-1.0, *bounds], bounds, strict=False))
    buckets = tuple((high, float(sum(low < s <= high for s in seconds))) for low, high in edges)
    rank = max(1, math.ceil(share * len(seconds) - 1e-9))
    ranked = sorted(seconds)[rank - 1]
    low, high = next((low, high) for low, high in edges if low < ranked <= high)
    found = quantile(buckets, share)
    assert max(0.0, low) - 1e-12 <= found <= high


def test_a_quantile_of_nothing_is_zero() -> None:
    assert quantile(((1.0, 0.0), (math.inf, 0.0)), 0.5) == 0


GENUINE = text_of(counting(GOOD, GOOD))


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=300),
        st.text('splitter_requests_total{}="\\,\n#TYPE HELP counter1 ').map(str.encode),
        st.tuples(st.integers(0, len(GENUINE)), st.binary(max_size=6), st.integers(0, 40)).map(
            lambda cut: GENUINE[: cut[0]] + cut[1] + GENUINE[cut[0] + cut[2] :]
        ),
    )
)
def test_whatever_comes_is_read_or_refused_and_every_number_is_one(text: bytes) -> None:
    try:
        found = read_metrics(text, 0.0, "here")
    except ServingError:
        return
    for name, series in found.series.items():
        for key, value in series.items():
            assert len(key) == len(LABELS_OF[name])
            assert math.isfinite(value)
            assert value >= 0
    between(found, dataclasses.replace(found, at_s=1.0))


BUILD = b'# TYPE splitter_build_info gauge\nsplitter_build_info{version="1",python_version="3"} 1\n'


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html>hello</html>",
        b"\xff\xfe",
        b"# TYPE node_load1 gauge\nnode_load1 0.1\n",
        BUILD + b"splitter_ready NaN\n",
        BUILD + b"splitter_in_flight " + b"9" * 400 + b"\n",
        BUILD + b"splitter_in_flight 1e400\n",
        BUILD + b"a" * 3000,
        BUILD + b"\n" * 300_000,
        BUILD + b"x" * scrape.MAX_TEXT_BYTES,
    ],
)
def test_what_no_server_of_ours_writes_is_refused(text: bytes) -> None:
    with pytest.raises(ServingError, match="here: "):
        read_metrics(text, 0.0, "here")


def test_text_that_is_made_to_take_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrape, "_PATIENCE_S", 0.2)
    labels = b",".join(b'a%d="\\\\"' % number for number in range(150))
    line = b"splitter_x{" + labels + b"} 1\n"
    assert len(line) < scrape._MAX_LINE
    started = time.monotonic()
    with pytest.raises(ServingError, match="too long"):
        read_metrics(BUILD + line * 8000, 0.0, "here")
    assert time.monotonic() - started < 20


def test_labels_are_cut_off_where_they_are_endless() -> None:
    text = (
        BUILD
        + b'splitter_requests_total{model="%s",version="",bundle="",cut="",status="OK"} 1\n'
        % (b"m" * 1500)
    )
    (key,) = read_metrics(text, 0.0, "here").of("splitter_requests_total")
    assert len(key[0]) == 200
