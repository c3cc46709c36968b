"""The picture of a model in a plan, and what a cut costs at each place along its nodes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import msgspec
import onnx
import pytest

from splitter.graph.blocks import blocks_of
from splitter.graph.read import load_model
from splitter.planning import order as along
from splitter.planning.cost import price
from splitter.planning.drawing import OrderCut
from splitter.planning.layout import two_tiers
from splitter.planning.limits import why_not
from splitter.planning.memory import memory_along, memory_of
from splitter.planning.order import order
from splitter.planning.records import Plan, Problem, Source, TierCost
from splitter.planning.terms import Limits, Objective, Pin, State
from tests import models
from tests.placements import with_own_memory
from tests.problems import LINK, graph_of, problem_of, random_problem, with_losses


@pytest.fixture(scope="module")
def planned(measured: Path) -> Plan:
    return Plan.load(measured / "plan.json")


def row(length: int) -> onnx.ModelProto:
    """Activations one after the other."""
    names = [f"t{i}" for i in range(length + 1)]
    nodes = [onnx.helper.make_node("Relu", [a], [b]) for a, b in pairwise(names)]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4])
        for name in (names[0], names[-1])
    ]
    graph = onnx.helper.make_graph(nodes, "row", ends[:1], ends[1:])
    return onnx.helper.make_model(
        graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)]
    )


def heads(problem: Problem) -> dict[int, frozenset[str]]:
    names = [node.name for node in problem.graph.nodes]
    return {place: frozenset(names[:place]) for place in range(len(names) + 1)}


def check(problem: Problem) -> tuple[OrderCut, ...]:
    """Every place is priced as ``cost`` prices its head, or forbidden as ``limits`` forbids it."""
    cuts = order(problem)
    for cut in cuts:
        head = heads(problem)[cut.place]
        assert cut.feasible == (not why_not(problem, head)), (cut, why_not(problem, head))
        assert cut.feasible == (not cut.why_not)
        if cut.feasible:
            expected = price(problem, head)
            codecs = {item.tensor: item.codec for item in cut.crossing}
            assert codecs == {name: c.codec for name, c in expected.codecs.items()}
            assert cut.objective == pytest.approx(expected.objective, abs=1e-12)
            for field in msgspec.structs.fields(expected.latency):
                value = getattr(expected.latency, field.name)
                assert getattr(cut, field.name) == pytest.approx(value, abs=1e-12)
            assert (cut.up_bytes, cut.down_bytes) == (expected.up_bytes, expected.down_bytes)
    return cuts


@pytest.mark.parametrize("seed", range(60))
def test_each_place_costs_what_its_cut_costs(seed):
    problem = random_problem(seed, 7)
    assert len(check(problem)) == 8
    check(with_losses(problem, seed))


@pytest.mark.parametrize("seed", range(30))
def test_limits_and_other_objectives_hold_at_each_place(seed):
    problem = random_problem(seed, 6)
    names = list(problem.graph.node_of)
    taken = [memory_of(problem, two_tiers(problem), head) for head in heads(problem).values()]
    limits = Limits(
        device_memory_bytes=sorted(device for device, _ in taken)[4],
        server_memory_bytes=sorted(server for _, server in taken)[4],
        sent_bytes=250,
        deadline_s=0.6,
        pins=(Pin(names[seed % 6], ("device", "server")[seed % 2]),),
        outputs=dict.fromkeys(problem.graph.outputs[: seed % 3], "server"),
    )
    check(replace(problem, limits=limits))
    check(replace(problem, objective=Objective.of("throughput")))
    check(replace(problem, limits=Limits(interval_s=0.3), objective=Objective.of("latency")))


@pytest.mark.parametrize("seed", range(20))
def test_memory_along_the_order_is_that_of_each_cut(seed):
    problem = with_own_memory(random_problem(seed, 8), seed)
    expected = [memory_of(problem, two_tiers(problem), head) for head in heads(problem).values()]
    assert memory_along(problem) == expected


def test_a_state_is_on_one_side_at_every_place():
    graph = graph_of(
        {"a": ("x", "s"), "b": ("a",), "c": ("b",)}, dict.fromkeys("xsabc", 9), ("c", "b")
    )
    problem = problem_of(graph, dict.fromkeys("abc", 1.0), dict.fromkeys("abc", 0.1))
    cuts = check(replace(problem, limits=Limits(states=(State("s", "b"),))))
    assert [cut.feasible for cut in cuts] == [True, False, True, True]
    assert "read and make a state" in cuts[1].why_not


def test_a_long_order_is_thinned_and_keeps_its_ends(monkeypatch):
    monkeypatch.setattr(along, "MOST_PLACES", 4)
    places = [cut.place for cut in check(random_problem(1, 9, limits=False))]
    assert (places[0], places[-1], len(places)) == (0, 9, 4)


def test_places_that_need_a_wide_search_are_left_out(monkeypatch):
    monkeypatch.setattr(along, "WIDEST_SEARCH", 1)
    problem = replace(random_problem(3, 7, limits=False), objective=Objective.of("throughput"))
    left = {cut.place for cut in check(problem)}
    assert {0, 7} & left
    assert len(left) < 8


def test_several_devices_have_no_single_order():
    graph = graph_of({"a": ("x",), "b": ("y", "a")}, dict.fromkeys("xyab", 9), ("b",))
    problem = problem_of(graph, dict.fromkeys("ab", 1.0), dict.fromkeys("ab", 0.1))
    other = Source(TierCost(dict.fromkeys("ab", 1.0)), LINK, ("y",))
    assert order(replace(problem, sources=(other,))) == ()


def test_the_graph_of_a_plan_covers_the_model_and_its_order_counts_along_it(planned: Plan):
    graph = planned.graph
    assert graph is not None
    names = [node.name for node in graph.nodes]
    assert len(set(names)) == len(names) == planned.cut.tail_nodes + len(planned.cut.head)
    known = set(graph.inputs)
    for node in graph.nodes:
        assert known.issuperset(node.reads)
        known.update(node.makes)
    assert known == set(graph.tensors)
    for place, tier in enumerate((planned.device, planned.server)):
        assert sum(node.seconds[place] for node in graph.nodes) == pytest.approx(tier.whole_s)
    at = {cut.place: cut for cut in planned.order}
    assert (min(at), max(at)) == (0, len(names))
    for candidate in (*planned.baselines, planned.predicted):
        cut = at[candidate.head_nodes]
        assert cut.objective == pytest.approx(candidate.objective)


def test_kernels_are_never_divided_along_the_order(planned: Plan):
    assert planned.graph is not None
    kernels = [node.kernel or node.name for node in planned.graph.nodes]
    for cut in planned.order:
        assert not set(kernels[: cut.place]) & set(kernels[cut.place :])


@pytest.mark.parametrize(
    ("labels", "blocks"),
    [
        (["/a/a.0/Conv", "/a/a.0/Relu", "/a/a.0/Add", "/a/a.1/Conv", "/a/a.1/Relu", "/a/a.1/Add"],
         ["a.0"] * 3 + ["a.1"] * 3),
        (["/a/Conv", "/a/Relu", "/a/Add", "/b/Conv", "/b/Relu", "/b/Add"], ["a"] * 3 + ["b"] * 3),
        (["", "", "", "", "", ""], [""] * 6),
        (["/a/Conv", "", "/a/Add", "/b/Conv", "/b/Relu", ""], ["a"] * 3 + ["b"] * 3),
    ],
)  # fmt: skip
def test_blocks_are_the_modules_in_the_names_of_nodes(labels, blocks, tmp_path):
    proto = row(6)
    for node, label in zip(proto.graph.node, labels, strict=True):
        node.name = label
    model = load_model(models.save(proto, tmp_path / "m.onnx"))
    assert list(blocks_of(model).values()) == blocks


@pytest.mark.parametrize(
    "hostile", ["[" * 10_000, "['a'", "{1: 2}", "[1, None]", "__import__('os')"]
)
def test_metadata_that_is_no_list_of_modules_is_passed_over(hostile, tmp_path):
    proto = row(3)
    for node in proto.graph.node:
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=hostile)
    model = load_model(models.save(proto, tmp_path / "m.onnx"))
    assert set(blocks_of(model).values()) == {""}


def test_a_large_model_without_modules_is_divided_into_stretches(tmp_path):
    model = load_model(models.save(row(100), tmp_path / "m.onnx"))
    blocks = list(blocks_of(model).values())
    assert len(set(blocks)) == 10
    assert sorted(blocks, key=lambda name: int(name.split()[1])) == blocks
