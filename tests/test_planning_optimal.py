from __future__ import annotations

import random
from math import inf

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import (
    closed_sets,
    graph_of,
    plain_objective,
    problem_of,
    random_problem,
    raw,
)

from splitter.errors import InfeasibleError
from splitter.graph.values import Graph, Node, Tensor
from splitter.link import Link
from splitter.planning.cost import objective
from splitter.planning.limits import why_not
from splitter.planning.optimum import optimum
from splitter.planning.planner import price, solve_problem
from splitter.planning.presolve import presolve
from splitter.planning.program import Program, head_of
from splitter.planning.records import CodecCost, Problem, SolverStatus, TierCost
from splitter.planning.search import Search, SolverChoice
from splitter.planning.solver import solve

seeds = st.integers(0, 10**9)
CBC = SolverChoice("cbc")


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(0, 7))
def test_the_cost_function_is_the_objective_written_out_plainly(seed: int, size: int) -> None:
    problem = random_problem(seed, size)
    for head in closed_sets(problem.graph):
        plain = plain_objective(problem, head)
        assert (plain == inf) == bool(why_not(problem, head))
        if plain < inf:
            assert objective(problem, head) == pytest.approx(plain, rel=1e-9, abs=1e-12)


@settings(max_examples=120, deadline=None)
@given(seeds, st.integers(0, 12))
def test_the_plan_costs_the_least_over_all_closed_sets(seed: int, size: int) -> None:
    problem = random_problem(seed, size)
    best = min(plain_objective(problem, head) for head in closed_sets(problem.graph))
    if best == inf:
        with pytest.raises(InfeasibleError, match="no cut is feasible"):
            optimum(problem, CBC)
        return
    found = optimum(problem, CBC)
    assert found.price.objective == pytest.approx(best, rel=1e-9, abs=1e-12)
    assert found.report.status is SolverStatus.OPTIMAL
    assert found.report.gap == 0


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(1, 10))
def test_both_solvers_agree(seed: int, size: int) -> None:
    pytest.importorskip("highspy")
    problem = random_problem(seed, size, limits=False)
    by_cbc, by_highs = (optimum(problem, SolverChoice(name)).price for name in ("cbc", "highs"))
    assert by_cbc.objective == pytest.approx(by_highs.objective, rel=1e-9, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(1, 14))
def test_presolve_keeps_the_optimum(seed: int, size: int) -> None:
    problem = random_problem(seed, size, limits=False)
    program = program_of(problem)
    small = presolve(program)
    whole, reduced = solve(program), solve(small.program)
    assert whole.objective == pytest.approx(reduced.objective, rel=1e-9, abs=1e-12)
    assert reduced.values is not None
    head = head_of(problem, small.expand(reduced.values))
    assert objective(problem, head) == pytest.approx(whole.objective, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("size", "seed"), [(50, 1), (50, 2), (300, 3), (300, 4), (2000, 5)])
def test_the_plan_costs_as_much_as_an_integer_minimum_cut(size: int, seed: int) -> None:
    problem = _whole_nanoseconds(size, seed)
    found = optimum(problem, CBC).price
    assert round(found.objective * 1e9) == _minimum_cut_ns(problem)


def test_a_tensor_with_two_readers_is_paid_once() -> None:
    # Sending "a" costs 1.0 s once; paid for each reader it would cost 2.0 s and the input would win.
    graph = graph_of(
        {"a": ("x",), "b": ("a",), "c": ("a",), "d": ("b", "c")},
        {"x": 1500, "a": 1000, "b": 900, "c": 900, "d": 1},
        ("d",),
    )
    device = {"a": 0.1, "b": 5.0, "c": 5.0, "d": 5.0}
    problem = problem_of(graph, device, dict.fromkeys(device, 0.01))
    plan = solve_problem(problem, with_validity=False)
    assert plan.head == {"a"}
    assert plan.predicted.up_bytes == 1000
    assert plan.predicted.link_s == pytest.approx(1.0 + 0.01 + 1 / 2000)


