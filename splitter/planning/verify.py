"""A plan against the clock: its cut, its rivals and its alternatives, measured in turn on this machine.

What this machine cannot show is not claimed. The link is arithmetic on the bytes really sent. A tier is
stood in for by this machine, its seconds multiplied by how much longer the plan's tier takes for the
whole model: that tests where the time goes, not how fast the other machine is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from splitter.codec import encode
from splitter.document import Record, read_document, write_document
from splitter.errors import PlanError
from splitter.graph.cut import Cut
from splitter.graph.model import Model
from splitter.partition.check import accepted_feeds
from splitter.partition.extract import Extractor
from splitter.planning.plan import check_model, cut_of_candidate
from splitter.planning.records import Candidate, Latency, Origin, Plan
from splitter.profiling.parts import Bench, Call, load_cut
from splitter.profiling.timing import Rounds, Samples, interleaved, relative
from splitter.runtime import Array, Runner

SCHEMA = "splitter.verification/1"


class Row(Record, frozen=True, kw_only=True):
    """One cut, predicted and measured in the same terms."""

    name: str
    predicted: Latency
    measured: Latency
    low_s: float | None = None
    high_s: float | None = None
    """As far from the total as the quartiles of the rounds from their median; None from older versions."""
    up_bytes: int
    """Really sent."""


class Verification(Record, frozen=True, kw_only=True):
    """``splitter.verification/1``."""

    schema: str = SCHEMA
    model_sha256: str
    rows: tuple[Row, ...]
    """The planned cut first, then the rivals, then the alternatives."""
    best: str
    """Which of them the clock says is best."""
    regret: float
    """How much longer the planned cut takes than that one, as a fraction of it."""
    rounds: int
    device_factor: float
    """This machine's seconds are multiplied by this to stand for the device's."""
    server_factor: float
    device_origin: Origin
    """How the plan's seconds of the device were got, which the factor scales to."""
    server_origin: Origin

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Verification:
        """Read one; raises PlanError."""
        return read_document(path, cls, SCHEMA, PlanError)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it whole or not at all."""
        write_document(path, self)


def verify(
    model: Model, plan: Plan, feeds: Mapping[str, Array] | None = None, budget_s: float = 20.0
) -> Verification:
    """Measure a plan on this machine, at least seven rounds and until ``budget_s`` is spent.

    Raises
    ------
    PlanError
        The plan is for another model, or for several devices.
    """
    if plan.sources:
        raise PlanError(
            "the plan is for several devices at once, and one clock measures parts in turn: verify a "
            "plan of one"
        )
    check_model(plan, model.graph)
    extractor = Extractor(model)
    whole = Runner(extractor.whole().to_bytes(), plan.settings, weights_dir=model.weights_dir)
    values = dict(feeds) if feeds is not None else accepted_feeds(whole, model.graph)[0]
    bench = Bench(
        model, extractor, plan.settings, values, whole, Rounds(), tail_settings=plan.server_settings
    )
    cuts = [_load(bench, plan, item, cut) for item, cut in _distinct(plan, model)]
    calls = [call for cut in cuts for call in cut.calls]
    rounds = Rounds(least=7, most=400, budget_s=budget_s, warmup=2)
    whole_times, *times = interleaved([bench.run_whole, *calls], rounds)
    here_s = whole_times.median_s
    samples = iter([relative(taken, whole_times) for taken in times])
    factors = (plan.device.whole_s / here_s, plan.server.whole_s / here_s)
    in_seconds = (factors[0] * here_s, factors[1] * here_s)
    rows = tuple(_row(plan, cut, [next(samples) for _ in cut.calls], in_seconds) for cut in cuts)
    best = min(rows, key=lambda row: row.measured.total_s)
    return Verification(
        model_sha256=model.graph.sha256,
        rows=rows,
        best=best.name,
        regret=rows[0].measured.total_s / best.measured.total_s - 1,
        rounds=len(whole_times.seconds),
        device_factor=factors[0],
        server_factor=factors[1],
        device_origin=plan.device.origin,
        server_origin=plan.server.origin,
    )


@dataclass(frozen=True)
class _Loaded:
    """A candidate's calls: head, tail, then encode and decode of each crossing tensor."""

    candidate: Candidate
    calls: Sequence[Call]
    has_head: bool
    has_tail: bool
    up_bytes: int


def _distinct(plan: Plan, model: Model) -> list[tuple[Candidate, Cut]]:
    """Each cut once, under the first name it goes by; what cannot be carried out is left out."""
    found: dict[frozenset[str], tuple[Candidate, Cut]] = {}
    for item in (plan.predicted, *plan.baselines, *plan.alternatives):
        if item.feasible:
            cut = cut_of_candidate(model.graph, plan, item)
            found.setdefault(cut.head, (item, cut))
    return list(found.values())


def _load(bench: Bench, plan: Plan, candidate: Candidate, cut: Cut) -> _Loaded:
    loaded = load_cut(bench, cut)
    calls = [call for call in (loaded.head, loaded.tail) if call is not None]
    up_bytes = 0
    if loaded.tail is not None:
        for item in candidate.crossing:
            array = loaded.crossing[item.tensor]
            codec, payload = encode(array, plan.codec_of(item))
            up_bytes += len(payload)
            calls.append(partial(codec.encode, array))
            calls.append(partial(codec.decode, payload, array.dtype.name, array.shape))
    return _Loaded(candidate, calls, loaded.head is not None, loaded.tail is not None, up_bytes)


def _row(plan: Plan, cut: _Loaded, samples: Sequence[Samples], factors: tuple[float, float]) -> Row:
    """One row, from the samples of its calls; ``factors`` make tiers' seconds of them."""
    device, server = factors
    tiers = [device] * cut.has_head + [server] * cut.has_tail
    tiers += [device, server] * ((len(samples) - len(tiers)) // 2)
    left = [taken.median_s * factor for taken, factor in zip(samples, tiers, strict=True)]
    rounds = [
        sum(s * factor for s, factor in zip(seconds, tiers, strict=True))
        for seconds in zip(*(taken.seconds for taken in samples), strict=True)
    ]
    head_s = left.pop(0) if cut.has_head else 0.0
    tail_s = left.pop(0) if cut.has_tail else 0.0
    item = cut.candidate
    link_s = plan.link.transfer_s(cut.up_bytes, item.down_bytes) if cut.has_tail else 0.0
    measured = Latency.of(
        head_s=head_s,
        encode_s=sum(left[0::2]),
        link_s=link_s,
        decode_s=sum(left[1::2]),
        tail_s=tail_s,
    )
    predicted = Latency.of(item.head_s, item.encode_s, item.link_s, item.decode_s, item.tail_s)
    # about the sum of the terms' medians, which is not the median of the sums
    low_s, high_s = np.percentile(rounds, [25, 75]) - np.median(rounds) + measured.total_s
    return Row(
        name=item.name,
        predicted=predicted,
        measured=measured,
        low_s=max(0.0, float(low_s)),
        high_s=float(high_s),
        up_bytes=cut.up_bytes,
    )
