"""Metrics as Prometheus reads them: over HTTP, parsed by its own parser."""

from __future__ import annotations

import dataclasses
import re
import socket
import threading
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import splitter
from splitter.errors import ServingError
from splitter.serving.observe import Served
from splitter.serving.server import metrics as module
from splitter.serving.server.metrics import BUCKETS_S, TERMS, Metrics, MetricsServer, ServedCut

GOOD = Served(
    "ModelInfer", "OK", "ipv4:127.0.0.1:1", "net", "1", "0123456789ab", "cafe", "id", "",
    up_bytes=100, down_bytes=10, raw_up_bytes=400, raw_down_bytes=40,
    receive_s=0.0001, queue_s=0.003, decode_s=0.0, tail_s=20.0, encode_s=0.00011, batch_size=3,
)  # fmt: skip
LABELS = {"model": "net", "version": "1", "bundle": "0123456789ab", "cut": "cafe"}

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Now:
    is_ready = True

    def in_flight(self) -> int:
        return 5

    def in_flight_bytes(self) -> int:
        return 1000

    def queue_depths(self) -> Mapping[tuple[str, str, str], int]:
        return {("net", "1", "cafe"): 2, ("net", "1", "beef"): 0, ("other", "7", "f00d"): 1}

    def cuts(self) -> Sequence[ServedCut]:
        return [ServedCut("net", "1", "0123456789ab", "cafe", "a, b" * 100, True)]

    def turned_away(self) -> Mapping[str, int]:
        return {"calls": 3, "peer": 4}


def scrape(address: str) -> Samples:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        families = list(text_string_to_metric_families(answer.read().decode()))
    assert all(family.documentation for family in families)
    return {(s.name, frozenset(s.labels.items())): s.value for f in families for s in f.samples}


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def scraped(metrics: Metrics) -> Samples:
    with MetricsServer(metrics, "127.0.0.1:0") as server:
        return scrape(server.address)


def test_requests_and_their_bytes_are_counted_by_what_was_served() -> None:
    metrics = Metrics()
    for served in (GOOD, GOOD, dataclasses.replace(GOOD, cut="beef", status="INTERNAL")):
        metrics.request(served)
    metrics.request(Served("ModelInfer", "NOT_FOUND", "ipv4:127.0.0.1:1", up_bytes=7))
    found = scraped(metrics)
    unknown = dict.fromkeys(LABELS, "")
    assert value(found, "splitter_requests_total", **LABELS, status="OK") == 2
    failed = LABELS | {"cut": "beef"}
    assert value(found, "splitter_requests_total", **failed, status="INTERNAL") == 1
    assert value(found, "splitter_requests_total", **unknown, status="NOT_FOUND") == 1
    assert value(found, "splitter_received_bytes_total", **unknown) == 7
    sizes = {"received": 200, "sent": 20, "received_raw": 800, "sent_raw": 80}
    for name, size in sizes.items():
        assert value(found, f"splitter_{name}_bytes_total", **LABELS) == size


def test_seconds_of_each_term_and_batch_sizes_are_histograms() -> None:
    metrics = Metrics()
    metrics.request(GOOD)
    metrics.request(dataclasses.replace(GOOD, status="DEADLINE_EXCEEDED"))
    found = scraped(metrics)

    def below(term: str, bound: object) -> float:
        return value(found, "splitter_term_seconds_bucket", **LABELS, term=term, le=str(bound))

    for term in TERMS:
        assert below(term, "+Inf") == 1
        counts = [below(term, bound) for bound in BUCKETS_S]
        assert counts == sorted(counts)
        assert value(found, "splitter_term_seconds_count", **LABELS, term=term) == 1
    assert below("receive", 0.0001) == 1  # a bound belongs to its bucket
    assert (below("encode", 0.0001), below("encode", 0.00025)) == (0, 1)
    assert below("tail", BUCKETS_S[-1]) == 0
    assert value(found, "splitter_term_seconds_sum", **LABELS, term="queue") == 0.003
    assert value(found, "splitter_batch_size_bucket", **LABELS, le="2.0") == 0
    assert value(found, "splitter_batch_size_bucket", **LABELS, le="4.0") == 1


def test_gauges_say_what_the_server_does_now() -> None:
    metrics = Metrics()
    assert value(scraped(metrics), "splitter_ready") == 0
    metrics.watch(Now())
    found = scraped(metrics)
    assert value(found, "splitter_ready") == 1
    assert value(found, "splitter_in_flight") == 5
    assert value(found, "splitter_models") == 2
    assert value(found, "splitter_in_flight_bytes") == 1000
    assert value(found, "splitter_queue_depth", model="net", version="1", cut="cafe") == 2
    assert value(found, "splitter_turned_away_total", limit="peer") == 4
    described = {"name": "a, b" * 25, "planned": "true"}
    assert found["splitter_cut_info", frozenset((LABELS | described).items())] == 1
    builds = [dict(labels) for name, labels in found if name == "splitter_build_info"]
    assert [build["version"] for build in builds] == [splitter.__version__]
    assert value(found, "process_resident_memory_bytes") > 0


