"""Nodes that have to be on one tier: patterns of names, resolved."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping

from splitter.errors import PlanError, nearest
from splitter.graph.values import Graph, Node
from splitter.planning.records import Problem, TierCost
from splitter.planning.terms import Pin


def pinned(problem: Problem) -> Mapping[str, tuple[int, str]]:
    """Node -> number of its tier, and the pin as it was given.

    Raises
    ------
    PlanError
        A pattern matches nothing, a tier is unknown, or two pins contradict each other.
    """
    found: dict[str, tuple[int, str]] = {}
    for pin in problem.limits.pins:
        tier = tier_number(problem, pin.tier)
        matched = [node for node in problem.graph.nodes if _matches(pin, node)]
        if not matched:
            raise PlanError(f"pin {str(pin)!r} matches no node{_near(pin, problem.graph)}")
        for node in matched:
            other = found.setdefault(node.name, (tier, f"pin {str(pin)!r}"))
            if other[0] != tier:
                raise PlanError(f"pin {str(pin)!r} contradicts {other[1]}: both hold {node.name!r}")
    return found


def by_name(pins: Iterable[Pin], graph: Graph) -> tuple[Pin, ...]:
    """Write pins that match labels of the model file by names of nodes, which a kernel keeps."""
    found: dict[Pin, None] = {}
    for pin in pins:
        named = any(pin.matches(node.name) for node in graph.nodes)
        labelled = [node for node in graph.nodes if _matches(pin, node)]
        if named or not labelled:
            found[pin] = None
        for node in labelled:
            if not pin.matches(node.name):
                found[Pin(glob.escape(node.name), pin.tier)] = None
    return tuple(found)


def tier_number(problem: Problem, name: str) -> int:
    """The number of a tier by role (``device``, ``relay``, ``relay2``, ``server``) or by its own name."""
    roles = tier_roles(problem)
    if name in roles:
        return roles.index(name)
    if roles[1:-1] == ["relay"] and name == "relay1":
        return 1
    own = [tier.name for tier in _tiers(problem)]
    if own.count(name) == 1:
        return own.index(name)
    raise PlanError(f"no tier is called {name!r}; there are {', '.join(roles)}")


def tier_roles(problem: Problem) -> list[str]:
    """What the tiers are called, from the device on."""
    middle, title = (problem.sources, "device") if problem.sources else (problem.relays, "relay")
    start = 2 if problem.sources else 1
    numbered = [f"{title}{i}" for i in range(start, start + len(middle))]
    if numbered == ["relay1"]:
        numbered = ["relay"]
    return ["device", *numbered, "server"]


def _tiers(problem: Problem) -> list[TierCost]:
    devices = [problem.device, *(source.tier for source in problem.sources)]
    return [*devices, *(relay.tier for relay in problem.relays), problem.server]


def _matches(pin: Pin, node: Node) -> bool:
    names = (node.name, node.label, *node.members)
    return any(pin.matches(name) or pin.matches(name.removeprefix("/")) for name in names if name)


def _near(pin: Pin, graph: Graph) -> str:
    names = [name for node in graph.nodes for name in (node.name, *node.members)]
    return nearest(pin.pattern, names)
