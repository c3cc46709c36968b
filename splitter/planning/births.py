"""Further devices, as they are given: a profile, a link to the server, and which inputs are born there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from splitter.errors import PlanError, nearest
from splitter.graph.values import Graph
from splitter.link import Link
from splitter.profiling.profile import Profile


@dataclass(frozen=True)
class FurtherDevice:
    """One more device that feeds the same server."""

    profile: Profile
    """Of the whole model there."""
    link: Link
    """To the server."""
    inputs: tuple[str, ...]
    """Of the model; all that no further device has are born on the first."""


def inputs_of(graph: Graph, patterns: Sequence[str]) -> tuple[str, ...]:
    """Find the model's inputs by their names, or by patterns of them, in the model's order.

    Raises
    ------
    PlanError
        A pattern matches none.
    """
    found: set[str] = set()
    for pattern in patterns:
        named = {pattern} & set(graph.inputs)
        matched = named or {name for name in graph.inputs if fnmatchcase(name, pattern)}
        if not matched:
            raise PlanError(
                f"no input is named {pattern!r}{nearest(pattern, graph.inputs)}: the model has "
                f"{', '.join(graph.inputs)}"
            )
        found |= matched
    return tuple(name for name in graph.inputs if name in found)


def check_births(graph: Graph, given: Sequence[Sequence[str]]) -> None:
    """Refuse inputs of further devices that no plan can mean.

    Raises
    ------
    PlanError
        An input is born on two devices, or none is left for the first, or a device has none.
    """
    seen: set[str] = set()
    for inputs in given:
        if not inputs:
            raise PlanError("a further device has no input: name those that are born there")
        for name in inputs:
            if name not in graph.inputs:
                raise PlanError(f"no input is named {name!r}{nearest(name, graph.inputs)}")
            if name in seen:
                raise PlanError(f"input {name!r} is born on two devices; name it once")
            seen.add(name)
    if given and len(seen) == len(graph.inputs):
        raise PlanError(
            "every input is born on a further device, none on the first: make one of them the device"
        )
