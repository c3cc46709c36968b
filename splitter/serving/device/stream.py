"""Many requests, one after the other through the stages, so that the stages of different ones overlap.

One thread runs heads, one encodes, and as many as may be in flight wait for answers::

    many -> [heads] -> [encode] -> [wire x in_flight] -> results

A request takes its place when it is taken out of ``many`` and gives it back when its result is taken, so that
no more than ``in_flight`` are anywhere in between.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from splitter.errors import ServingError
from splitter.runtime import Array
from splitter.serving.device.attempts import Cancellation
from splitter.serving.device.core import Core
from splitter.serving.device.job import Job
from splitter.serving.device.report import Result

_SOURCE = -1  # among the indices of what is on its way
_PATIENCE_S = 5.0
"""For a source that blocks while the stream is closed."""


class ResultStream(Iterator[Result]):
    """Results in the order of the requests, or as they come.

    The error of one request is raised in its place; the next call goes on with the next one. An error of
    the source itself comes after the results of what it gave, and ends the stream. Close it, or read it to
    the end; leaving a loop early closes it when nothing refers to it any more.
    """

    def __init__(
        self,
        core: Core,
        many: Iterable[Mapping[str, Array]],
        output_names: Sequence[str] | None,
        in_flight: int,
        deadline_s: float | None,
        note: Callable[[Result], None],
        *,
        ordered: bool = True,
    ) -> None:
        """Raise ServingError for a number in flight that is none."""
        if in_flight < 1:
            raise ServingError(f"in_flight is {in_flight}; give 1 or more")
        self._note = note
        # the threads know the pipeline, not this: so this can be forgotten while they run
        self._pipeline = _Pipeline(core, many, output_names, in_flight, deadline_s, ordered)

    def __iter__(self) -> ResultStream:
        return self

    def __next__(self) -> Result:
        """Raise what the request raised, as ``Session.run`` would."""
        result = self._pipeline.take()
        self._note(result)
        return result

    def close(self) -> None:
        """Cancel what is on the way and end the threads; the source is not taken from any more."""
        self._pipeline.stop()
        self._pipeline.join()

    def __enter__(self) -> ResultStream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_pipeline"):
            self._pipeline.stop()


@dataclass
class _Item:
    """A request's place in the stream."""

    index: int
    result: Future[Result] = field(default_factory=Future)
    cancellation: Cancellation = field(default_factory=Cancellation)


class _Pipeline:
    """The threads and what they pass on."""

    def __init__(
        self,
        core: Core,
        many: Iterable[Mapping[str, Array]],
        output_names: Sequence[str] | None,
        in_flight: int,
        deadline_s: float | None,
        ordered: bool,
    ) -> None:
        self._core, self._many = core, many
        self._names, self._deadline_s, self._ordered = output_names, deadline_s, ordered
        self._places = threading.Semaphore(in_flight)
        self._out: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._begun: queue.SimpleQueue[tuple[_Item, Job] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._inside = {_SOURCE}
        self._items: dict[int, _Item] = {}
        self._is_stopped = False
        self._wire = ThreadPoolExecutor(in_flight, thread_name_prefix="splitter-wire")
        self._threads = [
            threading.Thread(target=self._heads, name="splitter-heads", daemon=True),
            threading.Thread(target=self._encodings, name="splitter-encode", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def take(self) -> Result:
        """The next result; raises StopIteration at the end."""
        item = None if self._is_stopped else self._out.get()
        if item is None:
            self._out.put(None)
            self.stop()
            self.join()
            raise StopIteration
        try:
            return replace(item.result.result(), index=item.index)
        finally:
            with self._lock:
                self._items.pop(item.index, None)
            self._places.release()

    def stop(self) -> None:
        """Withdraw everything; returns at once."""
        with self._lock:
            if self._is_stopped:
                return
            self._is_stopped = True
            items = list(self._items.values())
        for item in items:
            item.cancellation.cancel()
        self._places.release()
        self._begun.put(None)
        self._out.put(None)
        self._wire.shutdown(wait=False, cancel_futures=True)

    def join(self) -> None:
        """Wait for the threads, though not for ever for a source that blocks."""
        for thread in self._threads:
            thread.join(_PATIENCE_S)
        self._wire.shutdown(wait=True)
        with self._lock:
            left = [item for item in self._items.values() if not item.result.done()]
        for item in left:  # for another thread that waits for one
            item.result.set_exception(ServingError("the stream is closed"))

    def _heads(self) -> None:
        source = iter(self._many)
        index = 0
        while True:
            self._places.acquire()
            if self._is_stopped:
                break
            item = _Item(index)
            try:
                feeds = next(source)
            except StopIteration:
                break
            except BaseException as exc:  # noqa: BLE001  (the caller's own; raised where he takes it)
                self._enter(item)
                self._fail(item, exc)
                break
            self._enter(item)
            self._begin(item, feeds)
            index += 1
        self._begun.put(None)
        self._left(_SOURCE)

    def _begin(self, item: _Item, feeds: Mapping[str, Array]) -> None:
        try:
            job = self._core.admit(
                feeds, self._names, self._deadline_s, cancellation=item.cancellation
            )
            self._core.begin(job)
        except BaseException as exc:  # noqa: BLE001  (raised where the result is taken)
            self._fail(item, exc)
        else:
            self._begun.put((item, job))

    def _encodings(self) -> None:
        while (begun := self._begun.get()) is not None:
            item, job = begun
            try:
                self._core.encode(job)
                self._wire.submit(self._answer, item, job)
            except BaseException as exc:  # noqa: BLE001  (raised where the result is taken)
                self._fail(item, exc)

    def _answer(self, item: _Item, job: Job) -> None:
        try:
            result = self._core.answer(job)
        except BaseException as exc:  # noqa: BLE001  (raised where the result is taken)
            self._fail(item, exc)
        else:
            item.result.set_result(result)
            self._left(item.index)

    def _fail(self, item: _Item, exc: BaseException) -> None:
        item.result.set_exception(exc)
        self._left(item.index)

    def _enter(self, item: _Item) -> None:
        with self._lock:
            self._inside.add(item.index)
            self._items[item.index] = item
            is_stopped = self._is_stopped
        if is_stopped:
            item.cancellation.cancel()
        if self._ordered:
            self._out.put(item)

    def _left(self, index: int) -> None:
        """Note that a request is done, or the source at its end."""
        with self._lock:
            self._inside.discard(index)
            item = self._items.get(index)
            if not self._ordered and item is not None:
                self._out.put(item)
            if index == _SOURCE if self._ordered else not self._inside:
                self._out.put(None)
