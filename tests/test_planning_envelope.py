"""The envelope by brute force: every cut in every choice of codecs, at every kind of value."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from problems import (
    World,
    closed_sets,
    graph_of,
    plain_costs,
    problem_of,
    random_problem,
    with_losses,
)

from splitter.errors import InfeasibleError
from splitter.graph.cut import cut_of
from splitter.planning.cost import price
from splitter.planning.envelope import envelope
from splitter.planning.lines import Line, bound, lowest, near
from splitter.planning.optimum import optimum
from splitter.planning.policy import HYSTERESIS, Policy, policy
from splitter.planning.records import CodecCost, Problem
from splitter.planning.search import SolverChoice
from splitter.planning.table import Pieces
from splitter.planning.terms import Limits
from splitter.planning.worlds import server_slowdown, slowness

CHOICE = SolverChoice()
LINES = st.lists(
    st.builds(Line, st.floats(0, 10, width=16), st.floats(0, 10, width=16)), min_size=1, max_size=8
)


def drawn(seed: int, size: int, budget: bool) -> Problem:
    """Make a problem whose seconds are not negative, as those of profiles are."""
    problem = random_problem(seed, size, limits=seed % 2 == 0)
    problem = with_losses(problem, seed) if budget else problem
    tiers = [
        replace(
            tier,
            node_s={name: abs(seconds) for name, seconds in tier.node_s.items()},
            base_s=abs(tier.base_s),
        )
        for tier in (problem.device, problem.server)
    ]
    return replace(problem, device=tiers[0], server=tiers[1])


def found(problem: Problem) -> Policy | None:
    try:
        best = optimum(problem, CHOICE)
    except InfeasibleError:
        return None
    return policy(problem, [best.price], CHOICE)


def least(problem: Problem, world: World) -> float:
    """What the best plan of a world costs."""
    return min(min(costs.values()) for costs in by_head(problem, world) if costs)


def by_head(problem: Problem, world: World) -> list[dict[tuple[str, ...], float]]:
    return [plain_costs(problem, head, world) for head in closed_sets(problem.graph)]


def cost(problem: Problem, table: Policy, cut: int, world: World) -> float:
    plan = table.plans[cut]
    chosen = tuple(plan.codecs[name].codec for name in problem.graph.tensors if name in plan.codecs)
    return plain_costs(problem, plan.head, world)[chosen]


@pytest.mark.parametrize("budget", [False, True])
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 6))
def test_at_every_value_the_tables_cut_costs_what_the_best_one_does(
    budget: bool, seed: int, size: int
) -> None:
    problem = drawn(seed, size, budget)
    table = found(problem)
    if table is None:
        return
    up = problem.link.up_bytes_per_s
    axes: list[tuple[Pieces, Callable[[float], World]]] = [
        (table.table.up_bytes_per_s, lambda value: World(wire=up / value)),
        (table.table.server_slowdown, lambda value: World(server=value)),
    ]
    draw = random.Random(seed)
    for pieces, world in axes:
        assert pieces.gap == 0
        assert all(piece.proven for piece in pieces.pieces)
        for value in values(pieces, draw):
            piece = pieces.at_value(value)
            assert piece.low <= value <= (piece.high or inf)
            expected = least(problem, world(value))
            assert cost(problem, table, piece.cut, world(value)) == pytest.approx(expected)
        for piece, after in itertools.pairwise(pieces.pieces):
            assert piece.high == after.low
            assert piece.cut != after.cut
            assert cost(problem, table, piece.cut, world(after.low)) == pytest.approx(
                cost(problem, table, after.cut, world(after.low))
            )
        assert (pieces.pieces[0].low, pieces.pieces[-1].high) == (0, None)


def values(pieces: Pieces, draw: random.Random) -> list[float]:
    ends = [piece.low for piece in pieces.pieces[1:]] or [pieces.at]
    inside = [(piece.low + (piece.high or 2 * piece.low + 1)) / 2 for piece in pieces.pieces]
    return [pieces.at, *ends, *inside, *(pieces.at * 10 ** draw.uniform(-4, 4) for _ in range(5))]


@pytest.mark.parametrize("budget", [False, True])
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 6))
def test_a_cut_is_kept_for_as_long_as_it_costs_little_more_than_the_best(
    budget: bool, seed: int, size: int
) -> None:
    problem = drawn(seed, size, budget)
    table = found(problem)
    if table is None:
        return
    for piece in table.table.server_slowdown.pieces:
        assert piece.stay_low <= piece.low
        assert (piece.stay_high or inf) >= (piece.high or inf)
        for value in (piece.stay_low, piece.stay_high):
            if value:
                world = World(server=value)
                assert cost(problem, table, piece.cut, world) == pytest.approx(
                    (1 + HYSTERESIS) * least(problem, world)
                )


@pytest.mark.parametrize("budget", [False, True])
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 5))
def test_the_map_of_round_trips_names_the_best_cut_of_every_cell(
    budget: bool, seed: int, size: int
) -> None:
    problem = drawn(seed, size, budget)
    # Bytes of a size that the map's bandwidths suit.
    codecs = {
        name: tuple(structs.replace(one, wire_bytes=one.wire_bytes * 1000) for one in choices)
        for name, choices in problem.codecs.items()
    }
    link = structs.replace(problem.link, up_bytes_per_s=1e6, down_bytes_per_s=3e3)
    problem = replace(problem, link=link, codecs=codecs, bytes_weight=problem.bytes_weight / 1000)
    table = found(problem)
    if table is None:
        return
    trips = table.table.round_trip
    for rtt_s, row in zip(trips.rtt_s, trips.cuts, strict=True):
        for bandwidth, cut in list(zip(trips.up_bytes_per_s, row, strict=True))[::3]:
            world = World(wire=1e6 / bandwidth, rtt_s=rtt_s)
            assert cost(problem, table, cut, world) == pytest.approx(least(problem, world))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 4))
def test_a_limit_of_bytes_holds_everywhere(seed: int, size: int) -> None:
    problem = drawn(2 * seed + 1, size, budget=False)
    whole = price(problem, frozenset(problem.graph.node_of))
    most = 300 + seed % 200
    table = found(replace(problem, limits=Limits(sent_bytes=most)))
    if table is None:
        return
    for value in values(table.table.up_bytes_per_s, random.Random(seed)):
        world = World(wire=problem.link.up_bytes_per_s / value)
        cut = table.table.up_bytes_per_s.at_value(value).cut
        assert table.plans[cut].up_bytes + table.plans[cut].down_bytes <= most
        least = whole.objective
        for head in closed_sets(problem.graph):
            for names, seconds in plain_costs(problem, head, world).items():
                chosen = codecs_named(problem, head, names)
                sent = price(problem, head, chosen)
                if sent.up_bytes + sent.down_bytes <= most:
                    least = min(least, seconds)
        assert cost(problem, table, cut, world) == pytest.approx(least)


def codecs_named(
    problem: Problem, head: frozenset[str], names: tuple[str, ...]
) -> dict[str, CodecCost]:
    crossing = cut_of(problem.graph, head).crossing
    return {
        tensor: next(codec for codec in problem.codecs[tensor] if codec.codec == name)
        for tensor, name in zip(crossing, names, strict=True)
    }


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 9))
def test_few_solves_for_each_piece(seed: int, size: int) -> None:
    problem = drawn(2 * seed + 1, size, budget=False)
    best = optimum(problem, CHOICE).price
    for axis in (slowness(), server_slowdown()):
        result = envelope(problem, axis, [best], CHOICE)
        # Two more where plans tie at an end of the axis and the solver takes the one that is worse beside it.
        assert result.solves <= 2 * len(result.stretches) + 1


def test_a_time_limit_leaves_a_table_that_says_so() -> None:
    graph = graph_of({"a": ("x",), "b": ("a",)}, {"x": 100, "a": 10, "b": 1}, ("b",))
    problem = problem_of(graph, {"a": 1.0, "b": 1.0}, {"a": 0.1, "b": 0.1})
    best = optimum(problem, CHOICE).price
    table = policy(problem, [best], SolverChoice(time_limit_s=1e-9)).table
    assert table.up_bytes_per_s.gap is None
    assert not any(piece.proven for piece in table.up_bytes_per_s.pieces)


def test_progress_ends_when_all_is_proven() -> None:
    graph = graph_of({"a": ("x",), "b": ("a",)}, {"x": 100, "a": 10, "b": 1}, ("b",))
    problem = problem_of(graph, {"a": 1.0, "b": 1.0}, {"a": 0.1, "b": 0.1})
    seen: list[tuple[str, int, int]] = []
    policy(
        problem,
        [optimum(problem, CHOICE).price],
        CHOICE,
        lambda stage, done, total: seen.append((stage, done, total)),
    )
    assert {stage for stage, _, _ in seen} == {"bandwidths", "server slowdowns"}
    assert seen[-1][1] == seen[-1][2]


@given(LINES, st.floats(0, 50))
def test_lowest_is_the_least_of_all_lines(lines: list[Line], value: float) -> None:
    stretches = lowest(lines)
    mine = next(stretch for stretch in stretches if value <= stretch.high)
    assert lines[mine.line].at(value) == pytest.approx(min(line.at(value) for line in lines))
    assert (stretches[0].low, stretches[-1].high) == (0, inf)
    assert all(one.high == other.low for one, other in itertools.pairwise(stretches))


@given(LINES, st.floats(0, 20), st.floats(0, 1))
def test_a_chord_is_never_above_the_envelope(lines: list[Line], value: float, share: float) -> None:
    def envelope_at(value: float) -> float:
        return min(line.at(value) for line in lines)

    proven = {0.0: envelope_at(0), value: envelope_at(value), inf: envelope_at(inf)}
    for inside in (value * share, value * (1 + share)):
        assert bound(proven, inside) <= envelope_at(inside) * (1 + 1e-9) + 1e-9


@given(LINES, st.floats(0.01, 1), st.floats(0, 50))
def test_within_its_margin_a_line_is_near_the_lowest_and_outside_it_is_not(
    lines: list[Line], slack: float, value: float
) -> None:
    stretches = lowest(lines)
    best = min(line.at(value) for line in lines)
    for stretch in stretches:
        margin = near(lines, stretches, stretch.line, slack)
        cost = lines[stretch.line].at(value)
        if margin.low < value < margin.high:
            assert cost <= (1 + slack) * best * (1 + 1e-6) + 1e-6
        elif best > 0.1 and not margin.low * 0.999 <= value <= margin.high * 1.001:
            assert cost >= (1 + slack) * best * (1 - 1e-6)
