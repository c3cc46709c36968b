"""Three tiers and more on loopback: a relay runs a head of its own and asks the next server."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import msgspec
import numpy as np
import pytest

from splitter.document import write_document
from splitter.errors import BundleError, DeadlineError, ServingError
from splitter.partition.bundle import Bundle
from splitter.partition.manifest import MANIFEST
from splitter.serving.device.options import SessionOptions
from splitter.serving.device.report import AnsweredBy
from splitter.serving.device.session import Session
from splitter.serving.server.options import Onward, ServerOptions
from splitter.serving.server.serve import Server, serve
from tests import models
from tests.chains import make_chain
from tests.contract import same_bits
from tests.serving import Array, float_request, plain_client, run_whole
from tests.sessions import ServerProcess, eventually, fake_server, our_threads

LATE_S = 5.0
"""On top of a deadline: machines that run tests are busy."""


def image(seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {"image": rng.standard_normal((1, 3, 16, 16)).astype(np.float32)}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, ...]:
    """Device, two relays, server; nothing to fall back to."""
    return make_chain(models.convolutions(), tmp_path_factory.mktemp("bare"), [2, 4, 6])


@pytest.fixture(scope="module")
def safe(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, ...]:
    """Device, relay, server; each holds the whole of what it is given."""
    return make_chain(models.convolutions(), tmp_path_factory.mktemp("safe"), [2, 4], whole=True)


def relay(bundle: Bundle, via: Bundle, address: str, **options: object) -> Server:
    changed = SessionOptions(**options)  # type: ignore[arg-type]
    return serve(bundle.folder, options=ServerOptions(onward=Onward(via.folder, address, changed)))


@contextmanager
def tiers(bundles: Sequence[Bundle]) -> Iterator[Server]:
    """Every tier but the device's; yields the one that the device asks."""
    with ExitStack() as stack:
        server = stack.enter_context(serve(bundles[-1].folder))
        for place in range(len(bundles) - 2, -1, -1):
            server = stack.enter_context(relay(bundles[place], bundles[place + 1], server.address))
        yield server


@pytest.mark.parametrize("chain", ["bare", "safe"])
def test_all_tiers_together_give_the_bits_of_the_whole(
    chain: str, request: pytest.FixtureRequest
) -> None:
    bundles = request.getfixturevalue(chain)
    with tiers(bundles) as server, Session(bundles[0].folder, server.address) as session:
        session.wait_for_server(LATE_S)
        for seed in range(5):
            result = session.infer(image(seed), deadline_s=20)
            (expected,) = run_whole(bundles[0].folder.parent, image(seed))
            assert same_bits(expected, result.outputs["scores"])
            assert result.timing.answered_by is AnsweredBy.SERVER
        with session.run_stream([image(seed) for seed in range(12)], in_flight=6) as stream:
            for seed, result in enumerate(stream):
                (expected,) = run_whole(bundles[0].folder.parent, image(seed))
                assert same_bits(expected, result.outputs["scores"])
    assert eventually(lambda: not our_threads())


@pytest.mark.parametrize(
    ("build", "ends", "shapes"),
    [
        (models.residual, [2, 3], {"x": (1, 8)}),
        (models.two_inputs, [0, 1], {"left": (1, 8), "right": (1, 4)}),
        (models.two_outputs, [1, 2], {"x": (1, 8)}),
    ],
)
def test_skips_inputs_and_outputs_of_any_tier_arrive(build, ends, shapes, tmp_path: Path) -> None:
    bundles = make_chain(build(), tmp_path, ends)
    rng = np.random.default_rng(1)
    feeds = {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}
    with tiers(bundles) as server, Session(bundles[0].folder, server.address) as session:
        expected = run_whole(bundles[0].folder.parent, feeds)
        for one, other in zip(expected, session.run(None, feeds), strict=True):
            assert same_bits(one, other)


def test_a_relay_answers_by_itself_when_the_next_server_is_killed(
    safe: tuple[Bundle, ...],
) -> None:
    first, second = safe
    feeds = image()
    (expected,) = run_whole(first.folder.parent, feeds)
    with (
        ServerProcess(second.folder) as server,
        relay(first, second, server.address) as middle,
        Session(first.folder, middle.address, fallback=False) as session,
    ):
        assert same_bits(expected, session.run(None, feeds)[0])
        server.kill()
        for _ in range(4):
            result = session.infer(feeds, deadline_s=10)
            assert same_bits(expected, result.outputs["scores"])
            assert result.timing.answered_by is AnsweredBy.SERVER  # the relay is the device's
            assert result.timing.attempts == 1


