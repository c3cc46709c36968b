"""Brute force over every placement and every codec is the specification of objectives, limits and tiers."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from math import inf

import msgspec
import pytest
from placements import NUMBERS, OBJECTIVES, STRUCTURE, Plain, plain_plans, question
from problems import graph_of, problem_of

from splitter.errors import InfeasibleError, PlanError
from splitter.graph.values import Tensor
from splitter.planning import solver
from splitter.planning.alternatives import alternatives
from splitter.planning.cost import price
from splitter.planning.layout import two_tiers
from splitter.planning.limits import why_not
from splitter.planning.memory import memory_of
from splitter.planning.optimum import optimum
from splitter.planning.pins import by_name
from splitter.planning.placed import place
from splitter.planning.placement import faults
from splitter.planning.planner import solve_problem
from splitter.planning.records import Problem, SolverStatus
from splitter.planning.search import Progress, SolverChoice
from splitter.planning.terms import LATENCY, Limits, Objective, Pin, PowerDraw, State

CBC = SolverChoice("cbc")
EVERYTHING = (*NUMBERS, *STRUCTURE)
SINGLE = [(name,) for name in EVERYTHING]
PAIRS = list(itertools.combinations(EVERYTHING, 2))
CLOSE = 1e-6
"""Of the objective: what the solver's tolerances leave."""


def least(plans: list[Plain]) -> float:
    return min((plan.objective for plan in plans), default=inf)


def check(problem: Problem) -> None:
    """The plan costs the least of all that keep the limits, and is one of them."""
    best = least(list(plain_plans(problem)))
    try:
        if problem.relays or problem.sources:
            found = place(problem, CBC)
            assert not faults(problem, found.best)
            objective = found.best.objective
        else:
            cut = optimum(problem, CBC)
            assert not why_not(problem, cut.price.head)
            objective = cut.price.objective
            assert cut.report.status is SolverStatus.OPTIMAL
    except InfeasibleError:
        objective = inf
    if best < inf:
        assert objective == pytest.approx(best, rel=CLOSE, abs=CLOSE * 1e-3)
    assert objective < inf or best == inf


def seeds(limits: tuple[str, ...], count: int) -> range:
    start = 1000 * EVERYTHING.index(limits[0]) + 10 * EVERYTHING.index(limits[-1])
    return range(start, start + count)


@pytest.mark.parametrize("limits", SINGLE + PAIRS, ids="+".join)
def test_two_tiers_under_each_limit_and_each_pair(limits: tuple[str, ...]) -> None:
    for seed, objective in zip(
        seeds(limits, 2), random.Random(limits[0]).sample([*OBJECTIVES], 2), strict=True
    ):
        check(question(seed, 1 + seed % 6, objective, limits, "two"))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_tiers_for_each_objective(objective: str) -> None:
    for seed in range(8):
        check(question(seed, 1 + seed % 6, objective, (), "two"))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kind", ["relay", "devices"])
def test_three_tiers_and_two_devices_for_each_objective(kind: str, objective: str) -> None:
    for seed in range(3):
        check(question(seed, 2 + seed, objective, (), kind))


@pytest.mark.parametrize("limits", SINGLE, ids="+".join)
@pytest.mark.parametrize("kind", ["relay", "devices"])
def test_three_tiers_and_two_devices_under_each_limit(kind: str, limits: tuple[str, ...]) -> None:
    (seed,) = seeds(limits, 1)
    check(question(seed, 3, random.Random(seed).choice([*OBJECTIVES]), limits, kind))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["two", "relay", "relays", "devices"])
@pytest.mark.parametrize("limits", PAIRS, ids="+".join)
def test_every_kind_under_each_pair(kind: str, limits: tuple[str, ...]) -> None:
    for seed in seeds(limits, 3):
        size = 1 + seed % (3 if kind == "relays" else 5)
        check(question(seed, size, random.Random(seed).choice([*OBJECTIVES]), limits, kind))


