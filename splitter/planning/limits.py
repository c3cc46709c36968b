"""What forbids a cut: nodes that a tier cannot run, tensors that cannot travel or that lose too much."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from splitter.errors import InfeasibleError
from splitter.graph.cut import cut_of
from splitter.graph.values import Node
from splitter.planning.cost import best_codecs
from splitter.planning.knapsack import Allowance
from splitter.planning.records import Problem


def why_not(problem: Problem, head: Collection[str]) -> str:
    """Name the first operator or tensor that forbids a cut; empty where it can be carried out."""
    cut = cut_of(problem.graph, head)
    for node in problem.graph.nodes:
        tier, where = (
            (problem.device, "device") if node.name in cut.head else (problem.server, "server")
        )
        if node.name in tier.unsupported:
            return f"operator {node.op_type} of node {node.name!r} does not run on the {where}"
    for tensor in cut.crossing:
        if not problem.codecs.get(tensor):
            return f"tensor {tensor!r} cannot travel"
    try:
        best_codecs(problem, cut.crossing)
    except InfeasibleError as exc:
        return str(exc)
    return ""


def stuck(problem: Problem) -> dict[str, str]:
    """Give the tensors that no cut can send, and why in a few words."""
    allowance = Allowance.of(problem)
    reasons = {}
    for name in problem.graph.tensors:
        choices = problem.codecs.get(name)
        if not choices:
            reasons[name] = "cannot travel"
        elif not any(allowance.admits(name, choice.loss) for choice in choices):
            reasons[name] = "cannot travel within the loss allowed"
    return reasons


def must_be_head(problem: Problem) -> dict[str, str]:
    """Give the nodes that are on the device whatever the cost, before what follows from them, and why."""
    reasons: dict[str, str] = {}
    fixed = stuck(problem)
    for name in problem.graph.inputs:
        if name in fixed:
            for node in problem.graph.consumers_of[name]:
                reasons[node.name] = f"its input {name!r} {fixed[name]}"
    for node in problem.graph.nodes:
        if node.name in problem.server.unsupported:
            reasons[node.name] = f"the server does not run {node.op_type}"
    return reasons


def smallest_head(problem: Problem) -> frozenset[str]:
    """Follow what the forced head nodes need: the head of every cut that can be carried out holds these.

    Raises
    ------
    InfeasibleError
        The device does not run one of them, so no cut exists; the message names the two nodes, and the
        tensor that ties them if it is one.
    """
    reasons, fixed = must_be_head(problem), stuck(problem)
    because: dict[str, tuple[str, str]] = {name: (name, "") for name in reasons}
    pending = list(reasons)
    while pending:
        name = pending.pop()
        first, tie = because[name]
        if name in problem.device.unsupported:
            raise InfeasibleError(_conflict(problem, name, (first, reasons[first], tie)))
        for other, tensor in _needed_with(problem, problem.graph.node_of[name], fixed):
            if other not in because:
                because[other] = (first, tie or tensor and f"tensor {tensor!r} {fixed[tensor]}")
                pending.append(other)
    return frozenset(because)


def _needed_with(problem: Problem, node: Node, fixed: Collection[str]) -> Iterator[tuple[str, str]]:
    """Nodes that a head with this node has too, each with the tensor that cannot travel if that is why."""
    graph = problem.graph
    for name in node.inputs:
        if name in graph.producer_of:
            yield graph.producer_of[name].name, ""
    for name in node.outputs:
        if name in fixed:
            for reader in graph.consumers_of[name]:
                yield reader.name, name


def _conflict(problem: Problem, name: str, chain: tuple[str, str, str]) -> str:
    first, reason, tie = chain
    op_type = problem.graph.node_of[name].op_type
    if name == first and name in problem.server.unsupported:
        return f"no cut is feasible: operator {op_type} of node {name!r} runs on neither tier"
    if name == first:
        return (
            f"no cut is feasible: node {name!r} has to be on the device ({reason}), "
            f"which does not run {op_type}"
        )
    tied = f" ({tie})" if tie else ""
    return (
        f"no cut is feasible: node {first!r} has to be on the device ({reason}), and node {name!r} "
        f"with it{tied}, but the device does not run {op_type}"
    )
