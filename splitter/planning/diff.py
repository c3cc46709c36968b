"""What differs between two plans: the cut, the codecs, the terms, and what they were made from."""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from splitter.document import Record, write_document
from splitter.planning.records import Candidate, Plan

SCHEMA = "splitter.diff/1"
Value = str | int | float | None

INPUTS = (
    "model", "device", "server", "link", "bytes_weight", "objective", "limits", "settings",
    "server_settings", "codec_sample", "calibration", "solver.name",
)  # fmt: skip
"""Fields of a plan that are not its answer."""

TERMS = ("head_s", "encode_s", "link_s", "decode_s", "tail_s", "total_s", "up_bytes", "down_bytes")


class Sending(Record, frozen=True, kw_only=True):
    """A tensor that crosses in one plan alone, or otherwise; None where it does not."""

    tensor: str
    codec_before: str | None
    codec_after: str | None
    bytes_before: int | None
    bytes_after: int | None


class Term(Record, frozen=True, kw_only=True):
    """One number of both plans' own cuts, as each predicts it."""

    name: str
    """Of the field in a plan's ``predicted``; the suffix is the unit."""
    before: float | None
    after: float | None


class Input(Record, frozen=True, kw_only=True):
    """Something that the plans were made from, and that differs."""

    name: str
    """Its path in the plan: ``link.rtt_s``, ``device.fingerprint.onnxruntime``."""
    before: Value
    after: Value


class PlanDiff(Record, frozen=True, kw_only=True):
    """``splitter.diff/1``."""

    schema: str = SCHEMA
    is_same_model: bool
    is_same_cut: bool
    """The same nodes on the same sides; codecs may differ."""
    decision_before: str
    decision_after: str
    to_device: tuple[str, ...]
    """Nodes that the second plan moves there; none where the models differ."""
    to_server: tuple[str, ...]
    sending: tuple[Sending, ...]
    """What is sent otherwise."""
    terms: tuple[Term, ...]
    """All of them, also those that are equal."""
    inputs: tuple[Input, ...]

    @property
    def is_empty(self) -> bool:
        """The plans decide the same, from the same."""
        return self.is_same_cut and not self.sending and not self.inputs

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it whole or not at all."""
        write_document(path, self)


def diff(before: Plan, after: Plan) -> PlanDiff:
    """Compare two plans, of one model as a rule."""
    same_model = before.model.sha256 == after.model.sha256
    heads = set(before.cut.head), set(after.cut.head)
    sizes = before.cut.tail_nodes, after.cut.tail_nodes
    return PlanDiff(
        is_same_model=same_model,
        is_same_cut=same_model and heads[0] == heads[1] and sizes[0] == sizes[1],
        decision_before=before.decision,
        decision_after=after.decision,
        to_device=tuple(n for n in after.cut.head if same_model and n not in heads[0]),
        to_server=tuple(n for n in before.cut.head if same_model and n not in heads[1]),
        sending=tuple(_sending(before, after)),
        terms=tuple(_terms(before.predicted, after.predicted)),
        inputs=tuple(_inputs(before, after)),
    )


def _sending(before: Plan, after: Plan) -> Iterator[Sending]:
    sent = [{item.tensor: item for item in plan.cut.crossing} for plan in (before, after)]
    for tensor in dict.fromkeys([*sent[0], *sent[1]]):
        one, other = sent[0].get(tensor), sent[1].get(tensor)
        found = Sending(
            tensor=tensor,
            codec_before=one.codec if one else None,
            codec_after=other.codec if other else None,
            bytes_before=one.wire_bytes if one else None,
            bytes_after=other.wire_bytes if other else None,
        )
        if (found.codec_before, found.bytes_before) != (found.codec_after, found.bytes_after):
            yield found


def _terms(before: Candidate, after: Candidate) -> Iterator[Term]:
    for name in TERMS:
        yield Term(name=name, before=getattr(before, name), after=getattr(after, name))
    for name in ("bottleneck_s", "energy_j", "money"):
        values = getattr(before.terms, name), getattr(after.terms, name)
        yield Term(name=name, before=values[0], after=values[1])
    yield Term(name="objective", before=before.objective, after=after.objective)
    yield Term(name="loss", before=before.loss, after=after.loss)


def _inputs(before: Plan, after: Plan) -> Iterator[Input]:
    one, other = dict(_flat(before)), dict(_flat(after))
    for name in dict.fromkeys([*one, *other]):
        if one.get(name) != other.get(name):
            yield Input(name=name, before=one.get(name), after=other.get(name))


def _flat(plan: Plan) -> Iterator[tuple[str, Value]]:
    for path in INPUTS:
        value: object = plan
        for name in path.split("."):
            value = getattr(value, name)
        yield from _leaves(path, msgspec.to_builtins(value))


def _leaves(path: str, value: object) -> Iterator[tuple[str, Value]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(f"{path}.{name}", inner)
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _leaves(f"{path}[{index}]", inner)
    elif value is None or isinstance(value, (str, int, float)):
        yield path, value
