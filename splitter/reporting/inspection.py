"""A model's summary as text."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from splitter.graph.summary import Gap, Port, Summary
from splitter.reporting.bars import Curve
from splitter.reporting.text import listed, plain_table
from splitter.reporting.units import count, shape, size

_FEWEST_PLACES = 3  # of which a curve says more than a table


def inspection_text(summary: Summary, *, every: bool = False) -> RenderableType:
    """Operators, sizes, ports, and the narrowest places (or all of them)."""
    bound = "".join(f"  {name}={value}" for name, value in summary.dims.items())
    extra = f" (+ {summary.constants} constant, {summary.folded} folded)"
    head = Text.assemble(
        (summary.file, "bold"),
        f"  sha256 {summary.sha256[:12]}{bound}\n"
        f"{summary.nodes} nodes{extra if summary.constants or summary.folded else ''}, "
        f"{count(summary.parameters)} parameters, {count(summary.flops)}FLOP\n",
        "  ".join(f"{name} {number}" for name, number in summary.operators.items()),
    )
    gaps = summary.frontier if every else summary.narrowest
    title = "Places along the node order" if every else "Narrowest places along the node order"
    ports = _ports(summary.inputs, summary.outputs)
    curve = _crossing(summary.frontier)
    return Group(head, Text(), ports, Text(), *curve, _gaps(gaps, title, summary.flops))


def _crossing(frontier: Sequence[Gap]) -> list[RenderableType]:
    """Bytes at every place; none where nothing can travel, and of a model that is a place or two."""
    values = [None if gap.nbytes is None else float(gap.nbytes) for gap in frontier]
    most = max((value for value in values if value is not None), default=0.0)
    if len(values) < _FEWEST_PLACES or not most:
        return []
    curve = Curve(values, 0.0, most, top=size(most), bottom="0 B")
    return [Text("Bytes that cross at each place along the node order", "bold"), curve, Text()]


def _ports(inputs: Sequence[Port], outputs: Sequence[Port]) -> Table:
    table = plain_table("", "dtype", "shape", "bytes", "name", numbers=(3,), whole=(0, 1))
    for role, ports in (("input", inputs), ("output", outputs)):
        for port in ports:
            nbytes = "?" if port.nbytes is None else size(port.nbytes)
            table.add_row(role, port.dtype, shape(port.shape), nbytes, port.name)
    return table


def _gaps(gaps: Sequence[Gap], title: str, flops: int) -> Table:
    table = plain_table(
        "place", "bytes", "FLOPs", "after", "crossing", title=title, numbers=(0, 1, 2), whole=(3,)
    )
    for gap in gaps:
        table.add_row(
            str(gap.place),
            "cannot travel" if gap.nbytes is None else size(gap.nbytes),
            f"{gap.flops_before / flops:.0%}" if flops else "",
            gap.operator or "(the input)",
            listed([port.name for port in gap.crossing]),
        )
    return table
