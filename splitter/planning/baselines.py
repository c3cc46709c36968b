"""The rivals of every split: run it all on the device, or send the input."""

from __future__ import annotations

from splitter.planning.candidates import candidate, name_of, refused
from splitter.planning.cost import Price, price
from splitter.planning.limits import why_not
from splitter.planning.records import Candidate, Problem


def baselines(problem: Problem) -> tuple[Candidate, Candidate]:
    """Price both; one that cannot be carried out is kept, with the reason."""
    device, server = (_baseline(problem, head) for head in _heads(problem))
    return device, server


def whole_cuts(problem: Problem) -> tuple[Price, ...]:
    """Price those of the two that can be carried out."""
    return tuple(price(problem, head) for head in _heads(problem) if not why_not(problem, head))


def _heads(problem: Problem) -> tuple[frozenset[str], frozenset[str]]:
    return frozenset(problem.graph.node_of), frozenset()


def _baseline(problem: Problem, head: frozenset[str]) -> Candidate:
    reason = why_not(problem, head)
    if reason:
        return refused(problem, head, reason)
    return candidate(problem, price(problem, head), name_of(problem, head))
