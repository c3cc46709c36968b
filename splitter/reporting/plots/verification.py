"""Predictions beside the clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from splitter.planning.verify import Verification
from splitter.reporting.plots.style import GREY, TERMS, blank, legend
from splitter.reporting.text import elided

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAME_WIDTH = 26
_MARKS = {"head": "o", "tail": "^", "encode": "x", "decode": "+"}
_LEAST_S = 2e-5
"""Shorter terms are left out: there the clock is all one sees."""


def verification_plot(found: Verification, title: str) -> Figure:
    """Each term's seconds, predicted against measured; and each cut's total, one beside the other."""
    figure, (terms, totals) = blank(title, height=4.8, columns=2)
    values = []
    for term, mark in _MARKS.items():
        pairs = [
            (getattr(row.predicted, f"{term}_s"), getattr(row.measured, f"{term}_s"))
            for row in found.rows
        ]
        pairs = [pair for pair in pairs if min(pair) > _LEAST_S]
        values += [1e3 * value for pair in pairs for value in pair]
        colour = "#333333" if mark in "x+" else TERMS[term].colour
        terms.plot(
            [1e3 * predicted for predicted, _ in pairs], [1e3 * measured for _, measured in pairs],
            mark, color=colour, label=term, ls="", ms=7, mec="#333333" if mark not in "x+" else None,
        )  # fmt: skip
    ends = [min(values) / 1.4, max(values) * 1.4]
    terms.plot(ends, ends, color=GREY, lw=1)
    terms.fill_between(
        ends, [0.9 * end for end in ends], [1.1 * end for end in ends], color=GREY, alpha=0.2, lw=0,
        label="within 10 %",
    )  # fmt: skip
    terms.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    for axis in (terms.xaxis, terms.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    terms.set_xlabel("predicted (ms)")
    terms.set_ylabel("measured, median (ms)")
    legend(terms)
    rows = sorted(found.rows, key=lambda row: row.predicted.total_s)
    for place, row in enumerate(rows):
        ends = [1e3 * row.predicted.total_s, 1e3 * row.measured.total_s]
        totals.plot(ends, [place, place], color=GREY, lw=1, zorder=1)
        totals.plot(ends[0], place, "o", color="#333333", fillstyle="none", ms=8, label="predicted")
        totals.plot(ends[1], place, "d", color=TERMS["head"].colour, ms=6, label="measured")
    totals.set_yticks(range(len(rows)), [elided(row.name, _NAME_WIDTH) for row in rows])
    totals.invert_yaxis()
    totals.set_xlabel("total with the link by arithmetic (ms)")
    totals.grid(alpha=0.25, axis="x")
    legend(totals)
    return figure
