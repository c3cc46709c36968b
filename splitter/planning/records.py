"""The planner's question (``Problem``) and its answer (``Plan``, the document that other stages read)."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta

from splitter.codec import Codec, get_codec
from splitter.document import Record, read_document, write_document
from splitter.errors import PlanError
from splitter.graph.values import Graph
from splitter.link import Link
from splitter.planning.budget import CalibrationSource
from splitter.planning.cuts import CrossingTensor, PlannedCut
from splitter.planning.drawing import GraphPicture, OrderCut
from splitter.planning.reasons import Reasons
from splitter.planning.table import PolicyTable
from splitter.planning.terms import LATENCY, Limits, Objective, PowerDraw, Term, Terms
from splitter.runtime import Settings

SCHEMA = "splitter.plan/4"
Seconds = Annotated[float, Meta(ge=0)]


class Origin(enum.StrEnum):
    """How a number was got; it travels with the number into every plan, table and report."""

    MEASURED = "measured"
    ESTIMATED = "estimated"
    GIVEN = "given"


class SolverStatus(enum.StrEnum):
    """What the solver found, apart from whether it worked (which is an error)."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    """Stopped by a limit; the gap says how far from proven."""
    PRICED = "priced"
    """Nothing was solved: the cut was given with ``--at``."""


class Latency(Record, frozen=True, kw_only=True):
    """Seconds of one request by term; prediction and measurement share it and subtract by field."""

    head_s: float = 0.0
    encode_s: float = 0.0
    link_s: float = 0.0
    decode_s: float = 0.0
    tail_s: float = 0.0
    total_s: float = 0.0

    @classmethod
    def of(
        cls, head_s: float = 0, encode_s: float = 0, link_s: float = 0, decode_s: float = 0,
        tail_s: float = 0,
    ) -> Latency:  # fmt: skip
        """Make one whose total is the sum of its terms."""
        return cls(
            head_s=head_s, encode_s=encode_s, link_s=link_s, decode_s=decode_s, tail_s=tail_s,
            total_s=head_s + encode_s + link_s + decode_s + tail_s,
        )  # fmt: skip


class CodecCost(Record, frozen=True, kw_only=True):
    """What one codec does to one tensor: bytes on the wire, seconds at either end."""

    codec: str
    """Its name."""
    wire_bytes: Annotated[int, Meta(ge=0)]
    encode_s: Seconds
    """On the device."""
    decode_s: Seconds
    """On the server."""
    loss: Annotated[float, Meta(ge=0)] = 0.0
    """What it costs the answer, in the unit of ``Problem.loss_limit``; 0 is lossless."""


@dataclass(frozen=True)
class TierCost:
    """Seconds of a model on one tier, as an additive function of the cut.

    A part costs ``base_s + sum(node_s of its nodes) + sum(crossing_s of the crossing tensors)``, and
    nothing where it is empty. The whole model on the tier costs ``base_s + sum(node_s)``.
    """

    node_s: Mapping[str, float]
    """By node name of ``Problem.graph``; every node has one. Those of profiles are never negative."""
    base_s: float = 0.0
    crossing_s: Mapping[str, float] = field(default_factory=dict)
    """Non-negative extra seconds where a tensor crosses here; 0 where absent."""
    unsupported: frozenset[str] = frozenset()
    """Names of nodes that this tier cannot run."""
    origin: Origin = Origin.GIVEN
    name: str = ""
    own_memory: tuple[tuple[frozenset[str], int], ...] = ()
    """The runtime's own: bytes that a part takes where it has any of some nodes. Each set holds the next."""
    power: PowerDraw | None = None
    """What energy is counted by, of a tier that has inputs."""
    price_per_hour: float = 0.0
    """Of the tier while it computes or decodes, encodes included."""


@dataclass(frozen=True)
class Relay:
    """A tier between the device and the server, or between another relay and the server."""

    tier: TierCost
    link: Link
    """To the next tier; ``up`` is towards the server."""
    codecs: Mapping[str, tuple[CodecCost, ...]] = field(default_factory=dict)
    """Seconds of codecs here, by tensor; those absent are taken as on the device to encode and as on the
    server to decode."""


