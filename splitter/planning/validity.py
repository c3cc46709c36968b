"""How far bandwidth, round trip and the server's seconds may move before another plan is better."""

from __future__ import annotations

from splitter.planning.cost import Price
from splitter.planning.ranges import StoppedError, interval
from splitter.planning.records import Problem, Range, Validity
from splitter.planning.search import SolverChoice
from splitter.planning.worlds import round_trip, server_slowdown, slowness, why_no_lines


def validity(problem: Problem, pool: list[Price], choice: SolverChoice) -> Validity | None:
    """Find the three ranges in which a plan stays best; None where a solve is stopped by its limit.

    None too where plans do not cost lines (``why_no_lines``). ``pool`` is the plan and other cuts that can
    be carried out; the more, the fewer solves. What is found on the way is added to it.
    """
    if why_no_lines(problem):
        return None
    axes = (slowness(), round_trip(problem), server_slowdown())
    try:
        wire, rtt, server = (interval(problem, axis, pool, choice).range(axis.at) for axis in axes)
    except StoppedError:
        return None
    return Validity(
        up_bytes_per_s=by_bandwidth(wire, problem.link.up_bytes_per_s),
        rtt_s=rtt,
        server_slowdown=server,
    )


def by_bandwidth(wire: Range, up_bytes_per_s: float) -> Range:
    """Turn a range of slowness into one of bandwidth."""
    return Range(
        low=None if wire.high is None else up_bytes_per_s / wire.high,
        high=None if wire.low is None else up_bytes_per_s / wire.low,
        at=up_bytes_per_s,
    )