def test_prices_have_every_term_whichever_is_optimised() -> None:
    for seed in range(30):
        problem = question(seed, 4, "weighted", (), "two")
        for plan in itertools.islice(plain_plans(problem), 20):
            head = {name for name, tier in plan.tier_of.items() if tier == 0}
            found = price(problem, head)
            if least([plan]) == pytest.approx(found.objective, rel=1e-9):
                assert found.terms.latency_s == pytest.approx(plan.values["deadline_s"])
                assert found.terms.bottleneck_s == pytest.approx(plan.values["interval_s"])
                assert found.terms.energy_j == pytest.approx(plan.values["energy_j"])
                assert found.terms.money == pytest.approx(plan.values["money"])
                taken = memory_of(problem, two_tiers(problem), head)
                wanted = (plan.values["device_memory_bytes"], plan.values["server_memory_bytes"])
                assert taken == wanted


def test_alternatives_under_limits_are_the_next_best_cuts() -> None:
    for seed in (3, 5, 8):
        problem = question(seed, 5, "throughput", ("sent_bytes",), "two")
        costs: dict[frozenset[str], float] = {}
        for plan in plain_plans(problem):
            head = frozenset(name for name, tier in plan.tier_of.items() if tier == 0)
            costs[head] = min(plan.objective, costs.get(head, inf))
        if not costs:
            continue
        best = optimum(problem, CBC).price
        others = alternatives(problem, best, 3, CBC)
        assert [best.objective, *(other.objective for other in others)] == pytest.approx(
            sorted(costs.values())[:4], rel=CLOSE
        )


@pytest.mark.parametrize("objective", ["throughput", "latency"])
def test_a_plan_is_at_hand_with_a_bound_when_the_time_is_over(objective: str) -> None:
    for seed in range(4):
        problem = question(seed, 6, objective, ("deadline_s",), "two")
        best = least(list(plain_plans(problem)))
        try:
            found = optimum(problem, SolverChoice("cbc", time_limit_s=0.0))
        except PlanError as exc:
            assert best == inf or "time ran out" in str(exc)  # noqa: PT017
            continue
        assert not why_not(problem, found.price.head)
        assert found.report.bound <= best * (1 + CLOSE)
        assert found.price.objective >= best * (1 - CLOSE)


def test_a_long_solve_reports_the_best_so_far_and_its_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(solver, "WATCH_EVERY_S", 0.001)
    told: list[Progress] = []
    for seed in range(20):
        problem = question(seed, 6, "throughput", (), "two")
        try:
            best = place(problem, SolverChoice("cbc", report=told.append)).best.objective
        except InfeasibleError:
            continue
        assert all(known.bound <= best * (1 + CLOSE) for known in told)
        if any(known.objective is not None for known in told):
            return
        told.clear()
    raise AssertionError("nothing was reported")


def chain(limits: Limits, objective: Objective = LATENCY) -> Problem:
    graph = graph_of(
        {"a": ("x",), "b": ("a",), "c": ("b",)}, {"x": 100, "a": 50, "b": 20, "c": 1}, ("c",)
    )
    base = problem_of(graph, dict.fromkeys("abc", 0.1), dict.fromkeys("abc", 0.01))
    weights = {"w": Tensor("w", "float32", (250,)), "v": Tensor("v", "int4", (3,))}
    nodes = tuple(replace(n, weights=("w", "v")) for n in graph.nodes[:2]) + graph.nodes[2:]
    graph = replace(graph, nodes=nodes, weights=weights)
    return replace(base, graph=graph, limits=limits, objective=objective)


def test_a_weight_that_two_nodes_share_counts_once_and_four_bits_are_half_a_byte() -> None:
    problem = chain(Limits())
    assert memory_of(problem, two_tiers(problem), {"a", "b", "c"})[0] == 1000 + 2 + 150
    assert memory_of(problem, two_tiers(problem), {"a"}) == (1152, 1002 + 70)


def test_a_pin_that_matches_nothing_names_the_nearest_node() -> None:
    with pytest.raises(PlanError, match="pin 'aa=device' matches no node; did you mean 'a'"):
        optimum(chain(Limits(pins=(Pin("aa", "device"),))), CBC)


def test_pins_that_contradict_each_other_are_both_named() -> None:
    pins = (Pin("[ab]", "device"), Pin("b", "server"))
    with pytest.raises(
        PlanError, match=r"'b=server' contradicts pin '\[ab\]=device': both hold 'b'"
    ):
        optimum(chain(Limits(pins=pins)), CBC)


def test_a_pin_to_a_tier_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(PlanError, match="no tier is called 'relay'; there are device, server"):
        optimum(chain(Limits(pins=(Pin("a", "relay"),))), CBC)


