"""One request on its way through the stages of a session."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from splitter.partition.manifest import CutSpec
from splitter.runtime import Array
from splitter.serving.device.attempts import Cancellation
from splitter.serving.device.report import AnsweredBy, Result, Timing, Why


@dataclass
class Job:
    """Filled in stage by stage; only one thread has it at a time."""

    names: list[str]
    """Of the outputs asked for."""
    feeds: dict[str, Array]
    ends_s: float
    """Its deadline, of ``time.monotonic``."""
    priority: int = 0
    cancellation: Cancellation | None = None
    join: str = ""
    """What a part has in common with those of other devices; empty where there are none."""
    began_s: float = field(default_factory=time.monotonic)
    values: dict[str, Array] = field(default_factory=dict)
    """Feeds, and what the head made."""
    cut: CutSpec | None = None
    """None where the answer is to come from here."""
    wanted: list[str] = field(default_factory=list)
    """Outputs of the tail."""
    message: bytes | None = None
    result: Result | None = None
    why: Why | None = None
    gate_s: float = 0.0
    head_s: float = 0.0
    encode_s: float = 0.0
    attempts: int = 0
    hedged: bool = False
    is_trial: bool = False
    """Sent beside a local answer, to learn what the link is like."""

    def done(self, outputs: Mapping[str, Array], timing: Timing) -> Result:
        """The result, with the outputs in the order asked for."""
        self.result = Result({name: outputs[name] for name in self.names}, timing)
        return self.result

    def here(
        self, by: AnsweredBy, digest: str, run_s: float, cut: tuple[str, str] = ("", "")
    ) -> Timing:
        """Timing of an answer that was made here in ``run_s``; all else was waiting."""
        total_s = time.monotonic() - self.began_s
        return Timing(
            head_s=run_s,
            gate_s=self.gate_s,
            wait_s=max(0.0, total_s - run_s - self.gate_s),
            total_s=max(total_s, run_s + self.gate_s),
            answered_by=by,
            cut=cut[0],
            cut_name=cut[1],
            digest=digest,
            attempts=self.attempts,
            hedged=self.hedged,
            why=self.why,
        )
