"""Find the reasons of a plan, by pricing its rivals and solving again with one thing changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import msgspec

from splitter.errors import InfeasibleError, SolverTimeError
from splitter.planning.baselines import whole_cuts
from splitter.planning.candidates import SPLIT, name_of, title_of
from splitter.planning.cost import Price, price
from splitter.planning.optimum import as_placement, optimum
from splitter.planning.placement import quantity
from splitter.planning.ranges import Interval, StoppedError, interval
from splitter.planning.reasons import Bound, Reasons, Rival, Sensitivity
from splitter.planning.records import Problem
from splitter.planning.relaxed import (
    APART,
    LIMITS,
    limits_of,
    shadow_prices,
    value_of,
    without,
)
from splitter.planning.search import SolverChoice
from splitter.planning.validity import by_bandwidth
from splitter.planning.worlds import (
    device_slowdown,
    round_trip,
    server_slowdown,
    slowness,
    tensor_bytes,
    why_no_lines,
)

TERMS = ("head", "encode", "link", "decode", "tail")


def explain(problem: Problem, pool: Sequence[Price], choice: SolverChoice) -> Reasons:
    """Say why the first plan of a pool, the proven best, is that, and what the limits cost."""
    best = pool[0]
    note = why_no_lines(problem)
    bounds = []
    try:
        for bound in _bounds(problem, best, choice):
            bounds.append(bound)  # noqa: PERF402  (those before the time ran out are kept)
    except SolverTimeError:
        note = note or "the time limit was reached, so limits are missing"
    largest = max(TERMS, key=lambda term: _seconds(best, term))
    total_s = best.latency.total_s
    return Reasons(
        largest=largest,
        share=_seconds(best, largest) / total_s if total_s else 0.0,
        rivals=tuple(_rivals(problem, pool)),
        sensitivities=()
        if why_no_lines(problem)
        else tuple(_sensitivities(problem, list(pool), choice)),
        limits=tuple(bounds),
        note=note,
    )


def named(problem: Problem, best: Price, other: Price) -> str:
    """A name for another plan: what it sends, and in what where that is all that differs."""
    if other.head != best.head:
        return title_of(problem, other)
    changed = {
        name: codec.codec
        for name, codec in other.codecs.items()
        if codec.codec != best.codecs[name].codec
    }
    if len(best.codecs) == 1:
        return f"this cut as {', '.join(changed.values())}"
    return "this cut, " + ", ".join(f"{name} as {codec}" for name, codec in changed.items())


def _seconds(plan: Price, term: str) -> float:
    return float(getattr(plan.latency, f"{term}_s"))


def _rivals(problem: Problem, pool: Sequence[Price]) -> Iterator[Rival]:
    """Both ways of not splitting, and the nearest of the cuts at hand, each unless it is the plan."""
    best = pool[0]
    others = [price(problem, head) for head in {plan.head for plan in pool} - {best.head}]
    splits = [plan for plan in others if name_of(problem, plan.head) == SPLIT]
    nearest = sorted(splits, key=lambda plan: plan.objective)[:1]
    for other in (*whole_cuts(problem), *nearest):
        if other.head == best.head:
            continue
        more = {term: _seconds(other, term) - _seconds(best, term) for term in TERMS}
        yield Rival(
            name=named(problem, best, other),
            head_s=more["head"], encode_s=more["encode"], link_s=more["link"],
            decode_s=more["decode"], tail_s=more["tail"],
            objective=other.objective - best.objective,
            decides=max(more, key=more.__getitem__),
        )  # fmt: skip


def _sensitivities(
    problem: Problem, pool: list[Price], choice: SolverChoice
) -> Iterator[Sensitivity]:
    best, up = pool[0], problem.link.up_bytes_per_s
    try:
        found = interval(problem, slowness(), pool, choice)
        turned = Interval(found.high, found.low)
        wire = by_bandwidth(found.range(1.0), up)
        yield _sensitivity(
            problem, best, ("uplink", "bytes_per_s"), turned, wire.at, wire.low, wire.high
        )
        for name, unit, axis in (
            ("round trip", "s", round_trip(problem)),
            ("device seconds", "factor", device_slowdown()),
            ("server seconds", "factor", server_slowdown()),
        ):
            found = interval(problem, axis, pool, choice)
            moved = found.range(axis.at)
            yield _sensitivity(problem, best, (name, unit), found, axis.at, moved.low, moved.high)
        if problem.limits.sent_bytes is not None:
            return  # another number of bytes would break the limit, not only cost more
        for tensor in best.cut.crossing:
            nbytes = best.codecs[tensor].wire_bytes
            if not nbytes:
                continue  # no bytes times any factor are none
            pool += _without(problem, tensor, choice)
            found = interval(problem, tensor_bytes(tensor), pool, choice)
            ends = [None if end is None else end.value * nbytes for end in found]
            yield _sensitivity(problem, best, (f"bytes of {tensor}", "bytes"), found, nbytes, *ends)
    except StoppedError:
        return


def _without(problem: Problem, tensor: str, choice: SolverChoice) -> list[Price]:
    """The best plan that does not send a tensor, if there is one."""
    codecs = {**problem.codecs, tensor: ()}
    forbidden = tuple(names for names in problem.forbidden if tensor not in names)
    try:
        return [optimum(replace(problem, codecs=codecs, forbidden=forbidden), choice).price]
    except InfeasibleError:
        return []


def _sensitivity(
    problem: Problem, best: Price, what: tuple[str, str], found: Interval, at: float,
    low: float | None, high: float | None,
) -> Sensitivity:  # fmt: skip
    below, above = ("" if end is None else named(problem, best, end.plan) for end in found)
    return msgspec.convert(
        {"name": what[0], "unit": what[1], "at": at, "low": low, "high": high,
         "below": below, "above": above},
        Sensitivity,
    )  # fmt: skip


def _bounds(problem: Problem, best: Price, choice: SolverChoice) -> Iterator[Bound]:
    """Solve without each limit in turn."""
    mine = as_placement(problem, best)
    prices = {price.limit: price for price in shadow_prices(problem, best.objective, choice)}
    for name in limits_of(problem):
        other = optimum(without(problem, (name,)), choice).price
        cost = max(best.objective - other.objective, 0.0)
        binds = cost > APART * abs(best.objective)
        theirs = as_placement(problem, other)
        is_number = name in LIMITS
        next_price = prices.get(name) if binds else None
        yield Bound(
            name=name,
            limit=value_of(problem, name) if is_number else None,
            used=quantity(problem, mine, name) if is_number else None,
            binds=binds,
            cost=cost if binds else 0.0,
            without=named(problem, best, other) if binds else "",
            needs=quantity(problem, theirs, name) if binds and is_number else None,
            shadow_price=next_price.per_unit if next_price else None,
            reached_at=next_price.reached_at if next_price else None,
        )
