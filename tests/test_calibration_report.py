"""A calibration as text: right in 80 columns, whatever the names."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console, RenderableType

from splitter.calibration.records import (
    Answer,
    Calibration,
    CodecResult,
    DataSource,
    TensorResult,
)
from splitter.codec import RAW, Codec
from splitter.codec.affine import Affine
from splitter.codec.zstd import Zstd
from splitter.reporting.calibration import calibration_text, smallest, tensor_text
from splitter.runtime import Settings


def answer(agreement: float | None, lost: float | None = None, error: float = 0.0) -> Answer:
    return Answer(
        samples=200, agreement=agreement, accuracy=None if lost is None else 0.6 - lost, lost=lost,
        error=error, cosine=1.0,
    )  # fmt: skip


def result(codec: Codec, size: int, left: Answer) -> CodecResult:
    return CodecResult(
        codec=codec, wire_bytes=size, wire_bytes_p95=size, encode_s=1e-3, decode_s=5e-4, answer=left
    )


def lossy(name: str, size: int, left: Answer) -> CodecResult:
    return result(Codec(name, (Affine(4, (1.0,), (1.0,)), Zstd(1))), size, left)


def tensor(*results: CodecResult, name: str = "relu", note: str = "") -> TensorResult:
    raw = result(RAW, 4000, answer(1.0, 0.0))
    return TensorResult(
        tensor=name, dtype="float32", shape=(10, 100), nbytes=4000, results=(raw, *results),
        note=note,
    )  # fmt: skip


LABELLED = tensor(
    lossy("fine", 800, answer(1.0, 0.0)),
    lossy("middle", 400, answer(0.98, 0.01)),
    lossy("coarse", 200, answer(0.95, 0.02)),
    lossy("useless", 100, answer(0.5, 0.3)),
)


def calibration(*tensors: TensorResult, **changes: object) -> Calibration:
    found = Calibration(
        created="2026-01-01T00:00:00+00:00", model_file="m.onnx", model_sha256="0" * 64, dims={},
        shapes={}, fingerprint={"processor": "P"}, tier="here", settings=Settings(),
        data=DataSource(folder="photos", digest="0", samples=200, labelled=True),
        answer="top1", whole_accuracy=0.6, tensors=tensors,
    )  # fmt: skip
    return msgspec.structs.replace(found, **changes)


def shown(renderable: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def row(text: str, start: str) -> list[str]:
    return next(line for line in text.splitlines() if line.startswith(start)).split()


def test_within_each_budget_the_smallest_is_shown() -> None:
    text = shown(calibration_text(calibration(LABELLED)))
    for start, codec, bits in (
        ("lossless", "raw", "32.00"), ("all agree", "fine", "6.40"), ("budget 1 %", "middle", "3.20"),
        ("95 % agree", "coarse", "1.60"),
    ):  # fmt: skip
        cells = row(text, start)
        assert cells[-1] == codec
        assert bits in cells
    assert "98.0 [95,99]" in text
    assert "whole model right: 60.0 [53,67] %" in text


def test_without_labels_agreement_counts_and_of_values_the_error() -> None:
    data = DataSource(folder="photos", digest="0", samples=200, labelled=False)
    text = shown(calibration_text(calibration(LABELLED, data=data, whole_accuracy=None)))
    assert row(text, "all agree")[-1] == "fine"
    near = tensor(lossy("near", 900, answer(None, error=0.009)))
    text = shown(calibration_text(calibration(near, answer="values", data=data)))
    assert row(text, "error 0.001")[-1] == "raw"
    assert row(text, "error 0.01")[-1] == "near"


def test_of_as_many_bytes_the_quicker_is_the_smallest() -> None:
    slow = lossy("slow", 10, answer(1.0, 0.0))
    quick = msgspec.structs.replace(slow, codec=Codec("quick", slow.codec.stages), encode_s=1e-6)
    found = smallest(tensor(slow, quick), lambda left: True)
    assert found is not None
    assert found.codec.name == "quick"


@pytest.mark.parametrize("name", ["/deep" * 40, "[bold]x[/bold]", "a:star:0"])
def test_lines_fit_80_columns_and_names_are_no_markup(name: str) -> None:
    found = msgspec.structs.replace(
        tensor(*LABELLED.results[1:], name=name, note="for a reason"), stopped=("x: " + "y" * 90,)
    )
    for renderable in (calibration_text(calibration(found)), tensor_text(found)):
        text = shown(renderable)
        assert max(map(len, text.splitlines())) <= 80
        assert "for a reason" in text
        assert len(name) > 60 or name in text


def test_a_table_of_codecs_keeps_its_figures_in_80_columns() -> None:
    named = Codec("webp-lossless", (Affine(4, (1.0,), (1.0,)), Zstd(1)))
    wide = result(named, 123_456_789, answer(0.985, 0.005))
    text = shown(tensor_text(tensor(wide)))
    cells = row(text, "webp-lossless")
    assert "98.5" in cells
    assert "[96,99]" in cells
    assert cells[-2:] == ["4", "8"]


def test_an_empty_tensor_and_no_tensors_are_shown() -> None:
    empty = msgspec.structs.replace(LABELLED, shape=(0, 4), nbytes=0, note="no elements")
    assert "0x4" in shown(calibration_text(calibration(empty)))
    assert "m.onnx" in shown(calibration_text(calibration()))
