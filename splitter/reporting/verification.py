"""A plan's verification as text."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from splitter.planning.verify import Row, Verification
from splitter.reporting.pictures import legend, verified_picture
from splitter.reporting.text import TERMS, terms
from splitter.reporting.units import seconds

_LABEL, _CELL = 11, 9
"""Widths: with the six terms and the error a row has 73 characters."""


def verification_text(found: Verification) -> RenderableType:
    """Predicted beside measured, term by term, and the regret."""
    most = max(latency.total_s for row in found.rows for latency in (row.predicted, row.measured))
    parts: list[RenderableType] = [legend(), _line("", [*TERMS, "error"], "dim")]
    for row in found.rows:
        parts += [Text(row.name, overflow="fold"), *_row(row), verified_picture(row, most)]
    chosen = found.rows[0]
    verdict = (
        f"The planned cut is the best of the {len(found.rows)} measured"
        if found.best == chosen.name
        else f"{found.best} was faster by the clock: the plan's regret is {found.regret:.1%}"
    )
    factors = (
        f"{found.rounds} interleaved rounds; this machine's seconds x {found.device_factor:.3g} stand "
        f"for the device's ({found.device_origin.value}), x {found.server_factor:.3g} for the "
        f"server's ({found.server_origin.value}); the link is arithmetic on the bytes really sent."
    )
    parts += [Text(), Text(f"{verdict}: {seconds(chosen.measured.total_s)}."), Text(factors)]
    return Group(*parts)


def _row(row: Row) -> list[Text]:
    measured_s = row.measured.total_s
    error = f"{row.predicted.total_s / measured_s - 1:+.1%}" if measured_s else ""
    return [
        _line("  predicted", terms(row.predicted)),
        _line("  measured", [*terms(row.measured), error], "bold"),
    ]


def _line(label: str, cells: list[str], style: str = "") -> Text:
    return Text(f"{label:<{_LABEL}}" + "".join(f"{cell:>{_CELL}}" for cell in cells), style=style)
