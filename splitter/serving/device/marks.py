"""What marks a request as one of several: a part of what several devices send, or a step of a sequence.

A session of a device that is one of several numbers its requests, alike on all of them. A session whose state
lives on the server counts those that were answered: one that failed has not happened, and the next takes its
number.
"""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from splitter.errors import InputError, ServingError, nearest
from splitter.partition.manifest import CutSpec, Manifest
from splitter.serving.device.options import SessionOptions

MOST_ID = 128
"""Characters, as the server takes them."""

Mark = str | int | bool


class Marks:
    """How the requests of a session belong to others; thread-safe but for the steps of a sequence."""

    def __init__(self, manifest: Manifest, options: SessionOptions) -> None:
        """Raise ServingError for an option that means nothing for such requests."""
        self._join, states = manifest.join, manifest.planned.states
        self._group = options.group
        self._numbers = itertools.count()
        self.held = frozenset(state.input for state in states)
        """Inputs of the model that the server holds."""
        self._sequence, self._step = secrets.token_hex(8), 0
        self.turn: AbstractContextManager[object] = threading.Lock() if states else nullcontext()
        """Held by a request from beginning to end, where they follow from one another."""
        self._known = [spec.name for spec in manifest.outputs]
        there = {name for cut in manifest.cuts for name in cut.kept}
        there |= {state.output for state in states}
        if self._join is not None and self._join.part > 1:
            there |= set(manifest.planned.tail_outputs)
        self._asked = [name for name in self._known if name not in there]
        what = "one device of several" if self._join else "state on the server" if states else ""
        for name in ("gate", *(["hedge_s"] if self._join else [])):
            if what and getattr(options, name) is not None:
                raise ServingError(f"{name} is not for {what}: leave it out")

    @property
    def is_sequence(self) -> bool:
        """Whether each request follows from the one before."""
        return bool(self.held)

    def names(self, asked: Sequence[str] | None) -> list[str]:
        """Outputs that are asked for: where none is named all but those that stay on the server.

        Of a further device those that the server makes only where they are named. Raises InputError.
        """
        for name in asked or ():
            if name not in self._known:
                raise InputError(f"no output is named {name!r}{nearest(name, self._known)}")
        return list(self._asked if asked is None else asked)

    def must_send(self, cut: CutSpec) -> bool:
        """Whether the server is to have a request of which nothing is asked for."""
        return self._join is not None or bool(cut.kept or cut.states)

    def id(self, given: str | None) -> str:
        """What a request has in common with its other parts: what is given, else its number.

        Empty where there are no others. Raises InputError.
        """
        if self._join is None:
            if given is not None:
                raise InputError("join is for a bundle of one device of several; this one is whole")
            return ""
        if given is None:
            number = next(self._numbers)
            return f"{self._group}/{number}" if self._group else str(number)
        if not 0 < len(given) <= MOST_ID:
            raise InputError(f"join has {len(given)} characters; give 1 to {MOST_ID}")
        return given

    def of(self, request_id: str) -> Mapping[str, Mark]:
        """The parameters of a request that is sent now."""
        if self._join is not None:
            return {"join": request_id, "part": self._join.part}
        if not self.is_sequence:
            return {}
        step = self._step
        start: dict[str, Mark] = {} if step else {"sequence_start": True}
        return {"sequence_id": self._sequence, "sequence_step": step, **start}

    def answered(self) -> None:
        """Count an answer."""
        self._step += 1

    def reset(self) -> None:
        """Let the next request be the first of a new sequence."""
        self._step = 0
