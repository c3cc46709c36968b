"""What a plan may be judged by: its terms, the objective made of them, and the limits that it keeps.

Amounts of money are in one currency of the user's choice, that of the link's and the server's prices.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from fnmatch import fnmatchcase
from math import isfinite, log10
from typing import Annotated

from msgspec import Meta

from splitter.document import Record
from splitter.errors import PlanError

NonNegative = Annotated[float, Meta(ge=0)]


class Term(enum.StrEnum):
    """A quantity of a plan that is better when smaller."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"
    ENERGY = "energy"
    MONEY = "money"

    @property
    def unit(self) -> str:
        """Of the term's value in ``Terms``."""
        return {"latency": "s", "throughput": "s a sample", "energy": "J", "money": "money"}[self]


class Terms(Record, frozen=True, kw_only=True):
    """Every term of a plan, whichever was optimised; of one request, but for ``bottleneck_s``."""

    latency_s: float = 0.0
    bottleneck_s: float = 0.0
    """Seconds a sample of a pipelined stream: the slowest stage, see ``docs/cost-model.md``."""
    energy_j: float | None = None
    """Of the device; None where nothing is known of its power."""
    money: float = 0.0
    sent_bytes: int = 0
    """On every link and both ways."""

    def of(self, term: Term) -> float:
        """The value of one term; raises PlanError for energy where the device's power is not known."""
        if term is Term.ENERGY:
            if self.energy_j is None:
                raise PlanError(
                    "the device's power is not known: name a device description that has it, or give "
                    "its active and idle watts"
                )
            return self.energy_j
        if term is Term.LATENCY:
            return self.latency_s
        return self.bottleneck_s if term is Term.THROUGHPUT else self.money


class Objective(Record, frozen=True, kw_only=True):
    """A weighted sum of terms; a weight is what one unit of its term is worth.

    One term alone has weight 1, so that the objective has its unit. ``Problem.bytes_weight`` is added for
    each byte, in the same unit.
    """

    latency: NonNegative = 0.0
    """A second of one request."""
    throughput: NonNegative = 0.0
    """A second a sample of a stream."""
    energy: NonNegative = 0.0
    """A joule."""
    money: NonNegative = 0.0

    @classmethod
    def of(cls, *terms: Term | str) -> Objective:
        """The plain sum of some terms; of one of them as a rule."""
        return cls(**{Term(term).value: 1.0 for term in terms})

    @property
    def weights(self) -> Mapping[Term, float]:
        """Terms that count."""
        found = {term: float(getattr(self, term.value)) for term in Term}
        return {term: weight for term, weight in found.items() if weight}

    @property
    def unit(self) -> str:
        """Of the sum: a term's own where it stands alone, else none."""
        if len(self.weights) == 1:
            ((term, weight),) = self.weights.items()
            return term.unit if weight == 1 else ""
        return ""

    def check(self) -> None:
        """Refuse weights that mean nothing; raises PlanError."""
        for term in Term:
            weight = getattr(self, term.value)
            if not (isfinite(weight) and weight >= 0):
                raise PlanError(f"the weight of {term.value} is {weight}, not a number from 0 up")
        if not self.weights:
            raise PlanError("the objective has no term: give one of them a weight above 0")

    def __str__(self) -> str:
        """As it is given on the command line."""
        if all(weight == 1 for weight in self.weights.values()):
            return "+".join(term.value for term in self.weights)
        return ",".join(f"{term.value}={weight:g}" for term, weight in self.weights.items())


LATENCY = Objective(latency=1.0)


class PowerDraw(Record, frozen=True, kw_only=True):
    """Watts of a device; ``docs/cost-model.md`` has the formula."""

    active_w: NonNegative
    """While it computes, encodes or decodes."""
    idle_w: NonNegative
    """While it waits for an answer, sending included."""
    radio_w: NonNegative = 0.0
    """On top while bytes are on the way, either way."""
    radio_j_per_byte: NonNegative = 0.0
    """On top for each byte, either way."""


class Pin(Record, frozen=True):
    """Nodes that have to be on one tier."""

    pattern: str
    """Of names, of nodes or of a kernel's members, and labels in the model file: ``backbone/*``."""
    tier: str

    def matches(self, name: str) -> bool:
        """Whether a name is meant; case counts."""
        return fnmatchcase(name, self.pattern)

    def __str__(self) -> str:
        """As it is given on the command line."""
        return f"{self.pattern}={self.tier}"


class State(Record, frozen=True):
    """A model input and the output that is fed back to it: made where it is read, and kept there."""

    input: str
    output: str


class Limits(Record, frozen=True, kw_only=True):
    """What a plan has to keep; None is no limit. ``Problem.loss_limit`` is the one of accuracy."""

    device_memory_bytes: int | None = None
    """Weights of the head and the peak of its live activations."""
    server_memory_bytes: int | None = None
    sent_bytes: int | None = None
    """Of one request, on every link and both ways."""
    energy_j: float | None = None
    deadline_s: float | None = None
    """Of one request."""
    interval_s: float | None = None
    """Seconds a sample of a stream."""
    money: float | None = None
    """Of one request."""
    pins: tuple[Pin, ...] = ()
    outputs: dict[str, str] = {}
    """Model output -> name of the tier on which it is needed; the device where absent."""
    states: tuple[State, ...] = ()

    @property
    def kept(self) -> tuple[str, ...]:
        """Outputs that are wanted on the server."""
        return tuple(name for name, tier in self.outputs.items() if tier == "server")

    @property
    def fed_back(self) -> tuple[tuple[str, str], ...]:
        """Inputs that are state, each with its output."""
        return tuple((state.input, state.output) for state in self.states)

    def check(self) -> None:
        """Refuse limits that no plan can mean; raises PlanError."""
        for name in QUANTITIES:
            value = getattr(self, name)
            if value is not None and not (isfinite(value) and value >= 0):
                raise PlanError(f"the limit {name} is {value}, not a finite number from 0 up")


QUANTITIES: Mapping[str, str] = {
    "device_memory_bytes": "device memory",
    "server_memory_bytes": "server memory",
    "sent_bytes": "bytes",
    "energy_j": "energy",
    "deadline_s": "deadline",
    "interval_s": "interval",
    "money": "money",
}
"""Fields of ``Limits`` that bound a number, and what people call them."""


def amount(name: str, value: float) -> str:
    """A value that a field of ``Limits`` bounds, as a person would say it."""
    title = QUANTITIES[name]
    if name.endswith("_bytes"):
        power = min(int(log10(value) // 3), 3) if value >= 1 else 0
        shown = f"{value / 1000**power:.6g}"
        shown = f"{shown} {('B', 'kB', 'MB', 'GB')[power]}"
        return f"{shown} sent" if name == "sent_bytes" else f"{title} of {shown}"
    if name == "money":
        return f"money of {value:.6g}"
    return f"{title} of {value:.6g} {'J' if name == 'energy_j' else 's'}"
