"""What the device holds of a bundle: its parts, which of them answers alone, and the gate."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

from splitter.errors import InputError, ProfileError, ServingError, SplitterError
from splitter.partition.bundle import Bundle
from splitter.partition.manifest import WEIGHTS, CutSpec
from splitter.partition.weights import outside_bytes
from splitter.runtime import available_providers
from splitter.serving.device.cascade import GATE, Cascade, gate_file
from splitter.serving.device.fallback import Fallback, find_fallback
from splitter.serving.device.job import Job
from splitter.serving.device.options import SessionOptions
from splitter.serving.device.parts import Parts, Source
from splitter.serving.device.report import AnsweredBy, Result


class Device:
    """Answers without a server, as far as the bundle goes."""

    def __init__(self, bundle_dir: str | os.PathLike[str], options: SessionOptions) -> None:
        """Read the bundle; load nothing yet.

        Raises
        ------
        BundleError
            The bundle is damaged.
        ProfileError
            The provider is not installed.
        InputError
            The gate is neither a file nor an output of the head.
        """
        bundle = Bundle.open(bundle_dir, role="device", lazy=True)
        self.folder, self.manifest = bundle.folder, bundle.manifest
        self.settings = options.settings or self.manifest.settings
        if self.settings.provider not in available_providers():
            known = ", ".join(available_providers())
            raise ProfileError(
                f"provider {self.settings.provider!r} is not installed; this one has {known}"
            )
        gate = gate_file(options.gate, self.manifest)
        whole, stand_in = self.manifest.on_device, self.manifest.stand_in
        kept = [self.manifest.planned.head, whole and whole.head, stand_in and stand_in.file]
        self.parts = Parts(
            _files(bundle, gate),
            self.manifest.inputs,
            self.settings,
            options.memory_limit_bytes,
            [key for key in kept if key],
        )
        found, self.why_no_fallback = find_fallback(self.manifest, self.parts)
        self.fallback: Fallback | None = found if options.fallback else None
        self.cascade = None
        if options.gate is not None:
            self.cascade = Cascade(options.gate, self.manifest, self.parts)

    @property
    def has_exit(self) -> bool:
        """Whether the gate is an output that the head makes."""
        return self.cascade is not None and self.cascade.exit is not None

    def run_head(self, job: Job, cut: CutSpec) -> None:
        """Run the head of a cut, if it has one; raises as ``Parts.get`` and ``Part.run``."""
        job.values = dict(job.feeds)
        if cut.head is not None:
            part = self.parts.get(cut.head)
            started_s = time.monotonic()
            made = part.run(job.feeds)
            job.head_s = time.monotonic() - started_s
            job.values.update(
                (port.name, value) for port, value in zip(part.runner.outputs, made, strict=True)
            )

    def answer(self, job: Job) -> Result:
        """Answer by the whole model or its stand-in.

        Raises
        ------
        ServingError
            It cannot be loaded after all.
        InputError
            It refuses the feeds.
        """
        assert self.fallback is not None
        try:
            made, run_s = self.fallback.run(job.feeds, job.names)
        except InputError:
            raise
        except SplitterError as exc:
            raise ServingError(f"the device cannot answer instead of the server: {exc}") from exc
        timing = job.here(self.fallback.by, self.manifest.digest, run_s, self.fallback.cut)
        return job.done(dict(zip(job.names, made, strict=True)), timing)

    def answer_by_cut(self, job: Job, cut: CutSpec) -> Result:
        """Answer by what the head of a cut has made, which is all that is asked."""
        timing = job.here(AnsweredBy.DEVICE, self.manifest.digest, job.head_s, (cut.id, cut.name))
        return job.done(job.values, timing)

    def ask_gate(self, job: Job, sure: float) -> Result | None:
        """Answer by the gate where it is sure enough; before the head where it is no early exit."""
        if self.cascade is None:
            return None
        started_s = time.monotonic()
        quick = (
            self.cascade.ask_exit(job.values, job.wanted)
            if job.values
            else self.cascade.ask(job.feeds)
        )
        if not job.values:
            job.gate_s = time.monotonic() - started_s
        if quick is None or quick[1] < sure:
            return None
        timing = job.here(AnsweredBy.GATE, self.manifest.digest, job.head_s)
        return job.done(job.values | dict(quick[0]), timing)


def _files(bundle: Bundle, gate: Path | None) -> dict[str, Source]:
    """By key, which is the file's name in the bundle."""
    manifest, verify = bundle.manifest, cache(bundle.verify)  # shared weights only once
    files = {}
    for name in manifest.parts["device"]:
        path = bundle.folder / name
        beside = [data for data in (WEIGHTS, f"{name}.data") if data in manifest.files]
        files[name] = Source(
            path,
            partial(_weigh, path, manifest.files[name].nbytes, bool(beside)),
            partial(_verify, verify, (name, *beside)),
        )
    if gate is not None:
        files[GATE] = Source(gate, lambda: gate.stat().st_size)
    return files


def _verify(verify: Callable[[str], None], names: Sequence[str]) -> None:
    for name in names:
        verify(name)


def _weigh(path: Path, nbytes: int, has_outside: bool) -> int:
    return nbytes + (outside_bytes(path) if has_outside else 0)
