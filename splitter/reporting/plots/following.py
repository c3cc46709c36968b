"""Bandwidth: which cut is best where, and what it is to follow a link."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from splitter.planning.candidates import ON_DEVICE, ON_SERVER
from splitter.planning.records import Plan
from splitter.planning.table import TableCut
from splitter.reporting.plots.style import (
    DEVICE,
    GREY,
    LINES,
    OTHER,
    SERVER,
    SPLIT,
    blank,
    legend,
    logarithmic,
)
from splitter.reporting.policy import letter
from splitter.reporting.text import elided
from splitter.serving.device.simulation import Comparison, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAME_WIDTH = 32
_STRATEGIES = {
    "session": ("session, following the link", SPLIT),
    "fixed": ("best fixed cut in hindsight", OTHER),
    "device": (ON_DEVICE, DEVICE),
    "server": (ON_SERVER, SERVER),
}


def envelope_plot(plan: Plan, title: str) -> Figure:
    """Latency over bandwidth of every cut in the table; where each is the best, its line is thick."""
    assert plan.table is not None
    figure, (axes,) = blank(title, height=4.8)
    pieces = plan.table.up_bytes_per_s.pieces
    inner = [piece.low for piece in pieces[1:]] or [plan.link.up_bytes_per_s]
    rates = np.geomspace(min(inner) / 4, max(inner) * 4, 300)
    used = list(dict.fromkeys(piece.cut for piece in pieces))
    lowest = []
    for index, look in zip(used, LINES * 9, strict=False):
        cut = plan.table.cuts[index]
        values = np.array([1e3 * _latency_s(plan, cut, rate) for rate in rates])
        lowest.append(values)
        is_best = np.array([plan.table.up_bytes_per_s.at_value(r).cut == index for r in rates])
        axes.plot(8e-6 * rates, values, color=look.colour, lw=0.8, alpha=0.8)
        axes.plot(
            8e-6 * rates, np.where(is_best, values, np.nan), color=look.colour, lw=3,
            marker=look.mark, markevery=25, ms=6,
            label=f"{letter(index)}  {elided(_sends(cut), _NAME_WIDTH)}",
        )  # fmt: skip
    for edge in inner:
        axes.axvline(8e-6 * edge, color=GREY, lw=0.7, ls=":")
    least = np.min(lowest, axis=0)
    logarithmic(axes, "x")
    axes.set_ylim(0, 1.6 * least.max())
    axes.set_xlabel(
        f"uplink (Mbit/s), {1e3 * plan.link.rtt_s:g} ms round trip; downlink in proportion"
    )
    axes.set_ylabel("latency of one request (ms)")
    legend(axes)
    return figure


def run_plot(found: Comparison, title: str) -> Figure:
    """One trace: its rate, the cut in use beside the oracle's, and what requests took."""
    figure, (rate, cut, latency) = blank(title, height=6.4, rows=3)
    session = found.session
    times = np.arange(0.0, session.begun_s[-1], 0.25)
    mbits = [8e-6 * found.path.trace.mean(at, at + 0.25) for at in times]
    rate.fill_between(times, mbits, step="post", color="#8fb8d0", edgecolor="#0b3954", lw=0.6)
    rate.set_ylabel("link (Mbit/s)")
    _draw_choices(cut, found)
    logarithmic(latency, "y")
    latency.plot(
        session.begun_s, [1e3 * s for s in session.latencies_s], ".", ms=3, color=SPLIT.colour
    )
    device = found.fixed[found.table.on_device.id]
    latency.axhline(1e3 * device.mean_s, color=DEVICE.colour, ls="--", lw=1.4, label=ON_DEVICE)
    latency.set_ylabel("latency (ms)")
    latency.set_xlabel("time (s)")
    legend(latency)
    for axes in (rate, cut, latency):
        axes.set_xlim(0, times[-1])
    return figure


def strategies_plot(found: Mapping[str, Comparison], title: str) -> Figure:
    """For each trace the mean latency of each strategy over the oracle's."""
    figure, (axes,) = blank(title, height=1.8 + 0.36 * len(found))
    for place, comparison in enumerate(found.values()):
        means = comparison.over_oracle()
        for key, (name, look) in _STRATEGIES.items():
            is_session = key == "session"
            axes.plot(
                means[key], place, look.mark, color=look.colour, ls="", ms=9 if is_session else 7,
                fillstyle="full" if is_session else "none", mew=1.5, zorder=3 if is_session else 2,
                label=name if place == 0 else None,
            )  # fmt: skip
    axes.axvline(1.0, color=GREY, lw=1)
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    axes.set_xlabel("mean latency over that of an oracle, which knows the link")
    axes.grid(alpha=0.25, axis="x", which="both")
    legend(axes, columns=4, is_below=True)
    return figure


def _draw_choices(axes: Axes, found: Comparison) -> None:
    """A row for each cut that was used, from the one with the smallest head up."""
    oracle, session = found.oracle, found.session
    used = {*oracle.cuts, *session.cuts}
    rows = [cut for cut in found.table.cuts if cut.id in used]
    rows.sort(key=lambda cut: cut.cost.head_s if cut.cost else 0.0)
    row_of = {cut.id: place for place, cut in enumerate(rows)}

    def draw(run: Run, shift: float, colour: str, label: str) -> None:
        heights = [row_of[cut] + shift for cut in run.cuts]
        axes.plot(run.begun_s, heights, "|", color=colour, ms=6, label=label)

    draw(oracle, 0.18, GREY, "oracle")
    draw(session, -0.18, SPLIT.colour, "session")
    axes.set_yticks(range(len(rows)), [elided(cut.name, _NAME_WIDTH) for cut in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.legend(frameon=False, fontsize=8.5, ncols=2, loc="lower right", bbox_to_anchor=(1, 0.98))


def _sends(cut: TableCut) -> str:
    return ", ".join(f"{item.tensor} as {item.codec}" for item in cut.cut.crossing) or cut.name


def _latency_s(plan: Plan, cut: TableCut, up_bytes_per_s: float) -> float:
    """Both directions scaled together, as the table has it."""
    own_s = cut.head_s + cut.encode_s + cut.decode_s + cut.tail_s
    if cut.cut.tail_nodes == 0:
        return own_s
    ratio = plan.link.down_bytes_per_s / plan.link.up_bytes_per_s
    link = msgspec.structs.replace(
        plan.link, up_bytes_per_s=up_bytes_per_s, down_bytes_per_s=ratio * up_bytes_per_s
    )
    return own_s + link.transfer_s(cut.up_bytes, cut.down_bytes)
