"""What forbids a cut: operators, pins and states, tensors that cannot travel, limits of numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import pairwise

from splitter.errors import InfeasibleError
from splitter.graph.cut import cut_of
from splitter.graph.values import Node
from splitter.planning.cost import price
from splitter.planning.knapsack import Allowance
from splitter.planning.layout import two_tiers
from splitter.planning.memory import memory_of
from splitter.planning.pins import pinned, tier_roles
from splitter.planning.records import Problem
from splitter.planning.terms import amount
from splitter.planning.work import Placed, needed_on_server, state_inputs


def why_not(problem: Problem, head: Collection[str]) -> str:
    """Name the first operator, tensor or limit that forbids a cut; empty where it can be carried out."""
    return structure(problem, head) or _codecs(problem, head) or _memory(problem, head)


def structure(problem: Problem, head: Collection[str]) -> str:
    """Name the first operator, pin or state that forbids a cut, or the tensor that cannot travel."""
    cut = cut_of(problem.graph, head)
    places = {node.name: int(node.name not in cut.head) for node in problem.graph.nodes}
    return forbids(problem, Placed(problem, two_tiers(problem), places))


def forbids(problem: Problem, placed: Placed) -> str:
    """The same of a placement."""
    pins, layout, roles = pinned(problem), placed.layout, tier_roles(problem)
    for node in problem.graph.nodes:
        place = placed.place_of[node.name]
        number = layout.numbers[place]
        if node.name in layout.tiers[place].unsupported:
            return (
                f"operator {node.op_type} of node {node.name!r} does not run on the {roles[number]}"
            )
        if node.name in pins and pins[node.name][0] != number:
            return (
                f"node {node.name!r} would be on the {roles[number]}, against {pins[node.name][1]}"
            )
    for one, other in tied(problem):
        if placed.place_of[one] != placed.place_of[other]:
            return f"nodes {one!r} and {other!r} read and make a state, but would be on two tiers"
    for tensor in placed.crossing:
        if not problem.codecs.get(tensor):
            return f"tensor {tensor!r} cannot travel"
    return ""


def _codecs(problem: Problem, head: Collection[str]) -> str:
    try:
        price(problem, head)
    except InfeasibleError as exc:
        return str(exc)
    return ""


def _memory(problem: Problem, head: Collection[str]) -> str:
    limits = problem.limits
    named = {"device_memory_bytes": 0, "server_memory_bytes": 1}
    if all(getattr(limits, name) is None for name in named):
        return ""
    taken = memory_of(problem, two_tiers(problem), head)
    for name, place in named.items():
        value = getattr(limits, name)
        if value is not None and taken[place] > value:
            return f"{amount(name, taken[place])} where the limit is {amount(name, value)}"
    return ""


def tied(problem: Problem) -> list[tuple[str, str]]:
    """Pairs of nodes that have to be on one tier, as they read and make the same state."""
    found = []
    for state in problem.limits.states:
        names = [node.name for node in problem.graph.consumers_of[state.input]]
        if state.output in problem.graph.producer_of:
            names.append(problem.graph.producer_of[state.output].name)
        found += list(pairwise(dict.fromkeys(names)))
    return found


def stuck(problem: Problem) -> dict[str, str]:
    """Give the tensors that no cut can send, and why in a few words."""
    allowance, states = Allowance.of(problem), state_inputs(problem)
    reasons = {}
    for name in problem.graph.tensors:
        choices = problem.codecs.get(name)
        if name in states:
            continue
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
    for name, (place, pin) in pinned(problem).items():
        if place == 0:
            reasons[name] = pin
    return reasons


def must_be_tail(problem: Problem) -> dict[str, str]:
    """Give the nodes that are on the server whatever the cost, before what follows from them, and why."""
    nodes, fixed = problem.graph.node_of, stuck(problem)
    reasons = {
        name: f"the device does not run {nodes[name].op_type}"
        for name in problem.device.unsupported
    }
    for name in problem.graph.outputs:
        if needed_on_server(problem, name) and name in fixed and name in problem.graph.producer_of:
            maker = problem.graph.producer_of[name].name
            reasons[maker] = f"its output {name!r} is needed there and {fixed[name]}"
    for name, (place, pin) in pinned(problem).items():
        if place:
            reasons[name] = pin
    return reasons


def smallest_head(problem: Problem) -> frozenset[str]:
    """Follow what the forced head nodes need: the head of every cut that can be carried out holds these.

    Raises
    ------
    InfeasibleError
        One of them cannot be on the device, so no cut exists; the message names the two nodes, and the
        tensor that ties them if it is one.
    """
    reasons, fixed, against = must_be_head(problem), stuck(problem), must_be_tail(problem)
    because: dict[str, tuple[str, str]] = {name: (name, "") for name in reasons}
    pending = list(reasons)
    while pending:
        name = pending.pop()
        first, tie = because[name]
        if name in against:
            raise InfeasibleError(_conflict(problem, name, (first, reasons[first], tie)))
        for other, why in _needed_with(problem, problem.graph.node_of[name], fixed):
            if other not in because:
                because[other] = (first, tie or why)
                pending.append(other)
    return frozenset(because)


def _needed_with(problem: Problem, node: Node, fixed: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Nodes that a head with this node has too, each with what ties it but for an arrow of the graph."""
    graph = problem.graph
    for name in node.inputs:
        if name in graph.producer_of:
            yield graph.producer_of[name].name, ""
    for name in node.outputs:
        if name in fixed:
            for reader in graph.consumers_of[name]:
                yield reader.name, f"tensor {name!r} {fixed[name]}"
    for pair in tied(problem):
        if node.name in pair:
            yield pair[pair[0] == node.name], "they read and make one state"


def _conflict(problem: Problem, name: str, chain: tuple[str, str, str]) -> str:
    first, reason, tie = chain
    op_type = problem.graph.node_of[name].op_type
    against = f"but {must_be_tail(problem)[name]}"
    if name in problem.device.unsupported:
        against = f"but the device does not run {op_type}"
    if name == first and name in problem.server.unsupported & problem.device.unsupported:
        return f"no cut is feasible: operator {op_type} of node {name!r} runs on neither tier"
    if name == first:
        if name in problem.device.unsupported:
            against = f"which does not run {op_type}"
        return f"no cut is feasible: node {name!r} has to be on the device ({reason}), {against}"
    tied_by = f" ({tie})" if tie else ""
    return (
        f"no cut is feasible: node {first!r} has to be on the device ({reason}), and node {name!r} "
        f"with it{tied_by}, {against}"
    )
