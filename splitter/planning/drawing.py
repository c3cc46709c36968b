"""A model as a plan's readers draw it, and what a cut costs at each place along its node order.

Both are part of the plan, so that whoever shows one needs neither the model nor its profiles.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from splitter.document import Record

Seconds = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0)]


class TensorPicture(Record, frozen=True, kw_only=True):
    """An activation: a model input, or what a node makes."""

    dtype: str
    shape: tuple[int, ...] | None
    """None where it depends on the data."""
    nbytes: Count | None
    """None where it cannot travel."""


class NodePicture(Record, frozen=True, kw_only=True):
    """A node of the model file."""

    name: str
    """Its first output."""
    op_type: str
    block: str = ""
    """The part of the model that it is in, as a path: ``layer1/layer1.0``; empty where there are no parts."""
    kernel: str = ""
    """The kernel of the device that it runs in, with others; empty where it runs alone."""
    reads: tuple[str, ...]
    """Activations; weights are no tensors of the picture."""
    makes: tuple[str, ...]
    seconds: tuple[Seconds, ...]
    """On each tier, from the device to the server. Those of a kernel belong to its largest node, and
    the others of it take none. All nodes add up to the whole model."""


class GraphPicture(Record, frozen=True, kw_only=True):
    """Nodes and activations of a model."""

    nodes: tuple[NodePicture, ...]
    """In an order in which they can run, a kernel's one after the other; ``OrderCut.place`` counts them."""
    tensors: dict[str, TensorPicture]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class OrderTensor(Record, frozen=True, kw_only=True):
    """A tensor that crosses at a place."""

    tensor: str
    codec: str
    wire_bytes: Count


class OrderCut(Record, frozen=True, kw_only=True):
    """The cut whose head is the first ``place`` nodes of the picture."""

    place: Count
    head_s: Seconds = 0.0
    encode_s: Seconds = 0.0
    link_s: Seconds = 0.0
    decode_s: Seconds = 0.0
    tail_s: Seconds = 0.0
    total_s: Seconds = 0.0
    objective: float = 0.0
    up_bytes: Count = 0
    down_bytes: Count = 0
    raw_bytes: Count = 0
    """Of what crosses, uncompressed."""
    crossing: tuple[OrderTensor, ...] = ()
    feasible: bool = True
    why_not: str = ""
    """What forbids it. Where that is a tensor that cannot travel, its seconds and bytes are 0 and mean
    nothing; else they are those of the cut without the limit."""
