"""Real faults: never a wrong answer, never an error where the device can answer, always in time."""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

from splitter.errors import InputError, ServingError, StaleBundleError
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.device.report import AnsweredBy, Why
from splitter.serving.device.session import Session
from splitter.serving.relay.relay import Relay
from splitter.serving.server.serve import serve
from tests import models
from tests.contract import same_bits
from tests.serving import run_whole
from tests.sessions import (
    ServerProcess,
    cuts_bundle,
    eventually,
    fake_server,
    open_sockets,
    our_threads,
    passing_on,
)

LATE_S = 5.0
"""On top of a deadline: machines that run tests are busy."""


def image(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"image": rng.standard_normal((1, 3, 16, 16)).astype(np.float32)}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cut in the middle, with the whole model as fallback."""
    return cuts_bundle(models.convolutions(), tmp_path_factory.mktemp("whole"), ["p1"])


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same cut, and nothing to fall back to."""
    folder = tmp_path_factory.mktemp("bare")
    return cuts_bundle(models.convolutions(), folder, ["p1"], whole=False)


@contextmanager
def nowhere() -> Iterator[str]:
    """An address where nothing listens, and nothing else can."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@contextmanager
def silence() -> Iterator[str]:
    """An address that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield f"127.0.0.1:{silent.getsockname()[1]}"


def check(session: Session, bundle: Path, seed: int = 0, within_s: float = 30.0) -> AnsweredBy:
    """Run once: the whole model's bits, in time. Says who answered."""
    feeds = image(seed)
    started = time.monotonic()
    result = session.infer(feeds)
    assert time.monotonic() - started < within_s + LATE_S
    assert same_bits(result.outputs["scores"], run_whole(bundle, feeds)[0])
    return result.timing.answered_by


def by_server(session: Session, bundle: Path) -> bool:
    return check(session, bundle) is AnsweredBy.SERVER


def test_a_session_starts_and_works_offline(bundle: Path) -> None:
    with nowhere() as address, Session(bundle, address) as session:
        for seed in range(3):
            assert check(session, bundle, seed) is AnsweredBy.DEVICE
            assert session.last.why is Why.OFFLINE
            assert session.last.attempts == 0
    with Session(bundle) as session:
        assert check(session, bundle) is AnsweredBy.DEVICE
        assert session.last.why is Why.OFFLINE


def test_a_session_comes_back_when_the_server_does(bundle: Path) -> None:
    with serve(bundle) as server, Session(bundle, server.address) as session:
        assert eventually(lambda: by_server(session, bundle))
        server.stop(0)
        for seed in range(5):
            assert check(session, bundle, seed) is AnsweredBy.DEVICE
        with serve(bundle, server.address):
            assert eventually(lambda: by_server(session, bundle))
            assert session.last.attempts == 1


@pytest.mark.slow
def test_a_session_comes_back_when_a_killed_server_does(bundle: Path) -> None:
    with ServerProcess(bundle) as process, Session(bundle, process.address) as session:
        assert eventually(lambda: by_server(session, bundle))
        process.kill()
        for seed in range(5):
            assert check(session, bundle, seed) is AnsweredBy.DEVICE
        process.start()
        assert eventually(lambda: by_server(session, bundle))
        assert session.last.attempts == 1


@pytest.mark.parametrize("fault", ["cut", "black_hole"])
def test_a_broken_link_loses_no_request_and_is_used_again(bundle: Path, fault: str) -> None:
    with (
        serve(bundle) as server,
        Relay(server.address) as relay,
        Session(bundle, relay.address, deadline_s=10.0) as session,
    ):
        for _ in range(2):
            assert eventually(lambda: by_server(session, bundle))
            getattr(relay, fault)()
            for seed in range(4):
                assert check(session, bundle, seed, 10.0) is AnsweredBy.DEVICE
            relay.restore()
        assert eventually(lambda: by_server(session, bundle))


def test_a_black_hole_under_many_threads_loses_no_request(bundle: Path) -> None:
    answered: list[AnsweredBy] = []
    stop = threading.Event()
    with (
        serve(bundle) as server,
        Relay(server.address) as relay,
        Session(bundle, relay.address, deadline_s=10.0) as session,
    ):

        def work(seed: int) -> None:
            while not stop.is_set():
                answered.append(check(session, bundle, seed, 10.0))

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        assert eventually(lambda: AnsweredBy.SERVER in answered)
        relay.black_hole()
        assert eventually(lambda: AnsweredBy.DEVICE in answered)
        relay.restore()
        answered.clear()
        assert eventually(lambda: AnsweredBy.SERVER in answered)
        stop.set()
        for thread in threads:
            thread.join()


