"""Runs of tails: who runs, what runs together, who waits, and who is turned away.

Leader and followers. A fixed number of *slots* is shared by all tails. The thread that brings a request
and finds a slot free runs it there and then, so that no other thread is woken while there is little to
do. If none is free, the request waits in the queue of its tail. Whoever ends a run hands his slot on: to
the thread of one of the requests that shall run next (the leader), which runs them all in one batch, wakes
the threads of the others (the followers), and hands the slot on in its turn. A slot is free only while no
request waits, but for those that wait for company (``Policy.max_delay_s``).

Requests of a stream may have no thread that waits for them; a spare thread leads where no other can.
"""

from __future__ import annotations

import bisect
import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from splitter.serving.server.status import BusyError, GoneError, LateError

_log = logging.getLogger(__name__)

Array = np.ndarray[Any, Any]
Run = Callable[[Mapping[str, Array], Sequence[str]], list[Array]]

LAST_PRIORITY = 1 << 64
"""Of requests that name none; 1 is the first."""

_MOST_SPARE = 64  # threads, made as they are needed; as many run at a time as there are slots
_LONGEST_WAIT_S = 3600.0  # of a thread, which then looks again; a lock takes no longer times


@dataclass(frozen=True)
class Policy:
    """How the requests of a tail wait."""

    limit: int = 32
    """Of those that wait."""
    max_batch: int = 1
    """Samples in a run."""
    max_delay_s: float = 0.0
    preferred: tuple[int, ...] = ()

    @property
    def enough(self) -> int:
        """Samples that need not wait for more."""
        return min(self.preferred, default=self.max_batch)

    def size(self, waiting: int) -> int:
        """How many samples to take of those that wait."""
        return max((size for size in self.preferred if size <= waiting), default=self.max_batch)


class Job:
    """A request on its way through a queue."""

    __slots__ = (
        "batch_size", "deadline", "entered", "error", "feeds", "is_done", "key", "lead", "outputs",
        "priority", "queue_s", "results", "samples", "signal", "tail_s", "waits",
    )  # fmt: skip

    def __init__(
        self,
        feeds: Mapping[str, Array],
        outputs: tuple[str, ...],
        samples: int = 1,
        priority: int = LAST_PRIORITY,
        deadline: float = math.inf,
    ) -> None:
        self.feeds, self.outputs, self.samples = feeds, outputs, samples
        self.priority = priority
        self.deadline = deadline
        """By ``time.perf_counter``."""
        self.results: list[Array] = []
        self.error: Exception | None = None
        self.is_done = False
        self.queue_s = self.tail_s = 0.0
        self.batch_size = 0
        self.entered = 0.0
        self.key: tuple[int, int] | None = None
        """Its place while it waits in the queue."""
        self.signal: threading.Lock | None = None
        """Released to wake the thread that waits for it."""
        self.waits = False
        """Whether there is such a thread."""
        self.lead: list[Job] | None = None
        """A batch that its thread shall run."""

    def wake(self) -> None:
        """Let its thread look at it again."""
        if self.signal is not None:
            with contextlib.suppress(RuntimeError):  # it is awake
                self.signal.release()

    def end(self, error: Exception | None = None) -> None:
        """Nothing more happens to it."""
        self.error = error
        self.is_done = True
        self.wake()


class Scheduler:
    """The slots, and all queues that share them."""

    def __init__(self, slots: int) -> None:
        self.lock = threading.Lock()
        """Of everything here and in the queues; held for microseconds."""
        self.slots = self.free = slots
        self.spare = ThreadPoolExecutor(_MOST_SPARE, thread_name_prefix="lead")
        self._numbers = 0
        self._busy: set[Queue] = set()

    def resize(self, slots: int) -> None:
        """Set the number of slots; while nothing runs."""
        with self.lock:
            self.slots = self.free = slots

    def number(self) -> int:
        """The order of arrival; call it under the lock."""
        self._numbers += 1
        return self._numbers

    def note(self, queue: Queue) -> None:
        """Keep in mind which queues hold requests; call it under the lock."""
        if queue.waiting:
            self._busy.add(queue)
        else:
            self._busy.discard(queue)

    def hand_on(self) -> None:
        """Give a slot that is no longer needed to the requests that are next, or free it."""
        with self.lock:
            batch, queue = self._next()
            if queue is None:
                self.free += 1
                return
            leader = next((job for job in batch if job.waits), None)
            if leader is not None:
                leader.lead = batch
                leader.wake()
                return
        self.spare.submit(queue.run_batch, batch)

    def _next(self) -> tuple[list[Job], Queue | None]:
        now = time.perf_counter()
        while True:
            ready = [queue for queue in self._busy if queue.is_ready(now)]
            if not ready:
                return [], None
            queue = min(ready, key=lambda queue: queue.waiting[0][0])
            batch = queue.take(now)
            if batch:
                return batch, queue

    def close(self) -> None:
        """End the spare threads; nothing is run afterwards that needs one."""
        self.spare.shutdown(wait=False)


