"""Queues of tails without sockets: who runs with whom, who waits, who is turned away."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitter.errors import InputError
from splitter.serving.server.batching import Job, Policy, Queue, Scheduler
from splitter.serving.server.status import BusyError, GoneError, LateError
from tests.serving import wait_until


@dataclass
class Held:
    """A tail that adds one, refuses NaN, and ends its runs when the test says."""

    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    may_end: threading.Event = field(default_factory=threading.Event)
    runs: list[list[float]] = field(default_factory=list)

    def run(self, feeds: Any, outputs: Any) -> list[np.ndarray]:
        self.runs.append(feeds["a"][:, 0].tolist())
        self.begun.release()
        assert self.may_end.wait(30)
        if np.isnan(feeds["a"]).any():
            raise InputError("a sample is NaN")
        return [feeds["a"] + 1 for _ in outputs]

    def wait_begun(self) -> None:
        assert self.begun.acquire(timeout=30)


def job(value: float, samples: int = 1, outputs: tuple[str, ...] = ("y",), **more: Any) -> Job:
    return Job({"a": np.full((samples, 2), value, np.float32)}, outputs, samples, **more)


class Bench:
    """One slot, a held tail, and threads to bring requests."""

    def __init__(self, slots: int = 1, **policy: Any) -> None:
        self.tail = Held()
        self.scheduler = Scheduler(slots)
        self.queue = Queue(self.scheduler, self.tail.run, Policy(**policy))
        self.pool = ThreadPoolExecutor(40)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.tail.may_end.set()
        self.pool.shutdown(wait=True)
        self.scheduler.close()

    def bring(self, one: Job, **more: Any) -> Any:
        """Bring a request, and come back when it waits."""
        before = len(self.queue.waiting)
        running = self.pool.submit(self.queue.run, one, **more)
        wait_until(lambda: len(self.queue.waiting) > before, "the request")
        return running

    def hold(self, value: float = 0.0) -> Any:
        """Bring a request that takes the slot."""
        running = self.pool.submit(self.queue.run, job(value))
        self.tail.wait_begun()
        return running


def test_a_request_alone_runs_on_the_thread_that_brings_it() -> None:
    with Bench() as bench:
        bench.tail.may_end.set()
        threads = []
        tail_run = bench.tail.run
        queue = Queue(
            bench.scheduler,
            lambda *args: [threads.append(threading.get_ident()), tail_run(*args)][1],
        )
        one = job(1)
        queue.run(one)
        assert threads == [threading.get_ident()]
        assert one.results[0].tolist() == [[2, 2]]
        assert one.batch_size == 1


def test_what_waits_runs_together_in_order_of_arrival_and_each_gets_its_own() -> None:
    with Bench(max_batch=4) as bench:
        first = bench.hold()
        jobs = [job(value) for value in range(1, 7)]
        running = [bench.bring(one) for one in jobs]
        bench.tail.may_end.set()
        for future in (first, *running):
            future.result(30)
    assert bench.tail.runs == [[0], [1, 2, 3, 4], [5, 6]]
    assert [one.results[0].tolist() for one in jobs] == [[[v + 1, v + 1]] for v in range(1, 7)]
    assert [one.batch_size for one in jobs] == [4, 4, 4, 4, 2, 2]
    assert all(one.queue_s > 0 for one in jobs)


def test_a_tail_that_takes_no_batches_runs_one_by_one() -> None:
    with Bench() as bench:
        running = [bench.hold(), *(bench.bring(job(value)) for value in (1, 2, 3))]
        bench.tail.may_end.set()
        for future in running:
            future.result(30)
    assert bench.tail.runs == [[0], [1], [2], [3]]


def test_requests_for_other_outputs_are_not_mixed() -> None:
    with Bench(max_batch=8) as bench:
        running = [bench.hold()]
        for value, outputs in ((1, ("y",)), (2, ("z",)), (3, ("y",)), (4, ("z",))):
            running.append(bench.bring(job(value, outputs=outputs)))
        bench.tail.may_end.set()
        for future in running:
            future.result(30)
    assert bench.tail.runs == [[0], [1, 3], [2, 4]]


def test_requests_of_several_samples_share_a_run_up_to_its_size() -> None:
    with Bench(max_batch=4) as bench:
        running = [bench.hold()]
        running += [bench.bring(job(v, samples=n)) for v, n in ((1, 2), (2, 1), (3, 3), (4, 1))]
        bench.tail.may_end.set()
        for future in running:
            future.result(30)
    assert bench.tail.runs == [[0], [1, 1, 2], [3, 3, 3, 4]]


def test_priority_1_is_first_and_none_is_last() -> None:
    with Bench() as bench:
        running = [bench.hold(), bench.bring(job(1))]
        running += [bench.bring(job(v, priority=p)) for v, p in ((2, 5), (3, 1), (4, 5))]
        bench.tail.may_end.set()
        for future in running:
            future.result(30)
    assert bench.tail.runs == [[0], [3], [2], [4], [1]]


def test_a_poisoned_sample_spoils_no_other() -> None:
    with Bench(max_batch=8) as bench:
        first = bench.hold()
        jobs = [job(1), job(float("nan")), job(3)]
        running = [bench.bring(one) for one in jobs]
        bench.tail.may_end.set()
        first.result(30)
        running[0].result(30)
        with pytest.raises(InputError, match="NaN"):
            running[1].result(30)
        running[2].result(30)
    assert [one.results[0].tolist() for one in (jobs[0], jobs[2])] == [[[2, 2]], [[4, 4]]]


def test_a_tail_that_lies_about_batches_answers_all_the_same() -> None:
    with Bench(max_batch=8) as bench:
        bench.tail.may_end.set()
        queue = Queue(
            bench.scheduler, lambda feeds, _: [feeds["a"].sum(keepdims=True)], Policy(max_batch=8)
        )
        jobs = [job(1), job(2)]
        queue.run_batch(jobs)
        assert [one.results[0].tolist() for one in jobs] == [[[2]], [[4]]]
        assert queue.policy.max_batch == 1
        bench.scheduler.free -= 1  # what run_batch gave back was never taken


def test_a_full_queue_turns_away_with_a_hint_and_has_room_again_later() -> None:
    with Bench(limit=1) as bench:
        running = [bench.hold(), bench.bring(job(1))]
        with pytest.raises(BusyError, match="too many requests wait") as caught:
            bench.queue.run(job(2))
        assert caught.value.retry_s > 0
        with pytest.raises(BusyError):
            bench.queue.demand_room(priority=1 << 64)
        bench.tail.may_end.set()
        for future in running:
            future.result(30)
        bench.queue.demand_room(priority=1 << 64)
        bench.queue.run(job(3))


def test_a_full_queue_gives_the_last_place_to_a_higher_priority() -> None:
    with Bench(limit=1) as bench:
        first, low = bench.hold(), bench.bring(job(1))
        bench.queue.demand_room(priority=1)
        high = bench.pool.submit(bench.queue.run, job(2, priority=1))
        with pytest.raises(BusyError):
            low.result(30)
        bench.tail.may_end.set()
        first.result(30)
        high.result(30)
    assert bench.tail.runs == [[0], [2]]


def test_without_a_queue_only_a_free_slot_takes_requests() -> None:
    with Bench(limit=0) as bench:
        running = bench.hold()
        with pytest.raises(BusyError):
            bench.queue.run(job(1))
        bench.tail.may_end.set()
        running.result(30)
        bench.queue.run(job(2))


def test_a_request_whose_deadline_passes_in_the_queue_is_not_run() -> None:
    with Bench() as bench:
        running = bench.hold()
        with pytest.raises(LateError, match="deadline passed"):
            bench.queue.run(job(1, deadline=time.perf_counter() + 0.01))
        bench.tail.may_end.set()
        running.result(30)
    assert bench.tail.runs == [[0]]


def test_a_request_whose_deadline_passed_unnoticed_is_not_run() -> None:
    with Bench() as bench:
        running = bench.hold()
        late = job(1)
        waiting = bench.bring(late)
        late.deadline = time.perf_counter()  # its thread sleeps on
        bench.tail.may_end.set()
        running.result(30)
        with pytest.raises(LateError):
            waiting.result(30)
    assert bench.tail.runs == [[0]]


def test_work_whose_caller_has_gone_is_not_run() -> None:
    with Bench() as bench:
        running = bench.hold()
        hang_up: list[Any] = []

        def on_end(call: Any) -> bool:
            hang_up.append(call)
            return True

        waiting = bench.pool.submit(bench.queue.run, job(1), on_end)
        wait_until(lambda: hang_up, "the request")
        hang_up[0]()
        with pytest.raises(GoneError):
            waiting.result(30)
        with pytest.raises(GoneError):
            bench.queue.run(job(2), on_end=lambda _: False)
        bench.tail.may_end.set()
        running.result(30)
    assert bench.tail.runs == [[0]]


def test_several_slots_run_at_a_time_and_never_more() -> None:
    with Bench(slots=2) as bench:
        running = [bench.hold(), bench.hold(1)]
        running += [bench.bring(job(2))]
        assert not bench.tail.begun.acquire(blocking=False)
        bench.tail.may_end.set()
        for future in running:
            future.result(30)
        assert bench.scheduler.free == 2


def test_tails_share_the_slots_in_order_of_arrival() -> None:
    with Bench() as bench:
        other = Queue(bench.scheduler, bench.tail.run)
        running = [bench.hold(), bench.bring(job(1))]
        running.append(bench.pool.submit(other.run, job(2)))
        wait_until(lambda: other.waiting, "the request")
        running.append(bench.bring(job(3)))
        bench.tail.may_end.set()
        for future in running:
            future.result(30)
    assert bench.tail.runs == [[0], [1], [2], [3]]


def test_a_delay_waits_for_company_and_not_for_ever() -> None:
    with Bench(max_batch=2, max_delay_s=30.0) as bench:
        bench.tail.may_end.set()
        waiting = bench.bring(job(1))
        assert not bench.tail.runs
        bench.queue.run(job(2))  # the second makes the batch whole
        waiting.result(30)
    assert bench.tail.runs == [[1, 2]]
    with Bench(max_batch=8, max_delay_s=0.05) as bench:
        bench.tail.may_end.set()
        bench.queue.run(job(1))
    assert bench.tail.runs == [[1]]


def test_a_preferred_size_is_taken_as_soon_as_it_is_there() -> None:
    with Bench(max_batch=8, max_delay_s=30.0, preferred=(2, 4)) as bench:
        running = bench.pool.submit(bench.queue.run, job(0, samples=2))
        bench.tail.wait_begun()
        waiting = [bench.bring(job(value)) for value in range(1, 6)]
        bench.tail.may_end.set()
        last = bench.pool.submit(bench.queue.run, job(6))
        for future in (running, *waiting, last):
            future.result(30)
    assert bench.tail.runs == [[0, 0], [1, 2, 3, 4], [5, 6]]


def test_requests_that_nobody_waits_for_are_run_all_the_same() -> None:
    with Bench(max_batch=2) as bench:
        jobs = [job(value) for value in range(5)]
        for one in jobs:
            bench.queue.submit(one)
        bench.tail.may_end.set()
        for one in jobs:
            bench.queue.wait(one)
    assert bench.tail.runs == [[0], [1, 2], [3, 4]]
    assert bench.scheduler.free == 1


@settings(max_examples=30, deadline=None)
@given(
    requests=st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 3), st.sampled_from(["y", "z"]), st.booleans()),
        min_size=1,
        max_size=25,
    ),
    slots=st.integers(1, 3),
    max_batch=st.integers(4, 8),
)
def test_whatever_comes_each_request_is_answered_once_with_its_own(
    requests: Any, slots: int, max_batch: int
) -> None:
    with Bench(slots, max_batch=max_batch, limit=100) as bench:
        bench.tail.may_end.set()
        jobs = [
            job(number, samples=samples, priority=priority, outputs=(output,))
            for number, (samples, priority, output, _) in enumerate(requests)
        ]

        def bring(index: int) -> None:
            if requests[index][3]:
                bench.queue.submit(jobs[index])
                bench.queue.wait(jobs[index])
            else:
                bench.queue.run(jobs[index])

        list(bench.pool.map(bring, range(len(jobs))))
        for number, one in enumerate(jobs):
            assert one.results[0].tolist() == [[number + 1] * 2] * one.samples
        assert sum(len(run) for run in bench.tail.runs) == sum(one.samples for one in jobs)
        assert max(len(run) for run in bench.tail.runs) <= max_batch
        wait_until(lambda: bench.scheduler.free == slots)
        assert not bench.queue.waiting
