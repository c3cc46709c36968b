"""From a priced cut to the records that a plan is made of, in the names of the model file."""

from __future__ import annotations

from collections.abc import Collection

from splitter.planning.cost import Price
from splitter.planning.cuts import CrossingTensor, PlannedCut
from splitter.planning.layout import two_tiers
from splitter.planning.memory import memory_of
from splitter.planning.records import Candidate, CodecCost, Problem

SPLIT = "split"
ON_DEVICE = "all on the device"
ON_SERVER = "input sent to the server"


def name_of(problem: Problem, head: Collection[str]) -> str:
    """Say which of the three kinds of answer a head is."""
    if len(head) == len(problem.graph.nodes):
        return ON_DEVICE
    return SPLIT if head else ON_SERVER


def title_of(problem: Problem, price: Price) -> str:
    """Name a baseline as such, any other cut by what it sends."""
    name = name_of(problem, price.head)
    if name != SPLIT:
        return name
    return ", ".join(price.cut.crossing) or "a tail that reads nothing"


def candidate(problem: Problem, price: Price, name: str) -> Candidate:
    """Record a cut that can be carried out."""
    latency = price.latency
    head_nodes = len(members_of(problem, price.head))
    return Candidate(
        name=name,
        crossing=_crossing(problem, price),
        head_nodes=head_nodes,
        tail_nodes=len(members_of(problem, problem.graph.node_of)) - head_nodes,
        up_bytes=price.up_bytes,
        down_bytes=price.down_bytes,
        objective=price.objective,
        head_s=latency.head_s,
        encode_s=latency.encode_s,
        link_s=latency.link_s,
        decode_s=latency.decode_s,
        tail_s=latency.tail_s,
        total_s=latency.total_s,
        loss=price.loss,
        terms=price.terms,
        memory_bytes=memory_of(problem, two_tiers(problem), price.head),
    )


def refused(problem: Problem, head: Collection[str], reason: str) -> Candidate:
    """Record a cut that cannot be carried out: its seconds and bytes are 0 and mean nothing."""
    head_nodes = len(members_of(problem, head))
    return Candidate(
        name=name_of(problem, head),
        crossing=(),
        head_nodes=head_nodes,
        tail_nodes=len(members_of(problem, problem.graph.node_of)) - head_nodes,
        up_bytes=0,
        down_bytes=0,
        objective=0.0,
        head_s=0.0,
        encode_s=0.0,
        link_s=0.0,
        decode_s=0.0,
        tail_s=0.0,
        total_s=0.0,
        feasible=False,
        why_not=reason,
    )


def planned_cut(problem: Problem, price: Price) -> PlannedCut:
    """Record a cut by the nodes of the model; a kernel stands for its members."""
    head = members_of(problem, price.head)
    tail_nodes = len(members_of(problem, problem.graph.node_of)) - len(head)
    return PlannedCut(crossing=_crossing(problem, price), head=head, tail_nodes=tail_nodes)


def members_of(problem: Problem, chosen: Collection[str]) -> tuple[str, ...]:
    """Nodes of the model file that kernels stand for."""
    nodes = (node for node in problem.graph.nodes if node.name in chosen)
    return tuple(name for node in nodes for name in node.members or (node.name,))


def crossing_of(problem: Problem, name: str, choice: CodecCost) -> CrossingTensor:
    """Record how a tensor is sent."""
    tensor = problem.graph.tensors[name]
    return CrossingTensor(
        tensor=name,
        dtype=tensor.dtype,
        shape=tensor.shape or (),
        nbytes=tensor.nbytes or 0,
        codec=choice.codec,
        wire_bytes=choice.wire_bytes,
    )


def _crossing(problem: Problem, price: Price) -> tuple[CrossingTensor, ...]:
    return tuple(crossing_of(problem, name, price.codecs[name]) for name in price.cut.crossing)
