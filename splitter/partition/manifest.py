"""The manifest of a bundle: what a device and a server must agree on (``splitter.bundle/3``).

A bundle holds one or more *cuts* of one model. The first is the planned one; a session may follow the
link to the others. A cut without tail runs all on the device, one without head sends the input.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from splitter.codec import Codec
from splitter.document import Record, read_document
from splitter.errors import BundleError
from splitter.link import Link
from splitter.preprocess import Preprocess
from splitter.runtime import Settings

SCHEMA = "splitter.bundle/3"
MANIFEST = "manifest.json"
HEAD = "head.onnx"
TAIL = "tail.onnx"
WEIGHTS = "weights.data"
"""Weights that several parts share, each once."""
STAND_IN = "stand-in.onnx"
BATCH = "batch"
"""What dimension 0 is called in a tail that takes any number of samples."""

Role = Literal["device", "server"]

Seconds = Annotated[float, Meta(ge=0)]


class PortSpec(Record, frozen=True, kw_only=True):
    """An input or output of the whole model."""

    name: str
    dtype: str
    shape: tuple[Annotated[int, Meta(ge=0)], ...] | None
    """None where it depends on the data."""


class CrossingSpec(Record, frozen=True, kw_only=True):
    """A tensor that the device sends; it may be a model input."""

    tensor: str
    dtype: str
    shape: tuple[Annotated[int, Meta(ge=0)], ...]
    nbytes: Annotated[int, Meta(ge=0)]
    codec: Codec
    """With all that it was fitted to: the payload names it and holds none of that."""


class CutCost(Record, frozen=True, kw_only=True):
    """What the plan predicts of a cut, apart from the link, so that it can be priced on any link."""

    head_s: Seconds
    encode_s: Seconds
    decode_s: Seconds
    tail_s: Seconds
    up_bytes: Annotated[int, Meta(ge=0)]
    down_bytes: Annotated[int, Meta(ge=0)]


class Share(Record, frozen=True, kw_only=True):
    """What one of several devices sends of a cut's crossing tensors."""

    device: str
    """``device``, ``device2``."""
    tensors: tuple[str, ...]
    """None for one that only asks."""


class Join(Record, frozen=True, kw_only=True):
    """Of the bundle of one of several devices: where it sends which part of a request."""

    bundle: str
    """The digest of the server's bundle."""
    cut: str
    """The id of the cut there."""
    part: Annotated[int, Meta(ge=1)]
    """The place of its ``Share``, from 1."""
    parts: Annotated[int, Meta(ge=1)]


class StateSpec(Record, frozen=True, kw_only=True):
    """A model input that the tail reads, and the output of the tail that is fed back to it."""

    input: str
    output: str


class CutSpec(Record, frozen=True, kw_only=True):
    """One division of the model, as it is deployed."""

    id: str
    """Twelve hexadecimal digits of ``cut_id``: what a message calls the cut."""
    name: str
    """For people: ``split``, ``all on the device``, or the crossing tensors."""
    head: str | None
    """A file of the bundle; None where the device runs nothing."""
    tail: str | None
    """A file of the bundle; None where everything runs on the device."""
    crossing: tuple[CrossingSpec, ...]
    head_nodes: tuple[str, ...]
    tail_outputs: tuple[str, ...]
    """Model outputs that the tail makes; the head makes the others."""
    batches: bool = False
    """The tail takes any number of samples: dimension 0 of all that it reads and makes is ``BATCH``, free."""
    cost: CutCost | None = None
    """None where no plan priced it: then it is never switched to."""
    kept: tuple[str, ...] = ()
    """Model outputs that are wanted on the server, made there or sent there: no part of the answer unless
    they are asked for by name."""
    states: tuple[StateSpec, ...] = ()
    """State that lives on the server, from one request of a session to the next."""
    shares: tuple[Share, ...] = ()
    """Where several devices send it together, what each of them sends; the first gets the answer."""


