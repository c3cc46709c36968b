"""Head and tail as one model: the device's side."""

from __future__ import annotations

import dataclasses
import os
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Unpack

import numpy as np

from splitter.errors import ServingError, SplitterError
from splitter.graph.values import Tensor
from splitter.partition.manifest import PortSpec
from splitter.runtime import Array, Port
from splitter.serving import tracing
from splitter.serving.device.attempts import Cancellation
from splitter.serving.device.client import Peer
from splitter.serving.device.core import Core
from splitter.serving.device.models import Device
from splitter.serving.device.options import SessionKeywords, SessionOptions
from splitter.serving.device.refine import refined
from splitter.serving.device.remote import Remote
from splitter.serving.device.report import AnsweredBy, Result, Timing, Why
from splitter.serving.device.stream import ResultStream
from splitter.serving.protocol import Address, MessageLimits


@dataclass(frozen=True)
class ModelMeta:
    """What onnxruntime's ``get_modelmeta`` says, as far as a bundle knows it."""

    graph_name: str
    producer_name: str = "splitter"
    description: str = ""
    domain: str = ""
    version: int = 0
    custom_metadata_map: Mapping[str, str] = field(default_factory=dict)


class Session:
    """Runs a bundle like onnxruntime's session runs the whole model. Thread-safe."""

    def __init__(
        self,
        bundle_dir: str | os.PathLike[str],
        server: str | None = None,
        *,
        options: SessionOptions = SessionOptions(),  # noqa: B008  (frozen)
        **changes: Unpack[SessionKeywords],
    ) -> None:
        """Begin to connect and to load, and wait for neither.

        Parameters
        ----------
        server
            ``HOST:PORT`` of the tail; None: work offline, where the bundle can.
        options
            Everything that can be set.
        changes
            Fields of the options, by name, such as ``deadline_s=0.2``.

        Raises
        ------
        ServingError
            The bundle has a tail and nothing to answer without it, and no server was given; or the
            address is malformed, or an option means nothing.
        MissingExtraError
            A codec of the bundle needs a package that is not installed.
        BundleError, ProfileError, InputError
            The bundle is damaged, the provider not installed, or the gate no gate.
        """
        options = dataclasses.replace(options, **changes)
        device = Device(bundle_dir, options)
        self.manifest = device.manifest
        self.options = options
        self.last = Timing()
        """Of the run that ended last, in whichever thread."""
        remote = None
        if server is not None and any(cut.tail is not None for cut in self.manifest.cuts):
            limits = MessageLimits.of(self.manifest)
            peer = Peer(Address.parse(server), limits, options.tls, options.token)
            link = self.manifest.link
            remote = Remote(peer, options.retries, 0.0 if link is None else link.rtt_s)
        try:
            self._core = Core(device, remote, options)
        except SplitterError:
            if remote is not None:
                remote.close()
            raise
        # also for a session that is forgotten, as onnxruntime's may be
        self._close = weakref.finalize(self, self._core.close)

    @property
    def inputs(self) -> Mapping[str, Tensor]:
        """Of the whole model, by name, but for state that the server holds."""
        return self._core.inputs

    def get_inputs(self) -> list[Port]:
        """Inputs of the whole model, but for state that the server holds."""
        return [_port(spec) for spec in self.manifest.inputs if spec.name in self.inputs]

    def get_outputs(self) -> list[Port]:
        """Outputs of the whole model, in the order in which ``run`` returns them.

        Those that stay on the server, or go to another device, are not among them.
        """
        asked = self._core.marks.names(None)
        return [_port(spec) for spec in self.manifest.outputs if spec.name in asked]

    def get_providers(self) -> list[str]:
        """What runs the parts here."""
        return [self._core.device.settings.provider]

    def get_modelmeta(self) -> ModelMeta:
        """Name of the model and digest of the bundle."""
        return ModelMeta(self.manifest.name, custom_metadata_map={"bundle": self.manifest.digest})

    def run(
        self,
        output_names: Sequence[str] | None,
        feeds: Mapping[str, Array],
        run_options: object = None,
    ) -> list[Array]:
        """Run the model; ``last`` says how. ``run_options`` are onnxruntime's, and ignored.

        Raises
        ------
        InputError
            A feed or output name is unknown or missing, or a feed has the wrong dtype or shape.
        StaleBundleError
            The server has another bundle, and nothing here can answer.
        ServingError
            The server cannot be reached, is late, or refuses, and nothing here can answer.
        """
        return list(self.infer(feeds, output_names).outputs.values())

    def infer(
        self,
        feeds: Mapping[str, Array],
        output_names: Sequence[str] | None = None,
        *,
        deadline_s: float | None = None,
        priority: int = 0,
        cancellation: Cancellation | None = None,
        join: str | None = None,
    ) -> Result:
        """Run the model, and say who answered and where the time went; raises as ``run``.

        Parameters
        ----------
        deadline_s
            Seconds to the answer, instead of the option's.
        priority
            Of the request in the server's queue: 1 is the highest, 0 the server's default.
        cancellation
            Lets another thread withdraw the request.
        join
            Of one device of several: what the parts of this request have in common, such as the time of
            the recording. By default the n-th requests of all sessions belong together.
        """
        core = self._core
        job = core.admit(feeds, output_names, deadline_s, priority, cancellation, join)
        with core.marks.turn, tracing.span("splitter.run"):
            core.begin(job)
            core.encode(job)
            result = core.answer(job)
        self.last = result.timing
        return result

    def run_stream(
        self,
        many: Iterable[Mapping[str, Array]],
        output_names: Sequence[str] | None = None,
        *,
        in_flight: int = 8,
        ordered: bool = True,
        deadline_s: float | None = None,
    ) -> ResultStream:
        """Run many, so that head, encoding, link and tail of different ones overlap.

        At most ``in_flight`` are taken out of ``many`` ahead of the results. The error of one is raised
        in its place, after which the stream goes on. Closing it cancels what is on the way. Where state
        lives on the server each waits for the one before it.
        """
        if self._core.marks.is_sequence:
            in_flight = min(in_flight, 1)
        return ResultStream(
            self._core, many, output_names, in_flight, deadline_s, self._note, ordered=ordered
        )

    def run_refined(
        self, output_names: Sequence[str] | None, feeds: Mapping[str, Array]
    ) -> Iterator[Result]:
        """Yield a quick answer of the gate or the fallback, then the server's when it comes.

        Only one of them where there is no other. Raises as ``run`` where there is none at all.
        """
        if self._core.marks.is_sequence:
            raise ServingError("state lives on the server, which alone can answer: use run")
        for result in refined(self._core, self._core.admit(feeds, output_names)):
            self._note(result)
            yield result

    def wait_for_server(self, patience_s: float) -> bool:
        """Wait for the first connection, made or refused; whether requests go to the server now."""
        return self._core.wait_for_server(patience_s)

    def warm_up(self) -> None:
        """Run once on zeros, so that a wrong server is found and the connection is made.

        Raises
        ------
        InputError, ServingError
            As ``run``; a model may also refuse zeros.
        """
        zeros = {s.name: _zeros(s) for s in self.manifest.inputs if s.name in self.inputs}
        self.run(None, zeros)
        self.reset()

    def reset(self) -> None:
        """Forget the state that lives on the server: the next request begins with zeros.

        Needed too where the server has lost it. Without such state it does nothing.
        """
        self._core.marks.reset()

    def close(self) -> None:
        """End every thread and connection; requests that run fail."""
        self._close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _note(self, result: Result) -> None:
        self.last = result.timing


def _port(spec: PortSpec) -> Port:
    unknown = (None,)  # of a shape that depends on the data the manifest has not even the rank
    return Port(spec.name, spec.dtype, unknown if spec.shape is None else spec.shape)


def _zeros(spec: PortSpec) -> Array:
    return np.zeros(spec.shape or (), spec.dtype)


__all__ = ["AnsweredBy", "ModelMeta", "Result", "Session", "SessionOptions", "Timing", "Why"]
