"""What is left of a model's answer: sample by sample, then over all samples with their interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from splitter.calibration.records import Answer
from splitter.errors import CalibrationError
from splitter.runtime import Array

Values = Mapping[str, Array]
Kind = Literal["top1", "values"]

MAX_ERROR = 1e6
"""Stands for any larger error, and for one that is not finite: JSON has no infinity."""


@dataclass(frozen=True)
class Outcome:
    """One sample's answer beside the whole model's; parts are of its positions, of which most have one."""

    agreement: float | None
    """None where the answer is no class."""
    accuracy: float | None
    """None without a label."""
    lost: float | None
    error: float
    cosine: float


def answer_kind(
    outputs: Values, asked: Literal["auto", "top1", "values"], *, is_labelled: bool, is_text: bool
) -> Kind:
    """Whether the first output is a class; ``outputs`` are one sample's.

    Left to itself it is where there are labels, where it is float scores of rank 2 (sizes of 1 at the
    end not counted) with two columns or more, or where text goes in and scores of rank 3 come out.

    Raises
    ------
    CalibrationError
        A class is asked for, or there are labels, and the first output holds no scores.
    """
    first = _scores(next(iter(outputs.values())))
    if asked == "values" or (asked == "auto" and first is None and not is_labelled):
        return "values"
    if first is None:
        name, found = next(iter(outputs.items()))
        raise CalibrationError(
            f"output {name!r}, {found.dtype} of shape {list(found.shape)}, holds no scores of "
            "classes along its last axis; leave the labels out and use --answer values"
        )
    plain = first.ndim == 2 or is_text
    return "top1" if asked == "top1" or is_labelled or plain else "values"


def class_count(outputs: Values) -> int:
    """How many classes the first output has scores of."""
    scores = _scores(next(iter(outputs.values())))
    return 0 if scores is None else scores.shape[-1]


def usual_sizes(reference: Sequence[Values]) -> dict[str, float]:
    """Root mean square over the samples of each output's norm, of its finite elements."""
    found = {}
    for name in reference[0]:
        norms = [_norm(outputs[name]) for outputs in reference]
        found[name] = math.hypot(*norms) / math.sqrt(len(norms))
    return found


def compare_answers(
    whole: Values, found: Values, kind: Kind, label: int | None, usual: Mapping[str, float]
) -> Outcome:
    """Compare every output with the whole model's; the class is that of the first.

    ``usual`` holds the least size that an output's error is relative to: of a sample on which the model
    finds nothing, the output is near zero all over, and any error would be large beside it.
    """
    gaps = [_gap(whole[name], found[name], usual[name]) for name in whole]
    error = max((gap for gap, _ in gaps), default=0.0)
    cosine = min((cosine for _, cosine in gaps), default=1.0)
    if kind == "values":
        return Outcome(None, None, None, error, cosine)
    name = next(iter(whole))
    expected, classes = _classes(whole[name]), _classes(found[name])
    agreement = float(np.mean(expected == classes))
    if label is None:
        return Outcome(agreement, None, None, error, cosine)
    right = classes == label
    lost = float(np.mean((expected == label) & ~right))
    return Outcome(agreement, float(np.mean(right)), lost, error, cosine)


def summarise(outcomes: Sequence[Outcome]) -> Answer:
    """Means over the samples; accuracy over those that have a label. At least one outcome."""
    errors = [outcome.error for outcome in outcomes]
    return Answer(
        samples=len(outcomes),
        agreement=_mean([outcome.agreement for outcome in outcomes]),
        accuracy=_mean([outcome.accuracy for outcome in outcomes]),
        lost=_mean([outcome.lost for outcome in outcomes]),
        error=min(MAX_ERROR, float(np.mean(errors))),
        cosine=float(np.mean([outcome.cosine for outcome in outcomes])),
    )


def unchanged(whole: Answer) -> Answer:
    """The answer where nothing was lost, given the whole model's beside itself."""
    return Answer(
        samples=whole.samples,
        agreement=None if whole.agreement is None else 1.0,
        accuracy=whole.accuracy,
        lost=None if whole.lost is None else 0.0,
        error=0.0,
        cosine=1.0,
    )


def dot(a: Array, b: Array) -> float:
    """The inner product, on this thread alone: numpy's own hands it to a library that starts others."""
    return float(np.einsum("i,i->", a, b))


def wilson(part: float, samples: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of a part that was seen in some samples; z = 1.96 holds it with 95 %.

    E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209: unlike part +- z sqrt(...) it stays within 0 and
    1, and is not empty where the part is 0 or 1.
    """
    if samples == 0:
        return 0.0, 1.0
    square = z * z / samples
    centre = (part + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(part * (1 - part) / samples + square / (4 * samples))
    # never beside the part itself, where rounding would have it so
    return max(0.0, min(part, centre - half)), min(1.0, max(part, centre + half))


def _mean(parts: Sequence[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return float(np.mean(known)) if known else None


def _scores(output: Array) -> Array | None:
    """Scores with the classes along the last axis, or None: of rank 2, or 3 with positions."""
    if not isinstance(output, np.ndarray) or output.dtype.name not in _FLOATS:
        return None
    while output.ndim > 2 and output.shape[-1] == 1:
        output = output[..., 0]
    is_scores = output.ndim in (2, 3) and output.shape[-1] >= 2 and output.size > 0
    return output if is_scores else None


_FLOATS = ("float16", "bfloat16", "float32", "float64")


def _classes(output: Array) -> Array:
    scores = _scores(output)
    if scores is None:
        raise CalibrationError(f"an output of shape {list(output.shape)} holds no scores")
    return np.asarray(scores.argmax(axis=-1))


def _norm(output: Array) -> float:
    if not _is_numeric(output):
        return 0.0
    flat = output.reshape(-1).astype(np.float64)
    finite = flat[np.isfinite(flat)]
    return math.sqrt(dot(finite, finite))


def _gap(whole: Array, found: Array, usual: float) -> tuple[float, float]:
    """||a - b|| / ||a|| and the cosine; over the elements that are finite in the whole's."""
    if not _is_numeric(whole) or not _is_numeric(found) or whole.shape != found.shape:
        is_equal = np.array_equal(np.asarray(whole), np.asarray(found))
        return (0.0, 1.0) if is_equal else (1.0, 0.0)
    a, b = whole.reshape(-1).astype(np.float64), found.reshape(-1).astype(np.float64)
    finite = np.isfinite(a)
    if not finite.all():
        a, b = a[finite], b[finite]
    if not np.isfinite(b).all():
        return MAX_ERROR, 0.0
    norm, other, gap = (math.sqrt(dot(x, x)) for x in (a, b, a - b))
    size = max(norm, usual)
    error = min(MAX_ERROR, gap / size) if size else float(gap > 0)
    if norm == 0 or other == 0:
        return error, float(gap == 0)
    return error, max(-1.0, min(1.0, dot(a, b) / norm / other))


def _is_numeric(value: Array) -> bool:
    return isinstance(value, np.ndarray) and (
        value.dtype.kind in "biuf" or value.dtype.name in _FLOATS
    )