def test_a_black_hole_is_noticed_long_before_the_deadline(bundle: Path) -> None:
    with (
        serve(bundle) as server,
        Relay(server.address) as relay,
        Session(bundle, relay.address, deadline_s=300.0) as session,
    ):
        assert eventually(lambda: by_server(session, bundle))
        relay.black_hole()
        assert check(session, bundle, within_s=10.0) is AnsweredBy.DEVICE
        assert session.last.why is Why.OFFLINE


def test_without_fallback_a_dead_connection_is_replaced_under_the_request(bare: Path) -> None:
    with (
        serve(bare) as server,
        Relay(server.address) as relay,
        Session(bare, relay.address, deadline_s=60.0) as session,
    ):
        session.warm_up()
        relay.black_hole()
        healer = threading.Timer(2.5, relay.restore)
        healer.start()
        assert check(session, bare, within_s=60.0) is AnsweredBy.SERVER
        healer.join()


@pytest.mark.parametrize("deadline_s", [0.001, 0.3])
def test_a_silent_server_costs_no_more_than_the_deadline(bundle: Path, deadline_s: float) -> None:
    with silence() as address, Session(bundle, address, deadline_s=deadline_s) as session:
        for seed in range(3):
            assert check(session, bundle, seed, deadline_s) is AnsweredBy.DEVICE


def test_a_slow_server_is_not_waited_for_beyond_the_deadline(bundle: Path) -> None:
    released = threading.Event()

    def slow(request: bytes, context: grpc.ServicerContext) -> bytes:
        released.wait(20)
        return b""

    with fake_server(slow) as address, Session(bundle, address, deadline_s=0.5) as session:
        assert eventually(lambda: check(session, bundle, 0, 0.5) and session.last.attempts)
        assert session.last.why is Why.DEADLINE
        assert session.last.answered_by is AnsweredBy.DEVICE
        # the next ones do not even try, for a while
        assert check(session, bundle) is AnsweredBy.DEVICE
        assert session.last.attempts == 0
        released.set()


def test_an_answer_that_comes_while_the_fallback_runs_is_taken(tmp_path: Path) -> None:
    """The deadline leaves no time to wait, so both are begun, and the first wins."""
    bundle = cuts_bundle(models.convolutions(), tmp_path, ["p1"])
    with serve(bundle) as server, Session(bundle, server.address, deadline_s=20.0) as session:
        assert eventually(lambda: by_server(session, bundle))
        release = threading.Event()
        fallback = session._core.device.fallback
        assert fallback is not None
        run = fallback.run
        fallback.run = lambda *given: release.wait(20) and run(*given)  # type: ignore[method-assign]
        fallback.reserve_s = lambda: 30.0  # type: ignore[method-assign]
        assert check(session, bundle) is AnsweredBy.SERVER
        release.set()


def test_a_busy_server_is_asked_again_when_it_said(bare: Path) -> None:
    called: list[float] = []
    with serve(bare) as server:
        infer, end = passing_on(server.address)

        def busy(request: bytes, context: grpc.ServicerContext) -> bytes:
            called.append(time.monotonic())
            if len(called) < 3:
                context.set_trailing_metadata((("grpc-retry-pushback-ms", "200"),))
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "later")
            return infer(request, context)

        with fake_server(busy) as address, Session(bare, address) as session:
            assert check(session, bare) is AnsweredBy.SERVER
            assert session.last.attempts == 3
        end()
    assert min(np.diff(called)) >= 0.2


def test_a_server_that_wants_no_retry_gets_none(bare: Path) -> None:
    called = []

    def busy(request: bytes, context: grpc.ServicerContext) -> bytes:
        called.append(1)
        context.set_trailing_metadata((("grpc-retry-pushback-ms", "-1"),))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "never")
        raise AssertionError

    with fake_server(busy) as address, Session(bare, address) as session:
        with pytest.raises(ServingError, match="RESOURCE_EXHAUSTED.*the bundle has no fallback"):
            check(session, bare)
        assert len(called) == 1


def test_a_busy_server_is_spared_while_the_device_can_answer(bundle: Path) -> None:
    called = []

    def busy(request: bytes, context: grpc.ServicerContext) -> bytes:
        called.append(1)
        context.set_trailing_metadata((("grpc-retry-pushback-ms", "60000"),))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "later")
        raise AssertionError

    with fake_server(busy) as address, Session(bundle, address) as session:
        assert eventually(lambda: check(session, bundle) and called)
        assert session.last.why is Why.BUSY
        for _ in range(5):
            assert check(session, bundle) is AnsweredBy.DEVICE
            assert session.last.why is Why.BUSY
        assert len(called) == 1


