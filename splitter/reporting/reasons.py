"""The reasons of a plan, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from splitter.planning.reasons import Bound, Reasons, Rival, Sensitivity
from splitter.planning.terms import QUANTITIES, Objective, amount
from splitter.reporting.text import elided, plain_table
from splitter.reporting.units import rate, seconds, size

WIDEST = 26
"""Characters of a name among numbers."""


def reasons_text(reasons: Reasons, objective: Objective) -> RenderableType:
    """What decides, against each rival; what would have to change; what the limits cost."""
    parts: list[RenderableType] = [
        Text("Why this plan:", style="bold"),
        Text(f"Most of it is the {reasons.largest}: {reasons.share:.0%} of the latency."),
    ]
    parts += [Text(_against(rival, objective)) for rival in reasons.rivals]
    if reasons.sensitivities:
        parts += [Text(), Text("Another plan is better, all else equal, when:"), _changes(reasons)]
        still = [
            item.name for item in reasons.sensitivities if item.low is None and item.high is None
        ]
        if still:
            parts.append(Text(f"Never by {', '.join(still)} alone."))
    if reasons.note:
        before = "" if reasons.sensitivities else "How far it holds is not known: "
        parts += [Text(), Text(f"{before}{reasons.note}.")]
    if reasons.limits:
        parts += [Text(), *(Text(line) for line in _limits(reasons.limits, objective))]
    return Group(*parts)


def _against(rival: Rival, objective: Objective) -> str:
    terms = {
        term: getattr(rival, f"{term}_s") for term in ("head", "encode", "link", "decode", "tail")
    }
    gains = terms[rival.decides]
    costs = {term: -value for term, value in terms.items() if value < 0}
    text = (
        f"{elided(rival.name, WIDEST)} is {value_of(rival.objective, objective)} worse: "
        f"its {rival.decides} takes {seconds(gains)} more"
    )
    if costs:
        term = max(costs, key=costs.__getitem__)
        text += f", its {term} {seconds(costs[term])} less"
    return text + "."


def value_of(value: float, objective: Objective) -> str:
    """A value of the objective, with its unit where it has one."""
    unit = objective.unit
    if unit == "s":
        return seconds(value)
    return f"{value:.3g} {unit}".strip()


def _changes(reasons: Reasons) -> Table:
    table = plain_table("", "now", "but", "then better", numbers=(1, 2), whole=(0,))
    for item in reasons.sensitivities:
        first = (elided(item.name, WIDEST), figure(item, item.at))
        for end, word, plan in ((item.low, "under", item.below), (item.high, "over", item.above)):
            if end is not None:
                table.add_row(*first, f"{word} {figure(item, end)}", plan)
                first = "", ""
    return table


def figure(item: Sensitivity, value: float) -> str:
    """A value of what is moved."""
    if item.unit == "bytes_per_s":
        return rate(value)
    if item.unit == "s":
        return seconds(value)
    return size(value) if item.unit == "bytes" else f"{value:.3g}x"


def _limits(limits: tuple[Bound, ...], objective: Objective) -> Iterator[str]:
    for bound in limits:
        said = _limit(bound)
        if not bound.binds:
            spare = "" if bound.used is None else f"; {_amount(bound.name, bound.used)} is used"
            yield f"Limit {said} does not bind{spare}."
            continue
        text = f"Limit {said} costs {value_of(bound.cost, objective)}: without it, {bound.without}"
        if bound.needs is not None:
            text += f", which needs {_amount(bound.name, bound.needs)}"
        if bound.shadow_price is not None and bound.reached_at is not None:
            text += (
                f"; up to {_amount(bound.name, bound.reached_at)} each {_unit(bound.name)} more is "
                f"worth {value_of(bound.shadow_price, objective)}"
            )
        yield text + "."


def _limit(bound: Bound) -> str:
    return bound.name if bound.limit is None else _amount(bound.name, bound.limit)


def _amount(name: str, value: float) -> str:
    if name.endswith("_bytes"):
        return f"{size(value)} {'sent' if name == 'sent_bytes' else 'of ' + QUANTITIES[name]}"
    if name.endswith("_s"):
        return f"{QUANTITIES[name]} of {seconds(value)}"
    return amount(name, value) if name in QUANTITIES else f"loss of {value:.3g}"


def _unit(name: str) -> str:
    for end, unit in (("_bytes", "byte"), ("_j", "J"), ("_s", "s")):
        if name.endswith(end):
            return unit
    return "unit"
