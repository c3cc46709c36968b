"""Terms against one another: fronts, and what a limit costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from splitter.planning.records import Candidate, Plan
from splitter.planning.terms import Term
from splitter.reporting.findings import rivals_of
from splitter.reporting.plots.style import SPLIT, blank, legend, rival_look
from splitter.reporting.text import elided

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAME_WIDTH = 30
_ROOM = (0.25, 0.09)
"""Of a name, in parts of the points' range."""
_AXES = {
    Term.LATENCY: (1e3, "latency of one request (ms)"),
    Term.THROUGHPUT: (1e3, "between answers of a stream (ms)"),
    Term.ENERGY: (1.0, "energy of the device a request (J)"),
    Term.MONEY: (1e6, "price of a million requests"),
}
"""What a term is multiplied by, and what the axis then says."""


def front_plot(plan: Plan, title: str) -> Figure:
    """The plans that nothing beats in the first two terms, the knee filled; the rivals beside them."""
    assert plan.tradeoff is not None
    figure, (axes,) = blank(title, height=4.6)
    first, second = plan.tradeoff.terms[:2]
    (across, across_label), (up, up_label) = _AXES[first], _AXES[second]

    def at(item: Candidate) -> tuple[float, float]:
        return across * item.terms.of(first), up * item.terms.of(second)

    front = [at(item) for item in plan.tradeoff.candidates]
    axes.step(*zip(*front, strict=True), where="post", color=SPLIT.colour, lw=1, alpha=0.6)
    axes.plot(*zip(*front, strict=True), "o", color=SPLIT.colour, fillstyle="none", ms=7, mew=1.5)
    axes.plot(*front[plan.tradeoff.knee], "o", color=SPLIT.colour, ms=11, label="knee", ls="")
    on_front = set(front)
    for rival in rivals_of(plan):
        look = rival_look(rival)
        if at(rival) not in on_front:
            axes.plot(*at(rival), look.mark, color=look.colour, ms=8, label=rival.name, ls="")
    axes.set_xlabel(across_label)
    axes.set_ylabel(up_label)
    axes.margins(0.14)
    axes.grid(alpha=0.25)
    _name(axes, plan.tradeoff.candidates, front, first=(0, len(front) - 1, plan.tradeoff.knee))
    legend(axes)
    return figure


def memory_plot(plans: Sequence[Plan], title: str) -> Figure:
    """The best latency against the memory that the device may give, from much to little."""
    found = [plan.predicted for plan in plans]
    figure, (axes,) = blank(title, height=4.4)
    points = [(1e-6 * item.memory_bytes[0], 1e3 * item.total_s) for item in found]
    axes.step(*zip(*points, strict=True), where="pre", color=SPLIT.colour, lw=1, alpha=0.6)
    axes.plot(*zip(*points, strict=True), "o", color=SPLIT.colour, fillstyle="none", ms=7, mew=1.5)
    axes.set_xlabel("memory of the device: weights and live activations (MB)")
    axes.set_ylabel("latency of one request (ms)")
    axes.margins(0.14)
    axes.grid(alpha=0.25)
    _name(axes, found, points, first=(0, len(points) - 1))
    return figure


def _name(
    axes: Axes,
    found: Sequence[Candidate],
    points: Sequence[tuple[float, float]],
    first: Sequence[int],
) -> None:
    """Say what the plans send; those ``first`` come first, others where there is room."""
    spans = [max(values) - min(values) or 1.0 for values in zip(*points, strict=True)]
    named: list[tuple[float, float]] = []
    for place in dict.fromkeys([*first, *range(len(found))]):
        at = points[place]
        near = [
            abs(at[0] - x) / spans[0] < _ROOM[0] and abs(at[1] - y) / spans[1] < _ROOM[1]
            for x, y in named
        ]
        if any(near):
            continue
        named.append(at)
        sent = ", ".join(f"{one.tensor} as {one.codec}" for one in found[place].crossing)
        is_right = at[0] - min(x for x, _ in points) > 0.7 * spans[0]
        axes.annotate(
            elided(sent or found[place].name, _NAME_WIDTH), at, xytext=(-6 if is_right else 6, 7),
            textcoords="offset points", fontsize=8, ha="right" if is_right else "left",
        )  # fmt: skip
