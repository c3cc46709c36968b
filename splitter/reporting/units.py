"""Seconds, bytes and rates as people read them; the inside of the program never sees these."""

from __future__ import annotations


def seconds(value: float) -> str:
    """Three significant figures: ``41.2 ms``, ``870 us``, ``1.93 s``."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if abs(value) >= size:
            return f"{_three(value / size)} {unit}"
    return "0" if value == 0 else f"{_three(value * 1e6)} us"


def size(nbytes: float) -> str:
    """Decimal, as networks are sold: ``37.6 kB``, ``4.82 MB``."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= scale:
            return f"{_three(nbytes / scale)} {unit}"
    return f"{nbytes:.0f} B"


def rate(bytes_per_s: float) -> str:
    """Decimal bits a second: ``20 Mbit/s``."""
    bits = bytes_per_s * 8
    for unit, scale in (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3)):
        if bits >= scale:
            return f"{_three(bits / scale)} {unit}"
    return f"{bits:.0f} bit/s"


def count(value: float) -> str:
    """``3.49 M``, ``602 M``, ``1.2 G``; small counts as they are."""
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{_three(value / scale)} {unit}"
    return f"{value:.0f}"


def shape(sizes: tuple[int, ...] | None) -> str:
    """``1x3x224x224``; a scalar is ``scalar``."""
    if sizes is None:
        return "?"
    return "x".join(map(str, sizes)) or "scalar"


def _three(value: float) -> str:
    text = f"{value:.3g}"
    return f"{value:.0f}" if "e" in text else text