class Queue:
    """The requests of one tail."""

    def __init__(self, scheduler: Scheduler, run: Run, policy: Policy = Policy()) -> None:  # noqa: B008
        self.policy = policy
        self.waiting: list[tuple[tuple[int, int], Job]] = []
        """Sorted: priority, then order of arrival."""
        self._scheduler = scheduler
        self._run = run
        self._run_s = 0.0  # lately

    def run(self, job: Job, on_end: Callable[[Callable[[], None]], bool] | None = None) -> None:
        """Run a request with whatever others wait, on this thread or another, and return when it is done.

        Parameters
        ----------
        on_end
            Where to leave a function to be called when the caller has gone; False if he has already.

        Raises
        ------
        BusyError, LateError, GoneError
            It was not run.
        InputError
            The runtime refuses the feeds.
        """
        batch = self._enter(job)
        if batch is not None:
            self.run_batch(batch)
        if not job.is_done:
            if on_end is not None and not on_end(lambda: self.drop(job)):
                self.drop(job)
            self.wait(job)
        if job.error is not None:
            raise job.error

    def submit(self, job: Job) -> None:
        """Let a request run on another thread; ``wait`` for it later. Raises BusyError."""
        batch = self._enter(job)
        if batch is not None:
            self._scheduler.spare.submit(self.run_batch, batch)

    def wait(self, job: Job) -> None:
        """Return when a request has ended, running batches meanwhile where it is this thread's turn."""
        while not job.is_done:
            with self._scheduler.lock:
                batch = self._turn(job)
                if batch is None and job.is_done:
                    return
                patience_s = self._patience_s(job)
                if job.signal is None:
                    job.signal = threading.Lock()
                    job.signal.acquire()
                job.waits = batch is None
            if batch is not None:
                self.run_batch(batch)
            else:
                job.signal.acquire(timeout=patience_s)

    def drop(self, job: Job) -> None:
        """The caller has gone: a request that is not running will not be run."""
        with self._scheduler.lock:
            if job.key is not None:
                self._remove(job)
                job.end(GoneError("the caller has gone"))

    def demand_room(self, priority: int) -> None:
        """Raise BusyError where a request would be turned away now: before it is decoded."""
        waiting = self.waiting[:]  # without the lock: this is a first look
        is_full = not self._scheduler.free and len(waiting) >= self.policy.limit
        if is_full and not (waiting and waiting[-1][1].priority > priority):
            raise self._refusal()

    def retry_s(self) -> float:
        """When those that wait now will have been run, as far as one can say."""
        runs = math.ceil((len(self.waiting) + 1) / self.policy.max_batch)
        return max(0.001, self._run_s * runs / self._scheduler.slots)

    def is_ready(self, now: float) -> bool:
        """Whether a batch may be taken; call it under the lock, and with requests that wait."""
        policy = self.policy
        if policy.max_delay_s <= 0:
            return True
        jobs = [job for _, job in self.waiting]
        if sum(job.samples for job in jobs) >= policy.enough:
            return True
        return now >= min(job.entered for job in jobs) + policy.max_delay_s

    def take(self, now: float) -> list[Job]:
        """Take the requests that run next, off the queue; those that came too late end here."""
        for _, job in self.waiting[:]:
            if job.deadline <= now:
                self._remove(job)
                job.end(_late())
        room = self.policy.size(sum(job.samples for _, job in self.waiting))
        batch: list[Job] = []
        for _, job in self.waiting[:]:
            if batch and job.outputs != batch[0].outputs:
                continue
            if batch and job.samples > room:
                break
            room -= job.samples
            batch.append(job)
            self._remove(job)
            if room <= 0:
                break
        return batch

    def run_batch(self, batch: list[Job]) -> None:
        """Run requests in a slot that is held for them, and hand the slot on."""
        try:
            self._execute(batch)
        finally:
            try:
                self._scheduler.hand_on()
            finally:
                for job in batch:
                    job.end(job.error)

    def _enter(self, job: Job) -> list[Job] | None:
        """Join the queue; gives a batch where this thread holds a slot for it now."""
        scheduler, policy = self._scheduler, self.policy
        job.entered = time.perf_counter()
        with scheduler.lock:
            is_patient = policy.max_delay_s > 0 and job.samples < policy.enough
            if scheduler.free and not self.waiting and not is_patient:
                scheduler.free -= 1
                return [job]
            if len(self.waiting) >= policy.limit:
                self._make_room(job)
            job.key = (job.priority, scheduler.number())
            bisect.insort(self.waiting, (job.key, job))
            scheduler.note(self)
            return self._grab(job.entered)

    def _make_room(self, job: Job) -> None:
        """Turn away whoever is last: the newcomer, or one of lower priority."""
        last = self.waiting[-1][1] if self.waiting else None
        if last is None or last.priority <= job.priority:
            raise self._refusal()
        self._remove(last)
        last.end(self._refusal())

    def _refusal(self) -> BusyError:
        waiting = len(self.waiting)
        return BusyError(
            f"too many requests wait already ({waiting}); try again later", self.retry_s()
        )

    def _grab(self, now: float) -> list[Job] | None:
        """Take a slot and a batch, if both are there."""
        if not (self._scheduler.free and self.waiting and self.is_ready(now)):
            return None
        batch = self.take(now)
        if batch:
            self._scheduler.free -= 1
        return batch or None

    def _turn(self, job: Job) -> list[Job] | None:
        if job.lead is not None:
            batch, job.lead = job.lead, None
            return batch
        now = time.perf_counter()
        if job.key is not None and job.deadline <= now:
            self._remove(job)
            job.end(_late())
        return self._grab(now)

    def _patience_s(self, job: Job) -> float:
        """How long its thread may sleep before it has something to do, unless it is woken."""
        if job.key is None:  # it runs
            return _LONGEST_WAIT_S
        now = time.perf_counter()
        until = job.deadline
        has_waited = job.entered + self.policy.max_delay_s
        if has_waited > now:  # a slot may have become free before anybody was ready to take it
            until = min(until, has_waited)
        return min(max(until - now, 0.0), _LONGEST_WAIT_S)

    def _remove(self, job: Job) -> None:
        assert job.key is not None
        del self.waiting[bisect.bisect_left(self.waiting, job.key, key=lambda item: item[0])]
        job.key = None
        self._scheduler.note(self)

    def _execute(self, batch: list[Job]) -> None:
        started = time.perf_counter()
        for job in batch:
            job.queue_s = started - job.entered
        if not (len(batch) > 1 and self._run_together(batch, started)):
            for job in batch:
                self._run_alone(job)
        ended = time.perf_counter()
        self._run_s += (ended - started - self._run_s) * (0.2 if self._run_s else 1.0)

    def _run_alone(self, job: Job) -> None:
        started = time.perf_counter()
        try:
            job.results = self._run_one(job)
        except Exception as exc:  # noqa: BLE001  (whatever it is, it is this request's)
            job.error = exc
        job.tail_s = time.perf_counter() - started
        job.batch_size = job.samples

    def _run_one(self, job: Job) -> list[Array]:
        return self._run(job.feeds, job.outputs)

    def _run_together(self, batch: list[Job], started: float) -> bool:
        """Run requests as one; False where that fails, since one of them may spoil it for all."""
        total = sum(job.samples for job in batch)
        names = batch[0].feeds
        try:
            feeds = {name: np.concatenate([job.feeds[name] for job in batch]) for name in names}
            results = self._run(feeds, batch[0].outputs)
        except Exception:  # noqa: BLE001  (each is run alone next, and says itself what is wrong)
            return False
        if any(result.shape[:1] != (total,) for result in results):
            _log.warning("a tail that should take batches made other shapes of %d samples", total)
            self.policy = replace(self.policy, max_batch=1, preferred=())
            return False
        tail_s = time.perf_counter() - started
        start = 0
        for job in batch:
            end = start + job.samples
            job.results = [result[start:end] for result in results]
            job.tail_s, job.batch_size = tail_s, total
            start = end
        return True


def _late() -> LateError:
    return LateError("the deadline passed before the tail was free")
