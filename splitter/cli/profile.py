"""``splitter profile``."""

from __future__ import annotations

from collections.abc import Sequence

import click

from splitter.cli.options import (
    Finite,
    json_option,
    load,
    model_options,
    progress_bars,
    publish,
    read_inputs,
    settings_options,
)
from splitter.runtime import Settings

_MEMORY_SHARE = 1 / 9
"""Of the seconds for heads and tails, those spent on their memory besides."""


@click.command(
    "profile",
    epilog="\b\nExamples:\n"
    "  splitter profile model.onnx -o here.json\n"
    "  splitter profile model.onnx --dim batch=1 --threads 4 --seconds 120 -o here.json\n"
    "  splitter profile model.onnx --device raspberry-pi-4 --base here.json -o pi.json",
)
@model_options
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help="The profile.")
@settings_options
@click.option(
    "--seconds", default=90.0, show_default=True, type=Finite(min=0),
    help="To spend on heads and tails really measured; more is truer.",
)  # fmt: skip
@click.option("--input", "inputs", multiple=True, metavar="NAME=FILE", help="Feed this, not noise.")
@click.option("--device", metavar="NAME|YAML", help="Estimate for a described device instead.")
@click.option("--base", type=click.Path(), help="The measured profile to estimate from.")
@json_option
def command(
    model: str, dims: Sequence[str], shapes: Sequence[str], output: str, settings: Settings,
    seconds: float, inputs: Sequence[str], device: str | None, base: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure MODEL on this machine as it will be served, kernel by kernel and part by part.

    With --device, scale a measured profile to a machine that is not at hand.
    """
    from splitter import api
    from splitter.profiling.measure import Effort
    from splitter.reporting.profile import profile_text

    if base is not None and device is None:
        raise click.UsageError("--base is for an estimate: name the machine with --device")
    loaded = load(model, dims, shapes)
    feeds = read_inputs(inputs, loaded)
    with progress_bars() as progress:
        profile = api.profile(
            loaded, device=device, base=base, settings=settings, feeds=feeds,
            effort=Effort(anchors_s=seconds, memory_s=seconds * _MEMORY_SHARE), progress=progress,
        )  # fmt: skip
    publish(profile, profile_text, output, as_json)
