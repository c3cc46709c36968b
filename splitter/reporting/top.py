"""What a server does now, on one screen of 80 by 24, and over the last minute as sparklines."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from splitter.reporting.bars import lengths, levels
from splitter.reporting.cells import fitted, printable
from splitter.reporting.text import plain_table
from splitter.reporting.units import count, seconds, size
from splitter.serving.interval import BatchSizes, CutLoad, Interval
from splitter.serving.poller import Reading

KEPT = 60
"""Readings: a minute of seconds."""

_LABEL, _FIGURE = 10, 10
_WIDE = 76  # below it the tables stand one below the other
_CHROME = 6  # lines: the title, the cuts' header, the switches, three blanks
_FEWEST_CUTS = 2
_BAR = 16
_BESIDE_NAMES = 42  # cells of a cut's figures

Figure = Callable[[Interval], float | None]


@dataclass
class View:
    """What is shown: the readings so far, the newest last, and whether the server is there."""

    server: str
    every_s: float
    readings: deque[Interval | None] = field(default_factory=lambda: deque(maxlen=KEPT))
    """None where there was no answer."""
    problem: str = ""
    """Why the server does not answer now."""
    hint: str = ""
    """At the right of the first line."""

    def take(self, reading: Reading) -> None:
        """Show one more reading."""
        self.problem = reading.problem
        self.readings.append(reading.interval)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lines for the width that there is; fewer cuts, and no blanks, where the height is too small."""
        width, is_ascii = options.max_width, options.ascii_only
        last = next((one for one in reversed(self.readings) if one is not None), None)
        yield self._title(last, width)
        if self.problem:
            yield Text(printable(self.problem), style="bold red", overflow="crop", no_wrap=True)
        if last is None:
            yield Text("waiting for the first interval")
            return
        lines = list(self._lines(last, width, is_ascii=is_ascii))
        tables, height = _tables(last, width, is_ascii=is_ascii)
        room, blanks = len(last.cuts), True
        if options.height is not None:
            room = options.height - len(lines) - height - _CHROME
            blanks = room >= _FEWEST_CUTS
            room = max(_FEWEST_CUTS, room)
        gap = [Text()] if blanks else []
        yield from (*([] if self.problem else gap), *lines, *gap, *tables, *gap)
        yield from _cuts(last, self._switches(), room, width)

    def _title(self, last: Interval | None, width: int) -> Text:
        words = [printable(self.server)]
        if self.problem:
            words.append(f"AWAY for {_age(self._silent_s())}, trying again")
        elif last is not None:
            words += ["ready" if last.ready else "NOT READY", f"{last.in_flight} in flight"]
        if last is not None and not self.problem:
            words.append(f"splitter {printable(last.version)}")
            if last.up_s is not None:
                words.append(f"up {_age(last.up_s)}")
            if last.restarted:
                words.append("it began anew")
        text = Text("  ".join(words), style="bold", no_wrap=True, overflow="crop")
        if self.hint and text.cell_len + len(self.hint) + 2 <= width:
            text.append(" " * (width - text.cell_len - len(self.hint)))
            text.append(self.hint, "dim not bold")
        return text

    def _lines(self, last: Interval, width: int, *, is_ascii: bool) -> Iterator[Text]:
        for label, figure, show in _FIGURES:
            values = [None if one is None else figure(one) for one in self.readings]
            room = max(0, min(KEPT, width - _LABEL - _FIGURE - 1))
            most = max((value for value in values if value is not None), default=0.0)
            # not up to the line above, so that the two stay apart
            shown = levels(values[-room:] if room else (), 0.0, most * 8 / 7, is_ascii=is_ascii)
            now = figure(last)
            figured = "-" if now is None else show(now)
            line = Text(f"{label:<{_LABEL}}{figured:>{_FIGURE}}", no_wrap=True)
            if len(self.readings) > 1:
                line.append(" " + shown.rjust(room), "cyan")
            yield line
        yield from _pairs("outcomes", _outcomes(last), width)
        yield from _pairs("codecs", _savings(last), width)

    def _silent_s(self) -> float:
        silent = next((n for n, one in enumerate(reversed(self.readings)) if one is not None), KEPT)
        return silent * self.every_s

    def _switches(self) -> float:
        return sum(sum(one.switches.values()) for one in self.readings if one is not None)


def _p95(term: str) -> Figure:
    """Seconds; none where no request ended well, and none that says anything beyond the buckets."""

    def figure(one: Interval) -> float | None:
        found = one.terms.get(term)
        return None if found is None or math.isinf(found.p95_s) else found.p95_s

    return figure


def _saved(one: Interval) -> float:
    """By the codecs, in both directions; a message's own few bytes are not held against them."""
    return max(0.0, one.received_raw_bytes_per_s - one.received_bytes_per_s) + max(
        0.0, one.sent_raw_bytes_per_s - one.sent_bytes_per_s
    )


def _per_s(value: float) -> str:
    return f"{per_second(value)}/s"


