"""``splitter top``."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import click
import msgspec

from splitter.cli.calling import calling_options, take_calling
from splitter.cli.options import Finite, debug_option, show, terminal
from splitter.errors import ServingError

if TYPE_CHECKING:
    from rich.console import Console

    from splitter.reporting.top import View
    from splitter.serving.poller import Reading
    from splitter.serving.scrapers import Scraper

_LOOK_S = 0.1
"""Between two looks at the keyboard and at the size of the window."""


@click.command(
    "top",
    epilog="\b\nExamples:\n  splitter top --server 127.0.0.1:8001\n"
    "  splitter top --server edge:8001 --tls-ca ca.pem --token-file token\n"
    "  splitter top --metrics 127.0.0.1:9090 --interval 5\n"
    "  splitter top --server 127.0.0.1:8001 --once --json",
)
@click.option("--server", metavar="HOST:PORT", help="The server, where its tails are served.")
@click.option(
    "--metrics", metavar="HOST:PORT", help="Instead: where its --metrics are, over plain HTTP.",
)  # fmt: skip
@click.option(
    "--interval", "every_s", default=1.0, show_default=True, metavar="S",
    type=Finite(min=0.1, max=3600), help="Between two readings.",
)  # fmt: skip
@click.option("--once", is_flag=True, help="Print one interval and end.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each interval.")
@calling_options
@debug_option
def command(
    server: str | None,
    metrics: str | None,
    every_s: float,
    once: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Show what a server does: requests, batches, queue, latency, bytes, cuts in use; live.

    q or Ctrl-C ends it. Where standard output is no terminal, an interval is printed after the other.
    """
    from splitter.serving.poller import Poller

    readings: SimpleQueue[Reading] = SimpleQueue()
    with contextlib.suppress(KeyboardInterrupt):
        scraper = _scraper(server, metrics, chosen)
        first = scraper.scrape()  # a wrong address ends here
        with Poller(scraper, every_s, first, readings.put):
            if as_json:
                _print_json(readings, once=once)
            else:
                _show(readings, scraper.address, every_s, once=once)


def _scraper(server: str | None, metrics: str | None, chosen: dict[str, Any]) -> Scraper:
    if (server is None) == (metrics is None):
        raise click.UsageError("Give either --server or --metrics.")
    from splitter.serving.scrapers import GrpcScraper, HttpScraper

    if metrics is not None:
        if any(chosen.values()):
            raise click.UsageError("--metrics is plain HTTP, without TLS and tokens; use --server.")
        return HttpScraper(metrics)
    return GrpcScraper(server or "", *take_calling(chosen))


def _print_json(readings: SimpleQueue[Reading], *, once: bool) -> None:
    while True:
        reading = readings.get()
        if reading.interval is not None:
            click.echo(msgspec.json.encode(reading.interval))
            if once:
                return
        elif reading.problem:
            _demand_more(reading, once=once)
            click.echo(msgspec.json.encode({"problem": reading.problem}))


def _show(readings: SimpleQueue[Reading], server: str, every_s: float, *, once: bool) -> None:
    from splitter.reporting.top import View

    view, console = View(server, every_s), terminal()
    if console.is_terminal and not console.is_dumb_terminal and not once:
        _live(view, readings, console)
        return
    while True:
        reading = readings.get()
        _demand_more(reading, once=once)
        view.take(reading)
        show(view)
        if once:
            return
        click.echo()


def _demand_more(reading: Reading, *, once: bool) -> None:
    """Who asks once has nothing to wait for."""
    if once and reading.interval is None:
        raise ServingError(reading.problem)


def _live(view: View, readings: SimpleQueue[Reading], console: Console) -> None:
    from rich.live import Live

    with _terminated(), _keys() as pressed, Live(
        view, console=console, screen=True, auto_refresh=False, redirect_stdout=False,
        redirect_stderr=False,
    ) as live:  # fmt: skip
        view.hint = "q ends"
        shown = None
        while "q" not in pressed():
            with contextlib.suppress(Empty):
                view.take(readings.get(timeout=_LOOK_S))
                shown = None
            if shown != console.size:  # something new, or another size
                shown = console.size
                live.refresh()


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[], str]]:
    """What was typed since the last look, unseen and without Enter; nothing where nobody can type."""
    if not sys.stdin.isatty():
        yield lambda: ""
        return
    import termios
    import tty

    keyboard = sys.stdin.fileno()

    def pressed() -> str:
        ready, _, _ = select.select([keyboard], [], [], 0)
        return os.read(keyboard, 64).decode("ascii", "replace") if ready else ""

    before = termios.tcgetattr(keyboard)
    try:
        tty.setcbreak(keyboard)
        yield pressed
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _terminated() -> Iterator[None]:
    """A polite end leaves the terminal as it was, as Ctrl-C does."""

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
