"""Two plans beside each other, for a person: what differs, in words and numbers."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from splitter.planning.diff import PlanDiff, Sending, Value
from splitter.reporting.text import elided, listed, plain_table
from splitter.reporting.units import rate, seconds, size

WIDEST = 24
"""Characters of a text among the inputs; JSON has all of it."""


def diff_text(found: PlanDiff) -> RenderableType:
    """The decision first, then what is sent, the terms, and what the plans were made from."""
    if found.is_empty:
        return Text("The plans decide the same, from the same.")
    parts: list[RenderableType] = [Text(_decision(found), style="bold")]
    parts += [Text(line) for line in _moved(found)]
    if found.sending:
        parts += [Text(), _sending(found)]
    parts += [Text(), _terms(found), Text(), _inputs(found)]
    return Group(*parts)


def value_text(name: str, value: Value) -> str:
    """A number with the unit that its field's name ends in."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return elided(value, WIDEST) or '""'
    if name.endswith("bytes_per_s"):
        return rate(value)
    if name.endswith("_bytes"):
        return size(value)
    if name.endswith("_s"):
        return seconds(value)
    return f"{value:.6g} J" if name.endswith("_j") else f"{value:.6g}"


def _decision(found: PlanDiff) -> str:
    if not found.is_same_model:
        return "The plans are for different models."
    if found.is_same_cut:
        changed = "other codecs" if found.sending else "the same codecs"
        return f"The same cut, in {changed}."
    words = {"device": "all on the device", "server": "send the input", "split": "split"}
    before, after = words[found.decision_before], words[found.decision_after]
    return f"Another cut: {before}, then {after}." if before != after else "Another cut."


def _moved(found: PlanDiff) -> list[str]:
    return [
        f"{len(names)} nodes move to the {tier}: {listed(names)}"
        for tier, names in (("device", found.to_device), ("server", found.to_server))
        if names
    ]


def _sending(found: PlanDiff) -> Table:
    table = plain_table("sent before", "after", "crossing tensor", whole=(0, 1))
    for item in found.sending:
        table.add_row(_sent(item, "before"), _sent(item, "after"), item.tensor)
    return table


def _sent(item: Sending, side: str) -> str:
    codec, nbytes = getattr(item, f"codec_{side}"), getattr(item, f"bytes_{side}")
    return "not sent" if codec is None else f"{size(nbytes)} as {codec}"


def _terms(found: PlanDiff) -> Table:
    table = plain_table("predicted", "before", "after", "change", numbers=(1, 2, 3))
    for term in found.terms:
        if not (term.before or term.after):
            continue
        shown = [value_text(term.name, value) for value in (term.before, term.after)]
        table.add_row(
            term.name.rpartition("_")[0] or term.name, *shown, _change(term.before, term.after)
        )
    return table


def _change(before: float | None, after: float | None) -> str:
    if before == after:
        return "0"
    if not before or after is None:
        return ""
    times = after / before
    return f"{times - 1:+.1%}" if times < 10 else f"{times:.3g}x"


def _inputs(found: PlanDiff) -> RenderableType:
    if not found.inputs:
        return Text("Both were made from the same.")
    table = plain_table("made from", "before", "after")
    for item in found.inputs:
        shown = [value_text(item.name, value) for value in (item.before, item.after)]
        table.add_row(item.name, *shown)
    return table
