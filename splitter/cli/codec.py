"""``splitter codec``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from splitter.calibration.records import TensorResult
from splitter.cli.options import (
    announce,
    debug_option,
    echo_record,
    json_option,
    load,
    preprocess_option,
    progress_bars,
    show,
)
from splitter.preprocess import Preprocess


@click.group(
    "codec",
    epilog="\b\nExamples:\n  splitter codec bench activation.npy --plot activation.png\n"
    "  splitter codec bench model.onnx:relu_3 --data photos",
)
def command() -> None:
    """Codecs: array <-> bytes."""


@command.command(
    "bench",
    epilog="\b\nExamples:\n"
    "  splitter codec bench activation.npy --plot activation.png\n"
    "  splitter codec bench model.onnx:relu_3\n"
    "  splitter codec bench model.onnx:relu_3 --data photos --labels labels.csv --plot relu_3.svg",
)
@click.argument("target", metavar="TENSOR.npy|MODEL:TENSOR")
@click.option("--dim", "dims", multiple=True, metavar="NAME=N", help="Bind a dynamic dimension.")
@click.option("--shape", "shapes", multiple=True, metavar="INPUT=1,3,224,224")
@click.option("--data", type=click.Path(), metavar="DIR", help="Run the model on these.")
@click.option("--labels", type=click.Path(), help="Class indices: file,class_index a line.")
@preprocess_option
@click.option("--samples", default=200, show_default=True, type=click.IntRange(min=1))
@click.option("--plot", type=click.Path(dir_okay=False), help="Draw it: .png, .svg or .pdf.")
@json_option
@debug_option
def bench(
    target: str, dims: Sequence[str], shapes: Sequence[str], data: str | None, labels: str | None,
    preprocess: Preprocess | None, samples: int, plot: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Try every codec on one tensor: bits per element, error or accuracy, MB/s.

    Of an array, and of a model without data, the error is the tensor's own; with data it is that of the
    model's answer.
    """
    from splitter.reporting.calibration import tensor_text
    from splitter.reporting.plots import codecs_plot, demand_plot, save_plot

    if plot is not None:
        demand_plot(plot)
    path, tensor = _target(target)
    if tensor is None:
        if data or labels or preprocess or dims or shapes:
            raise click.UsageError("data is for a model: give MODEL:TENSOR, not an array")
        found = _of_array(path)
    else:
        if data is None and (labels or preprocess):
            raise click.UsageError("--labels and --preprocess say how to read --data; give that")
        found = _of_model(path, tensor, (dims, shapes), data, labels, preprocess, samples)
    if plot is not None:
        save_plot(codecs_plot(found), plot)
    if as_json:
        echo_record(found)
        return
    show(tensor_text(found))
    if plot is not None:
        announce(f"wrote {plot}")


def _target(text: str) -> tuple[str, str | None]:
    """Path and tensor; None for an array. Both may hold colons: the first path that is a file counts."""
    if text.endswith(".npy"):
        return text, None
    places = [place for place, letter in enumerate(text) if letter == ":"]
    for place in places:
        if place and Path(text[:place]).is_file() and text[place + 1 :]:
            return text[:place], text[place + 1 :]
    if not places or not text[: places[0]] or not text[places[0] + 1 :]:
        raise click.UsageError(
            f"{text!r} is neither an .npy file nor MODEL:TENSOR, such as model.onnx:relu_3"
        )
    return text[: places[0]], text[places[0] + 1 :]


def _of_array(path: str) -> TensorResult:
    from splitter.calibration.single import bench_array
    from splitter.feeds import read_npy

    return bench_array(Path(path).name, read_npy(Path(path)))


def _of_model(
    path: str,
    tensor: str,
    bound: tuple[Sequence[str], Sequence[str]],
    data: str | None,
    labels: str | None,
    preprocess: Preprocess | None,
    samples: int,
) -> TensorResult:
    from splitter.calibration.choose import demand_tensors
    from splitter.calibration.single import bench_tensor
    from splitter.dataset import open_dataset

    model = load(path, *bound)
    demand_tensors(model.graph, [tensor])  # before the data is read
    dataset = None
    if data is not None:
        inputs = {name: model.graph.tensors[name] for name in model.graph.inputs}
        dataset = open_dataset(data, inputs, labels=labels, preprocess=preprocess, limit=samples)
    with progress_bars() as progress:
        return bench_tensor(
            model, tensor, dataset, progress=lambda done, total: progress("samples", done, total)
        )