def test_a_chain_is_solved_before_the_solver_sees_it() -> None:
    names = [f"t{i}" for i in range(200)]
    reads = dict(zip(names, [("x",)] + [(name,) for name in names], strict=False))
    graph = graph_of(reads, {"x": 500} | {name: 300 - i for i, name in enumerate(names)}, ("t199",))
    problem = problem_of(graph, dict.fromkeys(names, 0.01), dict.fromkeys(names, 0.001))
    assert len(presolve(program_of(problem)).program.weights) == 0
    best = min(objective(problem, names[:i]) for i in range(201))
    assert optimum(problem, CBC).price.objective == pytest.approx(best)


def test_an_operator_that_neither_tier_runs_is_named() -> None:
    problem = _limited(device=frozenset("b"), server=frozenset("b"))
    with pytest.raises(InfeasibleError, match="operator Op of node 'b' runs on neither tier"):
        solve_problem(problem)


def test_a_conflict_between_two_nodes_names_both() -> None:
    problem = _limited(device=frozenset("a"), server=frozenset("c"))
    with pytest.raises(
        InfeasibleError, match="node 'c' has to be on the device .* node 'a' with it"
    ):
        solve_problem(problem)


def test_a_tensor_that_cannot_travel_is_named_where_it_ties_the_conflict() -> None:
    problem = _limited(device=frozenset("c"), server=frozenset("b"), stuck="b")
    with pytest.raises(InfeasibleError, match="tensor 'b' cannot travel"):
        solve_problem(problem)


def test_a_model_input_that_cannot_travel_keeps_its_readers_on_the_device() -> None:
    problem = _limited(stuck="x")
    plan = solve_problem(problem)
    assert "a" in plan.head
    assert not plan.baselines[1].feasible
    assert plan.baselines[1].why_not == "tensor 'x' cannot travel"
    with pytest.raises(InfeasibleError, match="tensor 'x' cannot travel"):
        price(problem, ())


def test_all_on_the_device_pays_no_link() -> None:
    plan = price(_limited(), ("a", "b", "c"))
    assert plan.predicted.name == "all on the device"
    assert plan.predicted.total_s == plan.predicted.head_s
    assert plan.solver.status is SolverStatus.PRICED
    assert plan.validity is None


def test_a_tail_that_reads_nothing_still_pays_the_round_trip() -> None:
    graph = Graph(
        (Node("a", "Op", ("x",), ("a",)), Node("b", "Op", (), ("b",))),
        {name: Tensor(name, "uint8", (10,)) for name in "xab"},
        ("x",), ("a", "b"), sha256="",
    )  # fmt: skip
    problem = problem_of(graph, {"a": 0.1, "b": 9.0}, {"a": 9.0, "b": 0.2})
    plan = solve_problem(problem)
    assert plan.head == {"a"}
    assert plan.cut.crossing == ()
    assert plan.predicted.link_s == pytest.approx(0.01 + 10 / 2000)


def test_the_cheaper_codec_is_chosen_for_each_tensor() -> None:
    packed = CodecCost(codec="zstd", wire_bytes=10, encode_s=0.001, decode_s=0.001)
    base = _limited()
    problem = Problem(
        base.graph, base.device, base.server, base.link,
        {**base.codecs, "a": (raw(1000), packed)},
    )  # fmt: skip
    plan = price(problem, ("a",))
    assert plan.cut.crossing[0].codec == "zstd"
    assert plan.predicted.up_bytes == 10
    assert plan.codecs == {"a": packed}


def test_kernels_are_reported_by_the_nodes_of_the_model() -> None:
    base = _limited()
    nodes = tuple(
        Node(
            node.name, node.op_type, node.inputs, node.outputs, members=(f"{node.name}0", node.name)
        )
        for node in base.graph.nodes
    )
    graph = Graph(nodes, base.graph.tensors, base.graph.inputs, base.graph.outputs, sha256="")
    plan = price(Problem(graph, base.device, base.server, base.link, base.codecs), ("a",))
    assert plan.cut.head == ("a0", "a")
    assert plan.cut.tail_nodes == 4
    assert (plan.predicted.head_nodes, plan.predicted.tail_nodes) == (2, 4)


