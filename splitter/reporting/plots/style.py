"""How every plot looks: readable in grey and on paper, as marks and hatches tell apart what colours do."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from splitter.document import replacing
from splitter.errors import SplitterError
from splitter.planning.candidates import ON_DEVICE
from splitter.planning.drawing import OrderCut
from splitter.planning.records import Candidate, Latency

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
WIDTH = 9.0
LETTERS = 100
"""In a line of a title."""
DPI = 110


class Look(NamedTuple):
    """Of one kind of thing, in every plot."""

    colour: str
    mark: str
    hatch: str = ""


TERMS = {
    "head": Look("#0b3954", ""),
    "encode": Look("#f0c05a", "", "////"),
    "link": Look("#f4ede0", "", ".."),
    "decode": Look("#c8553d", "", "\\\\\\\\"),
    "tail": Look("#8fb8d0", ""),
}
"""Of a latency, in the order in which they pass."""

SPLIT = Look("#0b3954", "o")
DEVICE = Look("#c8553d", "s")
SERVER = Look("#d99a1c", "^")
OTHER = Look("#6b7a85", "D")
LINES = (
    Look("#0b3954", "o"), Look("#c8553d", "s"), Look("#d99a1c", "^"), Look("#4f8a5b", "D"),
    Look("#7b4f8a", "v"), Look("#5fa3c7", "P"), Look("#6b7a85", "X"), Look("#2d2d2d", "*"),
)  # fmt: skip
"""Of several things alike, in turn."""

GREY = "#6b7a85"

Timed: TypeAlias = Latency | Candidate | OrderCut


def rival_look(rival: Candidate) -> Look:
    """Of all on the device, or of the input sent."""
    return DEVICE if rival.name == ON_DEVICE else SERVER


def seconds_of(timed: Timed) -> list[float]:
    """By the order of ``TERMS``."""
    return [timed.head_s, timed.encode_s, timed.link_s, timed.decode_s, timed.tail_s]


def demand_plot(path: str | os.PathLike[str]) -> None:
    """Refuse a plot that could not be written, before anything is measured; raises SplitterError."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise SplitterError(f"{path}: a plot is {', '.join(SUFFIXES)}; name one of these")
    if not path.parent.is_dir():
        raise SplitterError(f"{path}: the folder does not exist; name one that does")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise SplitterError(
            f"{path}: drawing needs matplotlib; pip install 'splitter[plot]'"
        ) from None


def save_plot(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write it whole or not at all, in the format that the name says; raises SplitterError."""
    demand_plot(path)
    with replacing(Path(path)) as file:
        figure.savefig(file, format=Path(path).suffix[1:].lower(), dpi=DPI)


def blank(
    title: str, height: float = 4.2, rows: int = 1, columns: int = 1
) -> tuple[Figure, list[Axes]]:
    """Make a figure under the sentence that it shows, and its axes row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    figure.suptitle(fill(title, LETTERS), x=0.01, ha="left", fontsize=11, fontweight="bold")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.tick_params(labelsize=9)
    return figure, axes


def stacked(axes: Axes, names: Sequence[str], rows: Sequence[Timed]) -> None:
    """Bars of milliseconds, the first on top, each term in its place and the total at the end."""
    starts = [0.0] * len(rows)
    for place, (term, look) in enumerate(TERMS.items()):
        widths = [1e3 * seconds_of(row)[place] for row in rows]
        axes.barh(
            range(len(rows)), widths, left=starts, color=look.colour, hatch=look.hatch,
            edgecolor="#333333", linewidth=0.4, label=term, height=0.62,
        )  # fmt: skip
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    for place, total in enumerate(starts):
        axes.annotate(
            f"{total:.3g} ms", (total, place), xytext=(4, 0), textcoords="offset points", va="center",
            fontsize=9,
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.set_xlabel("latency of one request (ms)")
    axes.margins(x=0.12)


def logarithmic(
    axes: Axes, name: Literal["x", "y"], show: Callable[[float], str] = "{:g}".format
) -> None:
    """A scale of logarithms with numbers as people write them, at 1, 2 and 5."""
    from matplotlib.ticker import LogLocator

    axes.set(**{f"{name}scale": "log"})
    axis = axes.xaxis if name == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(lambda value, _: show(value))
    axis.set_minor_formatter(lambda value, _: "")


def legend(axes: Axes, columns: int = 1, *, is_below: bool = False) -> None:
    """What the marks are, each once; within the axes where there is room, or below the figure."""
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(reversed(labels), reversed(handles), strict=True))
    once = dict(reversed(once.items()))
    place = axes.get_figure(root=True) if is_below else axes
    assert place is not None
    place.legend(
        list(once.values()), list(once), frameon=False, fontsize=8.5, ncols=columns,
        loc="outside lower center" if is_below else "best",
    )  # fmt: skip
