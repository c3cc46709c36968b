"""Of several devices, the one on which a node may run: that of all that it reads."""

from __future__ import annotations

from collections.abc import Mapping

from splitter.errors import PlanError, nearest
from splitter.planning.records import Problem
from splitter.planning.work import born, state_inputs


def homes(problem: Problem) -> Mapping[str, int | None]:
    """Node or tensor -> number of its device; None for what only the server can make.

    A node is at home where all that it reads is. One that reads nothing is at home where all of its readers
    are, else on the server. A state is at home with its readers.

    Raises
    ------
    PlanError
        A source names an input that the model does not have, or that another has too.
    """
    _check(problem)
    graph, states = problem.graph, state_inputs(problem)
    found: dict[str, int | None] = {}
    fed: dict[str, frozenset[int]] = {
        name: frozenset() if name in states else frozenset({born(problem, name)})
        for name in graph.inputs
    }
    for node in graph.nodes:
        devices = frozenset().union(*(fed[name] for name in node.inputs))
        fed |= dict.fromkeys(node.outputs, devices)
        found[node.name] = next(iter(devices)) if len(devices) == 1 else None
    for node in reversed(graph.nodes):
        if not fed[node.outputs[0]] if node.outputs else False:
            readers = {found[r.name] for name in node.outputs for r in graph.consumers_of[name]}
            found[node.name] = next(iter(readers)) if len(readers) == 1 else None
    for name in graph.inputs:
        found[name] = None if name in states else born(problem, name)
    for node in graph.nodes:
        found |= dict.fromkeys(node.outputs, found[node.name])
    return found


def _check(problem: Problem) -> None:
    if problem.relays:
        raise PlanError("a plan has relays or several devices, not both: leave one of them out")
    seen: set[str] = set()
    for source in problem.sources:
        for name in source.inputs:
            if name not in problem.graph.inputs:
                raise PlanError(
                    f"the model has no input {name!r}{nearest(name, problem.graph.inputs)}"
                )
            if name in seen:
                raise PlanError(f"input {name!r} is born on two devices; name it once")
            seen.add(name)
