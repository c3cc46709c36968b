"""``splitter diff``."""

from __future__ import annotations

import click

from splitter.cli.options import debug_option, json_option, publish


@click.command(
    "diff",
    epilog="\b\nExamples:\n  splitter diff monday.json today.json\n"
    "  splitter diff monday.json today.json --json",
)
@debug_option
@click.argument("before", type=click.Path())
@click.argument("after", type=click.Path())
@json_option
def command(before: str, after: str, as_json: bool) -> None:
    """Say what differs between two plans: cut, codecs, terms, and what they were made from."""
    from splitter.planning.diff import diff
    from splitter.planning.records import Plan
    from splitter.reporting.diff import diff_text

    publish(diff(Plan.load(before), Plan.load(after)), diff_text, None, as_json)
