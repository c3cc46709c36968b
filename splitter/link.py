"""The network between device and server: bytes per second each way, round trip, price."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from splitter.document import Record

Positive = Annotated[float, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]


class Link(Record, frozen=True, kw_only=True):
    """A link as the planner sees it; see ``docs/cost-model.md`` for how its terms are used."""

    name: str
    up_bytes_per_s: Positive
    """Device to server."""
    down_bytes_per_s: Positive
    """Server to device."""
    rtt_s: NonNegative
    price_per_gb: NonNegative = 0.0
    source: str = ""
    """Where the figures come from, or ``given`` for a link typed on the command line."""

    def transfer_s(self, up_bytes: float, down_bytes: float) -> float:
        """Seconds on the wire for one request: the bytes each way and one round trip."""
        return up_bytes / self.up_bytes_per_s + self.rtt_s + down_bytes / self.down_bytes_per_s
