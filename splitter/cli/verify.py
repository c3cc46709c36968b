"""``splitter verify``."""

from __future__ import annotations

from collections.abc import Sequence

import click

from splitter.cli.options import (
    Finite,
    json_option,
    load,
    model_options,
    publish,
    read_inputs,
)


@click.command(
    "verify",
    epilog="\b\nExamples:\n  splitter verify model.onnx --plan plan.json\n"
    "  splitter verify model.onnx --plan plan.json --seconds 60 -o measured.json",
)
@model_options
@click.option("--plan", "plan_file", required=True, type=click.Path(), help="The plan to check.")
@click.option("--seconds", default=20.0, show_default=True, type=Finite(min=0))
@click.option("--input", "inputs", multiple=True, metavar="NAME=FILE", help="Feed this, not noise.")
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="Write the measurement here.")
@json_option
def command(
    model: str, dims: Sequence[str], shapes: Sequence[str], plan_file: str, seconds: float,
    inputs: Sequence[str], output: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure the plan's cut, its rivals and its alternatives here, in turn, beside the prediction."""
    from splitter import api
    from splitter.reporting.verification import verification_text

    loaded = load(model, dims, shapes)
    feeds = read_inputs(inputs, loaded)
    found = api.verify(loaded, plan_file, feeds=feeds, seconds=seconds)
    publish(found, verification_text, output, as_json)
