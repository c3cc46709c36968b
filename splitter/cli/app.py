"""The command group; a command's module is imported when it is used, so that ``--help`` is quick."""

from __future__ import annotations

import importlib

import click

from splitter import __version__

COMMANDS = {
    "inspect": "What a model holds, and where it is narrow.",
    "profile": "Measure a model on this machine, or estimate it for another.",
    "calibrate": "Measure what codecs do to tensors that may cross, and the answer.",
    "codec": "Codecs on one tensor: bits, error or accuracy, speed.",
    "plan": "Choose the cut: proven best, beside its rivals.",
    "diff": "What differs between two plans, and why.",
    "report": "A plan as one page for a browser.",
    "split": "Write the bundle: heads, tails and manifest.json.",
    "verify": "Measure a plan against the clock.",
    "serve": "Serve a bundle's tail over gRPC.",
    "run": "Run a bundle's head here and its tail on a server.",
    "top": "What a server does, live.",
    "demo": "The whole way on a real network, on this machine alone.",
    "devices": "The device and link descriptions that come with splitter.",
}


class LazyGroup(click.Group):
    """Knows the names and one-line helps of its commands; loads a command to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of use, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import ``splitter.cli.<name>`` and take its ``command``."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"splitter.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=(
        "\b\nExamples:\n"
        "  splitter demo\n"
        "  splitter profile model.onnx -o here.json\n"
        "  splitter plan model.onnx --device raspberry-pi-4 --server here.json --link lte\n\n"
        "Shell completion: see 'Completion' in the README."
    ),
)
@click.version_option(__version__, prog_name="splitter")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def app(debug: bool) -> None:
    """Where should this ONNX model run, cut where, and what does it buy? Then run it that way."""
