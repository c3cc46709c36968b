"""``splitter report``."""

from __future__ import annotations

from collections.abc import Sequence

import click

from splitter.cli.options import announce, debug_option


@click.command(
    "report",
    epilog="\b\nExamples:\n  splitter report plan.json -o report.html\n"
    "  splitter report plan.json measured.json calibration.json -o report.html",
)
@debug_option
@click.argument("plan_file", metavar="PLAN", type=click.Path())
@click.argument("others", metavar="[FILE]...", nargs=-1, type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help="The page.")
def command(plan_file: str, others: Sequence[str], output: str) -> None:
    """Write PLAN as one page for a browser: the answer, the model, every cut, every bandwidth.

    Each FILE is what `splitter verify -o` or `splitter calibrate -o` wrote. The page needs no network.
    """
    from splitter.planning.records import Plan
    from splitter.reporting.report import Evidence, write_report

    plan = Plan.load(plan_file)
    nbytes = write_report(plan, Evidence.load(others, plan), output)
    announce(f"wrote {output} ({nbytes / 1e6:.2f} MB)")