@dataclass(frozen=True)
class Source:
    """Another device, with inputs of its own: it runs its own head and feeds the same server."""

    tier: TierCost
    link: Link
    """To the server."""
    inputs: tuple[str, ...]
    """Model inputs born here; all others are born on ``Problem.device``."""


@dataclass(frozen=True)
class Problem:
    """One argument for planner, baselines and tests.

    The graph is usually a kernel graph (see ``graph.contract``), whose nodes carry ``members``.
    Tiers are numbered from the device, 0, over the relays to the server.
    """

    graph: Graph
    device: TierCost
    server: TierCost
    link: Link
    codecs: Mapping[str, tuple[CodecCost, ...]]
    """The choices for each tensor that may cross; a tensor that is absent may not."""
    bytes_weight: float = 0.0
    """Seconds that one byte on the wire, either way, is worth."""
    loss_limit: float | None = None
    """What the losses of all crossing tensors may add up to; None allows any."""
    forbidden: tuple[Mapping[str, str], ...] = ()
    """Tensor -> codec name: combinations that were measured and lose too much.

    No plan sends all tensors of one in these codecs, or in codecs of as much or more loss, whatever else
    crosses. That takes the answer to be monotone: a lossier codec of a tensor, or one more lossy
    tensor, does not repair it.
    """
    objective: Objective = LATENCY
    limits: Limits = Limits()
    via: tuple[Link, ...] = ()
    """Further links to the server, all of which the traffic passes after ``link``."""
    relays: tuple[Relay, ...] = ()
    """In order. ``link`` then leads to the first of them, not to the server."""
    shortcuts: Mapping[tuple[int, int], Link] = field(default_factory=dict)
    """Direct links between tiers that are no neighbours, used where those in between run nothing."""
    sources: tuple[Source, ...] = ()
    """Further devices; a problem has relays or sources, not both."""

    @property
    def tiers(self) -> tuple[TierCost, ...]:
        """Device, relays, server."""
        return (self.device, *(relay.tier for relay in self.relays), self.server)


class Candidate(Record, frozen=True, kw_only=True):
    """A priced cut: what the plan chose, a baseline, or an alternative."""

    name: str
    """``split``, ``all on the device``, ``input sent to the server`` or for an alternative its tensors."""
    crossing: tuple[CrossingTensor, ...]
    head_nodes: int
    tail_nodes: int
    up_bytes: int
    down_bytes: int
    objective: float
    """What was minimised, bytes at their weight included."""
    head_s: Seconds
    encode_s: Seconds
    link_s: Seconds
    decode_s: Seconds
    tail_s: Seconds
    total_s: Seconds
    loss: float = 0.0
    """Sum over its crossing tensors: an upper estimate, not a measurement of the whole."""
    terms: Terms = Terms()
    memory_bytes: tuple[int, ...] = ()
    """Weights and peak of live activations, of each tier from the device on."""
    feasible: bool = True
    why_not: str = ""
    """Where infeasible: the operator or tensor that forbids it."""


class SolverReport(Record, frozen=True, kw_only=True):
    """What the solver says of its answer."""

    name: str
    status: SolverStatus
    objective: float
    bound: float
    """No plan costs less than this."""
    gap: float
    """``(objective - bound) / objective``; 0 is proven best."""
    seconds: float
    variables: int
    constraints: int
    """Of the program that settled it, before it was made smaller: the one with the accuracy budget in it
    only where the cut without would have broken the budget."""
    checked: bool = True
    """The cost function, apart from the solver, gives the objective that the solver reports."""


class Stage(Record, frozen=True, kw_only=True):
    """What one tier of three or more does, or one of several devices."""

    tier: str
    role: str = ""
    """``device``, ``relay`` (``relay1``, ``relay2`` where there are several) or ``server``."""
    nodes: tuple[str, ...]
    """Names of nodes of the model file."""
    sends: tuple[CrossingTensor, ...]
    """To the next tier in use, whether it makes them or passes them on."""
    seconds: Seconds
    """Of its part and its codecs."""


class Range(Record, frozen=True, kw_only=True):
    """A closed interval in which the plan stays best, all else equal; None is unbounded."""

    low: float | None
    high: float | None
    at: float
    """The value that the plan was made for."""


