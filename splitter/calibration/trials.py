"""Codecs tried on sample after sample, those that cannot win given up early."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from splitter.calibration.answers import Outcome, summarise, wilson
from splitter.calibration.records import Answer
from splitter.codec import Codec
from splitter.codec.bits import Bits
from splitter.codec.codec import AnyStage
from splitter.runtime import Array

Stages: TypeAlias = tuple[AnyStage, ...]

LOOKS = (10, 40)
"""Samples after which hopeless codecs are given up; after the last of them also dominated ones."""

LEAST_AGREEMENT = 0.6
MOST_ERROR = 0.5
"""Nobody accepts less agreement, or where the answer is no class more error."""

_SURE = 2.58  # 99 % of a normal distribution


@dataclass(frozen=True)
class Quantiser:
    """Codecs with the same lossy start: they decode to the same values, so one tail run is for all."""

    lossy: Codec
    """The stages up to the last one that loses something; none for lossless codecs."""
    codecs: tuple[Codec, ...]

    def encode(self, array: Array) -> tuple[bytes, tuple[int, ...]]:
        """The payload of the lossy start, and the bytes of every codec; raises CodecError."""
        payload = self.lossy.encode(array)
        start = self.lossy.forms(array.dtype.name, array.shape)[-1].array(payload)
        sizes = []
        for codec in self.codecs:
            value = start
            for stage in codec.stages[len(self.lossy.stages) :]:
                value = stage.encode(value)
            sizes.append(value.nbytes)
        return payload, tuple(sizes)

    def decode(self, payload: bytes, array: Array) -> Array:
        """What every codec makes of the array."""
        return self.lossy.decode(payload, array.dtype.name, array.shape)


@dataclass(eq=False)
class Trial:
    """A quantiser, and what it did so far."""

    quantiser: Quantiser
    sizes: list[tuple[int, ...]] = field(default_factory=list)
    """Bytes of each codec, a row a sample."""
    outcomes: list[Outcome] = field(default_factory=list)
    why_stopped: str = ""

    @property
    def is_lossless(self) -> bool:
        """It needs no tail runs."""
        return self.quantiser.lossy.is_lossless

    def answer(self) -> Answer:
        """Over the samples so far."""
        return summarise(self.outcomes)

    def mean_bytes(self) -> list[float]:
        """Of each codec."""
        return [sum(column) / len(self.sizes) for column in zip(*self.sizes, strict=True)]


def group(codecs: Iterable[Codec]) -> tuple[Quantiser, ...]:
    """Codecs by their lossy start, in the order in which each is first met; a lossless one is alone."""
    found: dict[tuple[Stages, str], list[Codec]] = {}
    for codec in codecs:
        alone = codec.name if codec.is_lossless else ""
        found.setdefault((_lossy_stages(codec), alone), []).append(codec)
    return tuple(
        Quantiser(Codec(members[0].name, stages), tuple(members))
        for (stages, _), members in found.items()
    )


def give_up(trials: Sequence[Trial]) -> None:
    """Stop those that are hopeless, and once there are samples enough those larger and worse than another."""
    lossy = [trial for trial in trials if not trial.is_lossless and trial.outcomes]
    for trial in lossy:
        if not trial.why_stopped:
            trial.why_stopped = _hopeless(trial.answer())
    running = [trial for trial in lossy if not trial.why_stopped]
    running = [trial for trial in running if len(trial.outcomes) >= LOOKS[-1]]
    for trial in running:
        better = next((other for other in running if _dominates(other, trial)), None)
        if better is not None:
            name, samples = better.quantiser.codecs[0].name, len(trial.outcomes)
            trial.why_stopped = f"larger and worse than {name} on {samples} samples"


def _lossy_stages(codec: Codec) -> Stages:
    last = max((i for i, stage in enumerate(codec.stages) if not stage.is_lossless), default=-1)
    return codec.stages[: last + 1]


def _hopeless(answer: Answer) -> str:
    if answer.agreement is None:
        if answer.error > MOST_ERROR:
            return f"error {answer.error:.2g} after {answer.samples} samples"
        return ""
    _, most = wilson(answer.agreement, answer.samples, _SURE)
    if most < LEAST_AGREEMENT:
        return f"agreement {answer.agreement:.0%} after {answer.samples} samples"
    return ""


def _is_worse(trial: Trial, other: Trial) -> bool:
    """In nothing better, on the samples that both were tried on, and in error worse."""
    samples = min(len(trial.outcomes), len(other.outcomes))
    a, b = summarise(trial.outcomes[:samples]), summarise(other.outcomes[:samples])
    return (
        (a.agreement or 0) <= (b.agreement or 0)
        and (a.lost or 0) >= (b.lost or 0)
        and a.error > b.error
    )


def _dominates(other: Trial, trial: Trial) -> bool:
    """Worse in the answer; and for each form of the trial, the other has a smaller one as quick.

    As quick: the same compressor. Another one that is smaller may be slower, and both are worth having.
    """
    rests = _rests(other)
    is_larger = all(
        any(rest == found and size < most for found, size in rests) for rest, most in _rests(trial)
    )
    return is_larger and _is_worse(trial, other)


def _rests(trial: Trial) -> list[tuple[Stages, float]]:
    """What follows the lossy start, packed bits apart, and the mean bytes."""
    skip = len(trial.quantiser.lossy.stages)
    rests = [
        tuple(stage for stage in codec.stages[skip:] if not isinstance(stage, Bits))
        for codec in trial.quantiser.codecs
    ]
    return list(zip(rests, trial.mean_bytes(), strict=True))