def test_no_request_is_lost_between_threads() -> None:
    metrics = Metrics()
    each, threads = 2000, 4

    def work() -> None:
        for _ in range(each):
            metrics.request(GOOD)

    running = [threading.Thread(target=work) for _ in range(threads)]
    with MetricsServer(metrics, "127.0.0.1:0") as server:
        for thread in running:
            thread.start()
        while any(thread.is_alive() for thread in running):
            seen = scrape(server.address)
            count = seen.get(
                ("splitter_requests_total", frozenset((LABELS | {"status": "OK"}).items())), 0
            )
            assert (
                seen.get(("splitter_sent_bytes_total", frozenset(LABELS.items())), 0) == 10 * count
            )
        for thread in running:
            thread.join()
        found = scrape(server.address)
    assert value(found, "splitter_requests_total", **LABELS, status="OK") == each * threads


def test_a_switch_is_another_cut_of_the_same_bundle_on_the_same_connection() -> None:
    metrics = Metrics()
    for cut, bundle, peer in (
        ("a", "old", "one"), ("b", "old", "one"), ("b", "old", "two"), ("a", "old", "two"),
        ("a", "new", "two"), ("a", "old", "two"), ("", "", "two"), ("a", "old", "two"),
    ):  # fmt: skip
        metrics.request(dataclasses.replace(GOOD, cut=cut, bundle=bundle, peer=peer))
    found = scraped(metrics)
    of = {"model": "net", "version": "1", "bundle": "old"}
    assert value(found, "splitter_cut_switches_total", **of) == 2
    assert len([name for name, _ in found if name == "splitter_cut_switches_total"]) == 1


def test_connections_that_are_long_silent_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_CALLERS", 2)
    metrics = Metrics()
    for cut, peer in (("a", "1"), ("a", "2"), ("a", "1"), ("a", "3"), ("b", "2"), ("b", "3")):
        metrics.request(dataclasses.replace(GOOD, cut=cut, peer=peer))
    of = {"model": "net", "version": "1", "bundle": "0123456789ab"}
    assert value(scraped(metrics), "splitter_cut_switches_total", **of) == 1


def test_series_are_bounded_however_many_bundles_come_and_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_MAX_SERIES", 10)
    metrics = Metrics()
    for number in range(100):
        metrics.request(dataclasses.replace(GOOD, bundle=f"{number:012x}"))
    counts = {k: v for k, v in scraped(metrics).items() if k[0] == "splitter_requests_total"}
    assert len(counts) == 11
    assert sum(counts.values()) == 100


def test_a_silent_client_keeps_nobody_waiting_and_one_that_leaves_is_no_error(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with MetricsServer(Metrics(), "127.0.0.1:0") as server:
        host, port = server.address.split(":")
        with socket.create_connection((host, int(port))) as silent:
            assert scrape(server.address)
            silent.sendall(b"\xff\xfe nonsense\r\n\r\n")
            assert silent.recv(100)
        assert scrape(server.address)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("listen", ["nowhere", "127.0.0.1:x", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_refused(listen: str) -> None:
    with pytest.raises(ServingError, match="HOST:PORT"):
        MetricsServer(Metrics(), listen)


def test_a_port_in_use_or_a_foreign_address_is_one_line() -> None:
    with (
        MetricsServer(Metrics(), "127.0.0.1:0") as first,
        pytest.raises(ServingError, match=rf"{first.address}: .*in use"),
    ):
        MetricsServer(Metrics(), first.address)
    with pytest.raises(ServingError, match=r"192\.0\.2\.1:0: "):
        MetricsServer(Metrics(), "192.0.2.1:0")
    again = MetricsServer(Metrics(), first.address)
    again.stop()


def test_it_listens_on_ipv6_where_that_is_asked_for() -> None:
    try:
        server = MetricsServer(Metrics(), "[::1]:0")
    except ServingError as exc:
        pytest.skip(f"no IPv6 here: {exc}")
    with server:
        assert scrape(server.address)


def test_every_metric_is_on_the_page() -> None:
    metrics = Metrics()
    metrics.request(GOOD)
    metrics.watch(Now())
    page = (Path(__file__).parents[1] / "docs/serving.md").read_text()
    listed = set(re.findall(r"`(splitter_\w+)`", page))
    families = list(metrics.collect())
    exported = {f.name + ("_total" if f.type == "counter" else "") for f in families}
    assert listed == exported
    assert not [term for term in TERMS if term not in page]
