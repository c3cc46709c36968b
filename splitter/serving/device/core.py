"""The stages of a request: admitted, begun (gate, cut, head), encoded, answered.

``Session.run`` goes through them on one thread, a stream with a thread for each.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import msgspec
import numpy as np

from splitter.errors import InputError, ServingError, SplitterError
from splitter.feeds import check_feeds
from splitter.graph.values import Tensor
from splitter.partition.manifest import CutSpec
from splitter.runtime import Array
from splitter.serving import tracing
from splitter.serving.device.attempts import Cancellation, Errand, Outcome
from splitter.serving.device.failure import WHY, Failure, Kind
from splitter.serving.device.fallback import Fallback
from splitter.serving.device.follow import Follower
from splitter.serving.device.job import Job
from splitter.serving.device.marks import Marks
from splitter.serving.device.messages import Reply
from splitter.serving.device.models import Device
from splitter.serving.device.options import SessionOptions
from splitter.serving.device.remote import Remote
from splitter.serving.device.report import AnsweredBy, Result, Timing, Why

_log = logging.getLogger(__name__)

CONNECTING_S = 0.05
"""How long after its start a session waits for a connection, where it can answer without."""
LEAST_STALL_S = 1.0
"""An answer that takes longer, and several times as long as usual, is looked into."""
ROOM = 4.0
"""Times the usual: a request with that much time needs no second thread to be answered within it."""
ROOM_S = 0.1
UNKNOWN_ROOM_S = 2.0
_SMOOTHING = 0.2


class Core:
    """Thread-safe. A request that begins with a cut ends with it."""

    def __init__(self, device: Device, remote: Remote | None, options: SessionOptions) -> None:
        """Raise ServingError where nothing could ever answer, MissingExtraError as ``Follower``."""
        self.device, self._remote, self._options = device, remote, options
        self._manifest = device.manifest
        if remote is None and self._manifest.planned.tail is not None and not device.fallback:
            raise ServingError(f"{device.folder}: the bundle has a tail; give its server")
        self.marks = Marks(self._manifest, options)
        self._inputs = {
            spec.name: Tensor(spec.name, spec.dtype, spec.shape)
            for spec in self._manifest.inputs if spec.name not in self.marks.held
        }  # fmt: skip
        self._follower = Follower(self._manifest, device.parts, adapt=options.adapt)
        link = self._manifest.link
        self._planned_link_s = 0.0 if link is None else link.rtt_s
        self._usual_s: dict[str, float] = {}
        self._spare = ThreadPoolExecutor(1, thread_name_prefix="splitter-spare")
        self._trial = ThreadPoolExecutor(1, thread_name_prefix="splitter-trial")
        self._is_trying = False
        self._is_closed = False
        self._began_s = time.monotonic()
        device.parts.prepare(self._loading_order)

    @property
    def inputs(self) -> Mapping[str, Tensor]:
        """Of the whole model, but for state that the server holds."""
        return self._inputs

    def wait_for_server(self, patience_s: float) -> bool:
        """Wait until it is known whether the server answers; whether it does."""
        if self._remote is None:
            return False
        self._remote.breaker.settle(patience_s)
        return self._remote.breaker.why_not() is None

    def admit(
        self,
        feeds: Mapping[str, Array],
        output_names: Sequence[str] | None = None,
        deadline_s: float | None = None,
        priority: int = 0,
        cancellation: Cancellation | None = None,
        join: str | None = None,
    ) -> Job:
        """Check a request; raises InputError for what is wrong with it, ServingError once closed."""
        if self._is_closed:
            raise ServingError("the session is closed")
        names = self.marks.names(output_names)
        values = {name: np.asarray(value) for name, value in feeds.items()}
        check_feeds(values, self._inputs)
        if deadline_s is None:
            deadline_s = self._options.deadline_s
        elif not 0 < deadline_s < math.inf:
            raise InputError(f"deadline_s is {deadline_s}; give seconds above 0")
        ends_s = time.monotonic() + deadline_s
        return Job(names, values, ends_s, priority, cancellation, self.marks.id(join))

    def begin(self, job: Job) -> None:
        """Ask the gate, choose a cut, run its head."""
        if self.device.cascade is not None and self.device.ask_gate(job, self._options.confident):
            return
        cut = self._route(job)
        if cut is None:
            return
        wanted = [name for name in job.names if name in cut.tail_outputs]
        job.wanted = wanted
        if not self._has_run_head(job, cut):
            return
        if not wanted and not self.marks.must_send(cut):
            result = self.device.answer_by_cut(job, cut)
            if cut.tail is None:
                self._follower.answered(cut, result.timing)
            return
        if self.device.cascade is not None and self.device.ask_gate(job, self._options.confident):
            return
        job.cut = cut

    def encode(self, job: Job) -> None:
        """Make the message, if one is to be sent."""
        if job.cut is None:
            return
        started_s = time.monotonic()
        messages = self._follower.messages(job.cut)
        with tracing.span("encode"):
            marks = self.marks.of(job.join)
            job.message = messages.request(job.values, job.wanted, job.priority, marks)
        job.encode_s = time.monotonic() - started_s

    def answer(self, job: Job) -> Result:
        """Send the message and wait for the answer, or make one here.

        Raises
        ------
        StaleBundleError
            The server has another bundle, and nothing here can answer.
        ServingError
            The server cannot be reached, is late, or refuses, and nothing here can answer.
        """
        if job.result is not None:
            return job.result
        if job.message is None or job.cut is None or self._remote is None:
            return self.device.answer(job)
        asked_s = time.monotonic()
        with tracing.request_span("request", cut=job.cut.id):
            outcome = self._deliver(job, job.message, job.cut, self.device.fallback)
        job.attempts, job.hedged = outcome.attempts, outcome.hedged
        failure = outcome.failure
        if outcome.reply is not None:
            read = self._read(job, outcome.reply, job.cut)
            if isinstance(read, Reply):
                return self._answered(job, job.cut, outcome, read)
            failure = read
        if failure is not None:
            job.why = WHY[failure.kind]
            self._note_silence(failure, job.message, asked_s)
        if outcome.local is not None:
            return _with(outcome.local.result(), job)
        assert failure is not None
        return self._instead(job, failure)

    def head_for_server(self, job: Job) -> None:
        """Run a head whose tail is to be asked; raises ServingError where there is none to ask."""
        cuts = (self._follower.current, *self._manifest.cuts)
        cut = next((cut for cut in cuts if cut.tail is not None), None)
        if cut is None or self._remote is None or self._remote.breaker.is_open:
            raise ServingError("there is no server to ask")
        job.wanted = [name for name in job.names if name in cut.tail_outputs]
        self.device.run_head(job, cut)
        job.cut = cut

    def ask_server(self, job: Job) -> Result:
        """Have the server answer, whatever could answer here; raises ServingError."""
        if job.cut is None:
            self.head_for_server(job)
        assert job.cut is not None
        return self._ask_only(job, job.cut)

    def quick(self, job: Job) -> Result | None:
        """Answer by the gate, be it sure or not, or by the fallback; None where there is neither."""
        result = self.device.ask_gate(job, 0.0)
        if result is None and self.device.fallback is not None:
            result = self.device.answer(job)
        return result

    def close(self) -> None:
        """End every thread and connection; requests that run fail."""
        self._is_closed = True
        if self._remote is not None:
            self._remote.close()
        self._spare.shutdown(wait=True)
        self._trial.shutdown(wait=True, cancel_futures=True)
        self.device.parts.close()

    def _has_run_head(self, job: Job, cut: CutSpec) -> bool:
        try:
            with tracing.span("head"):
                self.device.run_head(job, cut)
        except InputError:
            raise
        except SplitterError as exc:
            if self.device.fallback is None:
                raise
            _log.warning("answered without the head: %s", exc)
            job.why = Why.HEAD
            return False
        return True

    def _route(self, job: Job) -> CutSpec | None:
        """The cut to begin with; None for the fallback."""
        cut = self._follower.choose()
        needs_tail = any(name in cut.tail_outputs for name in job.names)
        if not needs_tail and not self.marks.must_send(cut):
            if cut.tail is None and self._manifest.planned.tail is not None:
                job.why = Why.POLICY
                self._try_beside(job)
            return cut
        if self._remote is None:
            job.why = Why.OFFLINE
            return None
        if self.device.fallback is None:
            return cut
        breaker = self._remote.breaker
        why = breaker.why_not()
        if why is Why.OFFLINE:
            patience_s = min(self._began_s + CONNECTING_S, job.ends_s) - time.monotonic()
            breaker.settle(max(0.0, patience_s))
            why = breaker.why_not()
        if why is not None:
            self._remote.prober.used()
            job.why = why
            return None
        return cut

    def _deliver(
        self, job: Job, message: bytes, cut: CutSpec, fallback: Fallback | None
    ) -> Outcome:
        assert self._remote is not None
        usual_s = self._usual_s.get(cut.id)
        reserve_s = 0.0 if fallback is None else fallback.reserve_s()
        stall_s = max(LEAST_STALL_S, ROOM * (usual_s or self._planned_link_s))
        errand = Errand(
            message=message,
            began_s=job.began_s,
            until_s=job.ends_s - reserve_s,
            ends_s=job.ends_s,
            usual_s=stall_s,
            longest_pause_s=float("inf") if fallback is None else max(reserve_s, ROOM_S),
            cancellation=job.cancellation,
        )
        hedge_s = self._options.hedge_s
        room_s = UNKNOWN_ROOM_S if usual_s is None else max(ROOM_S, ROOM * usual_s)
        has_room = fallback is None or errand.until_s - time.monotonic() >= room_s
        if has_room and hedge_s is None and job.cancellation is None:
            return self._remote.attempts.ask(errand)
        local = None
        if fallback is not None:
            aside = Job(job.names, job.feeds, job.ends_s, began_s=job.began_s, gate_s=job.gate_s)
            local = lambda: self.device.answer(aside)  # noqa: E731
        return self._remote.attempts.race(
            errand, hedge_s=hedge_s, local=local, executor=self._spare
        )

    def _note_silence(self, failure: Failure, message: bytes, asked_s: float) -> None:
        """No answer in so long says something of the link; a refusal does not."""
        if failure.kind in (Kind.LATE, Kind.GIVEN_UP):
            self._follower.silent(len(message), time.monotonic() - asked_s)

    def _read(self, job: Job, reply: bytes, cut: CutSpec) -> Reply | Failure:
        assert self._remote is not None
        messages = self._follower.messages(cut)
        try:
            read = messages.response(reply, job.wanted, self._remote.server)
        except ServingError as exc:
            failure = Failure(Kind.WRONG, exc)
            self._remote.breaker.failed(failure)
            return failure
        self._remote.breaker.understood()
        return read

    def _answered(self, job: Job, cut: CutSpec, outcome: Outcome, reply: Reply) -> Result:
        """Put together what came from the server."""
        assert job.message is not None
        assert outcome.reply is not None
        ended_s = time.monotonic()
        elapsed_s = ended_s - outcome.sent_s
        usual_s = self._usual_s.get(cut.id, elapsed_s)
        self._usual_s[cut.id] = usual_s + _SMOOTHING * (elapsed_s - usual_s)
        server = reply.seconds
        link_s = max(0.0, elapsed_s - sum(server.values()))
        known_s = job.gate_s + job.head_s + job.encode_s + link_s + sum(server.values())
        total_s = max(known_s, ended_s - job.began_s)
        timing = Timing(
            gate_s=job.gate_s,
            head_s=job.head_s,
            encode_s=job.encode_s,
            wait_s=total_s - known_s,
            link_s=link_s,
            receive_s=server["receive_s"],
            join_s=server["join_s"],
            queue_s=server["queue_s"],
            decode_s=server["decode_s"],
            tail_s=server["tail_s"],
            server_encode_s=server["encode_s"],
            total_s=total_s,
            up_bytes=len(job.message),
            down_bytes=len(outcome.reply),
            answered_by=AnsweredBy.SERVER,
            cut=cut.id,
            cut_name=cut.name,
            digest=self._manifest.digest,
            attempts=outcome.attempts,
            hedged=outcome.hedged,
        )
        self.marks.answered()
        self._follower.answered(cut, timing, is_trial=job.is_trial)
        return job.done(job.values | dict(reply.outputs), timing)

    def _instead(self, job: Job, failure: Failure) -> Result:
        """Answer from here in the server's place, or raise what kept it from answering."""
        error = failure.error
        if failure.kind is Kind.CANCELLED or self._is_closed:
            raise error
        if self.device.fallback is None:
            reason = self.device.why_no_fallback or "the fallback is switched off"
            raise type(error)(f"{error}; the device cannot answer instead: {reason}")
        if failure.kind in (Kind.STALE, Kind.REFUSED, Kind.WRONG):
            _log.warning("answered here: %s", error)
        return self.device.answer(job)

    def _try_beside(self, job: Job) -> None:
        """Send the request by another cut too, now and then, to learn what the link is like."""
        if self._remote is None or self._is_trying or self._remote.breaker.why_not() is not None:
            return
        cut = self._follower.trial()
        if cut is None:
            return
        wanted = [name for name in job.names if name in cut.tail_outputs]
        if wanted:
            self._is_trying = True
            aside = Job(job.names, job.feeds, job.ends_s, wanted=wanted, cut=cut, is_trial=True)
            self._trial.submit(self._run_trial, aside, cut)

    def _run_trial(self, job: Job, cut: CutSpec) -> None:
        try:
            self.device.run_head(job, cut)
            self._ask_only(job, cut)
        except SplitterError as exc:
            _log.info("a trial of cut %s failed: %s", cut.id, exc)
        finally:
            self._is_trying = False

    def _ask_only(self, job: Job, cut: CutSpec) -> Result:
        """Encode and send, without a way out; raises ServingError."""
        self.encode(job)
        assert job.message is not None
        asked_s = time.monotonic()
        outcome = self._deliver(job, job.message, cut, None)
        if outcome.reply is None:
            assert outcome.failure is not None
            self._note_silence(outcome.failure, job.message, asked_s)
            raise outcome.failure.error
        read = self._read(job, outcome.reply, cut)
        if isinstance(read, Failure):
            raise read.error
        return self._answered(job, cut, outcome, read)

    def _loading_order(self) -> list[str]:
        """What to load in the background: first what the next request will probably need."""
        head = self._follower.current.head
        fallback = self.device.fallback
        keys = [] if head is None else [head]
        if fallback is not None and fallback.key != head:
            is_offline = self._remote is None
            if self._remote is not None:
                self._remote.breaker.settle(CONNECTING_S)
                is_offline = self._remote.breaker.why_not() is not None
            keys = [fallback.key] if is_offline else [*keys, fallback.key]
        return keys


def _with(result: Result, job: Job) -> Result:
    """An answer that was made aside, with what was tried meanwhile."""
    timing = msgspec.structs.replace(
        result.timing, attempts=job.attempts, hedged=job.hedged, why=job.why or Why.DEADLINE
    )
    return replace(result, timing=timing)
