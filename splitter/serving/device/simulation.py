"""Requests one after the other over a trace of bandwidth, in virtual time: policies, oracle and fixed cuts.

The clock of a request: its head and encoding, its bytes through the trace, half a round trip each way, the
server, the answer's bytes. Where the answer would come too late for the device to still make one of its own
before the deadline, the device makes it, as a session does. Seconds of head and server vary by some percent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from splitter.graph.values import Graph
from splitter.link import Link
from splitter.partition.bundle import Division
from splitter.partition.manifest import HEAD, TAIL, CutCost, CutSpec
from splitter.planning.divisions import divisions_of
from splitter.planning.records import Latency, Plan
from splitter.serving.device.estimate import Exchange, LinkEstimator
from splitter.serving.device.policy import Policy
from splitter.serving.relay.trace import Trace

RESERVE = 1.25
"""Of the device's own time: what is left for it before the deadline."""
SPREAD = 0.03
"""Deviation of the logarithm of head, encoding and server seconds, from request to request."""
KNOWN_S = 1.0
"""How far back the oracle sees the true bandwidth."""

Decide = Callable[[float], CutSpec]


@dataclass(frozen=True)
class Table:
    """The cuts of one model on one device, and the link that was planned for."""

    name: str
    cuts: tuple[CutSpec, ...]
    link: Link

    @property
    def on_device(self) -> CutSpec:
        """The cut without a tail."""
        return next(cut for cut in self.cuts if cut.tail is None)

    @property
    def server(self) -> CutSpec:
        """The input sent, in its fewest bytes."""
        return min((c for c in self.cuts if c.head is None), key=lambda c: cost_of(c).up_bytes)

    def price(self, cut: CutSpec, bytes_per_s: float) -> float:
        """With the planned round trip, which the simulated link has, too."""
        cost = cost_of(cut)
        if cut.tail is None:
            return cost.head_s
        if bytes_per_s <= 0:
            return math.inf
        sent_s = (cost.up_bytes + cost.down_bytes) / bytes_per_s + self.link.rtt_s
        return cost.head_s + cost.encode_s + sent_s + cost.decode_s + cost.tail_s

    def best(self, bytes_per_s: float) -> CutSpec:
        """The cheapest at a rate, by the plan's costs."""
        return min(self.cuts, key=lambda cut: self.price(cut, bytes_per_s))


def priced_cuts(graph: Graph, plans: Iterable[Plan], alternatives: int = 5) -> tuple[CutSpec, ...]:
    """Every cut that a bundle of one of the plans would hold, once each, numbered in their order.

    Raises
    ------
    CutError
        A plan is not of this model.
    """
    found: dict[tuple[frozenset[str], tuple[tuple[str, str], ...]], Division] = {}
    for plan in plans:
        for division in divisions_of(graph, plan, alternatives):
            sent = tuple(sorted((tensor, codec.name) for tensor, codec in division.codecs.items()))
            found.setdefault((division.cut.head if sent else frozenset(), sent), division)
    return tuple(
        CutSpec(
            id=f"{number:012x}",
            name=", ".join(f"{tensor} as {codec}" for tensor, codec in sent) or division.name,
            crossing=(), head_nodes=(), tail_outputs=(),
            head=HEAD if division.cut.head else None,
            tail=TAIL if division.cut.crossing else None, cost=division.cost,
        )
        for number, ((_, sent), division) in enumerate(found.items())
    )  # fmt: skip


def cost_of(cut: CutSpec) -> CutCost:
    """Of a cut that a plan priced, as all in a table are."""
    assert cut.cost is not None
    return cut.cost


@dataclass(frozen=True)
class SimulatedLink:
    """What the simulated link is."""

    trace: Trace
    round_trips_s: Sequence[float]
    """One is drawn for each request."""
    deadline_s: float
    period_s: float = 0.0
    """From the beginning of a request to the next, if that is longer than the request."""
    seconds: float = 300.0

    def known(self, now_s: float) -> float:
        """The true mean bandwidth of the last second."""
        if now_s < 0.05:
            return self.trace.mean(0.0, 0.05)
        return self.trace.mean(max(0.0, now_s - KNOWN_S), now_s)


@dataclass
class Run:
    """What one strategy met."""

    begun_s: list[float] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    cuts: list[str] = field(default_factory=list)
    best: list[str] = field(default_factory=list)
    """By the oracle, at the same moments."""
    late: int = 0
    """Answered by the device after waiting for the server in vain."""
    trials: int = 0
    trial_bytes: int = 0

    @property
    def mean_s(self) -> float:
        """Latency over all requests."""
        return float(np.mean(self.latencies_s))

    @property
    def switches(self) -> int:
        """How often the next request took another cut."""
        return sum(a != b for a, b in pairwise(self.cuts))

    @property
    def crossings(self) -> int:
        """How often the oracle's choice was another one at the next request."""
        return sum(a != b for a, b in pairwise(self.best))


class _Network:
    def __init__(self, path: SimulatedLink) -> None:
        self._path, self._random = path, np.random.default_rng(0)
        self._half_trips_s = np.asarray(path.round_trips_s) / 2

    def varied(self, seconds: float) -> float:
        return seconds * math.exp(SPREAD * self._random.standard_normal())

    def exchange(self, cost: CutCost, at_s: float, server_s: float) -> float:
        """When the answer is there."""
        half_s = float(self._half_trips_s[self._random.integers(len(self._half_trips_s))])
        there_s = self._path.trace.finish_s(at_s, cost.up_bytes) + half_s
        return self._path.trace.finish_s(there_s + server_s, cost.down_bytes) + half_s


