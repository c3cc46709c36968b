"""Codecs: bits against what is left of the answer, on one tensor and over many."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from splitter.calibration.answers import wilson
from splitter.calibration.records import Answer, Calibration, CodecResult, TensorResult
from splitter.planning.budget import Budget
from splitter.reporting.plots.style import DEVICE, GREY, LINES, SPLIT, blank, legend, logarithmic
from splitter.reporting.text import elided
from splitter.reporting.units import shape, size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEAST_ERROR = 1e-6
"""Where an error of 0 is drawn, on an axis of logarithms."""
_NAME_WIDTH = 34
_APART = 1.7
"""A name is given where there are so many times the bits of the last one."""


def codecs_plot(tensor: TensorResult) -> Figure:
    """Bits an element of one tensor's codecs against what is left of the answer, and against speed."""
    title = f"{tensor.tensor}  {tensor.dtype} {list(tensor.shape)}"
    figure, (left, right) = blank(title, columns=2)
    results = sorted(tensor.results, key=lambda result: result.wire_bytes)
    bits = [bits_of(tensor, result) for result in results]
    _draw_answer(left, bits, results)
    _draw_speed(right, bits, results, tensor.nbytes)
    for axes in (left, right):
        axes.set_xlabel("bits per element")
        axes.set_xscale("log")
        axes.grid(alpha=0.3)
    return figure


def bits_plot(calibration: Calibration, title: str) -> Figure:
    """What is left of the answer against bits an element, a line a tensor: the smallest codec for each."""
    figure, (axes,) = blank(title, height=4.8)
    is_class = calibration.answer == "top1"
    for tensor, look in zip(calibration.tensors, LINES * 9, strict=False):
        results = frontier(tensor.results)
        values = [_percent(r.answer) if is_class else _error(r.answer) for r in results]
        bits = [bits_of(tensor, result) for result in results]
        label = f"{elided(tensor.tensor, _NAME_WIDTH)}  {shape(tensor.shape)}"
        axes.plot(bits, values, look.mark, ls="-", lw=1.2, color=look.colour, label=label, ms=5)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("bits per element (float32 has 32)")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if is_class:
        axes.set_ylabel("answers that are the whole model's (%)")
    else:
        axes.set_ylabel("relative error of the answer")
        axes.set_yscale("log")
    axes.grid(alpha=0.25)
    legend(axes)
    return figure


def sizes_plot(calibration: Calibration, budget: Budget, title: str) -> Figure:
    """Bytes of each tensor: as it is, in the smallest lossless codec, and in the smallest within a budget."""
    figure, (axes,) = blank(title, height=1.8 + 0.42 * len(calibration.tensors))
    for place, tensor in enumerate(calibration.tensors):
        lossless = min((r for r in tensor.results if r.codec.is_lossless), key=_bytes, default=None)
        kept = budget.smallest(tensor)
        sizes = [tensor.nbytes, *(r.wire_bytes for r in (lossless, kept) if r is not None)]
        axes.plot([min(sizes), max(sizes)], [place, place], color=GREY, lw=1, zorder=1)
        axes.plot(tensor.nbytes, place, "|", color="#333333", ms=12, mew=2, label="as it is")
        if lossless is not None:
            axes.plot(
                lossless.wire_bytes, place, "s", color=DEVICE.colour, ms=7, label="without loss"
            )
        if kept is not None:
            axes.plot(kept.wire_bytes, place, "o", color=SPLIT.colour, ms=8, label=f"{budget}")
            axes.annotate(
                f"{kept.codec.name}, {size(kept.wire_bytes)}", (kept.wire_bytes, place),
                xytext=(0, 7), textcoords="offset points", fontsize=8, ha="center",
            )  # fmt: skip
    names = [elided(tensor.tensor, _NAME_WIDTH) for tensor in calibration.tensors]
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.margins(x=0.1, y=0.15)
    logarithmic(axes, "x", size)
    axes.set_xlabel("bytes on the wire for one sample")
    axes.grid(alpha=0.25, axis="x")
    legend(axes, columns=3, is_below=True)
    return figure


def bits_of(tensor: TensorResult, result: CodecResult) -> float:
    """On the wire, for each element of the tensor."""
    return 8 * result.wire_bytes / max(1, prod(tensor.shape))


def frontier(results: Sequence[CodecResult]) -> list[CodecResult]:
    """Those that leave more of the answer than every smaller one, the smallest first."""
    found: list[CodecResult] = []
    for result in sorted(results, key=_bytes):
        if not found or _goodness(result.answer) > _goodness(found[-1].answer):
            found.append(result)
    return found


def _bytes(result: CodecResult) -> int:
    return result.wire_bytes


def _goodness(answer: Answer) -> float:
    return -answer.error if answer.agreement is None else answer.agreement


def _percent(answer: Answer) -> float:
    return 100 * (answer.agreement or 0.0)


def _error(answer: Answer) -> float:
    return max(_LEAST_ERROR, answer.error)


def _draw_answer(axes: Axes, bits: Sequence[float], results: Sequence[CodecResult]) -> None:
    answers = [result.answer for result in results]
    if answers[0].agreement is None:
        values = [_error(answer) for answer in answers]
        axes.plot(bits, values, "o", color=SPLIT.colour)
        axes.set_yscale("log")
        axes.set_ylabel("relative error")
    else:
        values = [answer.agreement or 0.0 for answer in answers]
        spans = [wilson(answer.agreement or 0.0, answer.samples) for answer in answers]
        below = [value - low for value, (low, _) in zip(values, spans, strict=True)]
        above = [high - value for value, (_, high) in zip(values, spans, strict=True)]
        axes.errorbar(
            bits, values, [below, above], fmt="o", capsize=2, color=SPLIT.colour, label="agreement"
        )
        if answers[0].accuracy is not None:
            axes.plot(bits, [answer.accuracy or 0.0 for answer in answers], "x", label="accuracy")
        axes.set_ylabel("part of the samples, 95 % interval")
        legend(axes)
    best, last = frontier(results), 0.0
    for place, value, result in zip(bits, values, results, strict=True):
        if result in best and place > _APART * last:  # all names would lie on one another
            last = place
            axes.annotate(
                result.codec.name, (place, value), fontsize=7, xytext=(4, 5),
                textcoords="offset points",
            )  # fmt: skip


def _draw_speed(
    axes: Axes, bits: Sequence[float], results: Sequence[CodecResult], nbytes: int
) -> None:
    for name, mark, colour in (("encode", "o", SPLIT.colour), ("decode", "x", DEVICE.colour)):
        times = [max(1e-9, getattr(result, f"{name}_s")) for result in results]
        axes.plot(bits, [nbytes / time / 1e6 for time in times], mark, color=colour, label=name)
    axes.set_yscale("log")
    axes.set_ylabel("MB of the tensor a second")
    legend(axes)
