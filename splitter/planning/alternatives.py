"""The next best cuts, one by one: solve again with every cut seen so far excluded by a row.

Two cuts are distinct when their heads are. Heads that differ send different tensors, but where a branch
that nothing else reads moves as a whole; its place is then what tells the two apart. Each is sent in its
own cheapest codecs within the accuracy budget.

Where the budget does not bind, or is charged for, cuts come in the order of a cost that is never more than
their own. So the cuts up to the last such cost are settled, and the others are not far: what they cost leaves
little of the program, which is then solved with the budget's rows.
"""

from __future__ import annotations

from math import inf

from splitter.errors import InfeasibleError
from splitter.planning.cost import Price
from splitter.planning.optimum import as_placement, as_price, is_plain
from splitter.planning.program import Row, excluding, head_of
from splitter.planning.records import Problem
from splitter.planning.search import Search, SolverChoice
from splitter.planning.stages import next_placements


def alternatives(
    problem: Problem, plan: Price, count: int, choice: SolverChoice
) -> tuple[Price, ...]:
    """Find the best cuts after the plan, cheapest first.

    Fewer than ``count`` come back where no more exist, or where a solve was stopped by its time limit.
    """
    if count == 0:
        return ()
    if not is_plain(problem):
        best = as_placement(problem, plan)
        return tuple(as_price(problem, p) for p in next_placements(problem, best, count, choice))
    search = Search(problem, choice)
    first = search.unlimited() if search.limited else None
    if first and not search.agreed(first):
        search.narrow(count)  # for the charge
    search.note(plan.head)
    reached, last = _in_order(search, plan, count)
    known = sorted(search.known.values(), key=lambda price: price.objective)
    found = [price for price in known if price.head != plan.head and price.objective <= reached]
    if len(found) < count and not last:
        rows = [excluding(problem.graph, price.head) for price in (plan, *found)]
        found += _within_budget(search, rows, count)
    return tuple(found[:count])


def _in_order(search: Search, plan: Price, count: int) -> tuple[float, bool]:
    """Find ``count`` cuts; return what any other costs at least, and whether that is all to be had."""
    rows, reached = [excluding(search.problem.graph, plan.head)], -inf
    while len(rows) <= count:
        try:
            found = search.charged(rows) if search.charge else search.unlimited(rows)
        except InfeasibleError:  # every cut has been found
            return inf, True
        if found.solved.values is None:
            return reached, True
        assert found.solved.objective is not None
        reached = found.solved.objective
        if found.price is not None and search.agreed(found):
            reached = found.price.objective
        rows.append(excluding(search.problem.graph, head_of(search.problem, found.solved.values)))
    return reached, False


def _within_budget(search: Search, rows: list[Row], count: int) -> list[Price]:
    program = search.narrow(count)
    found: list[Price] = []
    while len(rows) <= count:
        try:
            outcome = search.settle(program, rows)
        except InfeasibleError:
            break
        if outcome.price is None:
            break
        found.append(outcome.price)
        rows.append(excluding(search.problem.graph, outcome.price.head))
    return found