class Adaptive:
    """The session's estimator and policy; trials end whenever they end."""

    def __init__(self, table: Table, path: SimulatedLink) -> None:
        self.estimator = LinkEstimator(table.link)
        self.policy = Policy(table.cuts, table.link)
        self._path = path
        self._pending: tuple[float, CutSpec, float] | None = None

    def choose(self, now_s: float) -> CutSpec:
        """The next request's cut; first a trial that has ended is learnt from."""
        if self._pending is not None and self._pending[0] <= now_s:
            end_s, cut, link_s = self._pending
            self._pending = None
            self.learn(cut, link_s, end_s, link_s <= self._path.deadline_s)
        return self.policy.choose(self.estimator.estimate(now_s), now_s)

    def learn(self, cut: CutSpec, link_s: float, now_s: float, is_answered: bool) -> None:
        """Tell the estimator what a request, or a trial, took beyond device and server."""
        cost = cost_of(cut)
        if is_answered:
            self.estimator.observe(Exchange(cost.up_bytes, cost.down_bytes, link_s), now_s)
        else:
            self.estimator.failed(cost.up_bytes, min(link_s, self._path.deadline_s), now_s)

    def begin_trial(self, network: _Network, now_s: float) -> None:
        """Send one beside the local answer, if it is time."""
        if self._pending is not None or (cut := self.policy.trial(now_s)) is None:
            return
        cost = cost_of(cut)
        sent_s = now_s + cost.head_s + cost.encode_s
        server_s = cost.decode_s + cost.tail_s
        end_s = network.exchange(cost, sent_s, server_s)
        link_s = end_s - sent_s - server_s
        self._pending = (min(end_s, sent_s + self._path.deadline_s), cut, link_s)


def follow(table: Table, path: SimulatedLink, strategy: Adaptive | Decide) -> Run:
    """Run requests one after the other until the trace, or the time, is over."""
    run, network, now_s = Run(), _Network(path), 0.0
    adaptive = strategy if isinstance(strategy, Adaptive) else None
    decide = strategy.choose if isinstance(strategy, Adaptive) else strategy
    while now_s < min(path.seconds, path.trace.length_s):
        cut = decide(now_s)
        if adaptive:
            adaptive.begin_trial(network, now_s)
        run.begun_s.append(now_s)
        run.cuts.append(cut.id)
        run.best.append(table.best(path.known(now_s)).id)
        done_s = _request(table, path, network, (cut, now_s), run, adaptive)
        run.latencies_s.append(done_s - now_s)
        now_s = max(done_s, now_s + path.period_s)
    if adaptive:
        run.trials, run.trial_bytes = adaptive.policy.trials, adaptive.policy.trial_bytes
    return run


def _request(
    table: Table,
    path: SimulatedLink,
    network: _Network,
    begun: tuple[CutSpec, float],
    run: Run,
    adaptive: Adaptive | None,
) -> float:
    """When the caller has the answer."""
    (cut, now_s), cost = begun, cost_of(begun[0])
    head_s, encode_s = network.varied(cost.head_s), network.varied(cost.encode_s)
    if cut.tail is None:
        if adaptive:
            adaptive.policy.observe(cut, Latency.of(head_s=head_s))
        return now_s + head_s
    server_s = network.varied(cost.decode_s + cost.tail_s)
    sent_s = now_s + head_s + encode_s
    end_s = network.exchange(cost, sent_s, server_s)
    local_s = cost_of(table.on_device).head_s
    given_up_s = now_s + max(path.deadline_s - RESERVE * local_s, path.deadline_s / 2)
    is_answered = end_s <= given_up_s + local_s
    done_s = end_s if is_answered else given_up_s + local_s
    run.late += not is_answered
    if adaptive:
        adaptive.learn(cut, done_s - sent_s - server_s * is_answered, done_s, is_answered)
        if is_answered:
            part = cost.decode_s / max(cost.decode_s + cost.tail_s, 1e-12)
            timing = Latency.of(
                head_s=head_s,
                encode_s=encode_s,
                decode_s=server_s * part,
                tail_s=server_s * (1 - part),
            )
            adaptive.policy.observe(cut, timing)
    return done_s


class Comparison:
    """One table on one path, by all strategies."""

    def __init__(self, table: Table, path: SimulatedLink) -> None:
        self.table, self.path = table, path
        self.oracle = follow(table, path, lambda now_s: table.best(path.known(now_s)))
        self.session = follow(table, path, Adaptive(table, path))
        # One that is never the best is not the best of the fixed ones either.
        ids = {*self.oracle.best, table.on_device.id, table.server.id}
        self.fixed = {cut.id: self._alone(cut) for cut in table.cuts if cut.id in ids}

    @property
    def best_fixed(self) -> CutSpec:
        """The single cut that is best in hindsight."""
        cuts = (cut for cut in self.table.cuts if cut.id in self.fixed)
        return min(cuts, key=lambda cut: self.fixed[cut.id].mean_s)

    def over_oracle(self) -> dict[str, float]:
        """Mean latencies in the place of the oracle's: of the session, and of single cuts."""
        cuts = {
            "fixed": self.best_fixed, "device": self.table.on_device, "server": self.table.server,
        }  # fmt: skip
        runs = {"session": self.session, **{key: self.fixed[cut.id] for key, cut in cuts.items()}}
        return {key: run.mean_s / self.oracle.mean_s for key, run in runs.items()}

    def _alone(self, cut: CutSpec) -> Run:
        return follow(self.table, self.path, lambda now_s: cut)
