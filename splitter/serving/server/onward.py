"""A relay: the tail that it serves is not run here but divided once more, between here and the next tier.

That is what a session does, so a relay is one: it runs the head of the onward bundle, retries, keeps to
the caller's deadline, and falls back on the whole tail where the bundle holds it. What it asks may be a
relay too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec
import numpy as np

from splitter.errors import BundleError, DeadlineError, InputError, ServingError
from splitter.partition.bundle import Bundle
from splitter.partition.manifest import WEIGHTS, CutSpec, Manifest
from splitter.serving.device.session import Session
from splitter.serving.server.batching import LAST_PRIORITY, Job, Policy, Queue, Scheduler
from splitter.serving.server.options import Onward
from splitter.serving.server.status import LateError, OnwardError

Array = np.ndarray[Any, Any]

_WARM_UP_S = 3.0
"""For the next tier to answer at the start; it may come later."""
_OWN_PART = 0.9
"""Of the time that a caller leaves: its answer has to travel back."""


class Forward:
    """What stands for a tail's runner: a session with the next tier."""

    def __init__(self, onward: Onward) -> None:
        """Begin to connect; raises as ``Session``."""
        self._session = Session(onward.bundle, onward.server, options=onward.options)
        self.inputs = tuple(self._session.get_inputs())
        self.outputs = tuple(self._session.get_outputs())

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
        """Run once, to warm up; raises InputError, OnwardError."""
        self._session.wait_for_server(_WARM_UP_S)
        return self._infer(feeds, outputs, _WARM_UP_S, 0)

    def run_job(self, job: Job) -> list[Array]:
        """Run a request within its deadline.

        Raises
        ------
        InputError
            It is refused here.
        LateError
            There was no answer in time.
        OnwardError
            The next tier cannot be reached, or refuses.
        """
        remaining_s = _OWN_PART * (job.deadline - time.perf_counter())
        if remaining_s <= 0:
            raise LateError("the deadline passed before the next tier was asked")
        priority = 0 if job.priority == LAST_PRIORITY else job.priority
        within_s = remaining_s if math.isfinite(remaining_s) else None
        return self._infer(job.feeds, job.outputs, within_s, priority)

    def close(self) -> None:
        """End the session."""
        self._session.close()

    def _infer(
        self, feeds: Mapping[str, Array], outputs: Sequence[str] | None, within_s: float | None,
        priority: int,
    ) -> list[Array]:  # fmt: skip
        try:
            result = self._session.infer(feeds, outputs, deadline_s=within_s, priority=priority)
        except InputError:
            raise
        except DeadlineError as exc:
            raise LateError(f"the next tier is late: {exc}") from exc
        except (ServingError, BundleError) as exc:
            raise OnwardError(f"the next tier does not answer: {exc}") from exc
        return list(result.outputs.values())


class ForwardQueue(Queue):
    """Requests on their way onward, each by itself, with its own deadline."""

    def __init__(self, scheduler: Scheduler, forward: Forward, policy: Policy) -> None:
        super().__init__(scheduler, forward.run, policy)
        self._forward = forward

    def _run_one(self, job: Job) -> list[Array]:
        return self._forward.run_job(job)


class NextTier:
    """Which tails of a bundle go onward, and the session by which they do."""

    def __init__(self, onward: Onward) -> None:
        """Raise BundleError where the onward bundle's manifest cannot be read."""
        self._onward = onward
        self._manifest = Manifest.load(onward.bundle)

    @cached_property
    def forward(self) -> Forward:
        """The session, made when it is first needed; raises as ``Session``."""
        return Forward(self._onward)

    def cuts(self, bundle: Bundle) -> list[CutSpec]:
        """The cuts whose tail the onward bundle divides, with the number of samples that it takes.

        Raises
        ------
        BundleError
            There is none.
        """
        found = [
            msgspec.structs.replace(cut, batches=False)
            for cut in bundle.manifest.cuts
            if cut.tail is not None and self._divides(bundle.manifest, cut.tail)
        ]
        if not found:
            raise BundleError(
                f"{self._onward.bundle}: not of a tail of {bundle.folder}; give the bundle that "
                "was split with it, or split its tail again"
            )
        return found

    def close(self) -> None:
        """End the session, if there is one."""
        if "forward" in self.__dict__:
            self.forward.close()

    def _divides(self, manifest: Manifest, tail: str) -> bool:
        """By the tail's file; what weights lie beside it only the digest of the bundle says."""
        if self._manifest.model_sha256 != manifest.files[tail].sha256:
            return False
        if self._manifest.tail_of is not None:
            return self._manifest.tail_of == manifest.digest
        return not manifest.files.keys() & {WEIGHTS, f"{tail}.data"}