def test_pins_against_the_arrows_are_a_conflict_of_two_nodes() -> None:
    pins = (Pin("c", "device"), Pin("a", "server"))
    with pytest.raises(
        InfeasibleError, match="node 'c' has to be on the device .*node 'a' with it"
    ):
        optimum(chain(Limits(pins=pins)), CBC)


def test_a_pin_matches_members_of_kernels_and_labels_of_the_file() -> None:
    problem = chain(Limits(pins=(Pin("backbone/*", "device"),)))
    first, *rest = problem.graph.nodes
    member = replace(first, members=("backbone/conv", "a"))
    within = replace(problem, graph=replace(problem.graph, nodes=(member, *rest)))
    assert "a" in optimum(within, CBC).price.head
    labelled = replace(problem.graph, nodes=(replace(first, label="/backbone/conv"), *rest))
    assert by_name(problem.limits.pins, labelled) == (Pin("a", "device"),)


def test_a_state_stays_on_one_tier_and_does_not_travel() -> None:
    graph = graph_of(
        {"a": ("x",), "s2": ("a", "s"), "b": ("s2",)},
        {"x": 100, "s": 10**6, "a": 50, "s2": 10**6, "b": 1},
        ("b", "s2"),
    )
    device = {"a": 0.1, "s2": 5.0, "b": 0.1}
    problem = problem_of(graph, device, dict.fromkeys(device, 0.01))
    free = optimum(problem, CBC).price
    kept = optimum(replace(problem, limits=Limits(states=(State("s", "s2"),))), CBC).price
    assert "s2" in free.head
    assert "s2" not in kept.head
    assert "s" not in kept.cut.crossing
    assert kept.down_bytes == 1


def test_energy_without_a_known_power_says_what_is_missing() -> None:
    for problem in (chain(Limits(energy_j=1.0)), chain(Limits(), Objective.of("energy"))):
        with pytest.raises(PlanError, match="the device's power is not known"):
            optimum(problem, CBC)


def test_energy_is_work_waiting_and_radio() -> None:
    problem = chain(Limits(), Objective.of("energy"))
    power = PowerDraw(active_w=5.0, idle_w=1.0, radio_w=2.0, radio_j_per_byte=0.001)
    problem = replace(problem, device=replace(problem.device, power=power))
    found = price(problem, {"a"})
    moving_s = 50 / 1000 + 1 / 2000
    waiting_s = moving_s + 0.01 + 0.02
    assert found.terms.energy_j == pytest.approx(5 * 0.1 + waiting_s + 2 * moving_s + 0.001 * 51)
    assert found.objective == found.terms.energy_j


def test_money_is_server_time_and_bytes() -> None:
    problem = chain(Limits(), Objective.of("money"))
    link = msgspec.structs.replace(problem.link, price_per_gb=2e6)
    problem = replace(problem, link=link, server=replace(problem.server, price_per_hour=36.0))
    assert price(problem, {"a"}).terms.money == pytest.approx(0.02 * 0.01 + 51 * 0.002)


def test_a_stream_is_as_fast_as_its_slowest_stage() -> None:
    found = price(chain(Limits(), Objective.of("throughput")), {"a", "b"})
    assert found.terms.bottleneck_s == pytest.approx(0.2)
    assert price(chain(Limits()), {"a"}).terms.bottleneck_s == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Limits(deadline_s=-1.0), "deadline_s is -1.0, not a finite number"),
        (Limits(money=inf), "money is inf"),
    ],
)
def test_a_limit_that_means_nothing_is_refused(limits: Limits, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        limits.check()


def test_an_objective_without_a_term_is_refused() -> None:
    with pytest.raises(PlanError, match="has no term"):
        Objective().check()


def test_a_plan_under_a_limit_has_alternatives_and_its_terms() -> None:
    plan = solve_problem(chain(Limits(sent_bytes=60)), with_validity=False)
    assert plan.predicted.terms.sent_bytes <= 60
    assert all(other.terms.sent_bytes <= 60 for other in plan.alternatives)
    assert not plan.baselines[1].feasible


def test_a_relay_that_runs_nothing_is_skipped_over_the_direct_link() -> None:
    for seed in range(4):
        problem = question(seed, 3, "latency", (), "relay")
        whole = replace(problem, server=replace(problem.server, base_s=0.0))
        check(whole)
        check(replace(whole, shortcuts={}))
