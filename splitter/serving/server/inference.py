"""One inference request: from the bytes of its message to those of its answer. No sockets.

Parse, find the tail, check the headers, make room, decode, run with whatever others wait, encode. What is
cheap and refuses comes first: nothing is decoded of a request that is not let in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from google.protobuf.message import DecodeError

from splitter.codec import Codec
from splitter.errors import InputError
from splitter.serving import framing, wire
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.observe import Observer, Served, tell
from splitter.serving.server.admission import Admission
from splitter.serving.server.batching import LAST_PRIORITY, Job
from splitter.serving.server.joining import Joins, Part, part_of
from splitter.serving.server.keeping import Keeper
from splitter.serving.server.loading import Loaded
from splitter.serving.server.repository import Repository
from splitter.serving.server.sequences import Sequences, Turn
from splitter.serving.server.statistics import Sample
from splitter.serving.server.status import GoneError, LateError, Refusal
from splitter.serving.server.tail import Tail

_SECONDS = framing.DoubleParameters("receive_s", "queue_s", "decode_s", "tail_s", "encode_s")
_JOIN_S = framing.DoubleParameters("join_s")
_MOST_ID = 256  # characters of a request's id that observers are told
_FINAL = "triton_enable_empty_final_response"


def _anyway() -> bool:
    return True


class Call(NamedTuple):
    """What is known of a request beside its message."""

    method: str = "ModelInfer"
    peer: str = ""
    traceparent: str = ""
    remaining_s: float = math.inf
    """Until the caller's deadline."""
    is_active: Callable[[], bool] = _anyway
    """Whether the caller still waits."""
    on_end: Callable[[Callable[[], None]], bool] | None = None
    """Where to leave a function that is called when he no longer does; False if he does not now."""


class Request:
    """A request on its way, and how far it has come."""

    __slots__ = (
        "batch_size", "call", "codecs", "decode_s", "encode_s", "id", "is_final_wanted", "job",
        "loaded", "nbytes", "part", "queue_s", "receive_s", "reserved", "started", "tail", "tail_s",
        "turn", "up_bytes",
    )  # fmt: skip

    def __init__(self, call: Call, up_bytes: int) -> None:
        self.call, self.up_bytes = call, up_bytes
        self.started = time.perf_counter()
        self.loaded: Loaded | None = None
        self.tail: Tail | None = None
        self.job: Job | None = None
        self.part: Part | None = None
        self.turn: Turn | None = None
        self.codecs: Mapping[str, Codec] = {}
        self.id = ""
        self.is_final_wanted = False
        self.nbytes = self.reserved = self.batch_size = 0
        self.receive_s = self.decode_s = self.queue_s = self.tail_s = self.encode_s = 0.0