class StandIn(Record, frozen=True, kw_only=True):
    """A smaller model with the inputs and outputs of the whole, for when there is no server."""

    file: str
    source: str
    """The name of the file it was copied from."""


class FileSpec(Record, frozen=True, kw_only=True):
    """A file of the bundle, by its path inside the folder."""

    nbytes: int
    sha256: str


class Manifest(Record, frozen=True, kw_only=True):
    """Read by session and server before anything else of the bundle."""

    schema: str = SCHEMA
    name: str
    """What the server calls the model; from the file's stem."""
    model_sha256: str
    digest: str
    """``bundle_digest``: device and server must have the same."""
    tail_of: str | None = None
    """The digest of the bundle whose tail this one divides again, for a relay; None of any other."""
    join: Join | None = None
    """Of a device that is one of several; its tail is then a file of the server's bundle, not of this one."""
    dims: dict[str, int]
    inputs: tuple[PortSpec, ...]
    outputs: tuple[PortSpec, ...]
    cuts: Annotated[tuple[CutSpec, ...], Meta(min_length=1)]
    """The planned cut first; ids differ."""
    stand_in: StandIn | None = None
    files: dict[str, FileSpec]
    settings: Settings = Settings()
    """How the heads are run."""
    tail_settings: Settings = Settings()
    preprocess: Preprocess | None = None
    """What makes inputs of photos; None where none was said."""
    link: Link | None = None
    """The link that was planned for: what a session expects before it has measured its own."""
    plan_predicted_s: float | None = None
    """The plan's total, to print beside the measured one; None when no plan was used."""

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Manifest:
        """Read the manifest of a bundle folder; raises BundleError."""
        return read_document(Path(folder) / MANIFEST, cls, SCHEMA, BundleError)

    @property
    def planned(self) -> CutSpec:
        """The cut that the bundle was made for."""
        return self.cuts[0]

    def cut_of(self, cut_id: str) -> CutSpec | None:
        """The cut of this id."""
        return next((cut for cut in self.cuts if cut.id == cut_id), None)

    @property
    def on_device(self) -> CutSpec | None:
        """The cut that runs everything on the device, if the bundle has one."""
        return next((cut for cut in self.cuts if cut.tail is None), None)

    @property
    def parts(self) -> Mapping[Role, frozenset[str]]:
        """The models that each role runs, by file."""
        stand_in = {self.stand_in.file} if self.stand_in else set()
        heads = {cut.head for cut in self.cuts if cut.head is not None}
        tails = {cut.tail for cut in self.cuts if cut.tail is not None and self.join is None}
        return {"device": frozenset(heads | stand_in), "server": frozenset(tails)}

    def files_of(self, role: Role | None) -> frozenset[str]:
        """Files that a role needs: its models, the weights beside them, and those shared; None is both."""
        of_role = self.parts
        models = frozenset().union(*of_role.values()) if role is None else of_role[role]
        beside = {name for name in self.files if name.removesuffix(".data") in models}
        return frozenset(models | beside | ({WEIGHTS} & self.files.keys()))


def cut_id(head_nodes: tuple[str, ...], crossing: tuple[CrossingSpec, ...]) -> str:
    """The first twelve hexadecimal digits of sha256 over both, as compact JSON."""
    return hashlib.sha256(msgspec.json.encode((head_nodes, crossing))).hexdigest()[:12]


def bundle_digest(files: dict[str, FileSpec], cuts: tuple[CutSpec, ...]) -> str:
    """sha256 over compact JSON of a pair: [file, sha256] sorted, and of each cut id, head and tail.

    Kept outputs, states and shares follow, of a cut that has some.
    """
    digests = sorted((name, spec.sha256) for name, spec in files.items())
    divided = [
        (cut.id, cut.head, cut.tail, *(more for more in (cut.kept, cut.states, cut.shares) if more))
        for cut in cuts
    ]
    return hashlib.sha256(msgspec.json.encode((digests, divided))).hexdigest()