class Validity(Record, frozen=True, kw_only=True):
    """How far the world may move before another plan (other cut or codecs) is better."""

    up_bytes_per_s: Range
    """Both directions scaled together; the figure is the uplink's."""
    rtt_s: Range
    server_slowdown: Range
    """A factor on every server second; 1 is the profile as it stands."""


class TierSource(Record, frozen=True, kw_only=True):
    """Where a tier's seconds came from."""

    name: str
    origin: Origin
    whole_s: Seconds
    """The whole model there."""
    fingerprint: dict[str, str | int | float] = {}
    note: str = ""


class RelaySource(Record, frozen=True, kw_only=True):
    """A tier between device and server."""

    tier: TierSource
    settings: Settings = Settings()
    """How its profile was measured, and how its part is to be run."""
    link: Link
    """To the next tier."""


class DeviceSource(RelaySource, frozen=True, kw_only=True):
    """A further device; its link leads to the server."""

    inputs: tuple[str, ...]
    """Of the model, that are born there."""


class ModelSource(Record, frozen=True, kw_only=True):
    """Which model the plan is for."""

    file: str
    sha256: str
    dims: dict[str, int] = {}
    shapes: dict[str, tuple[int, ...]] = {}


class TensorCodec(Record, frozen=True, kw_only=True):
    """A codec with all that it was fitted to, for one tensor."""

    tensor: str
    codec: Codec


class Tradeoff(Record, frozen=True, kw_only=True):
    """The plans of which no other is as good in some terms and better in one."""

    terms: tuple[Term, ...]
    """Two or three, by which the plans are compared."""
    candidates: tuple[Candidate, ...]
    """The best in the first term first."""
    knee: Annotated[int, Meta(ge=0)]
    """The place of the plan from which on more of one term costs much of another."""
    is_complete: bool
    """False where a time limit stopped the search."""


class Plan(Record, frozen=True, kw_only=True):
    """The decision and its reasons; ``splitter.plan/4``."""

    schema: str = SCHEMA
    created: str = ""
    model: ModelSource
    device: TierSource
    server: TierSource
    link: Link
    bytes_weight: float
    objective: Objective = LATENCY
    limits: Limits = Limits()
    relays: tuple[RelaySource, ...] = ()
    """Tiers between the two, in order."""
    sources: tuple[DeviceSource, ...] = ()
    """Further devices, ``device2`` first; ``cut`` is then of all devices together."""
    stages: tuple[Stage, ...] = ()
    """Tiers in use, from the device on; of a plan with relays or several devices only."""
    settings: Settings = Settings()
    """How the device's profile was measured, and how the head is to be run."""
    server_settings: Settings = Settings()
    """The same of the server and the tail."""
    decision: str
    """``split``, ``device`` or ``server``."""
    cut: PlannedCut
    predicted: Candidate
    baselines: tuple[Candidate, ...]
    alternatives: tuple[Candidate, ...]
    solver: SolverReport
    validity: Validity | None
    """None for a cut that was given and not chosen."""
    table: PolicyTable | None = None
    """What is best elsewhere; None unless it was asked for."""
    tradeoff: Tradeoff | None = None
    """None unless it was asked for."""
    reasons: Reasons | None = None
    """Why this is the plan; None unless it was asked for."""
    graph: GraphPicture | None = None
    """The model as it can be drawn; None of a plan that was put together by hand."""
    order: tuple[OrderCut, ...] = ()
    """The cut at each place along the nodes of ``graph``; none with relays or several devices."""
    codec_sample: str = "none"
    """What the codecs' bytes were measured on: ``random``, ``given``, ``calibration`` or ``none``."""
    codecs: tuple[TensorCodec, ...] = ()
    """Those that cut, rivals and alternatives send in and that every server does not know."""
    calibration: CalibrationSource | None = None
    """None for a plan of lossless codecs alone."""
    warnings: tuple[str, ...] = ()

    def codec_of(self, item: CrossingTensor) -> Codec:
        """What a crossing tensor is sent in; raises CodecError where the plan does not hold it."""
        for known in self.codecs:
            if (known.tensor, known.codec.name) == (item.tensor, item.codec):
                return known.codec
        return get_codec(item.codec)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a plan; raises PlanError."""
        return read_document(path, cls, SCHEMA, PlanError)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it whole or not at all."""
        write_document(path, self)