def test_a_large_message_is_retried_too(tmp_path: Path) -> None:
    """gRPC's own retries end at 256 KiB."""
    model = models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        wide (float[1, 16, 224, 224] x) => (float[1, 16, 224, 224] y) { a = Neg(x) y = Relu(a) }
        """
    )
    bundle = cuts_bundle(model, tmp_path, ["a"], whole=False)
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 16, 224, 224)).astype(np.float32)}
    called = []
    with serve(bundle) as server:
        infer, end = passing_on(server.address)

        def unavailable_at_first(request: bytes, context: grpc.ServicerContext) -> bytes:
            called.append(len(request))
            if len(called) < 3:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
            return infer(request, context)

        with fake_server(unavailable_at_first) as address, Session(bundle, address) as session:
            assert same_bits(session.run(None, feeds)[0], np.maximum(-feeds["x"], 0))
            assert session.last.attempts == 3
        end()
    assert min(called) > 256 << 10


def test_a_stale_bundle_is_told_and_answered_from_here(bundle: Path, bare: Path) -> None:
    called = []

    def stale(request: bytes, context: grpc.ServicerContext) -> bytes:
        called.append(1)
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "copy one bundle to both")
        raise AssertionError

    with fake_server(stale) as address:
        with (
            Session(bare, address) as session,
            pytest.raises(StaleBundleError, match="copy one bundle to both.*no fallback"),
        ):
            check(session, bare)
        called.clear()
        with Session(bundle, address) as session:
            assert eventually(lambda: check(session, bundle) and called)
            for _ in range(5):
                assert check(session, bundle) is AnsweredBy.DEVICE
                assert session.last.why is Why.STALE
            assert len(called) == 1, "it would get the same answer again"


def answer(name: str = "scores", shape: tuple[int, ...] = (1, 5), **parameters: float) -> bytes:
    response = pb.ModelInferResponse(model_name="model")
    response.outputs.add(name=name, datatype="FP32", shape=shape)
    response.raw_output_contents.append(np.ones(shape, "<f4").tobytes())
    for key, value in parameters.items():
        response.parameters[key].double_param = value
    return response.SerializeToString()


@pytest.mark.parametrize(
    "reply",
    [
        b"\xff\xff\xff",
        b"",
        answer("another"),
        answer(shape=(1, 6)),
        answer(tail_s=float("nan")),
        answer(queue_s=-1.0),
    ],
)
def test_a_garbled_answer_is_never_taken_for_one(bundle: Path, bare: Path, reply: bytes) -> None:
    with fake_server(lambda request, context: reply) as address:
        with Session(bundle, address) as session:
            assert eventually(lambda: check(session, bundle) and session.last.why is Why.WRONG)
        with Session(bare, address) as session, pytest.raises(ServingError, match="answered w"):
            check(session, bare)


@pytest.mark.parametrize("code", [c for c in grpc.StatusCode if c is not grpc.StatusCode.OK])
def test_no_status_of_a_server_keeps_the_device_from_answering(bundle: Path, code) -> None:
    called = []

    def refuse(request: bytes, context: grpc.ServicerContext) -> bytes:
        called.append(1)
        context.abort(code, "so it is")
        raise AssertionError

    with fake_server(refuse) as address, Session(bundle, address) as session:
        assert eventually(lambda: check(session, bundle) and called)
        assert session.last.answered_by is AnsweredBy.DEVICE
        assert session.last.why is not None


def test_without_fallback_the_error_comes_within_the_deadline_and_says_so(bare: Path) -> None:
    with silence() as address, Session(bare, address, deadline_s=0.3) as session:
        started = time.monotonic()
        with pytest.raises(ServingError, match="did not answer within.*the bundle has no fallback"):
            session.run(None, image())
        assert time.monotonic() - started < 0.3 + LATE_S


def test_a_memory_limit_that_forbids_the_fallback_is_named(bundle: Path) -> None:
    with (
        nowhere() as address,
        Session(bundle, address, memory_limit_bytes=1000) as session,
        pytest.raises(ServingError, match="memory limit"),
    ):
        session.run(None, image())


def test_a_stand_in_answers_where_there_is_no_server(tmp_path: Path) -> None:
    small = models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        small (float[1, 8] x) => (float[1, 8] y) { y = Tanh(x) }
        """
    )
    bundle = cuts_bundle(models.residual(), tmp_path, ["d"], whole=False, stand_in=small)
    feeds = {"x": np.ones((1, 8), np.float32)}
    with nowhere() as address, Session(bundle, address) as session:
        assert np.allclose(session.run(None, feeds)[0], np.tanh(1))
        assert session.last.answered_by is AnsweredBy.STAND_IN
    with serve(bundle) as server, Session(bundle, server.address) as session:
        assert eventually(lambda: session.run(None, feeds) and session.last.why is None)
        assert same_bits(session.run(None, feeds)[0], run_whole(bundle, feeds)[0])


