"""What is best where: cuts, and the stretches of bandwidth, server slowdown and round trip they are for."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from splitter.document import Record
from splitter.planning.cuts import PlannedCut

NonNegative = Annotated[float, Meta(ge=0)]
Index = Annotated[int, Meta(ge=0)]


class TableCut(Record, frozen=True, kw_only=True):
    """A cut with its codecs, and what it costs apart from the link: enough to price it on any."""

    name: str
    """``all on the device``, ``input sent to the server``, or its crossing tensors."""
    cut: PlannedCut
    head_s: NonNegative
    encode_s: NonNegative
    decode_s: NonNegative
    tail_s: NonNegative
    up_bytes: Annotated[int, Meta(ge=0)]
    down_bytes: Annotated[int, Meta(ge=0)]
    loss: NonNegative = 0.0
    """Sum over its crossing tensors."""


class Piece(Record, frozen=True, kw_only=True):
    """A stretch of a parameter on which one cut is best; None is unbounded."""

    low: float
    high: float | None
    cut: Index
    """Its place in ``PolicyTable.cuts``."""
    stay_low: float
    """From here to ``stay_high`` the cut costs at most ``PolicyTable.hysteresis`` more than the best, as a
    part of it: whoever runs it stays with it there."""
    stay_high: float | None
    proven: bool = True
    """Nothing is better anywhere in it; not so where a time limit stopped the search."""


class Pieces(Record, frozen=True, kw_only=True):
    """The whole range of one parameter, all else as planned."""

    at: float
    """The value that the plan was made for."""
    pieces: tuple[Piece, ...]
    """In rising order, each beginning where the one before ends."""
    gap: float | None
    """No plan costs less than the table's by more than this part of its cost, anywhere; 0 is proven, None
    where a time limit left nothing to say."""
    solves: Index
    """That the search took."""

    def at_value(self, value: float) -> Piece:
        """The piece that a value is in."""
        return next(p for p in self.pieces if p.high is None or value <= p.high)


class RoundTrips(Record, frozen=True, kw_only=True):
    """Bandwidth and round trip together, on a grid: the best cut of each of its points."""

    up_bytes_per_s: tuple[float, ...]
    """Both directions scaled together; the figure is the uplink's."""
    rtt_s: tuple[float, ...]
    cuts: tuple[tuple[Index, ...], ...]
    """A row for each round trip, a column for each bandwidth."""


class PolicyTable(Record, frozen=True, kw_only=True):
    """Which cut to run when the link or the server changes."""

    cuts: tuple[TableCut, ...]
    """The plan's own first."""
    hysteresis: NonNegative
    """What staying with a cut may cost more than the best, as a part of it, before switching is worth it."""
    up_bytes_per_s: Pieces
    """Both directions scaled together; the figure is the uplink's."""
    server_slowdown: Pieces
    """A factor on every server second; 1 is the profile as it stands."""
    round_trip: RoundTrips
