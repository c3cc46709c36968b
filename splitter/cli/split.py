"""``splitter split``."""

from __future__ import annotations

from collections.abc import Sequence

import click

from splitter.cli.options import announce, load, model_options, preprocess_option, read_inputs
from splitter.preprocess import Preprocess


@click.command(
    "split",
    epilog="\b\nExamples:\n  splitter split model.onnx --plan plan.json -o bundle\n"
    "  splitter split model.onnx --at pool5_1 -o bundle",
)
@model_options
@click.option("--plan", "plan_file", type=click.Path(), help="Carry out this plan.")
@click.option("--at", multiple=True, metavar="TENSOR", help="Cut at these tensors instead.")
@click.option("-o", "--output", required=True, metavar="DIR", type=click.Path(), help="The bundle.")
@click.option(
    "--input", "inputs", multiple=True, metavar="NAME=FILE", help="Check with this input."
)
@preprocess_option
@click.option(
    "--quantise-in-graph/--no-quantise-in-graph", default=True, show_default=True,
    help="Where a codec quantises, let head.onnx and tail.onnx do it.",
)  # fmt: skip
def command(
    model: str, dims: Sequence[str], shapes: Sequence[str], plan_file: str | None, at: Sequence[str],
    output: str, inputs: Sequence[str], preprocess: Preprocess | None, quantise_in_graph: bool,
) -> None:  # fmt: skip
    """Write head.onnx, tail.onnx and manifest.json, and check that they equal the whole MODEL."""
    from splitter import api
    from splitter.reporting.text import listed

    if (plan_file is None) == (not at):
        raise click.UsageError("give one of --plan and --at")
    loaded = load(model, dims, shapes)
    feeds = read_inputs(inputs, loaded, preprocess)
    bundle = api.split(
        loaded, output, plan=plan_file, at=at, feeds=feeds, preprocess=preprocess,
        quantise_in_graph=quantise_in_graph,
    )  # fmt: skip
    manifest = bundle.manifest
    for name, spec in sorted(manifest.files.items()):
        announce(f"{bundle.folder / name}  {spec.nbytes / 1e6:.2f} MB")
    outside = len(loaded.graph.nodes) - len(manifest.planned.head_nodes)
    lossy = [spec.codec.name for spec in manifest.planned.crossing if not spec.codec.is_lossless]
    but = f", but for what is lost to {listed(lossy)}" if lossy else ""
    announce(
        f"{len(manifest.planned.head_nodes)} nodes on the device, {outside} on the server; "
        f"checked: head then tail gives the whole model's outputs{but}"
    )
