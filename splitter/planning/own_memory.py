"""The runtime's own memory, from parts that a profile has measured.

What a measured part took beyond its weights and live activations is the runtime's own. Along the node order
the largest so far is taken, so that it rises. A part is charged what the part along the order took that was
measured and holds its last node (a tail: its first). For parts along the order this is a bound as far as they
are like the measured ones; any other closed set it charges for nodes that it does not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from splitter.planning.layout import two_tiers
from splitter.planning.memory import memory_of
from splitter.planning.records import Problem
from splitter.planning.terms import Limits
from splitter.profiling.profile import Profile

SPREAD, SPREAD_BYTES = 0.02, 256 << 10
"""How much more a part may take the next time: a run of the same part differs by so much at most."""

Steps = tuple[tuple[frozenset[str], int], ...]
Positions = Mapping[str, tuple[int, int]]


def with_own_memory(problem: Problem, profiles: tuple[Profile, Profile]) -> Problem:
    """The problem with what device and server were measured to take; as it is where none was."""
    device, server = profiles
    return replace(
        problem,
        device=replace(problem.device, own_memory=_steps(problem, device, is_head=True)),
        server=replace(problem.server, own_memory=_steps(problem, server, is_head=False)),
    )


def _steps(problem: Problem, profile: Profile, *, is_head: bool) -> Steps:
    """From the smallest measured part on, the rises, each with the nodes that the part before lacks."""
    at = _positions(problem, profile)
    taken = sorted(_taken(problem, profile, at, is_head=is_head).items(), reverse=not is_head)
    found: list[tuple[frozenset[str], int]] = []
    charged, before = 0, 0 if is_head else len(profile.nodes)
    for place, nbytes in taken:
        beyond = {
            name
            for name, (first, last) in at.items()
            if (last >= before if is_head else first < before)
        }
        if nbytes > charged and beyond:
            found.append((frozenset(beyond), nbytes - charged))
            charged = nbytes
        before = place
    return tuple(found)


def _taken(problem: Problem, profile: Profile, at: Positions, *, is_head: bool) -> dict[int, int]:
    """By place, what the part there took beyond the arithmetic; places inside of a kernel are left out."""
    bare = replace(problem, limits=Limits(), relays=(), sources=())
    layout = two_tiers(bare)
    found: dict[int, int] = {}
    for part in profile.parts_memory:
        took = part.head_bytes if is_head else part.tail_bytes
        if took is None or any(first < part.place <= last for first, last in at.values()):
            continue
        head = {name for name, (_, last) in at.items() if last < part.place}
        planned = memory_of(bare, layout, head)[0 if is_head else 1]
        most = took * (1 + SPREAD) + SPREAD_BYTES
        found[part.place] = max(0, round(most) - planned)
    return found


def _positions(problem: Problem, profile: Profile) -> Positions:
    """Of each kernel its first and last node along the model's order."""
    order = {name: position for position, name in enumerate(profile.nodes)}
    return {
        node.name: (
            min(order[name] for name in node.members),
            max(order[name] for name in node.members),
        )
        for node in problem.graph.nodes
    }
