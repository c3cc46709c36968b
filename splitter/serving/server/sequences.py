"""State that a tail carries from one request of a sequence to the next: held here, by the sequence's id.

The parameters are those of Triton's sequences: ``sequence_id``, ``sequence_start``, ``sequence_end``. A
session adds ``sequence_step``, which counts the requests that were answered. The state before the last step
is held too, so that a step which comes again, as its answer was lost, begins where it began before.

State begins as zeros. Requests of one sequence run one after the other. How many sequences there are, what
they hold and how long one may rest is bounded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from splitter.codec.base import numpy_dtype
from splitter.errors import InputError
from splitter.serving import wire
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.server.admission import Admission
from splitter.serving.server.status import BusyError, HalfError, LateError, LostError
from splitter.serving.server.tail import Array, Tail

MOST_ID = 128
"""Characters of a sequence's id."""

_LONGEST_WAIT_S = 3600.0  # a lock takes no longer times


@dataclass
class _Sequence:
    changed: threading.Condition
    nbytes: int
    after: Mapping[str, Array]
    """What the next step begins with."""
    before: Mapping[str, Array] | None = None
    """What the last step began with; None before the first."""
    step: int = -1
    """The last that was run, from 0."""
    used: float = field(default_factory=time.monotonic)
    is_busy: bool = False


@dataclass
class Turn:
    """One step of a sequence, which nobody else runs meanwhile; ``leave`` it in any case."""

    key: tuple[Tail, str]
    sequence: _Sequence
    feeds: Mapping[str, Array]
    """The state that it begins with."""
    step: int
    is_last: bool


class Sequences:
    """All that rest or run; thread-safe."""

    def __init__(self, admission: Admission, limit: int = 256, idle_s: float = 600.0) -> None:
        """``idle_s`` is how long a sequence may rest; what it holds counts in ``admission``'s bytes."""
        self._admission, self._limit, self._idle_s = admission, limit, idle_s
        self._lock = threading.Lock()
        self._known: dict[tuple[Tail, str], _Sequence] = {}

    def __len__(self) -> int:
        """Sequences that are held."""
        return len(self._known)

    def enter(
        self, tail: Tail, parameters: Mapping[str, pb.InferParameter], deadline: float
    ) -> Turn | None:
        """Take a step, when the one before has ended; None for a tail without state.

        ``deadline`` is by ``time.perf_counter``.

        Raises
        ------
        InputError
            The parameters name no sequence.
        LostError, HalfError, LateError, BusyError
            The sequence is not known, the step is not the next, the step before did not end in time, or
            there is no room for one more.
        """
        if not tail.states:
            return None
        key = tail, _id_of(parameters)
        is_start, is_last = (
            name in parameters and parameters[name].bool_param
            for name in ("sequence_start", "sequence_end")
        )
        with self._lock:
            self._forget_idle()
            sequence = self._known.get(key)
            if sequence is None:
                if not is_start:
                    raise LostError(
                        f"no sequence {wire.shown(key[1])} is known here: it was never begun, or rested for "
                        f"over {self._idle_s:g} s, or the server was started again; begin it anew"
                    )
                sequence = self._known[key] = self._begin(tail)
            self._wait_for(sequence, deadline)
            if self._known.get(key) is not sequence:
                raise LostError(f"sequence {wire.shown(key[1])} has ended meanwhile")
            if is_start:
                sequence.after, sequence.before, sequence.step = _zeros(tail), None, -1
            step, feeds = _step(sequence, parameters, key[1])
            sequence.is_busy = True
            return Turn(key, sequence, feeds, step, is_last)

    def commit(self, turn: Turn, after: Mapping[str, Array]) -> None:
        """Keep what the step has made of the state."""
        with self._lock:
            turn.sequence.before, turn.sequence.after = turn.feeds, after
            turn.sequence.step = turn.step
            if turn.is_last and self._known.get(turn.key) is turn.sequence:
                self._forget(turn.key)

    def leave(self, turn: Turn) -> None:
        """Let the next step run."""
        with self._lock:
            turn.sequence.is_busy = False
            turn.sequence.used = time.monotonic()
            if turn.sequence.step < 0 and self._known.get(turn.key) is turn.sequence:
                self._forget(turn.key)  # it was never begun
            turn.sequence.changed.notify_all()

    def _begin(self, tail: Tail) -> _Sequence:
        if len(self._known) >= self._limit:
            raise BusyError(f"{self._limit} sequences are held already; try again later")
        zeros = _zeros(tail)
        nbytes = 2 * sum(array.nbytes for array in zeros.values())
        self._admission.reserve(nbytes, 1.0)
        return _Sequence(threading.Condition(self._lock), nbytes, zeros)

    def _wait_for(self, sequence: _Sequence, deadline: float) -> None:
        while sequence.is_busy:
            left_s = deadline - time.perf_counter()
            if left_s <= 0:
                raise LateError("the deadline passed before the step before it had ended")
            sequence.changed.wait(min(left_s, _LONGEST_WAIT_S))

    def _forget_idle(self) -> None:
        until = time.monotonic() - self._idle_s
        for key, sequence in list(self._known.items()):
            if sequence.used < until and not sequence.is_busy:
                self._forget(key)

    def _forget(self, key: tuple[Tail, str]) -> None:
        sequence = self._known.pop(key)
        self._admission.free(sequence.nbytes)
        sequence.changed.notify_all()


def _id_of(parameters: Mapping[str, pb.InferParameter]) -> str:
    if "sequence_id" not in parameters:
        raise InputError(
            "this tail keeps state: give 'sequence_id', and 'sequence_start' with the first request"
        )
    if parameters["sequence_id"].WhichOneof("parameter_choice") == "string_param":
        text = wire.text_parameter(parameters, "sequence_id") or ""
    else:  # 0 is Triton's word for none
        text = str(wire.number_parameter(parameters, "sequence_id", (1 << 64) - 1) or "")
    if not 0 < len(text) <= MOST_ID:
        raise InputError(f"'sequence_id' is 0 or empty, or over {MOST_ID} characters")
    return text


def _step(
    sequence: _Sequence, parameters: Mapping[str, pb.InferParameter], name: str
) -> tuple[int, Mapping[str, Array]]:
    """The number of the step, and what it begins with."""
    following = sequence.step + 1
    if "sequence_step" not in parameters:
        return following, sequence.after
    step = wire.number_parameter(parameters, "sequence_step")
    if step == following:
        return step, sequence.after
    if step == sequence.step and sequence.before is not None:
        return step, sequence.before
    raise HalfError(
        f"step {step} of sequence {wire.shown(name)} came where {following} is next; begin it anew"
    )


def _zeros(tail: Tail) -> dict[str, Array]:
    return {
        name: np.zeros(tensor.shape or (), numpy_dtype(tensor.dtype))
        for name, tensor in tail.states.items()
    }
