"""``splitter devices``."""

from __future__ import annotations

import click

from splitter.cli.options import debug_option, show


@click.command("devices", epilog="\b\nExamples:\n  splitter devices")
@debug_option
def command() -> None:
    """List the devices and links that --device, --server and --link know by name."""
    from splitter.reporting.catalog import catalog_text

    show(catalog_text())
