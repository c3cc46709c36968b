"""Text in the cells of a terminal."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size


def printable(name: str) -> str:
    """A name that came from elsewhere, without what would steer a terminal or takes no cell of its own.

    A mark of no width becomes a question mark of one where the encoding lacks it, and a line too long.
    """
    if name.isascii() and name.isprintable():
        return name
    return "".join(
        mark if mark.isprintable() and cell_len(mark) else ascii(mark)[1:-1] for mark in name
    )


def fitted(text: str, width: int) -> str:
    """A label of this many cells: filled up with blanks, or without its middle."""
    if cell_len(text) <= width:
        return text + " " * (width - cell_len(text))
    if width < 8:
        return set_cell_size(text, width)
    end = (width - 3) * 2 // 3  # most names begin alike
    return set_cell_size(text, width - 3 - end) + "..." + _last_cells(text, end)


def _last_cells(text: str, width: int) -> str:
    kept = text
    while cell_len(kept) > width:
        kept = kept[1:]
    return kept + " " * (width - cell_len(kept))
