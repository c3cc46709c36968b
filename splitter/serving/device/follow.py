"""Which cut a request begins with: the policy's, once its head is there."""

from __future__ import annotations

import logging
import time

from splitter.errors import SplitterError
from splitter.partition.manifest import CutSpec, Manifest
from splitter.serving.device.estimate import Exchange, LinkEstimator
from splitter.serving.device.messages import CutMessages
from splitter.serving.device.parts import Parts
from splitter.serving.device.policy import Policy
from splitter.serving.device.report import Timing

_log = logging.getLogger(__name__)


class Follower:
    """Thread-safe. A request keeps the cut that it began with, so a switch drops and reorders nothing."""

    def __init__(self, manifest: Manifest, parts: Parts, *, adapt: bool) -> None:
        """Raise MissingExtraError where the planned cut's codecs need a package that is not installed."""
        self._manifest, self._parts = manifest, parts
        self._messages = {manifest.planned.id: CutMessages(manifest, manifest.planned)}
        self._current = manifest.planned
        self._estimator = LinkEstimator(manifest.link)
        usable = [cut for cut in manifest.cuts if cut.head is None or parts.fits(cut.head)]
        priced = [cut for cut in usable if cut.cost is not None]
        follows = adapt and len(priced) > 1 and manifest.planned in priced
        self._policy = Policy(priced, manifest.link) if follows else None
        if self._policy is not None:
            self._current = self._policy.current

    @property
    def current(self) -> CutSpec:
        """The cut of the last request."""
        return self._current

    def messages(self, cut: CutSpec) -> CutMessages:
        """Give the messages of a cut; raises MissingExtraError."""
        found = self._messages.get(cut.id)
        if found is None:
            found = self._messages[cut.id] = CutMessages(self._manifest, cut)
        return found

    def choose(self) -> CutSpec:
        """The cut for a request that begins now."""
        if self._policy is None:
            return self._current
        now_s = time.monotonic()
        chosen = self._policy.choose(self._estimator.estimate(now_s), now_s)
        if chosen.id != self._current.id and self._is_ready(chosen):
            _log.info("the link is one for %s (cut %s) now", chosen.name, chosen.id)
            self._current = chosen
        return self._current

    def trial(self) -> CutSpec | None:
        """A cut to try beside the answer from here, whose caller does not wait for it."""
        if self._policy is None or self._current.tail is not None:
            return None
        chosen = self._policy.trial(time.monotonic())
        return chosen if chosen is not None and self._is_ready(chosen) else None

    def answered(self, cut: CutSpec, timing: Timing, *, is_trial: bool = False) -> None:
        """Learn from an answer."""
        if self._policy is None:
            return
        if cut.tail is not None:
            exchange = Exchange(timing.up_bytes, timing.down_bytes, timing.link_s)
            self._estimator.observe(exchange, time.monotonic())
        if not is_trial:
            sent_bytes = timing.up_bytes, timing.down_bytes
            self._policy.observe(cut, timing, timing.queue_s, sent_bytes)

    def silent(self, up_bytes: int, waited_s: float) -> None:
        """Learn from a request that got no answer for so long."""
        if self._policy is not None:
            self._estimator.failed(up_bytes, waited_s, time.monotonic())

    def _is_ready(self, cut: CutSpec) -> bool:
        """Whether a request may begin with it; if not, it is prepared in the background."""
        if cut.head is not None and self._parts.ready(cut.head) is None:
            self._parts.fetch(cut.head)
            return False
        try:
            self.messages(cut)
        except SplitterError as exc:
            _log.warning("cut %s is not used: %s", cut.id, exc)
            return False
        return True
