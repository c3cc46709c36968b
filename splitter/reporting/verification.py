"""A plan's verification as text."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from splitter.planning.verify import Verification
from splitter.reporting.text import TERMS, plain_table, terms
from splitter.reporting.units import seconds


def verification_text(found: Verification) -> RenderableType:
    """Predicted beside measured, term by term, and the regret."""
    table = plain_table("", "", *TERMS, numbers=range(2, 8))
    for row in found.rows:
        table.add_row(row.name, "predicted", *terms(row.predicted))
        table.add_row("", "measured", *terms(row.measured), style="bold")
        error = row.predicted.total_s / row.measured.total_s - 1 if row.measured.total_s else 0.0
        table.add_row("", "", *[""] * 5, f"{error:+.1%}", style="dim")
    chosen = found.rows[0]
    verdict = (
        f"The planned cut is the best of the {len(found.rows)} measured"
        if found.best == chosen.name
        else f"{found.best} was faster by the clock: the plan's regret is {found.regret:.1%}"
    )
    factors = (
        f"{found.rounds} interleaved rounds; this machine's seconds x {found.device_factor:.3g} stand "
        f"for the device's, x {found.server_factor:.3g} for the server's; the link is arithmetic on "
        "the bytes really sent."
    )
    return Group(
        table, Text(), Text(f"{verdict}: {seconds(chosen.measured.total_s)}."), Text(factors)
    )
