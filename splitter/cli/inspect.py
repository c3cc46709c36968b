"""``splitter inspect``."""

from __future__ import annotations

from collections.abc import Sequence

import click

from splitter.cli.options import echo_record, json_option, load, model_options, show
from splitter.graph.summary import summarise


@click.command(
    "inspect",
    epilog="\b\nExamples:\n  splitter inspect model.onnx\n"
    "  splitter inspect model.onnx --dim batch=1 --all\n  splitter inspect model.onnx --json",
)
@model_options
@click.option("--all", "every", is_flag=True, help="Show every place, not the narrowest only.")
@click.option(
    "--narrowest", "count", default=8, show_default=True,
    type=click.IntRange(min=1), help="How many to show.",
)  # fmt: skip
@json_option
def command(
    model: str, dims: Sequence[str], shapes: Sequence[str], every: bool, count: int, as_json: bool
) -> None:
    """Show what MODEL holds: operators, parameters, FLOPs, shapes, and where it is narrow."""
    summary = summarise(load(model, dims, shapes), count)
    if as_json:
        echo_record(summary)
        return
    from splitter.reporting.inspection import inspection_text

    show(inspection_text(summary, every=every))
