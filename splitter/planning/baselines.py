"""The rivals of every split: run it all on the device, or send the input."""

from __future__ import annotations

from splitter.planning.candidates import candidate, name_of, refused
from splitter.planning.cost import price
from splitter.planning.limits import why_not
from splitter.planning.records import Candidate, Problem


def baselines(problem: Problem) -> tuple[Candidate, Candidate]:
    """Price both; one that cannot be carried out is kept, with the reason."""
    return _baseline(problem, frozenset(problem.graph.node_of)), _baseline(problem, frozenset())


def _baseline(problem: Problem, head: frozenset[str]) -> Candidate:
    reason = why_not(problem, head)
    if reason:
        return refused(problem, head, reason)
    return candidate(problem, price(problem, head), name_of(problem, head))
