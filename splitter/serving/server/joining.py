"""Requests of which several devices send a part each: parts wait here until all of them are there.

Every part holds the thread that brought it. The thread of the last one runs the tail on all of them, and each
part is answered with the outputs that it asked for, which may be none. A request that is not whole in time
is dropped, and all of its parts are refused; one whose caller hangs up takes his part along.

A part that comes again, from the same address, takes the place of the first: the connection broke, and its
device tries again before the server knows. From another address it is refused.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from splitter.errors import InputError
from splitter.graph.values import Tensor
from splitter.serving import wire
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.server.admission import host_of
from splitter.serving.server.batching import Job
from splitter.serving.server.status import BusyError, GoneError, HalfError, NotReadyError
from splitter.serving.server.tail import Array, Tail

if TYPE_CHECKING:
    from splitter.serving.server.inference import Call

MOST_ID = 128
"""Characters of what parts of one request have in common."""

_OWN_PART = 0.9
"""Of the time that a caller leaves: a refusal has to travel back."""
_LONGEST_WAIT_S = 3600.0  # a lock takes no longer times


class Part:
    """Which part of which request a message is, and what became of it."""

    __slots__ = ("id", "inputs", "is_last", "join_s", "number")

    def __init__(self, request_id: str, number: int, inputs: Mapping[str, Tensor]) -> None:
        self.id, self.number = request_id, number
        self.inputs = inputs
        """What it has to bring."""
        self.join_s = 0.0
        """How long it waited for the others."""
        self.is_last = False
        """It made the request whole, so that its thread ran the tail."""


def part_of(parameters: Mapping[str, pb.InferParameter], tail: Tail) -> Part | None:
    """Read the parameters of a part; None of a request that is whole. Raises InputError."""
    if "part" not in parameters:
        return None
    number, shares = wire.number_parameter(parameters, "part"), tail.cut.shares
    if not shares:
        raise InputError("parameter 'part' is given, but this cut is sent by one device")
    if not 1 <= number <= len(shares):
        raise InputError(f"parameter 'part' is {number}; it must be between 1 and {len(shares)}")
    request_id = wire.text_parameter(parameters, "join")
    if not request_id or len(request_id) > MOST_ID:
        raise InputError(
            f"a part needs the parameter 'join', of 1 to {MOST_ID} characters: the same in all parts of a "
            "request, and in those of no other"
        )
    inputs = {name: tail.inputs[name] for name in shares[number - 1].tensors}
    return Part(request_id, number, inputs)


@dataclass
class _Waiting:
    part: Part
    job: Job
    host: str


@dataclass
class _Half:
    """A request of which parts are missing, or one that runs."""

    ends: float
    """When it is dropped; by ``time.perf_counter``."""
    changed: threading.Condition
    parts: dict[int, _Waiting] = field(default_factory=dict)
    is_whole: bool = False


class Joins:
    """All requests that wait for parts; thread-safe."""

    def __init__(self, limit: int = 64, patience_s: float = 5.0) -> None:
        """``limit`` is of requests at a time, ``patience_s`` from the first part to the last."""
        self._limit, self._patience_s = limit, patience_s
        self._lock = threading.Lock()
        self._halves: dict[tuple[Tail, str], _Half] = {}
        self._is_closed = False

    def __len__(self) -> int:
        """Requests that wait for parts."""
        return len(self._halves)

    def run(self, tail: Tail, part: Part, job: Job, call: Call) -> None:
        """Run a part's request as soon as it is whole, and return when the job has its own results.

        Raises
        ------
        InputError
            The part is here already, or has another number of samples; or the runtime refuses the feeds.
        BusyError, HalfError, LateError, GoneError, NotReadyError
            The request was not run.
        """
        began = time.perf_counter()
        half = self._enter((tail, part.id), _Waiting(part, job, host_of(call.peer)), began)
        if part.is_last:
            for one in half.parts.values():
                one.part.join_s = max(0.0, time.perf_counter() - one.job.entered)
            self._run_whole(tail, half)
        elif not job.is_done:

            def leave() -> None:
                self._leave((tail, part.id), half, part, job)

            if call.on_end is not None and not call.on_end(leave):
                leave()
            self._wait((tail, part.id), half, job)
        if job.error is not None:
            raise job.error

    def close(self) -> None:
        """Refuse what is not whole, now and from now on."""
        with self._lock:
            self._is_closed = True
            for key, half in list(self._halves.items()):
                self._drop(key, half, NotReadyError("the server is stopping"))

    def _enter(self, key: tuple[Tail, str], new: _Waiting, now: float) -> _Half:
        new.job.entered = now
        with self._lock:
            if self._is_closed:
                raise NotReadyError("the server is stopping")
            half = self._halves.get(key)
            if half is None:
                if len(self._halves) >= self._limit:
                    raise BusyError(
                        f"{self._limit} requests wait for parts already; try again later",
                        self._patience_s / 10,
                    )
                half = _Half(now + self._patience_s, threading.Condition(self._lock))
            _demand_fitting(half, new)
            before = half.parts.get(new.part.number)
            if before is not None:
                before.job.end(
                    HalfError(
                        f"part {new.part.number} of request {wire.shown(key[1])} was sent again"
                    )
                )
            self._halves[key] = half
            half.parts[new.part.number] = new
            half.ends = min(half.ends, now + _OWN_PART * (new.job.deadline - now))
            if len(half.parts) == len(key[0].cut.shares):
                del self._halves[key]
                half.is_whole = new.part.is_last = True
            half.changed.notify_all()
            return half

    def _wait(self, key: tuple[Tail, str], half: _Half, job: Job) -> None:
        with self._lock:
            while not job.is_done:
                left_s = _LONGEST_WAIT_S if half.is_whole else half.ends - time.perf_counter()
                if left_s <= 0:
                    self._drop(key, half, _late(key, half))
                    return
                half.changed.wait(min(left_s, _LONGEST_WAIT_S))

    def _drop(self, key: tuple[Tail, str], half: _Half, error: Exception) -> None:
        """Refuse all parts; call it under the lock."""
        del self._halves[key]
        for one in half.parts.values():
            one.job.end(error)
        half.changed.notify_all()

    def _leave(self, key: tuple[Tail, str], half: _Half, part: Part, job: Job) -> None:
        with self._lock:
            if half.is_whole or job.is_done:
                return
            del half.parts[part.number]
            if not half.parts:
                del self._halves[key]
            job.end(GoneError("the caller has gone"))
            half.changed.notify_all()

    def _run_whole(self, tail: Tail, half: _Half) -> None:
        jobs = [one.job for one in half.parts.values()]
        wanted = {name for job in jobs for name in job.outputs}  # those to be kept are among them
        outputs = tuple(name for name in tail.outputs if name in wanted or not wanted)
        whole = Job(
            tail.in_order({name: array for job in jobs for name, array in job.feeds.items()}),
            outputs,
            max(job.samples for job in jobs),
            min(job.priority for job in jobs),
            min(job.deadline for job in jobs),
        )
        error: Exception | None = None
        try:
            tail.queue.run(whole)
        except Exception as exc:  # noqa: BLE001  (it is every part's, and becomes its status)
            error = exc
        made: dict[str, Array] = dict(zip(outputs, whole.results, strict=False))
        with self._lock:
            for job in jobs:
                job.results = [made[name] for name in job.outputs] if error is None else []
                job.queue_s, job.tail_s = whole.queue_s, whole.tail_s
                job.batch_size = whole.batch_size
                job.end(error)
            half.changed.notify_all()


def _demand_fitting(half: _Half, new: _Waiting) -> None:
    before = half.parts.get(new.part.number)
    if before is not None and before.host != new.host:
        raise InputError(
            f"part {new.part.number} of request {wire.shown(new.part.id)} is here already"
        )
    for one in half.parts.values():
        if one is before or not (one.part.inputs and new.part.inputs):
            continue
        if one.job.samples != new.job.samples:
            raise InputError(
                f"part {new.part.number} has {new.job.samples} samples, part {one.part.number} has "
                f"{one.job.samples}"
            )


def _late(key: tuple[Tail, str], half: _Half) -> HalfError:
    shares = key[0].cut.shares
    missing = [n for n in range(1, len(shares) + 1) if n not in half.parts]
    named = ", ".join(f"{n} ({shares[n - 1].device})" for n in missing[:4])
    more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
    return HalfError(
        f"request {wire.shown(key[1])} was not whole in time: part {named}{more} of {len(shares)} is missing"
    )