def program_of(problem: Problem) -> Program:
    return Search(problem, CBC).program


def _limited(
    device: frozenset[str] = frozenset(),
    server: frozenset[str] = frozenset(),
    stuck: str | None = None,
) -> Problem:
    graph = graph_of(
        {"a": ("x",), "b": ("a",), "c": ("b",)}, {"x": 100, "a": 50, "b": 20, "c": 1}, ("c",)
    )
    codecs = {name: (raw(tensor.nbytes or 0),) for name, tensor in graph.tensors.items()}
    codecs.pop(stuck or "", None)
    return Problem(
        graph,
        TierCost(dict.fromkeys("abc", 0.1), unsupported=device),
        TierCost(dict.fromkeys("abc", 0.01), unsupported=server),
        Link(name="slow", up_bytes_per_s=1000, down_bytes_per_s=1000, rtt_s=0.001),
        codecs,
    )


def _whole_nanoseconds(size: int, seed: int) -> Problem:
    """Every cost a whole number of nanoseconds, a byte one of them; a cut in the middle pays."""
    draw = random.Random(seed)
    arrows: dict[str, tuple[str, ...]] = {}
    for i in range(size):
        near = [f"t{j}" for j in range(max(0, i - 8), i)] or ["x"]
        arrows[f"t{i}"] = tuple(draw.sample(near, min(len(near), draw.choice([1, 1, 2, 3]))))
    sizes = {name: int(10 ** draw.uniform(3, 6)) for name in arrows} | {"x": 10**6}
    graph = graph_of(arrows, sizes, (f"t{size - 1}",))
    whole = {name: draw.randrange(4 * 10**6 // size) for name in arrows}
    codecs = {name: (raw(n, draw.randrange(99) * 1e-9, 1e-9),) for name, n in sizes.items()}
    return Problem(
        graph,
        TierCost({name: ns * 1e-9 for name, ns in whole.items()}, 500e-9, {"x": 7e-9, "t1": 9e-9}),
        TierCost({name: ns // 9 * 1e-9 for name, ns in whole.items()}, 300e-9, {"x": 5e-9}),
        Link(name="", up_bytes_per_s=1e9, down_bytes_per_s=1e9, rtt_s=2000e-9),
        codecs,
    )


def _minimum_cut_ns(problem: Problem) -> int:
    """What lies on the source's side is on the device. An arc without a capacity is infinite."""
    graph, device, server = problem.graph, problem.device, problem.server
    flow = nx.DiGraph()
    for node in graph.nodes:
        back = sum(graph.tensors[t].nbytes or 0 for t in node.outputs if t in graph.outputs)
        flow.add_edge("source", node.name, capacity=_ns(server.node_s[node.name]) + back)
        flow.add_edge(node.name, "sink", capacity=_ns(device.node_s[node.name]))
        flow.add_edge(node.name, "any on device")
        flow.add_edge("any on server", node.name)
        flow.add_edges_from((node.name, graph.producer_of[t].name) for t in node.inputs if t != "x")
    flow.add_edge("any on device", "sink", capacity=_ns(device.base_s))
    flow.add_edge("source", "any on server", capacity=_ns(server.base_s + problem.link.rtt_s))
    for name, (codec,) in problem.codecs.items():
        sent, made = f"sent {name}", name if name in graph.node_of else "source"
        seconds = codec.encode_s + codec.decode_s + server.crossing_s.get(name, 0)
        here = _ns(device.crossing_s.get(name, 0))
        if name == "x":  # its seconds on the device are paid only where the device runs something
            flow.add_edge("any on device", sent, capacity=here)
            here = 0
        flow.add_edge(made, sent, capacity=_ns(seconds) + codec.wire_bytes + here)
        flow.add_edges_from((sent, reader.name) for reader in graph.consumers_of[name])
    value, _ = nx.minimum_cut(flow, "source", "sink", flow_func=nx.flow.boykov_kolmogorov)
    return int(value)


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
