"""The cascade: a quick answer where it is sure of itself, the server's otherwise.

A gate is the file of a small model with the model's inputs and outputs, the name of an output that the
head makes (an early exit), or a function of the feeds. A model's confidence is the greatest probability of
its first output: of a softmax, where these are no probabilities already; of the least sure sample.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from splitter.errors import InputError, ModelError
from splitter.partition.manifest import Manifest
from splitter.runtime import Array, Runner
from splitter.serving.device.options import Gate
from splitter.serving.device.parts import Parts

GATE = "gate"
"""The key of the gate's model among the parts."""

Quick = tuple[Mapping[str, Array], float]
"""Outputs by name, and how sure they are."""


def confidence(scores: Array) -> float:
    """How sure a classifier is, from 0 to 1; along the last axis."""
    values = np.atleast_1d(np.asarray(scores, np.float64))
    if not values.size or not np.isfinite(values).all():
        return 0.0
    if not _are_probabilities(values):
        powers = np.exp(values - values.max(axis=-1, keepdims=True))
        values = powers / powers.sum(axis=-1, keepdims=True)
    return float(values.max(axis=-1).min())


def _are_probabilities(values: Array) -> bool:
    return bool(values.min() >= 0 and np.allclose(values.sum(axis=-1), 1, atol=1e-3))


class Cascade:
    """Asks the gate. Thread-safe where a function that was given is."""

    def __init__(self, gate: Gate, manifest: Manifest, parts: Parts) -> None:
        """Raise InputError where a name is no output that a head makes."""
        self._names = [spec.name for spec in manifest.outputs]
        self._specs = {spec.name: spec for spec in manifest.outputs}
        self._parts = parts
        self._call: Callable[[Mapping[str, Array]], Quick] | None = None
        self.exit: str | None = None
        """The early exit, where that is the gate."""
        if isinstance(gate, (str, os.PathLike)):
            if gate_file(gate, manifest) is not None:
                self._call = self._run_model
            else:
                self.exit = str(gate)
                _demand_exit(self.exit, manifest)
        else:
            self._call = self._calling(gate)

    def ask(self, feeds: Mapping[str, Array]) -> Quick | None:
        """Run the gate on the feeds; None where it is an early exit."""
        return None if self._call is None else self._call(feeds)

    def ask_exit(self, values: Mapping[str, Array], wanted: Sequence[str]) -> Quick | None:
        """Take what the head made for the outputs that it did not; None where it is no such thing."""
        if self.exit is None or self.exit not in values:
            return None
        made = values[self.exit]
        alike = all(
            self._specs[name].shape == made.shape and self._specs[name].dtype == made.dtype.name
            for name in wanted
        )
        return (dict.fromkeys(wanted, made), confidence(made)) if alike else None

    def _run_model(self, feeds: Mapping[str, Array]) -> Quick:
        part = self._parts.get(GATE)
        demand_ports(part.runner, self._specs)
        made = part.run(feeds, self._names)
        return dict(zip(self._names, made, strict=True)), confidence(made[0])

    def _calling(
        self,
        gate: Callable[[Mapping[str, Array]], tuple[Mapping[str, Array] | Sequence[Array], float]],
    ) -> Callable[[Mapping[str, Array]], Quick]:
        def call(feeds: Mapping[str, Array]) -> Quick:
            outputs, sure = gate(feeds)
            if not isinstance(outputs, Mapping):
                outputs = dict(zip(self._names, outputs, strict=True))
            return outputs, sure

        return call


def gate_file(gate: Gate | None, manifest: Manifest) -> Path | None:
    """The file that a gate is, if it is one; an output's name goes before a file's."""
    if gate is None or not isinstance(gate, (str, os.PathLike)):
        return None
    if isinstance(gate, str) and any(spec.name == gate for spec in manifest.outputs):
        return None
    path = Path(gate)
    if not path.is_file():
        names = ", ".join(repr(spec.name) for spec in manifest.outputs)
        raise InputError(f"gate {str(gate)!r} is neither a file nor an output ({names})")
    return path


def demand_ports(runner: Runner, specs: Mapping[str, object]) -> None:
    """Raise ModelError where a model has not the outputs of the whole."""
    missing = [name for name in specs if name not in {port.name for port in runner.outputs}]
    if missing:
        raise ModelError(f"the gate has no output {missing[0]!r}; it must have those of the model")


def _demand_exit(name: str, manifest: Manifest) -> None:
    if all(name in cut.tail_outputs for cut in manifest.cuts if cut.tail is not None):
        raise InputError(
            f"gate {name!r} is an output of the tail; an early exit is one of the head"
        )
