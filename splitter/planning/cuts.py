"""Cuts as documents name them, by nodes and tensors of the model file."""

from __future__ import annotations

from splitter.document import Record


class CrossingTensor(Record, frozen=True, kw_only=True):
    """A tensor that the head sends, and how."""

    tensor: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    codec: str
    wire_bytes: int


class PlannedCut(Record, frozen=True, kw_only=True):
    """The cut by names of nodes and tensors of the model file."""

    crossing: tuple[CrossingTensor, ...]
    head: tuple[str, ...]
    """Node names (first outputs), in the order of the model; folded and constant nodes are absent."""
    tail_nodes: int
    """How many nodes are left for the server: 0 means all on the device."""
