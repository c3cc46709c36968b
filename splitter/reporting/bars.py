"""Bars and sparklines for the terminal.

Terms are told apart by their marks, with or without colour; where the terminal's encoding is not UTF-8 the
marks are ASCII. All marks are one cell wide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from splitter.reporting.cells import fitted, printable

TERMS = ("head", "encode", "link", "decode", "tail")

# of the code page that every font has; what each side does to the bytes is half as high
_MARKS = ("█", "▄", "░", "▀", "▓")
_ASCII_MARKS = ("#", "+", "-", "=", "%")
_STYLES = ("blue", "cyan", "yellow", "magenta", "green")

_LEVELS = "▁▂▃▄▅▆▇█"
_ASCII_LEVELS = "_.:-=+*#"
_POINTER, _ASCII_POINTER = "▲", "^"

_CHOSEN, _OTHERS = "bold green", "blue"

_WIDEST_BAR = 60
_WIDEST_COLUMN = 4
_NARROWEST_BAR = 10
_FIGURE = 9  # cells of a bar's total, its gap included
_LEGEND_CELLS = sum(len(name) + 4 for name in TERMS) - 2


@dataclass(frozen=True)
class Bar:
    """One line of a chart: seconds, or whatever is added up, part by part."""

    label: str
    parts: Sequence[float]
    figure: str
    """What stands behind it."""
    is_chosen: bool = False


@dataclass(frozen=True)
class Bars:
    """Stacked bars of one scale, each with its label before and its figure behind."""

    bars: Sequence[Bar]
    has_legend: bool = True
    most: float | None = None
    """What the widest bar would be; the largest of these where it is None."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As wide as there is room, within reason."""
        marks = _ASCII_MARKS if options.ascii_only else _MARKS
        labels = [printable(bar.label) for bar in self.bars]
        longest = max(map(cell_len, labels), default=0)
        room = options.max_width - _FIGURE
        label = max(0, min(longest, options.max_width * 3 // 8, room - _NARROWEST_BAR - 1))
        width = max(1, min(_WIDEST_BAR, room - label - 1))
        most = self.most or max((math.fsum(bar.parts) for bar in self.bars), default=0.0)
        if self.has_legend:
            yield _legend(marks, " " * (label + bool(label)), options.max_width)
        for bar, name in zip(self.bars, labels, strict=True):
            line = Text(no_wrap=True, overflow="crop")
            if label:
                line.append(fitted(name, label) + " ", "bold" if bar.is_chosen else "")
            for count, mark, style in zip(
                lengths(bar.parts, most, width), marks, _STYLES, strict=True
            ):
                line.append(mark * count, style)
            if bar.figure:
                line.append(f" {bar.figure}", "bold" if bar.is_chosen else "")
            yield line


@dataclass(frozen=True)
class Sparkline:
    """One line of levels; None is a gap."""

    values: Sequence[float | None]
    low: float = 0.0
    high: float | None = None
    """The greatest value where it is None."""
    width: int = 0
    """Cells; the last values if there are more, on the right if there are fewer. 0: one a value."""
    style: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """One line, cropped on the left."""
        width = min(self.width or len(self.values), options.max_width)
        shown = self.values[-width:] if width else ()
        text = levels(shown, self.low, self.high, is_ascii=options.ascii_only)
        yield Text(text.rjust(width), style=self.style, no_wrap=True, overflow="crop")


@dataclass(frozen=True)
class Curve:
    """Values along an axis as columns several cells high, and a pointer below one of them."""

    values: Sequence[float | None]
    low: float
    high: float
    """What is greater ends here."""
    chosen: int | None = None
    top: str = ""
    """What stands beside the highest line."""
    bottom: str = ""
    caption: str = ""
    """What stands beside the pointer."""
    height: int = 3

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Not wider than there is room: of neighbours that share a column the least counts."""
        beside = max(cell_len(self.top), cell_len(self.bottom))
        room = min(_WIDEST_BAR, options.max_width - beside - 1)
        count = min(len(self.values), room)
        if count < 1:
            return
        each = max(1, min(_WIDEST_COLUMN, room // count))
        cells = least_of_each(self.values, count)
        chosen = None if self.chosen is None else self.chosen * count // len(self.values)
        eighths = [_eighths(value, self.low, self.high, self.height) for value in cells]
        for row in reversed(range(self.height)):
            marks = [_mark(filled - 8 * row, is_ascii=options.ascii_only) for filled in eighths]
            line = Text(no_wrap=True)
            line.append("".join(mark * each for mark in marks), _OTHERS)
            if chosen is not None:
                line.stylize(_CHOSEN, chosen * each, (chosen + 1) * each)
            beside_it = {self.height - 1: self.top, 0: self.bottom}.get(row, "")
            if beside_it:
                line.append(f" {beside_it}")
            line.rstrip()
            yield line
        if chosen is not None:
            pointer = _ASCII_POINTER if options.ascii_only else _POINTER
            yield _pointing(chosen * each + each // 2, pointer, self.caption, options.max_width)


def _pointing(cell: int, pointer: str, caption: str, width: int) -> Text:
    """A pointer in this cell, and beside it, where there is room, what it points at."""
    if cell + cell_len(caption) + 2 <= width:
        return Text(f"{' ' * cell}{pointer} {caption}".rstrip(), _CHOSEN, no_wrap=True)
    before = f"{caption} " if cell > cell_len(caption) else ""
    return Text(f"{' ' * (cell - cell_len(before))}{before}{pointer}", _CHOSEN, no_wrap=True)


def apportion(parts: Sequence[float], cells: int) -> list[int]:
    """Whole cells to parts in proportion, all of them, by the largest remainder."""
    total = math.fsum(parts)
    if total <= 0:
        return [0] * len(parts)
    exact = [cells * part / total for part in parts]
    found = [math.floor(share) for share in exact]
    order = sorted(range(len(parts)), key=lambda index: found[index] - exact[index])
    for index in order[: cells - sum(found)]:
        found[index] += 1
    return found


def lengths(parts: Sequence[float], most: float, width: int) -> list[int]:
    """Cells of a bar's parts where a bar of ``most`` takes ``width``; of none only where it is nothing."""
    total = math.fsum(parts)
    if total <= 0 or most <= 0:
        return [0] * len(parts)
    return apportion(parts, min(width, max(1, round(width * total / most))))


def levels(
    values: Iterable[float | None], low: float, high: float | None, *, is_ascii: bool
) -> str:
    """A mark for each value by its height between low and high; a blank for None."""
    known = list(values)
    most = (
        max((value for value in known if value is not None), default=0.0) if high is None else high
    )
    marks = _ASCII_LEVELS if is_ascii else _LEVELS
    return "".join(
        " " if value is None else marks[_eighths(value, low, most, 1) - 1] for value in known
    )


def least_of_each(values: Sequence[float | None], count: int) -> list[float | None]:
    """As many values as asked for, each the least of its share of all."""
    found: list[float | None] = []
    for index in range(count):
        share = values[index * len(values) // count : (index + 1) * len(values) // count]
        found.append(min((value for value in share if value is not None), default=None))
    return found


def _eighths(value: float | None, low: float, high: float, height: int) -> int:
    """How many eighths of a cell a column is high: from 1, which is low, to 8 of each cell."""
    if value is None:
        return 0
    if high <= low:
        return 1
    share = min(1.0, max(0.0, (value - low) / (high - low)))
    return 1 + round(share * (8 * height - 1))


def _mark(eighths: int, *, is_ascii: bool) -> str:
    if eighths <= 0:
        return " "
    return (_ASCII_LEVELS if is_ascii else _LEVELS)[min(eighths, 8) - 1]


def _legend(marks: Sequence[str], before: str, width: int) -> Text:
    line = Text(before, no_wrap=True, overflow="crop")
    if cell_len(before) + _LEGEND_CELLS > width:
        line = Text(no_wrap=True, overflow="crop")
    for mark, name, style in zip(marks, TERMS, _STYLES, strict=True):
        line.append(mark, style)
        line.append(f" {name}  ", "dim")
    line.rstrip()
    return line
