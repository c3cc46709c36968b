"""A profile: seconds per kernel of one model on one tier, and how they were got (``splitter.profile/1``)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from splitter.document import Record, read_document, write_document
from splitter.errors import ProfileError
from splitter.runtime import Settings

SCHEMA = "splitter.profile/1"
Seconds = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0)]
R = TypeVar("R", bound=Record)


class Kernel(Record, frozen=True, kw_only=True):
    """One fused kernel, attributed to nodes of the original model."""

    name: str
    op_type: str
    nodes: tuple[str, ...]
    """Node names (first outputs) in the order of the model. Every node is in exactly one kernel."""
    seconds: Seconds
    """Median; 0 for nodes that the runtime optimised away."""
    spread_s: Seconds
    """Interquartile range."""
    flops: Count
    moved_bytes: Count
    """Activations and weights read, and activations written."""


@dataclass(frozen=True)
class Division:
    """A place inside a fused kernel: a cut there breaks the fusion."""

    kernel: Kernel
    inside: int
    """How many of the kernel's nodes are in the head."""

    @property
    def kind(self) -> tuple[str, int]:
        """Fusions of the same operators, broken at the same point, are alike."""
        return self.kernel.op_type, self.inside


class Anchor(Record, frozen=True, kw_only=True):
    """A head and a tail really extracted and run, at a place along the node order."""

    place: Count
    """How many nodes are in the head."""
    head_s: Seconds
    tail_s: Seconds
    head_spread_s: Seconds
    tail_spread_s: Seconds


class PartMemory(Record, frozen=True, kw_only=True):
    """Resident bytes of a head and a tail while they ran, over the runtime's base."""

    place: Count
    """How many nodes are in the head; with all of them it is the whole model, as is the tail of 0."""
    head_bytes: Count | None
    """None of a part without nodes, or one that could not be measured."""
    tail_bytes: Count | None


class CodecSample(Record, frozen=True, kw_only=True):
    """What a codec did to one tensor of the sample on this machine."""

    tensor: str
    codec: str
    wire_bytes: Count
    encode_s: Seconds
    decode_s: Seconds


class Rates(Record, frozen=True, kw_only=True):
    """What this machine reaches with the profile's threads, measured, to scale from."""

    flops_per_s: Annotated[float, Meta(gt=0)]
    """A large float32 matrix product."""
    bytes_per_s: Annotated[float, Meta(gt=0)]
    """A copy larger than the caches, bytes read plus bytes written."""
    int8_ops_per_s: Annotated[float, Meta(gt=0)] | None = None
    """A large uint8 by int8 matrix product; None where the provider has none."""


class Watts(Record, frozen=True, kw_only=True):
    """What the machine draws."""

    active_w: Annotated[float, Meta(ge=0)]
    """While it computes."""
    idle_w: Annotated[float, Meta(ge=0)]


class Profile(Record, frozen=True, kw_only=True):
    """Immutable; ``estimate`` makes a new one."""

    schema: str = SCHEMA
    created: str
    tier: str
    """A name for people: the host, or the device description."""
    origin: Literal["measured", "estimated"]
    model_file: str
    model_sha256: str
    dims: dict[str, int]
    shapes: dict[str, tuple[int, ...]]
    settings: Settings
    fingerprint: dict[str, str | int | float]
    """processor, cores, memory_bytes, system, onnxruntime, python."""
    warmup: int
    runs: int
    whole_s: Seconds
    """The whole model, unprofiled: median."""
    whole_spread_s: Seconds
    nodes: tuple[str, ...]
    """Every node of the model in its order, which the places of the anchors count along."""
    kernels: tuple[Kernel, ...]
    """In an order in which they can run."""
    anchors: tuple[Anchor, ...]
    codecs: tuple[CodecSample, ...] = ()
    sample: str = "random"
    """What the model was fed: ``random`` or ``given``."""
    rates: Rates | None = None
    unsupported: tuple[str, ...] = ()
    """Operators that the tier cannot run."""
    memory_bytes: int | None = None
    """Of the machine."""
    parts_memory: tuple[PartMemory, ...] = ()
    """In rising order of place."""
    power: Watts | None = None
    """Of a description that has it; nothing here measures it."""
    note: str = ""
    """Of an estimate: from which machine, by which description."""

    def shared_s(self) -> list[float]:
        """Seconds along ``nodes``, each kernel's shared evenly among its nodes."""
        share = {
            name: kernel.seconds / len(kernel.nodes)
            for kernel in self.kernels
            for name in kernel.nodes
        }
        return [share.get(name, 0.0) for name in self.nodes]

    def divisions(self) -> tuple[Division | None, ...]:
        """For each place from 0 to all nodes, the kernel that it divides; None between kernels.

        Of several, the one whose node comes last before the place.
        """
        index_of = {name: i for i, kernel in enumerate(self.kernels) for name in kernel.nodes}
        inside: dict[int, int] = {}
        found: list[Division | None] = [None]
        for name in self.nodes:
            index = index_of[name]
            inside[index] = inside.pop(index, 0) + 1
            if inside[index] == len(self.kernels[index].nodes):
                del inside[index]
            last = next(reversed(inside), None)
            found.append(
                None if last is None else Division(kernel=self.kernels[last], inside=inside[last])
            )
        return tuple(found)

    def slowed(self, factor: float) -> Profile:
        """An estimate of a machine that takes so many times as long for everything."""
        return msgspec.structs.replace(
            _times(self, factor, "whole_s", "whole_spread_s"),
            tier=f"{factor:g}x slower",
            origin="estimated",
            fingerprint={**self.fingerprint, "processor": f"{factor:g}x slower"},
            kernels=tuple(_times(each, factor, "seconds", "spread_s") for each in self.kernels),
            anchors=tuple(
                _times(each, factor, "head_s", "tail_s", "head_spread_s", "tail_spread_s")
                for each in self.anchors
            ),
            codecs=tuple(_times(each, factor, "encode_s", "decode_s") for each in self.codecs),
            rates=None,
            note=f"{factor:g} times the seconds of {self.tier}",
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Profile:
        """Read a profile; raises ProfileError (a negative or NaN time is one)."""
        return read_document(path, cls, SCHEMA, ProfileError)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it whole or not at all."""
        write_document(path, self)


def _times(record: R, factor: float, *fields: str) -> R:
    return msgspec.structs.replace(
        record, **{name: factor * getattr(record, name) for name in fields}
    )
