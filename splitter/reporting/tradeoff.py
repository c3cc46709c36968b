"""Plans that nothing beats in two or three terms, for a person."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Group, RenderableType
from rich.text import Text

from splitter.planning.records import Candidate, Tradeoff
from splitter.planning.terms import Term
from splitter.reporting.text import listed, plain_table
from splitter.reporting.units import seconds

SHOWN: dict[Term, Callable[[float], str]] = {
    Term.LATENCY: seconds,
    Term.THROUGHPUT: seconds,
    Term.ENERGY: lambda joules: f"{joules:.3g} J",
    Term.MONEY: lambda money: f"{money:.3g}",
}
TITLES = {Term.THROUGHPUT: "interval"}


def tradeoff_text(found: Tradeoff) -> RenderableType:
    """A row for each plan, from the best in the first term on; the knee is marked."""
    names = " and ".join(term.value for term in found.terms)
    columns = [TITLES.get(term, term.value) for term in found.terms]
    table = plain_table(
        *columns, "", "plan", numbers=range(len(columns)), whole=(len(columns),)
    )  # fmt: skip
    for place, candidate in enumerate(found.candidates):
        values = [SHOWN[term](candidate.terms.of(term)) for term in found.terms]
        table.add_row(*values, "knee" if place == found.knee else "", _sends(candidate))
    parts: list[RenderableType] = [Text(f"Nothing beats these in {names}:"), table]
    if not found.is_complete:
        parts.append(Text("The time limit ended the search: there may be more."))
    return Group(*parts)


def _sends(candidate: Candidate) -> str:
    """Codecs are named too: plans may differ by these alone."""
    sent = [f"{item.tensor} as {item.codec}" for item in candidate.crossing]
    return listed(sent) if sent else candidate.name
