"""The asyncio twin of ``Session``: the same core on threads of its own, none of it on the loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, TypeVar, Unpack

from splitter.runtime import Array, Port
from splitter.serving.device.attempts import Cancellation
from splitter.serving.device.options import SessionKeywords, SessionOptions
from splitter.serving.device.report import Result, Timing
from splitter.serving.device.session import ModelMeta, Session

Feeds = Mapping[str, Array]
T = TypeVar("T")

CONCURRENT = 32
"""Requests at a time; more wait for a thread."""


class AsyncSession:
    """``await session.run(...)``. Cancelling the task cancels the request on the wire."""

    def __init__(
        self,
        bundle_dir: str | os.PathLike[str],
        server: str | None = None,
        *,
        options: SessionOptions = SessionOptions(),  # noqa: B008  (frozen)
        **changes: Unpack[SessionKeywords],
    ) -> None:
        """As ``Session``; it waits for neither network nor models."""
        self._session = Session(bundle_dir, server, options=options, **changes)
        self._threads = ThreadPoolExecutor(CONCURRENT, thread_name_prefix="splitter-aio")

    @property
    def last(self) -> Timing:
        """Of the run that ended last."""
        return self._session.last

    def get_inputs(self) -> list[Port]:
        """Inputs of the whole model."""
        return self._session.get_inputs()

    def get_outputs(self) -> list[Port]:
        """Outputs of the whole model, in the order in which ``run`` returns them."""
        return self._session.get_outputs()

    def get_providers(self) -> list[str]:
        """What runs the parts here."""
        return self._session.get_providers()

    def get_modelmeta(self) -> ModelMeta:
        """Name of the model and digest of the bundle."""
        return self._session.get_modelmeta()

    async def run(self, output_names: Sequence[str] | None, feeds: Feeds) -> list[Array]:
        """Run the model; raises as ``Session.run``."""
        return list((await self.infer(feeds, output_names)).outputs.values())

    async def infer(
        self,
        feeds: Feeds,
        output_names: Sequence[str] | None = None,
        *,
        deadline_s: float | None = None,
        priority: int = 0,
        join: str | None = None,
    ) -> Result:
        """Run the model, and say who answered; raises as ``Session.infer``."""
        cancellation = Cancellation()
        call = partial(
            self._session.infer, feeds, output_names,
            deadline_s=deadline_s, priority=priority, cancellation=cancellation, join=join,
        )  # fmt: skip
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except asyncio.CancelledError:
            cancellation.cancel()
            raise

    def reset(self) -> None:
        """Forget the state that lives on the server, as ``Session.reset``."""
        self._session.reset()

    async def run_stream(
        self,
        many: Iterable[Feeds] | AsyncIterable[Feeds],
        output_names: Sequence[str] | None = None,
        *,
        in_flight: int = 8,
        ordered: bool = True,
        deadline_s: float | None = None,
    ) -> AsyncIterator[Result]:
        """Yield results as ``Session.run_stream``; ends with the first error."""
        loop = asyncio.get_running_loop()
        source = _Source(many, loop) if isinstance(many, AsyncIterable) else many
        stream = self._session.run_stream(
            source, output_names, in_flight=in_flight, ordered=ordered, deadline_s=deadline_s
        )
        try:
            while (result := await loop.run_in_executor(self._threads, _next, stream)) is not None:
                yield result
        finally:
            if isinstance(source, _Source):
                source.close()
            # shielded: a task that is cancelled while it closes must still end the threads
            await asyncio.shield(loop.run_in_executor(self._threads, stream.close))

    async def run_refined(
        self, output_names: Sequence[str] | None, feeds: Feeds
    ) -> AsyncIterator[Result]:
        """Yield a quick answer, then the server's, as ``Session.run_refined``."""
        loop = asyncio.get_running_loop()
        results: Any = self._session.run_refined(output_names, feeds)
        try:
            while (result := await loop.run_in_executor(self._threads, _next, results)) is not None:
                yield result
        finally:
            await asyncio.shield(loop.run_in_executor(self._threads, results.close))

    async def close(self) -> None:
        """End every thread and connection; requests that run fail."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._session.close)
        await loop.run_in_executor(None, self._threads.shutdown)

    async def __aenter__(self) -> AsyncSession:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


def _next(results: Iterator[T]) -> T | None:
    """A StopIteration cannot travel through a future."""
    return next(results, None)


class _Source(Iterator[Feeds]):
    """An asynchronous source for the thread that runs heads."""

    def __init__(self, many: AsyncIterable[Feeds], loop: asyncio.AbstractEventLoop) -> None:
        self._many, self._loop = aiter(many), loop
        self._waiting: Future[Feeds] | None = None
        self._is_closed = False

    def __next__(self) -> Feeds:
        if self._is_closed:
            raise StopIteration
        self._waiting = asyncio.run_coroutine_threadsafe(self._pull(), self._loop)
        try:
            return self._waiting.result()
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        """Wait for it no longer."""
        self._is_closed = True
        if self._waiting is not None:
            self._waiting.cancel()

    async def _pull(self) -> Feeds:
        return await anext(self._many)
