"""Where metrics are fetched: real servers, and listeners that mean no good."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import grpc
import numpy as np
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from splitter.errors import ServingError
from splitter.serving import scrapers
from splitter.serving.credentials import TokenFile
from splitter.serving.interval import interval
from splitter.serving.poller import Poller, Reading
from splitter.serving.protocol import MONITOR
from splitter.serving.scrape import Snapshot
from splitter.serving.scrapers import GrpcScraper, HttpScraper
from splitter.serving.server.metrics import Metrics, MetricsServer
from splitter.serving.server.options import ServerOptions
from splitter.serving.server.serve import Server, serve
from tests.serving import float_request, make_batching, plain_client
from tests.test_serving_metrics import GOOD

ONE = np.ones((1, 4), np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_batching(tmp_path_factory.mktemp("top"))


def ask(server: Server, times: int) -> None:
    with plain_client(server.address) as call:
        for _ in range(times):
            call("ModelInfer", float_request("sums", "a", ONE))


def requests(snapshot: Snapshot) -> float:
    return sum(snapshot.of("splitter_requests_total").values())


@contextlib.contextmanager
def scraping(address: str) -> Iterator[GrpcScraper]:
    scraper = GrpcScraper(address)
    with contextlib.closing(scraper):
        yield scraper


def test_a_server_counts_from_when_it_is_first_asked_by_whoever_asks(bundle: Path) -> None:
    with serve(bundle) as server, scraping(server.address) as one, scraping(server.address) as two:
        ask(server, 3)
        first = one.scrape()
        assert requests(first) == 0
        assert first.value("splitter_ready") == 1
        ask(server, 2)
        assert requests(one.scrape()) == requests(two.scrape()) == 2
        cut = server.manifest.planned
        found = interval(first, one.scrape(), server.address, 0.0)
        (load,) = found.cuts
        assert (load.model, load.cut, load.name) == ("sums", cut.id, cut.name)
        assert found.received_raw_bytes_per_s * found.seconds == pytest.approx(2 * ONE.nbytes)


def test_a_server_that_counts_already_tells_the_same_on_both_ports(bundle: Path) -> None:
    metrics = Metrics()
    with (
        serve(bundle, options=ServerOptions(observers=(metrics,))) as server,
        MetricsServer(metrics, "127.0.0.1:0") as http,
        scraping(server.address) as scraper,
    ):
        metrics.watch(server)
        ask(server, 4)
        assert requests(scraper.scrape()) == requests(HttpScraper(http.address).scrape()) == 4


def test_metrics_larger_than_a_message_come_in_pieces(bundle: Path) -> None:
    metrics = Metrics()
    for number in range(150):
        metrics.request(dataclasses.replace(GOOD, cut=f"{number:012x}"))
    with (
        serve(bundle, options=ServerOptions(observers=(metrics,))) as server,
        scraping(server.address) as scraper,
    ):
        assert requests(scraper.scrape()) == 150


def test_a_token_is_asked_for_as_by_every_method(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-secret-token")
    (tmp_path / "token").chmod(0o600)
    token = TokenFile(tmp_path / "token")
    options = ServerOptions(authenticate=token.authenticate)
    with serve(bundle, options=options) as server:
        with scraping(server.address) as stranger, pytest.raises(ServingError, match="UNAUTH"):
            stranger.scrape()
        with contextlib.closing(GrpcScraper(server.address, token=token)) as known:
            assert known.scrape().value("splitter_ready") == 1


def test_calls_that_are_turned_away_are_counted_by_their_limit(bundle: Path, gate: object) -> None:
    options = ServerOptions(per_peer=1)
    with serve(bundle, options=options) as server, scraping(server.address) as scraper:
        before = scraper.scrape()
        gate.shut()  # type: ignore[attr-defined]
        first = threading.Thread(target=ask, args=(server, 1))
        first.start()
        gate.wait_begun()  # type: ignore[attr-defined]
        with pytest.raises(grpc.RpcError):
            ask(server, 1)
        gate.is_open.set()  # type: ignore[attr-defined]
        first.join()
        found = interval(before, scraper.scrape(), server.address, 0.0)
    assert found.turned_away_per_s.keys() == {"peer"}
    assert found.refused_per_s * found.seconds == pytest.approx(1)


def test_reflection_knows_the_monitor(bundle: Path) -> None:
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=MONITOR)
    with serve(bundle) as server, grpc.insecure_channel(server.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=10)
    assert answer.file_descriptor_response.file_descriptor_proto


@contextlib.contextmanager
def listener(*pieces: bytes, endless: bytes = b"", every_s: float = 0.0) -> Iterator[str]:
    """Answers a connection with these bytes, then with one of them again and again, and hangs up."""
    over = threading.Event()

    def serve_one() -> None:
        with contextlib.suppress(OSError):
            connection, _ = sock.accept()
            with connection:
                connection.recv(1000)
                for piece in pieces:
                    connection.sendall(piece)
                while endless and not over.wait(every_s):
                    connection.sendall(endless)

    with socket.create_server(("127.0.0.1", 0)) as sock:
        thread = threading.Thread(target=serve_one)
        thread.start()
        try:
            yield f"127.0.0.1:{sock.getsockname()[1]}"
        finally:
            over.set()
            thread.join()


OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = OK + b"Content-Length: 1000\r\n\r\n"


@pytest.mark.parametrize(
    ("pieces", "endless", "told"),
    [
        ([b""], b"", "HTTP"),
        ([b"\x00\x00\x12\x04\x00"], b"", "HTTP"),
        ([b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\n\r\n"], b"", "302"),
        ([b"HTTP/1.1 500 Oh\r\n\r\n"], b"", "500"),
        ([LENGTH, b"short"], b"", "broke off"),
        ([OK + b"\r\n", b"\xff\xfe"], b"", "not the metrics"),
        ([OK + b"\r\n"], b"x" * (1 << 20), "MiB"),
        ([OK], b"X-Long: " + b"y" * 1000 + b"\r\n", "HTTP"),
        ([OK + b"Transfer-Encoding: chunked\r\n\r\n"], b"zz\r\n", "broke off"),
    ],
)
def test_a_listener_that_serves_no_metrics_is_one_line(
    pieces: list[bytes], endless: bytes, told: str
) -> None:
    with listener(*pieces, endless=endless) as address:
        with pytest.raises(ServingError, match=f"metrics {address}: .*{told}") as caught:
            HttpScraper(address).scrape()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("start", [b"", OK, LENGTH])
def test_bytes_that_drip_are_given_up(start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrapers, "PATIENCE_S", 0.5)
    with (
        listener(start, endless=b"a", every_s=0.05) as address,
        pytest.raises(ServingError, match=address),
    ):
        HttpScraper(address).scrape()


def test_the_wrong_port_is_named_with_the_right_option(bundle: Path) -> None:
    with serve(bundle) as server, MetricsServer(Metrics(), "127.0.0.1:0") as http:
        with scraping(http.address) as scraper, pytest.raises(ServingError, match="--metrics"):
            scraper.scrape()
        with pytest.raises(ServingError, match="--server"):
            HttpScraper(server.address).scrape()


def test_a_server_of_another_kind_is_named(bundle: Path) -> None:
    with contextlib.closing(GrpcScraper("127.0.0.1:1")) as nobody:
        with pytest.raises(ServingError, match="not reached"):
            nobody.scrape()
        nobody.close()
        with pytest.raises(ServingError):
            nobody.scrape()
    for make in (GrpcScraper, HttpScraper):
        with pytest.raises(ServingError, match="HOST:PORT"):
            make("nowhere")


class Flaky:
    """Answers, fails, and answers again, as often as it is told."""

    address = "here:1"

    def __init__(self, *answers: bool) -> None:
        self.answers = list(answers)

    def scrape(self) -> Snapshot:
        if not self.answers.pop(0):
            raise ServingError("here:1: not reached")
        return Snapshot(float(-len(self.answers)), {})

    def close(self) -> None:
        """Nothing is open."""


def test_a_server_that_goes_away_is_told_of_and_an_interval_begins_when_it_is_back() -> None:
    readings: SimpleQueue[Reading] = SimpleQueue()
    scraper = Flaky(True, True, False, False, True, True, *[True] * 1000)
    with Poller(scraper, 0.01, scraper.scrape(), readings.put):
        found = [readings.get(timeout=30) for _ in range(5)]
    told = [(reading.interval is not None, bool(reading.problem)) for reading in found]
    assert told == [(True, False), (False, True), (False, True), (False, False), (True, False)]


def test_a_connection_is_taken_up_again_when_the_server_is_back(bundle: Path) -> None:
    first = serve(bundle)
    with scraping(first.address) as scraper:
        scraper.scrape()
        first.stop(0.0)
        with pytest.raises(ServingError):
            scraper.scrape()
        with serve(bundle, first.address):
            readings: SimpleQueue[Reading] = SimpleQueue()
            with Poller(scraper, 0.1, Snapshot(0.0, {}), readings.put):
                while readings.get(timeout=30).interval is None:
                    pass
