"""``splitter split``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from splitter.cli.options import load, model_options, preprocess_option, read_inputs, show
from splitter.preprocess import Preprocess


@click.command(
    "split",
    epilog="\b\nExamples:\n  splitter split model.onnx --plan plan.json -o bundle\n"
    "  splitter split model.onnx --plan plan.json --alternatives 3 -o bundle\n"
    "  splitter split model.onnx --plan plan.json --fallback small.onnx -o bundle\n"
    "  splitter split model.onnx --at pool5_1 -o bundle",
)
@model_options
@click.option("--plan", "plan_file", type=click.Path(), help="Carry out this plan.")
@click.option("--at", multiple=True, metavar="TENSOR", help="Cut at these tensors instead.")
@click.option(
    "--alternatives",
    default=0,
    show_default=True,
    metavar="N",
    type=click.IntRange(0, 1000),
    help="Also the plan's N next best cuts and its rivals, for a session to follow the link.",
)
@click.option(
    "--fallback",
    metavar="whole|FILE.onnx",
    help="What answers without a server: the whole model, or a smaller one.",
)
@click.option("-o", "--output", required=True, metavar="DIR", type=click.Path(), help="The bundle.")
@click.option(
    "--input", "inputs", multiple=True, metavar="NAME=FILE", help="Check with this input."
)
@preprocess_option
@click.option(
    "--quantise-in-graph/--no-quantise-in-graph", default=True, show_default=True,
    help="Where a codec quantises, let heads and tails do it.",
)  # fmt: skip
def command(
    model: str, dims: Sequence[str], shapes: Sequence[str], plan_file: str | None, at: Sequence[str],
    alternatives: int, fallback: str | None, output: str, inputs: Sequence[str],
    preprocess: Preprocess | None, quantise_in_graph: bool,
) -> None:  # fmt: skip
    """Write heads, tails and manifest.json, and check that they equal the whole MODEL.

    A plan over three tiers or more becomes a folder of bundles, one for each tier but the last; one of
    several devices a folder with a bundle for each of them and the server's.
    """
    from splitter import api
    from splitter.reporting.bundle import bundle_text, parts_text

    if (plan_file is None) == (not at):
        raise click.UsageError("give one of --plan and --at")
    if alternatives and plan_file is None:
        raise click.UsageError("--alternatives are a plan's: give --plan")
    loaded = load(model, dims, shapes)
    feeds = read_inputs(inputs, loaded, preprocess)
    bundle = api.split(
        loaded, output, plan=plan_file, at=at, alternatives=alternatives, fallback=fallback,
        feeds=feeds, preprocess=preprocess, quantise_in_graph=quantise_in_graph,
    )  # fmt: skip
    if bundle.onward:
        show(parts_text((bundle, *bundle.onward), Path(output), len(loaded.graph.nodes)))
        return
    show(bundle_text(bundle.manifest, Path(output), len(loaded.graph.nodes)))
