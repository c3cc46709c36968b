"""Plots, with the extra ``plot``; the only user of matplotlib."""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from splitter.calibration.answers import wilson
from splitter.calibration.records import CodecResult, TensorResult
from splitter.document import replacing
from splitter.errors import SplitterError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg", ".pdf")
_LEAST_ERROR = 1e-6
"""Where an error of 0 is drawn, on an axis of logarithms."""


def demand_plot(path: str | os.PathLike[str]) -> None:
    """Refuse a plot that could not be written, before anything is measured; raises SplitterError."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise SplitterError(f"{path}: a plot is {', '.join(SUFFIXES)}; name one of these")
    if not path.parent.is_dir():
        raise SplitterError(f"{path}: the folder does not exist; name one that does")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise SplitterError(
            f"{path}: drawing needs matplotlib; pip install 'splitter[plot]'"
        ) from None


def plot_codecs(tensor: TensorResult, path: str | os.PathLike[str]) -> None:
    """Draw bits an element against what is left of the answer, and against speed; raises SplitterError."""
    demand_plot(path)
    from matplotlib.figure import Figure

    path = Path(path)
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    results = sorted(tensor.results, key=lambda result: result.wire_bytes)
    bits = [8 * result.wire_bytes / max(1, prod(tensor.shape)) for result in results]
    _draw_answer(left, bits, results)
    _draw_speed(right, bits, results, tensor.nbytes)
    for axes in (left, right):
        axes.set_xlabel("bits per element")
        axes.set_xscale("log")
        axes.grid(alpha=0.3)
    figure.suptitle(f"{tensor.tensor}  {tensor.dtype} {list(tensor.shape)}")
    with replacing(path) as file:
        figure.savefig(file, format=path.suffix[1:].lower(), dpi=120)


def _draw_answer(axes: Axes, bits: Sequence[float], results: Sequence[CodecResult]) -> None:
    answers = [result.answer for result in results]
    if answers[0].agreement is None:
        axes.plot(bits, [max(_LEAST_ERROR, answer.error) for answer in answers], "o")
        axes.set_yscale("log")
        axes.set_ylabel("relative error")
        values = [max(_LEAST_ERROR, answer.error) for answer in answers]
    else:
        values = [answer.agreement or 0.0 for answer in answers]
        spans = [wilson(answer.agreement or 0.0, answer.samples) for answer in answers]
        below = [value - low for value, (low, _) in zip(values, spans, strict=True)]
        above = [high - value for value, (_, high) in zip(values, spans, strict=True)]
        axes.errorbar(bits, values, [below, above], fmt="o", capsize=2, label="agreement")
        if answers[0].accuracy is not None:
            axes.plot(bits, [answer.accuracy or 0.0 for answer in answers], "x", label="accuracy")
        axes.set_ylabel("part of the samples, 95 % interval")
        axes.legend()
    goodness = [-value for value in values] if answers[0].agreement is None else values
    best = float("-inf")
    for place, value, good, result in zip(bits, values, goodness, results, strict=True):
        if good <= best:
            continue  # a smaller one is as good: the names of all would lie on top of one another
        best = good
        axes.annotate(
            result.codec.name, (place, value), fontsize=7, xytext=(4, -9),
            textcoords="offset points",
        )  # fmt: skip


def _draw_speed(
    axes: Axes, bits: Sequence[float], results: Sequence[CodecResult], nbytes: int
) -> None:
    for name, mark in (("encode", "o"), ("decode", "x")):
        times = [max(1e-9, getattr(result, f"{name}_s")) for result in results]
        axes.plot(bits, [nbytes / time / 1e6 for time in times], mark, label=name)
    axes.set_yscale("log")
    axes.set_ylabel("MB of the tensor a second")
    axes.legend()
