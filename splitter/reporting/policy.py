"""The policy table for a person: a letter for each cut, and where each is best."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from splitter.planning.table import Pieces, PolicyTable, RoundTrips, TableCut
from splitter.reporting.text import listed, plain_table
from splitter.reporting.units import rate, seconds, size

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def policy_text(table: PolicyTable) -> RenderableType:
    """The cuts, and where each is best: by bandwidth, by server slowdown, by bandwidth and round trip."""
    return Group(
        Text("What is best elsewhere, all else as planned:"),
        _cuts(table.cuts),
        Text(),
        _pieces("uplink, downlink alike", table.up_bytes_per_s, rate),
        Text(),
        _pieces("server slowed", table.server_slowdown, lambda factor: f"{factor:.3g}x"),
        Text(_kept(table)),
        Text(),
        Text("Best by uplink (columns) and round trip (rows):"),
        _map(table.round_trip),
    )


def letter(index: int) -> str:
    """A name for a cut: A is the plan's own."""
    turn, place = divmod(index, len(LETTERS))
    return LETTERS[place] + (str(turn + 1) if turn else "")


def _cuts(cuts: tuple[TableCut, ...]) -> Table:
    table = plain_table(
        "cut", "head", "encode", "decode", "tail", "up", "down", "sends", numbers=range(1, 7),
        whole=(0,),
    )  # fmt: skip
    for index, cut in enumerate(cuts):
        terms = (seconds(s) for s in (cut.head_s, cut.encode_s, cut.decode_s, cut.tail_s))
        sends = listed([f"{item.tensor} as {item.codec}" for item in cut.cut.crossing])
        table.add_row(letter(index), *terms, size(cut.up_bytes), size(cut.down_bytes), sends)
    return table


def _pieces(title: str, found: Pieces, unit: Callable[[float], str]) -> Table:
    table = plain_table(
        title, "to", "cut", "stays from", "to", "", numbers=(0, 1, 3, 4), whole=(2, 5)
    )

    def end(value: float | None) -> str:
        return "any" if value is None else unit(value)

    for piece in found.pieces:
        inside = piece.low <= found.at <= (piece.high or found.at)
        notes = (["planned for"] if inside else []) + ([] if piece.proven else ["not proven"])
        table.add_row(
            unit(piece.low), end(piece.high), letter(piece.cut), unit(piece.stay_low),
            end(piece.stay_high), ", ".join(notes),
        )  # fmt: skip
    return table


def _kept(table: PolicyTable) -> str:
    """What the pieces' margins mean, and what is proven."""
    gaps = [table.up_bytes_per_s.gap, table.server_slowdown.gap]
    solves = table.up_bytes_per_s.solves + table.server_slowdown.solves
    if None in gaps:
        proof = "nothing proven: the time limit ended it"
    elif any(gaps):
        worst = max(gap for gap in gaps if gap is not None)
        proof = f"proven to within {worst:.2%} when the time limit ended it"
    else:
        proof = "all proven"
    return (
        f"A cut stays while it costs at most {table.hysteresis:.0%} more than the best; "
        f"{proof}, {solves} solves."
    )


def _map(found: RoundTrips) -> Table:
    names = [f"{value * 8 / 1e6:g}" for value in found.up_bytes_per_s]
    table = plain_table("Mbit/s", *names, numbers=range(len(names) + 1))
    for rtt_s, row in zip(found.rtt_s, found.cuts, strict=True):
        table.add_row(seconds(rtt_s), *map(letter, row))
    return table
