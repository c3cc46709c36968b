"""Links as people give them: a name, a YAML file, or typed as ``20Mbit/s,15ms``."""

from __future__ import annotations

import re
from typing import Literal

from splitter import catalog
from splitter.catalog import Figure, Text
from splitter.document import Record
from splitter.errors import LinkError
from splitter.link import Link

BYTES_PER_S = {
    "bit/s": 1 / 8, "kbit/s": 1e3 / 8, "Mbit/s": 1e6 / 8, "Gbit/s": 1e9 / 8,
    "kbps": 1e3 / 8, "Mbps": 1e6 / 8, "Gbps": 1e9 / 8,
    "B/s": 1.0, "kB/s": 1e3, "MB/s": 1e6, "GB/s": 1e9,
}  # fmt: skip
SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}

_NUMBER = r"\d+(?:\.\d+)?"
_INLINE = re.compile(
    rf"(?P<up>{_NUMBER})(?:/(?P<down>{_NUMBER}))?\s*(?P<rate>[A-Za-z]+(?:/s)?)"
    rf"\s*,\s*(?P<rtt>{_NUMBER})\s*(?P<time>[a-z]*)"
)
_FORM = "write RATE,ROUNDTRIP such as 20Mbit/s,15ms, or UP/DOWN such as 20/100Mbit/s,15ms"


class LinkDescription(Record, frozen=True, kw_only=True):
    """A file of ``profiles/links``: figures in the units that people use, each with its source."""

    schema: Literal["splitter.link/1"]
    name: Text
    summary: Text
    up_mbit_per_s: Figure
    """Device to server; a Mbit is 10**6 bits."""
    down_mbit_per_s: Figure
    rtt_ms: Figure
    price_per_gb: Figure | None = None

    def link(self) -> Link:
        """The same in seconds and bytes."""
        return Link(
            name=self.name,
            up_bytes_per_s=self.up_mbit_per_s.value * BYTES_PER_S["Mbit/s"],
            down_bytes_per_s=self.down_mbit_per_s.value * BYTES_PER_S["Mbit/s"],
            rtt_s=self.rtt_ms.value * SECONDS["ms"],
            price_per_gb=self.price_per_gb.value if self.price_per_gb else 0.0,
            source=f"up: {self.up_mbit_per_s.source}; down: {self.down_mbit_per_s.source}; "
            f"round trip: {self.rtt_ms.source}",
        )


def link_names() -> tuple[str, ...]:
    """The links that come with the package."""
    return catalog.names("links")


def find_link(text: str) -> Link:
    """The link of a name, a ``.yaml`` file, or typed as ``20Mbit/s,15ms``.

    Raises
    ------
    LinkError
        No such link, a malformed file, or a rate or a time that is not positive and finite.
    """
    if catalog.is_path(text) or text.strip().lower() in link_names():
        return catalog.read(text, "links", LinkDescription, LinkError).link()
    if "," in text or re.match(r"\s*[-+.\d]", text):
        return parse_link(text)
    raise LinkError(f"{catalog.unknown(text, 'links')}; or {_FORM}")


def parse_link(text: str) -> Link:
    """A link typed on the command line; one rate is for both ways, ``UP/DOWN`` gives each its own.

    Raises
    ------
    LinkError
        The text has another form, an unknown unit, or a rate of 0.
    """
    found = _INLINE.fullmatch(text.strip())
    if found is None:
        raise LinkError(f"link {text!r} cannot be read: {_FORM}")
    rate = _unit(text, found["rate"], BYTES_PER_S)
    second = _unit(text, found["time"], SECONDS)
    up, down = float(found["up"]) * rate, float(found["down"] or found["up"]) * rate
    rtt_s = float(found["rtt"]) * second
    if not (0 < up < float("inf") and 0 < down < float("inf") and rtt_s < float("inf")):
        raise LinkError(f"link {text!r}: the rate must be over 0, and all of it finite")
    return Link(
        name=text.strip(), up_bytes_per_s=up, down_bytes_per_s=down, rtt_s=rtt_s, source="given"
    )


def _unit(text: str, unit: str, known: dict[str, float]) -> float:
    if unit not in known:
        raise LinkError(f"link {text!r}: {unit!r} is not one of the units {', '.join(known)}")
    return known[unit]