def test_a_device_answers_by_itself_when_the_relay_cannot(safe: tuple[Bundle, ...]) -> None:
    first, second = safe
    feeds = image()
    with (
        serve(second.folder) as server,
        relay(first, second, server.address, fallback=False) as middle,
        Session(first.folder, middle.address) as session,
    ):
        session.wait_for_server(LATE_S)
        server.stop(0.0)
        began_s = time.monotonic()
        result = session.infer(feeds, deadline_s=10)
        assert time.monotonic() - began_s < 10 + LATE_S
        assert result.timing.answered_by is AnsweredBy.DEVICE
        assert same_bits(run_whole(first.folder.parent, feeds)[0], result.outputs["scores"])


def test_without_a_way_out_the_error_comes_in_time_and_names_the_next_tier(
    bare: tuple[Bundle, ...],
) -> None:
    with (
        serve(bare[1].folder) as server,
        relay(bare[0], bare[1], server.address) as middle,
        Session(bare[0].folder, middle.address) as session,
        plain_client(middle.address) as call,
    ):
        server.stop(0.0)
        began_s = time.monotonic()
        with pytest.raises(ServingError, match="the next tier does not answer"):
            session.infer(image(), deadline_s=10)
        assert time.monotonic() - began_s < 10 + LATE_S
        sent = bare[0].manifest.planned.crossing[0]
        array = np.zeros(sent.shape, np.float32)
        with pytest.raises(grpc.RpcError) as failed:
            call("ModelInfer", float_request("model", sent.tensor, array))
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE


def test_the_callers_deadline_is_passed_on(bare: tuple[Bundle, ...]) -> None:
    left: list[float] = []

    def silent(request: bytes, context: grpc.ServicerContext) -> bytes:
        left.append(context.time_remaining() or 0.0)
        while context.is_active():
            time.sleep(0.01)
        return b""

    with (
        fake_server(silent) as address,
        relay(bare[0], bare[1], address) as middle,
        Session(bare[0].folder, middle.address, retries=0) as session,
        plain_client(middle.address) as call,
    ):
        left.clear()  # of the relay's warming up
        with pytest.raises(DeadlineError):
            session.infer(image(), deadline_s=1.0)
        assert len(left) == 1
        assert 0 < left[0] <= 1.0
        sent = bare[0].manifest.planned.crossing[0]
        wanted = float_request("model", sent.tensor, np.zeros(sent.shape, np.float32))
        wanted.parameters["timeout"].int64_param = 300_000
        with pytest.raises(grpc.RpcError) as failed:
            call("ModelInfer", wanted)
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "the next tier is late" in str(failed.value.details())


def test_requests_wait_for_the_next_tier_side_by_side(bare: tuple[Bundle, ...]) -> None:
    with (
        serve(bare[1].folder) as server,
        relay(bare[0], bare[1], server.address) as middle,
        Session(bare[0].folder, middle.address) as session,
        ThreadPoolExecutor(8) as pool,
    ):
        made = pool.map(lambda seed: session.run(None, image(seed))[0], range(40))
        for seed, scores in enumerate(made):
            assert same_bits(run_whole(bare[0].folder.parent, image(seed))[0], scores)


def test_a_relay_starts_before_the_next_server(safe: tuple[Bundle, ...]) -> None:
    first, second = safe
    with serve(second.folder) as server:
        address = server.address
    with (
        relay(first, second, address, fallback=False) as middle,
        serve(second.folder, address),
        Session(first.folder, middle.address, fallback=False) as session,
    ):
        assert eventually(lambda: _answers(session))


def _answers(session: Session) -> bool:
    try:
        session.run(None, image())
    except ServingError:
        return False
    return True


def test_a_bundle_of_another_tail_is_refused(
    bare: tuple[Bundle, ...], safe: tuple[Bundle, ...], tmp_path: Path
) -> None:
    for via in (bare[2], bare[0], safe[1]):
        with pytest.raises(BundleError, match="not of a tail of") as refused:
            relay(bare[0], via, "127.0.0.1:1")
        assert "\n" not in str(refused.value)
    with pytest.raises(BundleError):
        relay(bare[0], Bundle(tmp_path, bare[0].manifest), "127.0.0.1:1")


def test_weights_beside_a_tail_are_told_apart_by_the_bundles_digest(
    safe: tuple[Bundle, ...], tmp_path: Path
) -> None:
    """The tail of a model of other weights is the same file, where its weights lie beside it."""
    first = safe[0]
    other = models.convolutions()
    for weights in other.graph.initializer:
        weights.raw_data = bytes(reversed(weights.raw_data)) if weights.raw_data else b""
    tails = make_chain(other, tmp_path, [2, 4], whole=True)
    ours, theirs = (one.manifest for one in (safe[1], tails[1]))
    forged = msgspec.structs.replace(theirs, model_sha256=ours.model_sha256)
    write_document(tails[1].folder / MANIFEST, forged)
    with pytest.raises(BundleError, match="not of a tail of"):
        relay(first, tails[1], "127.0.0.1:1")
