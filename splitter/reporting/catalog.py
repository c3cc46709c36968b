"""The devices and links that are known by name."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from splitter.link_parse import find_link, link_names
from splitter.profiling.device import device_names, find_device
from splitter.reporting.text import plain_table
from splitter.reporting.units import count, rate, seconds, size


def catalog_text() -> RenderableType:
    """Their main figures; the sources of each are in the YAML files."""
    devices = plain_table("device", "FLOP/s", "memory/s", "memory", "what", numbers=(1, 2, 3))
    for name in device_names():
        found = find_device(name)
        devices.add_row(
            name, count(found.flops_per_s), f"{size(found.bytes_per_s)}/s",
            size(found.memory_bytes.value), found.summary,
        )  # fmt: skip
    links = plain_table("link", "up", "down", "round trip", numbers=(1, 2, 3))
    for name in link_names():
        link = find_link(name)
        links.add_row(
            name, rate(link.up_bytes_per_s), rate(link.down_bytes_per_s), seconds(link.rtt_s)
        )
    return Group(devices, Text(), links)