def test_a_wrong_input_goes_neither_to_the_server_nor_to_the_fallback(bundle: Path) -> None:
    called = []

    def infer(request: bytes, context: grpc.ServicerContext) -> bytes:
        called.append(1)
        return b""

    with fake_server(infer) as address, Session(bundle, address) as session:
        for feeds in ({}, {"image": np.zeros((1, 3, 16, 16))}, {"imag": image()["image"]}):
            with pytest.raises(InputError):
                session.run(None, feeds)
        with pytest.raises(InputError, match="no output is named"):
            session.run(["score"], image())
        assert not called


def test_a_draining_server_is_left_alone(bundle: Path) -> None:
    called = []

    def infer(request: bytes, context: grpc.ServicerContext) -> bytes:
        called.append(1)
        return b""

    with fake_server(infer, is_ready=False) as address, Session(bundle, address) as session:
        for _ in range(3):
            assert check(session, bundle) is AnsweredBy.DEVICE
        assert not called


def test_a_hedge_wins_over_a_copy_that_is_stuck(bundle: Path, bare: Path) -> None:
    peers: list[str] = []
    stuck = threading.Event()
    with serve(bare) as server:
        infer, end = passing_on(server.address)

        def first_is_stuck(request: bytes, context: grpc.ServicerContext) -> bytes:
            peers.append(context.peer())
            if len(peers) == 1:
                context.add_callback(stuck.set)
                stuck.wait(20)
            return infer(request, context)

        with fake_server(first_is_stuck) as address, Session(bare, address, hedge_s=0.1) as session:
            assert check(session, bare) is AnsweredBy.SERVER
            assert (session.last.hedged, session.last.attempts) == (True, 2)
            assert len(set(peers)) == 2, "over another connection"
            assert stuck.wait(10), "the first copy was cancelled"
            assert check(session, bare) is AnsweredBy.SERVER
            assert (session.last.hedged, session.last.attempts) == (False, 1)
        end()


def test_a_closed_session_leaves_no_thread_and_no_connection(bundle: Path) -> None:
    with serve(bundle) as server, Relay(server.address) as relay:
        with Session(bundle, relay.address) as session:  # what is loaded once stays
            assert eventually(lambda: by_server(session, bundle))
        assert eventually(lambda: not our_threads())
        before = open_sockets()
        for fault in (relay.restore, relay.black_hole, relay.cut, relay.restore):
            fault()
            with Session(bundle, relay.address, hedge_s=0.001) as session:
                check(session, bundle)
                list(session.run_stream([image()] * 3))
                started = time.monotonic()
            assert time.monotonic() - started < LATE_S, "closing waited for the network"
            assert not our_threads()
        assert eventually(lambda: open_sockets() <= before), (before, open_sockets())


def test_a_session_that_is_forgotten_ends_its_threads(bundle: Path) -> None:
    with serve(bundle) as server:
        session = Session(bundle, server.address)
        stream = session.run_stream([image()] * 3)
        del session
        gc.collect()
        assert len(list(stream)) == 3, "a stream keeps its session"
        assert our_threads()
        del stream
        gc.collect()
        assert eventually(lambda: not our_threads())


def test_a_deadline_of_one_request_goes_before_the_sessions(bare: Path) -> None:
    with silence() as address, Session(bare, address, deadline_s=300.0) as session:
        started = time.monotonic()
        with pytest.raises(ServingError, match="did not answer"):
            session.infer(image(), deadline_s=0.1)
        assert time.monotonic() - started < LATE_S
        for nonsense in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(InputError, match="deadline_s is"):
                session.infer(image(), deadline_s=nonsense)


def test_closing_ends_a_request_that_waits(bare: Path) -> None:
    with silence() as address:
        session = Session(bare, address, deadline_s=60.0)
        raised: list[BaseException] = []

        def work() -> None:
            try:
                session.run(None, image())
            except ServingError as exc:
                raised.append(exc)

        thread = threading.Thread(target=work)
        thread.start()
        assert eventually(lambda: session._core._remote._lines.is_used)
        session.close()
        thread.join(LATE_S)
        assert "session is closed" in str(raised[0])
