"""A calibration as text: what each tensor takes at a few budgets, and the input's own encodings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from math import prod

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from splitter.calibration.answers import wilson
from splitter.calibration.records import Answer, Calibration, CodecResult, TensorResult
from splitter.codec import Codec
from splitter.codec.pcm import Pcm
from splitter.codec.pixels import NearPixels, Pixels
from splitter.planning.budget import Budget
from splitter.reporting.text import elided, plain_table
from splitter.reporting.units import seconds, shape, size

ERRORS = (1e-3, 1e-2, 5e-2)
"""Budgets where the answer is values."""

_NAME_WIDTH = 56
_SHOWN_SKIPPED = 3
Keeps = Callable[[Answer], bool]


def calibration_text(calibration: Calibration) -> RenderableType:
    """What was measured on what; then for each tensor the smallest codec within each budget."""
    parts: list[RenderableType] = [_headline(calibration), Text()]
    for tensor in calibration.tensors:
        parts += [*tensor_lines(tensor, _budgets(calibration)), Text()]
        encodings = tuple(result for result in tensor.results if is_encoding(result.codec))
        if encodings:
            sent = msgspec.structs.replace(tensor, results=encodings)
            parts += [
                Text("sent in its own encodings (encode, decode: MB of the tensor a second)"),
                codec_table(sent),
                Text(),
            ]
    parts.append(Text(_footnote(calibration)))
    return Group(*parts)


def codec_table(tensor: TensorResult) -> Table:
    """Every codec of one tensor: bits per element, what is left of the answer, MB of the tensor a second."""
    is_top1 = any(result.answer.agreement is not None for result in tensor.results)
    answer = ["agree %", "right %"] if is_top1 else ["error", "cosine"]
    table = plain_table(
        "codec", "bits", "bytes", *answer, "encode", "decode", numbers=range(1, 7), whole=(0,)
    )
    for result in tensor.results:
        found = result.answer
        cells = (
            [_left(result), _part(found.accuracy, found.samples)]
            if is_top1
            else [f"{found.error:.2g}", f"{found.cosine:.5f}"]
        )
        table.add_row(
            result.codec.name, _bits(tensor, result), size(result.wire_bytes), *cells,
            _speed(tensor.nbytes, result.encode_s), _speed(tensor.nbytes, result.decode_s),
        )  # fmt: skip
    return table


def tensor_text(tensor: TensorResult) -> RenderableType:
    """One tensor with every codec, and those that were given up."""
    head = Text.assemble(
        (tensor.tensor, "bold"), f"  {tensor.dtype} {shape(tensor.shape)}, {size(tensor.nbytes)}"
    )
    speeds = Text("encode, decode: MB of the tensor a second", style="dim")
    parts: list[RenderableType] = [head, codec_table(tensor), speeds]
    parts += [Text(f"lossless only: {tensor.note}")] if tensor.note else []
    parts += [Text(f"given up  {line}", style="dim") for line in tensor.stopped]
    return Group(*parts)


def tensor_lines(
    tensor: TensorResult, budgets: Iterable[tuple[str, Keeps]]
) -> list[RenderableType]:
    """The smallest codec within each budget; lossless ones keep any."""
    table = plain_table(
        "within", "bits", "bytes", "encode", "decode", "left", "codec",
        numbers=range(1, 5), whole=(0, 5),
    )  # fmt: skip
    for name, keeps in budgets:
        best = smallest(tensor, keeps)
        if best is not None:
            table.add_row(
                name, _bits(tensor, best), size(best.wire_bytes), seconds(best.encode_s),
                seconds(best.decode_s), _left(best), best.codec.name,
            )  # fmt: skip
    head = Text.assemble(
        (elided(tensor.tensor, _NAME_WIDTH), "bold"), f"  {tensor.dtype} {shape(tensor.shape)}"
    )
    notes = [Text(f"lossless only: {tensor.note}", style="dim")] if tensor.note else []
    return [head, table, *notes]


def smallest(tensor: TensorResult, keeps: Keeps) -> CodecResult | None:
    """Of the codecs whose answer keeps a budget the one with the fewest bytes, then the quickest."""
    fitting = [r for r in tensor.results if r.codec.is_lossless or keeps(r.answer)]
    return min(fitting, key=lambda r: (r.wire_bytes, r.encode_s + r.decode_s), default=None)


def _speed(nbytes: int, elapsed_s: float) -> str:
    return f"{nbytes / elapsed_s / 1e6:.0f}" if elapsed_s else ""


def _budgets(calibration: Calibration) -> list[tuple[str, Keeps]]:
    budgets: list[tuple[str, Keeps]] = [("lossless", lambda answer: False)]
    if calibration.answer == "values":
        return budgets + [(f"error {most:g}", partial(_is_near, most)) for most in ERRORS]
    allowed = Budget(kind="accuracy", limit=0.01)
    budgets.append(("all agree", lambda answer: answer.agreement == 1))
    budgets.append(("budget 1 %", lambda answer: allowed.loss(answer) <= allowed.limit))
    budgets.append(("95 % agree", lambda answer: (answer.agreement or 0) >= 0.95))
    return budgets


def _is_near(most: float, answer: Answer) -> bool:
    return answer.error <= most


def is_encoding(codec: Codec) -> bool:
    """It is of photos or sound, and of nothing else."""
    return any(isinstance(stage, Pixels | NearPixels | Pcm) for stage in codec.stages)


def _headline(calibration: Calibration) -> Text:
    data = calibration.data
    about = f"{calibration.model_file} on {data.samples} samples of {data.folder}"
    lines = [
        f"{calibration.fingerprint.get('processor', '?')} ({calibration.tier}), one thread to encode"
        " and decode"
    ]
    if calibration.whole_accuracy is not None:
        lines.append(f"whole model right: {_part(calibration.whole_accuracy, data.samples)} %")
    if data.skipped:
        lines.append(f"{len(data.skipped)} files could not be read:")
        lines += [f"  {line}" for line in data.skipped[:_SHOWN_SKIPPED]]
    return Text.assemble((about, "bold"), "\n" + "\n".join(lines))


def _footnote(calibration: Calibration) -> str:
    lossy = "Bits are per element of the tensor, means over the samples."
    if calibration.answer == "values":
        return f"{lossy} Error is ||a - b|| / ||a|| of the outputs."
    return (
        f"{lossy} What is left is the part of samples with the whole model's answer, in percent, and "
        "its 95 % interval."
    )


def _left(result: CodecResult) -> str:
    answer = result.answer
    if result.codec.is_lossless:
        return "all"
    if answer.agreement is None:
        return f"error {answer.error:.2g}"
    return _part(answer.agreement, answer.samples)


def _part(part: float | None, samples: int) -> str:
    """``98.5 [96,99]``: in percent, with its interval."""
    if part is None:
        return ""
    low, high = wilson(part, samples)
    return f"{part * 100:.1f} [{low * 100:.0f},{high * 100:.0f}]"


def _bits(tensor: TensorResult, result: CodecResult) -> str:
    elements = prod(tensor.shape)
    return f"{8 * result.wire_bytes / elements:.2f}" if elements else ""
