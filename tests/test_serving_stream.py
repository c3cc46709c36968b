from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from splitter.errors import InputError, ServingError
from splitter.serving.device.report import AnsweredBy
from splitter.serving.device.session import Session
from splitter.serving.relay.relay import Relay
from splitter.serving.server.serve import serve
from tests import models
from tests.contract import same_bits
from tests.serving import run_whole
from tests.sessions import cuts_bundle, eventually, fake_server, our_threads, passing_on


def image(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"image": rng.standard_normal((1, 3, 16, 16)).astype(np.float32)}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cuts_bundle(models.convolutions(), tmp_path_factory.mktemp("whole"), ["p1"])


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bare")
    return cuts_bundle(models.convolutions(), folder, ["p1"], whole=False)


def right(bundle: Path, seed: int) -> np.ndarray:
    return run_whole(bundle, image(seed))[0]


@pytest.mark.parametrize("in_flight", [1, 3, 16])
def test_results_come_in_order_and_are_those_of_single_runs(bare: Path, in_flight: int) -> None:
    with serve(bare) as server, Session(bare, server.address) as session:
        results = list(session.run_stream(map(image, range(20)), in_flight=in_flight))
        assert [result.index for result in results] == list(range(20))
        for seed, result in enumerate(results):
            assert same_bits(result.outputs["scores"], right(bare, seed))
            assert result.timing.answered_by is AnsweredBy.SERVER
        assert session.last == results[-1].timing
        assert list(session.run_stream([])) == []


def test_a_slow_answer_holds_back_the_later_ones_only_where_order_matters(bare: Path) -> None:
    release = threading.Event()
    seen: list[int] = []
    with serve(bare) as server:
        infer, end = passing_on(server.address)

        def first_is_slow(request: bytes, context: grpc.ServicerContext) -> bytes:
            seen.append(1)
            if len(seen) == 1:
                release.wait(20)
            return infer(request, context)

        with fake_server(first_is_slow) as address, Session(bare, address) as session:
            stream = session.run_stream(map(image, range(6)), ordered=False)
            first = [next(stream) for _ in range(5)]
            release.set()
            results = [*first, *stream]
            assert sorted(result.index for result in results) == list(range(6))
            for result in results:
                assert same_bits(result.outputs["scores"], right(bare, result.index))
        end()


def test_the_source_is_not_read_ahead_of_the_bound(bare: Path) -> None:
    given = 0

    def source() -> Iterator[dict[str, np.ndarray]]:
        nonlocal given
        for seed in range(30):
            given += 1
            yield image(seed)

    with serve(bare) as server, Session(bare, server.address) as session:
        for taken, _ in enumerate(session.run_stream(source(), in_flight=4), 1):
            assert given <= taken + 4


def test_the_error_of_one_is_raised_in_its_place_and_the_stream_goes_on(bare: Path) -> None:
    feeds = [image(0), {"image": np.zeros((1, 3, 16, 16))}, image(2), {}, image(4)]
    with serve(bare) as server, Session(bare, server.address) as session:
        with session.run_stream(feeds) as stream:
            assert same_bits(next(stream).outputs["scores"], right(bare, 0))
            with pytest.raises(InputError, match="float64"):
                next(stream)
            assert next(stream).index == 2
            with pytest.raises(InputError, match="not fed"):
                next(stream)
            assert same_bits(next(stream).outputs["scores"], right(bare, 4))
            assert list(stream) == []
            assert list(stream) == [], "it stays at its end"
        with pytest.raises(ServingError, match="in_flight is 0"):
            session.run_stream(feeds, in_flight=0)


@pytest.mark.parametrize("ordered", [True, False])
def test_an_error_of_the_source_comes_after_what_it_gave(bare: Path, ordered: bool) -> None:
    def source() -> Iterator[dict[str, np.ndarray]]:
        yield image(0)
        yield image(1)
        raise OSError("the camera is gone")

    with serve(bare) as server, Session(bare, server.address) as session:
        stream = session.run_stream(source(), ordered=ordered)
        found: list[object] = []
        for _ in range(3):
            try:
                found.append(next(stream).index)
            except OSError as exc:
                found.append(str(exc))
        assert set(found) == {0, 1, "the camera is gone"}
        assert not ordered or found[-1] == "the camera is gone"
        assert list(stream) == []


def test_closing_a_stream_cancels_what_is_on_the_way(bare: Path) -> None:
    arrived, cancelled = threading.Semaphore(0), threading.Semaphore(0)

    def stuck(request: bytes, context: grpc.ServicerContext) -> bytes:
        gone = threading.Event()
        context.add_callback(gone.set)
        arrived.release()
        gone.wait(20)
        cancelled.release()
        return b""

    with fake_server(stuck) as address, Session(bare, address, deadline_s=60.0) as session:
        stream = session.run_stream(map(image, range(100)), in_flight=3)
        for _ in range(3):
            assert arrived.acquire(timeout=15)
        started = time.monotonic()
        stream.close()
        assert time.monotonic() - started < 10
        for _ in range(3):
            assert cancelled.acquire(timeout=15)
        assert list(stream) == []


def test_a_stream_that_is_left_ends_by_itself(bare: Path) -> None:
    with serve(bare) as server, Session(bare, server.address) as session:
        session.warm_up()
        before = sorted(our_threads())
        for result in session.run_stream(map(image, range(100))):
            if result.index == 3:
                break
        gc.collect()
        assert eventually(lambda: sorted(our_threads()) == before)


def test_an_outage_in_the_middle_of_a_stream_loses_nothing(bundle: Path) -> None:
    with (
        serve(bundle) as server,
        Relay(server.address) as relay,
        Session(bundle, relay.address, deadline_s=10.0) as session,
    ):
        assert eventually(lambda: session.infer(image(0)).timing.why is None)
        answered = []
        for result in session.run_stream(map(image, range(60)), in_flight=4):
            assert same_bits(result.outputs["scores"], right(bundle, result.index))
            answered.append(result.timing.answered_by)
            if result.index == 10:
                relay.cut()
        assert len(answered) == 60
        assert {answered[0], answered[-1]} == {AnsweredBy.SERVER, AnsweredBy.DEVICE}


def test_a_closed_session_says_so_to_its_streams(bare: Path) -> None:
    with serve(bare) as server:
        session = Session(bare, server.address)
        session.close()
        with pytest.raises(ServingError, match="session is closed"):
            next(session.run_stream([image(0)]))
