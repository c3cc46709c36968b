"""Tensors worth crossing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitter.calibration.choose import (
    SLACK,
    Candidate,
    candidate_cuts,
    choose_tensors,
    demand_tensors,
    proxy_bytes,
    rank_tensors,
    served_kernels,
)
from splitter.errors import CalibrationError
from splitter.graph import Graph, Node, Tensor, cut_of
from splitter.graph.values import ITEM_BYTES
from tests import models
from tests.calibrations import bench_of, save_model
from tests.graphs import graphs


def line(*sizes: int) -> Graph:
    """A chain whose tensors ``t0`` (the input), ``t1`` ... have as many float32 elements."""
    tensors = {f"t{i}": Tensor(f"t{i}", "float32", (size,)) for i, size in enumerate(sizes)}
    nodes = tuple(Node(f"t{i}", "Op", (f"t{i - 1}",), (f"t{i}",)) for i in range(1, len(sizes)))
    return Graph(nodes, tensors, ("t0",), (nodes[-1].name,), "0" * 64)


def ranked(graph: Graph, cost_of: dict[str, float], count: int = 99) -> list[str]:
    return rank_tensors(graph, candidate_cuts(graph), cost_of, count)


@given(graphs())
def test_every_candidate_is_a_cut_whose_tensors_can_travel(graph: Graph) -> None:
    for candidate in candidate_cuts(graph):
        assert cut_of(graph, candidate.head).crossing == candidate.crossing
        assert all(graph.tensors[name].nbytes is not None for name in candidate.crossing)


@given(graphs(), st.integers(0, 5))
def test_no_more_are_chosen_than_asked_and_never_an_input(graph: Graph, count: int) -> None:
    cost_of = {name: float(tensor.nbytes or 0) for name, tensor in graph.tensors.items()}
    chosen = ranked(graph, cost_of, count)
    assert len(chosen) == len(set(chosen)) <= count
    assert not set(chosen) & set(graph.inputs)
    assert all(graph.consumers_of[name] for name in chosen)


def test_what_is_larger_than_an_earlier_tensor_is_left_out() -> None:
    graph = line(100, 100, 100, 100, 100)
    cost_of = {"t0": 100.0, "t1": 10.0, "t2": 10 * SLACK + 1, "t3": 10 * SLACK, "t4": 1.0}
    assert ranked(graph, cost_of) == ["t1", "t3"]


def test_of_few_the_ones_that_compare_best_are_chosen() -> None:
    graph = line(*[100] * 10)
    cost_of = {f"t{i}": 100.0 for i in range(10)} | {"t2": 50.0, "t6": 20.0}
    assert set(ranked(graph, cost_of, 9)) >= {"t2", "t6"}
    assert {"t2", "t6"} <= set(ranked(graph, cost_of, 4))


def test_tensors_are_spread_over_the_depth() -> None:
    graph = line(*[100] * 65)
    cost_of = {f"t{i}": 1000.0 - i for i in range(65)}
    depths = [int(name[1:]) for name in ranked(graph, cost_of, 8)]
    assert [sum(8 * k <= depth < 8 * k + 9 for depth in depths) >= 1 for k in range(8)] == [
        True
    ] * 8


def test_an_input_that_is_small_leaves_nothing_out_but_ranks_the_rest_last() -> None:
    graph = line(1, 100, 100, 100)
    cost_of = {"t0": 1.0, "t1": 100.0, "t2": 100.0, "t3": 100.0}
    assert set(ranked(graph, cost_of)) == {"t1", "t2"}


def test_tensors_that_cross_together_are_chosen_together() -> None:
    tensors = {name: Tensor(name, "float32", (10,)) for name in "xabcy"}
    nodes = (
        Node("a", "Op", ("x",), ("a",)),
        Node("b", "Op", ("x",), ("b",)),
        Node("c", "Op", ("a", "b"), ("c",)),
        Node("y", "Op", ("c",), ("y",)),
    )
    graph = Graph(nodes, tensors, ("x",), ("y",), "0" * 64)
    cost_of = {"x": 100.0, "a": 10.0, "b": 10.0, "c": 90.0, "y": 1.0}
    cuts = {candidate.crossing for candidate in candidate_cuts(graph)}
    assert ("a", "b") in cuts
    assert set(ranked(graph, cost_of)) == {"a", "b"}
    assert ranked(graph, cost_of, 1) == []


def test_sending_more_than_an_earlier_cut_is_pointless() -> None:
    graph = line(10, 10)
    cuts = [
        Candidate(frozenset(), ("t0",)),
        Candidate(frozenset({"t1"}), ("t0", "t1")),
    ]
    assert rank_tensors(graph, cuts, {"t0": 1.0, "t1": 1.0}, 9) == []


@pytest.mark.parametrize("dtype", ["float32", "uint8", "int64"])
def test_a_tensor_over_2_gb_is_no_candidate_and_said_so(dtype: str) -> None:
    elements = (1 << 31) // ITEM_BYTES[dtype]
    tensors = {"x": Tensor("x", dtype, (elements,)), "a": Tensor("a", dtype, (elements,))}
    tensors["y"] = Tensor("y", dtype, (1,))
    nodes = (Node("a", "Op", ("x",), ("a",)), Node("y", "Op", ("a",), ("y",)))
    graph = Graph(nodes, tensors, ("x",), ("y",), "0" * 64)
    assert candidate_cuts(graph) == []
    with pytest.raises(CalibrationError, match=r"'a' takes 2147483648 bytes"):
        demand_tensors(graph, ["a"])


def test_names_that_cannot_cross_are_refused(tmp_path: Path) -> None:
    graph = save_model(models.convolutions(), tmp_path).graph
    assert demand_tensors(graph, ["p1", "image", "p1"]) == ("p1", "image")
    with pytest.raises(CalibrationError, match=r"'p7'; did you mean 'p1'"):
        demand_tensors(graph, ["p7"])
    with pytest.raises(CalibrationError, match=r"'scores' is read by no node"):
        demand_tensors(graph, ["scores"])
    unknown = Graph(graph.nodes, {**graph.tensors, "p1": Tensor("p1", "float32", None)}, *REST)
    with pytest.raises(CalibrationError, match=r"'p1' has no known size"):
        demand_tensors(unknown, ["p1"])


REST = (("image",), ("scores",), "0" * 64)


def test_between_kernels_only_and_the_inputs_first(tmp_path: Path) -> None:
    bench = bench_of(save_model(models.convolutions(), tmp_path), tmp_path / "data")
    kernels = served_kernels(bench)
    assert "c1" not in kernels.producer_of  # the runtime fuses it with its Relu
    assert choose_tensors(bench, 0) == ("image",)
    chosen = choose_tensors(bench, 99)
    assert chosen[0] == "image"
    assert "p1" in chosen
    assert "c1" not in chosen
    assert "scores" not in chosen
    made = [name for node in kernels.nodes for name in node.outputs]
    assert [made.index(name) for name in chosen[1:]] == sorted(map(made.index, chosen[1:]))


def test_the_proxy_is_below_16_levels_and_of_a_constant_next_to_nothing(tmp_path: Path) -> None:
    bench = bench_of(save_model(models.convolutions(), tmp_path), tmp_path / "data")
    found = proxy_bytes(bench, ["image", "p1"])
    assert found["image"] <= 3 * 16 * 16 / 2 + 32
    assert found["p1"] <= 8 * 16 / 2 + 32


@pytest.mark.parametrize("name", models.every_model())
def test_any_model_has_its_tensors_chosen(name: str, tmp_path: Path) -> None:
    dims = {"batch": 2} if name in ("awkward_names", "dynamic_reshape") else {}
    model = save_model(models.every_model()[name], tmp_path, **dims)
    bench = bench_of(model, tmp_path / "data", 3)
    chosen = choose_tensors(bench, 30)
    assert demand_tensors(model.graph, chosen) == chosen
