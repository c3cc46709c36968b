from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from splitter.errors import InputError, ServingError
from splitter.serving.device.aio import AsyncSession
from splitter.serving.device.report import AnsweredBy
from splitter.serving.server.serve import serve
from tests import models
from tests.contract import same_bits
from tests.serving import run_whole
from tests.sessions import cuts_bundle, fake_server, our_threads


def image(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"image": rng.standard_normal((1, 3, 16, 16)).astype(np.float32)}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bare")
    return cuts_bundle(models.convolutions(), folder, ["p1"], whole=False)


def test_it_answers_as_the_blocking_session_does(bundle: Path) -> None:
    async def work(address: str) -> None:
        async with AsyncSession(bundle, address) as session:
            assert [port.name for port in session.get_inputs()] == ["image"]
            many = await asyncio.gather(*(session.run(None, image(seed)) for seed in range(8)))
            for seed, outputs in enumerate(many):
                assert same_bits(outputs[0], run_whole(bundle, image(seed))[0])
            assert session.last.answered_by is AnsweredBy.SERVER
            with pytest.raises(InputError):
                await session.run(None, {})

    with serve(bundle) as server:
        asyncio.run(work(server.address))
    assert not our_threads()


@pytest.mark.parametrize("is_async", [False, True])
def test_streams_take_plain_and_asynchronous_sources(bundle: Path, is_async: bool) -> None:
    async def source() -> AsyncIterator[dict[str, np.ndarray]]:
        for seed in range(12):
            await asyncio.sleep(0)
            yield image(seed)

    async def work(address: str) -> None:
        async with AsyncSession(bundle, address) as session:
            many = source() if is_async else [image(seed) for seed in range(12)]
            indices = []
            async for result in session.run_stream(many, in_flight=3):
                assert same_bits(
                    result.outputs["scores"], run_whole(bundle, image(result.index))[0]
                )
                indices.append(result.index)
            assert indices == list(range(12))

    with serve(bundle) as server:
        asyncio.run(work(server.address))


def test_a_stream_that_is_left_asks_its_source_no_more(bundle: Path) -> None:
    async def endless() -> AsyncIterator[dict[str, np.ndarray]]:
        for seed in range(3):
            yield image(seed)
        await asyncio.Event().wait()

    async def work(address: str) -> None:
        async with AsyncSession(bundle, address) as session:
            stream = session.run_stream(endless())
            assert (await anext(stream)).index == 0
            await stream.aclose()

    with serve(bundle) as server:
        asyncio.run(asyncio.wait_for(work(server.address), 20))
    assert not our_threads()


def test_cancelling_the_task_cancels_the_request(bundle: Path) -> None:
    arrived, gone = threading.Event(), threading.Event()

    def stuck(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.add_callback(gone.set)
        arrived.set()
        gone.wait(20)
        return b""

    async def work(address: str) -> None:
        async with AsyncSession(bundle, address, deadline_s=60.0) as session:
            task = asyncio.create_task(session.run(None, image(0)))
            await asyncio.to_thread(arrived.wait, 20)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(gone.wait, 20)

    with fake_server(stuck) as address:
        asyncio.run(work(address))


def test_a_closed_session_says_so(bundle: Path) -> None:
    async def work() -> None:
        session = AsyncSession(bundle, "127.0.0.1:1")
        await session.close()
        with pytest.raises((ServingError, RuntimeError)):
            await session.run(None, image(0))

    asyncio.run(work())
