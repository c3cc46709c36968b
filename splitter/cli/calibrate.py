"""``splitter calibrate``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import click

from splitter.cli.options import (
    announce,
    json_option,
    load,
    model_options,
    preprocess_option,
    progress_bars,
    publish,
    settings_options,
)
from splitter.preprocess import Preprocess
from splitter.runtime import Settings


@click.command(
    "calibrate",
    epilog="\b\nExamples:\n"
    "  splitter calibrate model.onnx --data photos -o calibration.json\n"
    "  splitter calibrate model.onnx --data photos --labels labels.csv --preprocess caffe -o c.json\n"
    "  splitter calibrate model.onnx --data speech --tensor relu_3 --tensor relu_4 -o c.json",
)
@model_options
@click.option(
    "--data", required=True, type=click.Path(), metavar="DIR",
    help="Images, npy or npz arrays, sound or text.",
)  # fmt: skip
@click.option("--labels", type=click.Path(), help="Class indices: file,class_index a line.")
@preprocess_option
@click.option("--samples", default=200, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--tensors", default=30, show_default=True, type=click.IntRange(min=0),
    help="To try at most, beside the inputs.",
)  # fmt: skip
@click.option("--tensor", "only", multiple=True, metavar="NAME", help="Try these instead.")
@click.option(
    "--answer", default="auto", show_default=True, type=click.Choice(["auto", "top1", "values"]),
    help="What the model's answer is: a class, or values.",
)  # fmt: skip
@click.option(
    "--jobs", default=2, show_default=True, type=click.IntRange(1, 1024), help="Samples at a time."
)
@settings_options
@click.option(
    "-o", "--output", required=True, type=click.Path(dir_okay=False), help="The calibration."
)
@json_option
def command(
    model: str, dims: Sequence[str], shapes: Sequence[str], data: str, labels: str | None,
    preprocess: Preprocess | None, samples: int, tensors: int, only: Sequence[str],
    answer: Literal["auto", "top1", "values"], jobs: int, settings: Settings, output: str, as_json: bool,
) -> None:  # fmt: skip
    """Measure what codecs do to the tensors of MODEL that may cross: bytes, seconds, and the answer.

    One that is stopped goes on from where it was: what was measured lies beside the output.
    """
    from splitter import api
    from splitter.reporting.calibration import calibration_text

    loaded = load(model, dims, shapes)
    with progress_bars() as progress:
        calibration = api.calibrate(
            loaded, data, labels=labels, preprocess=preprocess, samples=samples, tensors=tensors,
            only=only, settings=settings, answer=answer, jobs=jobs, output=output,
            progress=progress,
        )  # fmt: skip
    publish(calibration, calibration_text, None, as_json)
    if not as_json:
        announce(f"wrote {output}")