class Inference:
    """Answers requests; thread-safe."""

    def __init__(
        self,
        repository: Repository,
        admission: Admission,
        observers: tuple[Observer, ...] = (),
        joins: Joins | None = None,
        keeper: Keeper | None = None,
        sequences: Sequences | None = None,
    ) -> None:
        self._repository, self._admission, self._observers = repository, admission, observers
        self._joins = Joins() if joins is None else joins
        self._keeper = Keeper() if keeper is None else keeper
        self._sequences = Sequences(admission) if sequences is None else sequences

    def observe(self, observer: Observer) -> None:
        """Tell one more of the requests that end from now on."""
        self._observers = (*self._observers, observer)

    def answer(self, message: bytes, call: Call) -> bytes | Refusal:
        """Run a request on this thread (or as one of a batch on another), and return its answer."""
        request = Request(call, len(message))
        try:
            tail, job = self._prepare(request, message)
            if request.part is None:
                tail.queue.run(job, call.on_end)
            else:
                self._joins.run(tail, request.part, job, call)
            return self._succeed(request, tail, job)
        except Exception as exc:  # noqa: BLE001  (it becomes the status, and a defect is logged)
            return self._fail(request, exc)

    def begin(self, message: bytes, call: Call) -> Request | tuple[Request, Refusal]:
        """Let a request run on another thread; ``finish`` it later, or ``abandon`` it."""
        request = Request(call, len(message))
        try:
            tail, job = self._prepare(request, message)
            tail.queue.submit(job)
        except Exception as exc:  # noqa: BLE001
            return request, self._fail(request, exc)
        return request

    def finish(self, request: Request) -> bytes | Refusal:
        """Wait for a request that was begun; its answer is a message of ``ModelStreamInfer``."""
        tail, job = request.tail, request.job
        assert tail is not None
        assert job is not None
        try:
            tail.queue.wait(job)
            if job.error is not None:
                raise job.error
            return self._succeed(request, tail, job)
        except Exception as exc:  # noqa: BLE001
            return self._fail(request, exc)

    def drop(self, request: Request) -> None:
        """The caller of a request that was begun has gone: it is not run, unless it runs already."""
        if request.tail is not None and request.job is not None:
            request.tail.queue.drop(request.job)

    def abandon(self, request: Request) -> None:
        """Finish a request that was begun, for nobody."""
        self.drop(request)
        self.finish(request)

    def _prepare(self, request: Request, message: bytes) -> tuple[Tail, Job]:
        rest, raw = framing.cut_out(message, framing.RAW_INPUTS)
        try:
            parsed = pb.ModelInferRequest.FromString(rest)
        except DecodeError as exc:
            raise InputError("the bytes are no ModelInferRequest") from exc
        request.id = parsed.id
        parsed_at = time.perf_counter()
        request.receive_s = parsed_at - request.started
        text = parsed.parameters
        bundle = wire.text_parameter(text, "bundle") if text else None
        cut = wire.text_parameter(text, "cut") if text else None
        loaded, tail = self._repository.tail(parsed.model_name, parsed.model_version, bundle, cut)
        loaded.hold()
        request.loaded, request.tail = loaded, tail
        deadline = parsed_at + request.call.remaining_s
        priority = LAST_PRIORITY
        if text:
            request.is_final_wanted = _FINAL in text and text[_FINAL].bool_param
            priority = wire.number_parameter(text, "priority") or LAST_PRIORITY
            timeout_us = wire.number_parameter(text, "timeout")
            if timeout_us:
                deadline = min(deadline, parsed_at + timeout_us / 1e6)
            request.part = _part(request.call, text, tail)
        part = request.part
        answers = text["answer"].bool_param if text and "answer" in text else part is None
        request.codecs = tail.requested(parsed) if answers or parsed.outputs else {}
        inputs = tail.inputs if part is None else part.inputs
        if len(parsed.inputs) > len(inputs):
            raise InputError(f"{len(parsed.inputs)} tensors given, the tail reads {len(inputs)}")
        packets = wire.read_packets(parsed, raw)
        # state is of one sample, whatever the tail takes of several sequences at once
        samples = wire.check(packets, inputs, 0 if tail.states else tail.max_batch)
        if not request.call.is_active():
            raise GoneError("the caller has gone")
        if deadline <= parsed_at:
            raise LateError("the deadline passed before the request was read")
        tail.queue.demand_room(priority)
        if tail.states:
            if request.call.method != "ModelInfer":
                raise InputError("a tail that keeps state takes no streams: call ModelInfer")
            request.turn = self._sequences.enter(tail, text, deadline)
        request.nbytes = (
            tail.nbytes(samples) if part is None
            else tail.part_nbytes(samples, inputs.values(), request.codecs)
        )  # fmt: skip
        self._admission.reserve(request.nbytes, tail.queue.retry_s())
        request.reserved = request.nbytes
        reserved_at = time.perf_counter()
        feeds = tail.feeds(packets)
        request.decode_s = time.perf_counter() - reserved_at
        if request.turn is not None:
            feeds = tail.in_order({**feeds, **request.turn.feeds})
        outputs = dict.fromkeys((*request.codecs, *tail.left))
        request.job = Job(feeds, tuple(outputs), samples, priority, deadline)
        return tail, request.job

    def _succeed(self, request: Request, tail: Tail, job: Job) -> bytes:
        started = time.perf_counter()
        loaded = request.loaded
        assert loaded is not None
        is_led = request.part is None or request.part.is_last
        if request.turn is not None:
            made = dict(zip(job.outputs, job.results, strict=True))
            after = {name: made[output].copy() for name, output in tail.fed_back.items()}
            self._sequences.commit(request.turn, after)
        if tail.kept and is_led:
            self._keeper.take(loaded, tail, job, request.id)
        head, payloads = tail.answer(request.codecs, job.results[: len(request.codecs)])
        request.encode_s = time.perf_counter() - started
        request.queue_s, request.tail_s = job.queue_s, job.tail_s
        request.batch_size = job.batch_size
        seconds = (job.queue_s, request.decode_s, job.tail_s, request.encode_s)
        parts = [loaded.signature]
        if request.id:
            parts.append(framing.text(framing.RESPONSE_ID, request.id))
        parts.append(_SECONDS(request.receive_s, *seconds))
        if job.batch_size > 1:
            parts.append(framing.int_parameter("batch_size", job.batch_size))
        if request.part is not None:
            parts.append(_JOIN_S(request.part.join_s))
        if request.is_final_wanted:
            parts.append(framing.true_parameter("triton_final_response"))
        parts.append(head)
        is_streamed = request.call.method == "ModelStreamInfer"
        answer = framing.join(parts, framing.RAW_OUTPUTS, payloads, is_streamed=is_streamed)
        if is_led:
            loaded.statistics.succeed(Sample(time.time_ns(), job.samples, job.batch_size, *seconds))
        self._end(request, "OK", len(answer))
        return answer

    def _fail(self, request: Request, exc: Exception) -> Refusal:
        refusal = Refusal.of(exc)
        if request.job is not None:
            request.queue_s, request.tail_s = request.job.queue_s, request.job.tail_s
        if request.loaded is not None:
            request.loaded.statistics.fail(time.perf_counter() - request.started)
        self._end(request, refusal.code.name, 0)
        return refusal

    def _end(self, request: Request, status: str, down_bytes: int) -> None:
        if request.turn is not None:
            self._sequences.leave(request.turn)
        if request.reserved:
            self._admission.free(request.reserved)
        loaded, job = request.loaded, request.job
        if loaded is not None:
            loaded.release()
        if self._observers:
            results = job.results if job is not None else []
            served = Served(
                method=request.call.method,
                status=status,
                peer=request.call.peer,
                model=loaded.name if loaded else "",
                version=loaded.version if loaded else "",
                bundle=loaded.short_digest if loaded else "",
                cut=request.tail.id if request.tail else "",
                request_id=request.id[:_MOST_ID],
                traceparent=request.call.traceparent,
                up_bytes=request.up_bytes,
                down_bytes=down_bytes,
                raw_up_bytes=sum(a.nbytes for a in job.feeds.values()) if job else 0,
                raw_down_bytes=sum(array.nbytes for array in results),
                receive_s=request.receive_s,
                queue_s=request.queue_s,
                decode_s=request.decode_s,
                tail_s=request.tail_s,
                encode_s=request.encode_s,
                batch_size=request.batch_size,
            )
            tell(self._observers, served)


def _part(call: Call, parameters: Mapping[str, pb.InferParameter], tail: Tail) -> Part | None:
    part = part_of(parameters, tail)
    if part is not None and call.method != "ModelInfer":
        raise InputError("a part of a request cannot come in a stream: call ModelInfer")
    return part
