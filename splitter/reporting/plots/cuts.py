"""Cuts along the node order, and a plan beside its rivals."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import TYPE_CHECKING

from splitter.planning.candidates import SPLIT
from splitter.planning.drawing import OrderCut
from splitter.planning.records import Candidate, Plan
from splitter.reporting.findings import best_split, rivals_of
from splitter.reporting.plots.style import (
    DEVICE,
    GREY,
    TERMS,
    blank,
    legend,
    logarithmic,
    rival_look,
    seconds_of,
    stacked,
)
from splitter.reporting.plots.style import SPLIT as SPLIT_LOOK
from splitter.reporting.text import elided, listed
from splitter.reporting.units import size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAME_WIDTH = 30
_TALLEST = 2.2
"""Bars end at so many times the dearer rival: the first cuts of a network are far beyond it."""


def profile_plot(plan: Plan, title: str) -> Figure:
    """Where the seconds are along the node order, and how many bytes would cross there."""
    assert plan.graph is not None
    figure, (above, below) = blank(title, height=5.2, rows=2)
    for tier, look, role, ls in ((0, DEVICE, "device", "-"), (-1, SPLIT_LOOK, "server", "--")):
        passed = list(accumulate((n.seconds[tier] for n in plan.graph.nodes), initial=0.0))
        source = (plan.device, plan.server)[tier]
        label = f"{role}: {source.name} ({source.origin.value})"
        above.step(
            range(len(passed)), [1e3 * s for s in passed], color=look.colour, ls=ls, label=label
        )
    above.set_ylabel("passed so far (ms)")
    legend(above)
    known = [cut for cut in plan.order if cut.raw_bytes]
    at = [cut.place for cut in known]
    below.step(at, [cut.raw_bytes for cut in known], color="#333333", where="mid", label="as it is")
    sent = [cut for cut in known if cut.crossing]
    below.step(
        [cut.place for cut in sent], [cut.up_bytes for cut in sent], color=SPLIT_LOOK.colour,
        ls="--", where="mid", label="in the plan's codecs",
    )  # fmt: skip
    if sent:
        below.axhline(sent[0].up_bytes, color=GREY, lw=1, ls=":", label="the input, in its codec")
    logarithmic(below, "y", size)
    below.set_ylabel("would cross there")
    below.set_xlabel("nodes on the device, in the order of the model")
    legend(below, columns=3)
    return figure


def order_plot(plan: Plan, title: str) -> Figure:
    """The latency of the cut after each node, term by term; the rivals as lines."""
    figure, (axes,) = blank(title, height=4.8)
    cuts = [cut for cut in plan.order if cut.feasible]
    rivals = rivals_of(plan)
    highest = 1e3 * _TALLEST * max(item.total_s for item in (plan.predicted, *rivals))
    bottoms = [0.0] * len(cuts)
    places = [cut.place for cut in cuts]
    for index, (term, look) in enumerate(TERMS.items()):
        tops = [b + 1e3 * seconds_of(cut)[index] for b, cut in zip(bottoms, cuts, strict=True)]
        axes.fill_between(
            places, bottoms, tops, step="mid", facecolor=look.colour, hatch=look.hatch,
            edgecolor="#333333", linewidth=0.3, label=term,
        )  # fmt: skip
        bottoms = tops
    for rival in rivals:
        colour = rival_look(rival).colour
        axes.axhline(1e3 * rival.total_s, color=colour, lw=1.6, ls="--", label=rival.name)
    _point_at(axes, min(cuts, key=lambda cut: cut.total_s))
    axes.set_ylim(0, min(highest, 1.15 * max(bottoms)))
    axes.set_xlim(places[0] - 0.5, places[-1] + 0.5)
    axes.set_xlabel("nodes on the device, in the order of the model (0: the input is sent)")
    axes.set_ylabel("latency of one request (ms)")
    legend(axes, columns=4, is_below=True)
    return figure


def rivals_plot(plan: Plan, title: str) -> Figure:
    """The plan, its rivals and the next best cuts as bars, term by term."""
    rows: list[Candidate] = []
    for item in (plan.predicted, *rivals_of(plan), *plan.alternatives):
        if item not in rows:  # a rival may be the next best, too
            rows.append(item)
    figure, (axes,) = blank(title, height=1.6 + 0.4 * len(rows))
    stacked(axes, [_label(row) for row in rows], rows)
    axes.get_yticklabels()[0].set_fontweight("bold")
    legend(axes, columns=5, is_below=True)
    return figure


def links_plot(plans: Mapping[str, Plan], title: str) -> Figure:
    """For each link the best split, all on the device, and the input sent."""
    figure, (axes,) = blank(title, height=1.7 + 0.42 * len(plans))
    for place, plan in enumerate(plans.values()):
        found = [(best_split(plan), SPLIT_LOOK, "best split")]
        found += [(rival, rival_look(rival), rival.name) for rival in rivals_of(plan)]
        least = min(item.total_s for item, _, _ in found if item is not None)
        for item, look, label in found:
            if item is not None:
                axes.plot(
                    1e3 * item.total_s, place, look.mark, color=look.colour, label=label, ls="",
                    ms=11 if item.total_s == least else 7, alpha=1 if item.total_s == least else 0.7,
                    fillstyle="full" if item.total_s == least else "none", mew=1.6,
                )  # fmt: skip
    names = [
        f"{name}\n{8e-6 * plan.link.up_bytes_per_s:g} Mbit/s up" for name, plan in plans.items()
    ]
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    logarithmic(axes, "x")
    axes.set_xlabel("latency of one request (ms); the best of each link is filled")
    axes.grid(alpha=0.25, axis="x")
    axes.margins(y=0.12)
    legend(axes, columns=3, is_below=True)
    return figure


def _label(item: Candidate) -> str:
    sent = [elided(one.tensor, _NAME_WIDTH) for one in item.crossing]
    if item.name == SPLIT:
        return f"split after {listed(sent)}"
    return item.name if len(item.name) <= _NAME_WIDTH else elided(item.name, _NAME_WIDTH)


def _point_at(axes: Axes, cut: OrderCut) -> None:
    axes.annotate(
        f"best: {cut.place} nodes,\n{1e3 * cut.total_s:.3g} ms", (cut.place, 1e3 * cut.total_s),
        xytext=(18, 42), textcoords="offset points", fontsize=9, fontweight="bold",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
        arrowprops={"arrowstyle": "-|>", "color": "#222222"},
    )  # fmt: skip
