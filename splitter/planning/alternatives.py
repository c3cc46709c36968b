"""The next best cuts, one by one: solve again with every cut seen so far excluded by a row.

Two cuts are distinct when their heads are. Heads that differ send different tensors, but where a branch
that nothing else reads moves as a whole; its place is then what tells the two apart.
"""

from __future__ import annotations

from splitter.errors import InfeasibleError
from splitter.planning.cost import Price
from splitter.planning.optimum import SolverChoice, next_best
from splitter.planning.program import build, excluding
from splitter.planning.records import Problem


def alternatives(
    problem: Problem, plan: Price, count: int, choice: SolverChoice
) -> tuple[Price, ...]:
    """Find the best cuts after the plan, cheapest first.

    Fewer than ``count`` come back where no more exist, or where a solve was stopped by its time limit.
    """
    program = build(problem)
    found: list[Price] = []
    while len(found) < count:
        rows = [excluding(problem.graph, price.head) for price in (plan, *found)]
        try:
            best = next_best(problem, program, rows, choice)
        except InfeasibleError:  # every cut has been found
            break
        if best is None:
            break
        found.append(best)
    return tuple(found)
