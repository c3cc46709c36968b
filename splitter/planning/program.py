"""The integer program: where to cut, as a smallest-weight choice of binary variables.

Variables, each 0 or 1::

    x_v  node v runs on the device
    m_t  all readers of tensor t run on the device; t crosses when x_producer - m_t = 1
         (1 - m_t for a model input), so it is paid once whatever the number of its readers
    d    the device runs anything;  f  the server runs nothing

Objective, with a_v, b_v what v costs on device and server (b_v with the return of its outputs), c_t what
sending t costs in its cheapest codec, k_t the device's extra where input t crosses: seconds of one
request, or what those seconds and bytes are worth to a weighted sum of terms (see ``layout``)::

    min  sum_v (a_v x_v + b_v (1 - x_v)) + sum_t c_t (x_producer - m_t)
         + sum_inputs (c_t (1 - m_t) + k_t (d - m_t)) + base_device d + (base_server + rtt) (1 - f)

Constraints, all of the form z_upper >= z_lower (``arcs``) but for ``rows``::

    x_u >= x_v on each arrow u -> v (closed head);  x_v >= x_u too where the tensor may not cross
    x_reader >= m_t;  d >= x_source;  x_sink >= f;  x_v fixed where a tier does not run v

A matrix whose rows are differences of two variables is totally unimodular, so without ``rows`` every
vertex of the relaxation is integral and the answer is a minimum cut. ``rows`` are what breaks that: cuts
excluded one by one, an accuracy budget (see ``quality``), and a negative base, which would otherwise let
d or f take the cheaper value.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from splitter.graph.values import Graph
from splitter.planning.cost import returning, target_of
from splitter.planning.knapsack import Front
from splitter.planning.layout import two_tiers
from splitter.planning.limits import must_be_head, must_be_tail, tied
from splitter.planning.records import Problem
from splitter.planning.work import needed_on_server, state_inputs


@dataclass(frozen=True)
class Row:
    """``sum of coefficient x variable >= at_least``."""

    coefficients: Mapping[int, float]
    at_least: float


class Sent(NamedTuple):
    """A tensor crosses where ``made - read`` is 1."""

    made: int | None
    """The variable of its producer; None for a model input, which is always there."""
    read: int
    """The variable that all its readers are on the device."""


class Tension(NamedTuple):
    """The objective rises by this much where ``upper`` is 1 and ``lower`` is 0."""

    weight: float
    upper: int | None
    """A variable; None is the constant 1."""
    lower: int | None
    """A variable; None is the constant 0."""


@dataclass(frozen=True)
class Program:
    """Minimise ``constant + sum of weight x variable``; variable 1 + i is node i of the graph."""

    weights: tuple[float, ...]
    constant: float
    arcs: tuple[tuple[int, int], ...]
    """Pairs (upper, lower): the upper variable is at least the lower one."""
    fixed: Mapping[int, int] = field(default_factory=dict)
    rows: tuple[Row, ...] = ()
    sent: Mapping[str, Sent] = field(default_factory=dict)
    continuous: frozenset[int] = frozenset()
    """Variables that may be anything from 0 to 1 although a row has them."""
    unbounded: frozenset[int] = frozenset()
    """Variables that may be anything from 0 up: the largest of several sums."""

    @property
    def size(self) -> tuple[int, int]:
        """Variables and constraints."""
        return len(self.weights), len(self.arcs) + len(self.rows)


def build(problem: Problem, fronts: Mapping[str, Front]) -> Program:
    """Write a problem as an integer program, each tensor in the first option of its front.

    A tensor with an empty front does not cross.
    """
    return _Builder(problem, fronts).program()


def head_of(problem: Problem, values: Collection[int]) -> frozenset[str]:
    """Read the head off the values of a program's variables."""
    nodes = problem.graph.nodes
    chosen = list(values)[1 : len(nodes) + 1]
    return frozenset(node.name for node, on in zip(nodes, chosen, strict=True) if on)


def excluding(graph: Graph, head: frozenset[str]) -> Row:
    """Make the row that every closed set but this one satisfies.

    Another closed set lacks a last node of this head (one that no head node reads) or has a first
    node of its tail (one that reads no tail node), so only those appear.
    """
    coefficients: dict[int, float] = {}
    for index, node in enumerate(graph.nodes, start=1):
        if node.name in head:
            readers = (reader for name in node.outputs for reader in graph.consumers_of[name])
            if not any(reader.name in head for reader in readers):
                coefficients[index] = -1
        else:
            makers = (graph.producer_of.get(name) for name in node.inputs)
            if all(maker is None or maker.name in head for maker in makers):
                coefficients[index] = 1
    return Row(coefficients, 1 - sum(value < 0 for value in coefficients.values()))