_FIGURES: tuple[tuple[str, Figure, Callable[[float], str]], ...] = (
    ("requests", lambda one: one.requests_per_s, _per_s),
    ("refused", lambda one: one.refused_per_s, _per_s),
    ("waiting", lambda one: float(one.waiting), lambda value: f"{value:.0f}"),
    ("queue p95", _p95("queue"), seconds),
    ("tail p95", _p95("tail"), seconds),
    ("received", lambda one: one.received_bytes_per_s, lambda value: f"{size(value)}/s"),
    ("sent", lambda one: one.sent_bytes_per_s, lambda value: f"{size(value)}/s"),
    ("saved", _saved, lambda value: f"{size(value)}/s"),
)


def per_second(value: float) -> str:
    """Three significant figures: ``0.333``, ``12.5``, ``1.2 k``."""
    if value >= 1000:
        return count(value)
    text = f"{value:.3g}"
    return f"{value:.0f}" if value >= 100 else f"{value:.4f}" if "e" in text else text


def _pairs(label: str, found: Sequence[str], width: int) -> Iterator[Text]:
    """As many on a line as fit."""
    line = f"{label:<{_LABEL}}"
    for index, each in enumerate(found or ["none"]):
        if index and len(line) + len(each) + 2 > width:
            yield Text(line, no_wrap=True, overflow="crop")
            line = " " * _LABEL
        line += f"  {each}"
    yield Text(line, no_wrap=True, overflow="crop")


def _outcomes(last: Interval) -> list[str]:
    found = [f"{printable(name)} {_per_s(rate)}" for name, rate in last.status_per_s.items()]
    away = last.turned_away_per_s.items()
    return found + [f"turned away by {printable(limit)} {_per_s(rate)}" for limit, rate in away]


def _savings(last: Interval) -> list[str]:
    found = []
    for what, wire, raw in (
        ("received", last.received_bytes_per_s, last.received_raw_bytes_per_s),
        ("sent", last.sent_bytes_per_s, last.sent_raw_bytes_per_s),
    ):
        if raw:
            found.append(f"{max(0.0, 1 - wire / raw):.0%} saved of {size(raw)}/s {what}")
    return found


def _tables(last: Interval, width: int, *, is_ascii: bool) -> tuple[list[RenderableType], int]:
    """Latencies and batches, beside each other where there is room; and their lines."""
    latency, batches = _latency(last), _batches(last.batches, is_ascii=is_ascii)
    lines = 1 + max(1, len(last.terms)), 1 + len(last.batches)
    if width < _WIDE:
        return [latency, batches], sum(lines)
    grid = Table.grid(padding=(0, 3))
    grid.add_row(latency, batches)
    return [grid], max(lines)


def _latency(last: Interval) -> RenderableType:
    table = plain_table("latency", "mean", "p50", "p95", "p99", numbers=range(1, 5), whole=(0,))
    for term, found in last.terms.items():
        each = (found.mean_s, found.p50_s, found.p95_s, found.p99_s)
        table.add_row(term, *(_bounded(value) for value in each))
    if not last.terms:
        table.add_row("no request", *[""] * 4)
    return table


def _bounded(value: float) -> str:
    return "> 10 s" if math.isinf(value) else seconds(value)


def _batches(found: Sequence[BatchSizes], *, is_ascii: bool) -> RenderableType:
    table = plain_table("batch", "share", "", numbers=(0, 1), whole=(2,))
    total = sum(one.requests for one in found)
    most = max((one.requests for one in found), default=0.0)
    for one in found:
        low, high = one.over + 1, one.up_to
        span = f"{low:.0f}+" if math.isinf(high) else f"{low:.0f}"
        if not math.isinf(high) and high > low:
            span += f"-{high:.0f}"
        bar = ("#" if is_ascii else "█") * sum(lengths([one.requests], most, _BAR))
        table.add_row(span, f"{one.requests / total:.0%}", Text(bar, style="cyan"))
    return table if found else Text()


def _cuts(last: Interval, switches: float, room: int, width: int) -> Iterator[RenderableType]:
    table = plain_table(
        "requests", "share", "waiting", "cut", "model", "name", numbers=(0, 1, 2), whole=(3,)
    )
    total = sum(one.requests_per_s for one in last.cuts)
    for one in last.cuts[:room]:
        share = f"{one.requests_per_s / total:.0%}" if total else ""
        names = _names(one, max(20, width - _BESIDE_NAMES))
        table.add_row(_per_s(one.requests_per_s), share, str(one.waiting), *names)
    yield table
    rest = f"more cuts: {len(last.cuts) - room}; " if len(last.cuts) > room else ""
    recent = sum(last.switches.values())
    yield Text(
        f"{rest}switches between cuts: {recent:.0f} now, {switches:.0f} in all that is shown",
        no_wrap=True, overflow="crop",
    )  # fmt: skip


def _names(one: CutLoad, room: int) -> tuple[str, str, str]:
    name = printable(one.name) or "no longer loaded"
    if one.planned and one.name != "split":
        name += " (planned)"
    model = f"{printable(one.model)} {printable(one.version)}"
    return (
        fitted(printable(one.cut), 12),
        fitted(model, room * 2 // 5).rstrip(),
        fitted(name, room - room * 2 // 5).rstrip(),
    )


def _age(value: float) -> str:
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if value >= length:
            return f"{value / length:.3g} {unit}"
    return f"{value:.0f} s"
