"""What a plan's, a verification's and a run's tables say, drawn."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from splitter.planning.records import Candidate, Latency, Plan
from splitter.planning.verify import Row
from splitter.reporting.bars import TERMS, Bar, Bars, Curve, Sparkline
from splitter.reporting.units import seconds

_MOST_ALTERNATIVES = 5
_WIDEST_RUNS = 60
_MOST_TIMES_LEAST = 3.0
"""What costs more is drawn no higher, but for most of all: so the differences that matter can be seen."""


def candidates_picture(plan: Plan) -> RenderableType:
    """A bar for the plan, for its rivals and for the next best cuts, of one scale."""
    found = {_known_by(plan.predicted): plan.predicted}
    for candidate in (*plan.baselines, *plan.alternatives[:_MOST_ALTERNATIVES]):
        if candidate.feasible:
            found.setdefault(_known_by(candidate), candidate)
    rivals = {candidate.name for candidate in plan.baselines} | {plan.predicted.name}
    return Bars(
        [
            _bar(
                one.name if one.name in rivals else title(one),
                one,
                is_chosen=one is plan.predicted,
            )
            for one in found.values()
        ]
    )


def title(candidate: Candidate) -> str:
    """What a cut is known by: the tensors that cross."""
    return ", ".join(item.tensor for item in candidate.crossing) or candidate.name


def order_picture(plan: Plan) -> Iterator[RenderableType]:
    """The total of the cut at each place along the node order, and where the plan's is."""
    values = [cut.total_s if cut.feasible else None for cut in plan.order]
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return
    low, high = min(known), max(known)
    clipped = min(high, max(_MOST_TIMES_LEAST * low, sorted(known)[len(known) * 9 // 10]))
    chosen = _place(plan)
    yield Text("Total of each cut along the node order (left: nothing runs on the device):")
    yield Curve(
        values, low, clipped, chosen, top=f"{'>' * (high > clipped)}{seconds(clipped)}",
        bottom=seconds(low), caption="the plan",
    )  # fmt: skip
    if chosen is None:
        yield Text(
            "The plan's own cut is at none of these places: its head is no first part of the order."
        )


def verified_picture(row: Row, most: float) -> RenderableType:
    """A bar as predicted and one as measured; ``most`` is the scale's end, in seconds."""
    return Bars(
        [
            _bar("  predicted", row.predicted, figure=""),
            _bar("  measured", row.measured, figure="", is_chosen=True),
        ],
        has_legend=False,
        most=most,
    )


def legend() -> RenderableType:
    """What the bars' marks mean."""
    return Bars(())


def runs_picture(totals: Sequence[float], marks: Sequence[str]) -> Iterator[RenderableType]:
    """Each run's total in their order, and below it a mark of who answered it, where that changed.

    Where there are more runs than cells, a cell shows the mean, and the mark that most of them have.
    """
    count = min(_WIDEST_RUNS, len(totals))
    shares = [slice(i * len(totals) // count, (i + 1) * len(totals) // count) for i in range(count)]
    yield Text(f"each run in turn, from {seconds(min(totals))} to {seconds(max(totals))}:")
    means = [math.fsum(totals[share]) / len(totals[share]) for share in shares]
    yield Sparkline(means, high=max(means), style="blue")
    if len(set(marks)) > 1:
        commonest = (Counter(marks[share]).most_common(1)[0][0] for share in shares)
        yield Text("".join(commonest), no_wrap=True, overflow="crop")


def _bar(
    label: str,
    latency: Candidate | Latency,
    *,
    figure: str | None = None,
    is_chosen: bool = False,
) -> Bar:
    parts = [float(getattr(latency, f"{term}_s")) for term in TERMS]
    return Bar(label, parts, seconds(latency.total_s) if figure is None else figure, is_chosen)


def _cut(candidate: Candidate) -> tuple[int, frozenset[str]]:
    """The same of two candidates that are one cut."""
    return candidate.head_nodes, frozenset(item.tensor for item in candidate.crossing)


def _known_by(candidate: Candidate) -> tuple[object, ...]:
    """The same where a rival is among the next best; with relays one cut of the device is several plans."""
    return *_cut(candidate), candidate.total_s


def _place(plan: Plan) -> int | None:
    """Of the plan's cut among those along the order; None where its head is no first part of it."""
    nodes, tensors = _cut(plan.predicted)
    return next(
        (
            index
            for index, cut in enumerate(plan.order)
            if cut.place == nodes and tensors == {item.tensor for item in cut.crossing}
        ),
        None,
    )