class _Builder:
    """Weights and arcs as they are gathered: variable 0 is d, then nodes, tensors, and f last."""

    def __init__(self, problem: Problem, fronts: Mapping[str, Front]) -> None:
        self.problem, self.fronts = problem, fronts
        self.index = {node.name: i for i, node in enumerate(problem.graph.nodes, start=1)}
        self.weights = [0.0] * (len(self.index) + 1)
        self.constant = 0.0
        self.arcs: dict[tuple[int, int], None] = {}
        self.sent: dict[str, Sent] = {}
        linear = target_of(problem, two_tiers(problem)).linear
        (self.device, self.server), self.down, self.trip = (
            linear.busy_s,
            linear.down[0],
            linear.used[0],
        )
        self.states = state_inputs(problem)
        self.fixed: dict[int, int] = {}

    def program(self) -> Program:
        self._nodes()
        self._inputs()
        self._tensors()
        rows = self._parts()
        for one, other in tied(self.problem):
            self.arcs |= {(self.index[one], self.index[other]): None}
            self.arcs |= {(self.index[other], self.index[one]): None}
        self.fixed |= {self.index[name]: 0 for name in must_be_tail(self.problem)}
        self.fixed |= {self.index[name]: 1 for name in must_be_head(self.problem)}
        arcs = tuple(self.arcs)
        return Program(tuple(self.weights), self.constant, arcs, self.fixed, rows, self.sent)

    def _nodes(self) -> None:
        device, server = self.problem.device.node_s, self.problem.server.node_s
        for node in self.problem.graph.nodes:
            tail = self.server * server[node.name] + returning(self.problem, node, self.down)
            self.weights[self.index[node.name]] += self.device * device[node.name] - tail
            self.constant += tail

    def _inputs(self) -> None:
        for name in self.problem.graph.inputs:
            if name in self.states:
                continue
            if self.fronts[name] and self._is_read(name):
                link_s = self.fronts[name][0].cost_s + self._crossing_s("server", name)
                device_s = self._crossing_s("device", name)
                self.sent[name] = Sent(None, self._all_read(name, -link_s - device_s))
                self.constant += link_s
                self.weights[0] += device_s

    def _tensors(self) -> None:
        for node in self.problem.graph.nodes:
            maker = self.index[node.name]
            for name in node.outputs:
                readers = [self.index[r.name] for r in self.problem.graph.consumers_of[name]]
                self.arcs |= {(maker, reader): None for reader in readers}
                if not self.fronts[name]:
                    self.arcs |= {(reader, maker): None for reader in readers}
                elif self._is_read(name):
                    tiers_s = self._crossing_s("device", name) + self._crossing_s("server", name)
                    seconds = self.fronts[name][0].cost_s + tiers_s
                    self.sent[name] = Sent(maker, self._all_read(name, -seconds))
                    self.weights[maker] += seconds

    def _is_read(self, tensor: str) -> bool:
        return bool(self.problem.graph.consumers_of[tensor]) or needed_on_server(
            self.problem, tensor
        )

    def _all_read(self, tensor: str, weight: float) -> int:
        if needed_on_server(self.problem, tensor):  # a reader that is never on the device
            self.weights.append(weight)
            self.fixed[len(self.weights) - 1] = 0
            return len(self.weights) - 1
        readers = [self.index[node.name] for node in self.problem.graph.consumers_of[tensor]]
        if len(readers) == 1:  # m_t is then x_reader itself
            self.weights[readers[0]] += weight
            return readers[0]
        self.arcs |= {(reader, len(self.weights)): None for reader in readers}
        self.weights.append(weight)
        return len(self.weights) - 1

    def _crossing_s(self, tier: str, tensor: str) -> float:
        if tier == "server" and needed_on_server(self.problem, tensor):
            return 0.0
        cost = self.problem.device if tier == "device" else self.problem.server
        return cost.crossing_s.get(tensor, 0.0) * (self.device if tier == "device" else self.server)

    def _parts(self) -> tuple[Row, ...]:
        """Add d and f, with the rows that tie them from the other side where their price is negative."""
        graph = self.problem.graph
        sources, sinks = [], []
        for node in graph.nodes:
            if not any(name in graph.producer_of for name in node.inputs):
                sources.append(self.index[node.name])
            if not any(graph.consumers_of[name] for name in node.outputs):
                sinks.append(self.index[node.name])
        last = len(self.weights)
        wanted = any(needed_on_server(self.problem, name) for name in graph.outputs)
        server = self.server * self.problem.server.base_s + (0.0 if wanted else self.trip)
        self.weights[0] += self.device * self.problem.device.base_s
        self.weights.append(-server)
        self.constant += server + (self.trip if wanted else 0.0)
        self.arcs |= {(0, source): None for source in sources}
        self.arcs |= {(sink, last): None for sink in sinks}
        rows = []
        if self.weights[0] < 0:
            rows.append(Row({0: -1, **dict.fromkeys(sources, 1)}, 0))
        if server < 0:
            rows.append(Row({last: 1, **dict.fromkeys(sinks, -1)}, 1 - len(sinks)))
        return tuple(rows)
