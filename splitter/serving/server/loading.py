"""A bundle that is loaded: every cut that has a tail, warm.

Identical tails, of whatever bundles, are in memory once.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import cached_property
from weakref import WeakValueDictionary

from splitter.errors import ServingError, StaleBundleError
from splitter.partition.bundle import Bundle
from splitter.partition.manifest import WEIGHTS, Manifest
from splitter.runtime import Runner, Settings
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.protocol import MessageLimits
from splitter.serving.server.batching import Policy, Queue, Scheduler
from splitter.serving.server.onward import Forward, ForwardQueue, NextTier
from splitter.serving.server.options import Onward
from splitter.serving.server.statistics import Statistics
from splitter.serving.server.status import NotReadyError
from splitter.serving.server.tail import Tail, TailRunner
from splitter.serving.wire import shown


class Loaded:
    """One version of a model; ``hold`` keeps it from being unloaded."""

    def __init__(self, manifest: Manifest, version: str, tails: dict[str, Tail]) -> None:
        self.manifest = manifest
        self.name = manifest.name
        self.version = version
        self.tails = tails
        """By id of the cut."""
        self.limits = MessageLimits.of(manifest, max([1, *(t.max_batch for t in tails.values())]))
        self.statistics = Statistics()
        self.signature = pb.ModelInferResponse(
            model_name=manifest.name, model_version=version
        ).SerializeToString()
        """How every answer begins."""
        self.short_digest = manifest.digest[:12]
        self._uses = 0
        self._is_closed = False
        self._lock = threading.Lock()  # entered twice as fast as a condition
        self._changed = threading.Condition(self._lock)

    @cached_property
    def default(self) -> Tail:
        """The tail of the planned cut; of the first that has one, where the plan leaves the server idle."""
        planned = self.tails.get(self.manifest.planned.id)
        return planned or next(iter(self.tails.values()))

    def tail(self, cut: str | None) -> Tail:
        """The tail of a cut, of the planned one for None; raises StaleBundleError."""
        if cut is None:
            return self.default
        found = self.tails.get(cut)
        if found is None:
            known = ", ".join(map(repr, self.tails))
            raise StaleBundleError(
                f"bundle {self.short_digest!r} has no tail for cut {shown(cut)}, only for {known}; "
                "copy one bundle to both device and server"
            )
        return found

    def hold(self) -> None:
        """Keep it until ``release``; raises NotReadyError where it is being unloaded."""
        with self._lock:
            if self._is_closed:
                raise NotReadyError(f"model {self.name!r} version {self.version} is being unloaded")
            self._uses += 1

    def release(self) -> None:
        """A request no longer needs it."""
        with self._lock:
            self._uses -= 1
            if self._is_closed:
                self._changed.notify_all()

    def close(self, timeout_s: float) -> bool:
        """Take no further request, and wait for those that run; False if that took longer."""
        with self._lock:
            self._is_closed = True
            return self._changed.wait_for(lambda: not self._uses, timeout_s)


class Loader:
    """Loads bundles alike: the same policy and settings, one scheduler."""

    def __init__(
        self,
        scheduler: Scheduler,
        policy: Policy,
        settings: Settings | None,
        onward: Onward | None = None,
    ) -> None:
        """Raise BundleError where the onward bundle's manifest cannot be read."""
        self._scheduler, self._policy, self._settings = scheduler, policy, settings
        self._next = None if onward is None else NextTier(onward)
        self.most: MessageLimits | None = None
        """What the server's messages can hold, once that is settled."""
        self._runners: WeakValueDictionary[tuple[str, ...], TailRunner] = WeakValueDictionary()

    def load(self, bundle: Bundle, version: str) -> Loaded:
        """Load and warm all tails of a bundle.

        Raises
        ------
        ServingError
            It has no tail, or its tensors do not fit into a message or cannot travel; or it is to be
            forwarded and cannot.
        BundleError
            The onward bundle is not of one of its tails.
        MissingExtraError
            A codec of the bundle needs a package that is not installed.
        ModelError, ProfileError
            A tail cannot be loaded with these settings.
        """
        manifest = bundle.manifest
        if manifest.join is not None:
            raise ServingError(
                f"{bundle.folder}: the bundle of one device of several; serve the server's instead"
            )
        cuts = [cut for cut in manifest.cuts if cut.tail is not None]
        if not cuts:
            raise ServingError(
                f"{bundle.folder}: nothing to serve: this bundle runs all on the device"
            )
        if self._next is not None:
            cuts = self._next.cuts(bundle)
        self._demand_fitting(MessageLimits.of(manifest, self._policy.max_batch))
        settings = self._settings or manifest.tail_settings
        tails: dict[str, Tail] = {}
        for cut in cuts:
            if self._next is not None:
                runner: TailRunner = self._next.forward
            else:
                runner = self._runner(bundle, cut.tail or "", settings)
            policy = self._policy
            if not cut.batches:
                policy = replace(policy, max_batch=1, max_delay_s=0.0, preferred=())
            tails[cut.id] = Tail(manifest, cut, runner, self._queue, policy)
        for tail in tails.values():
            tail.warm_up()
        return Loaded(manifest, version, tails)

    def _demand_fitting(self, limits: MessageLimits) -> None:
        if self.most is not None and MessageLimits.largest([self.most, limits]) != self.most:
            raise ServingError(
                f"its messages take up to {limits.request_bytes} bytes and {limits.response_bytes} "
                f"back, the server was started for {self.most.request_bytes} and "
                f"{self.most.response_bytes}; start it again"
            )

    def _runner(self, bundle: Bundle, file: str, settings: Settings) -> TailRunner:
        """The tail in a file; the one that is in memory, where that has the same content."""
        content = (*_content(bundle.manifest, file), repr(settings))
        runner = self._runners.get(content)
        if runner is None:
            runner = self._runners[content] = Runner(bundle.folder / file, settings)
        return runner

    def close(self) -> None:
        """Close the connection to the next tier."""
        if self._next is not None:
            self._next.close()

    def _queue(self, policy: Policy, runner: TailRunner) -> Queue:
        if isinstance(runner, Forward):
            return ForwardQueue(self._scheduler, runner, policy)
        return Queue(self._scheduler, runner.run, policy)


def _content(manifest: Manifest, file: str) -> tuple[str, ...]:
    """What two tails have in common that are the same model: their files, by content."""
    data = (file, f"{file}.data", WEIGHTS)
    return tuple(manifest.files[name].sha256 if name in manifest.files else "" for name in data)
