"""Cuts, the frontier and contraction, on random graphs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitter.errors import CutError
from splitter.graph import (
    Graph,
    Node,
    Tensor,
    contract,
    cut_at,
    cut_of,
    expand,
    frontier,
    narrowest,
    needed_for,
)
from tests.graphs import graphs


def closed_set(graph: Graph, data: st.DataObject) -> frozenset[str]:
    wanted = data.draw(st.lists(st.sampled_from(sorted(graph.tensors)), max_size=3))
    return needed_for(graph, wanted)


@given(graphs(), st.data())
def test_a_tensor_crosses_when_the_head_or_the_caller_has_it_and_the_tail_reads_it(graph, data):
    cut = cut_of(graph, closed_set(graph, data))
    held = set(graph.inputs) | {t for n in graph.nodes if n.name in cut.head for t in n.outputs}
    read = {t for n in graph.nodes if n.name not in cut.head for t in n.inputs}
    assert set(cut.crossing) == held & read
    assert len(cut.crossing) == len(set(cut.crossing))


@given(graphs(), st.data())
def test_a_head_that_reads_what_the_tail_makes_is_refused(graph, data):
    chosen = data.draw(st.sets(st.sampled_from(sorted(graph.node_of))))
    closed = all(
        producer.name in chosen
        for name in chosen
        for tensor in graph.node_of[name].inputs
        if (producer := graph.producer_of.get(tensor)) is not None
    )
    if closed:
        assert cut_of(graph, chosen).head == chosen
    else:
        with pytest.raises(CutError, match="not closed"):
            cut_of(graph, chosen)


@given(graphs(), st.data())
def test_a_cut_named_by_its_crossing_tensors_sends_those_and_no_other_but_inputs(graph, data):
    cut = cut_of(graph, closed_set(graph, data))
    again = cut_at(graph, cut.crossing)
    assert set(again.crossing) - set(graph.inputs) == set(cut.crossing) - set(graph.inputs)
    assert again.head <= cut.head
    assert cut_of(graph, again.head) == again


def test_a_branch_that_ends_in_an_output_joins_the_head():
    """``b`` must cross alone, so the dead end ``c``, which also reads ``a``, has to be in the head."""
    graph = diamond()
    nodes = (*graph.nodes[:3], Node("d", "Tanh", ("b",), ("d",)))
    branched = Graph(nodes, graph.tensors, ("x",), ("c", "d"), "0" * 64)
    assert cut_at(branched, ["b"]).head == {"a", "b", "c"}


def test_tensors_that_do_not_separate_the_model_are_refused_with_the_missing_one():
    with pytest.raises(CutError, match=r"the tail also needs 'a'; add --at a"):
        cut_at(diamond(), ["b"])


@given(graphs())
def test_the_frontier_is_the_crossing_of_every_prefix(graph):
    places = frontier(graph)
    assert len(places) == len(graph.nodes) + 1
    for index, place in enumerate(places):
        cut = cut_of(graph, [node.name for node in graph.nodes[:index]])
        sizes = [graph.tensors[name].nbytes for name in cut.crossing]
        assert place.index == index
        assert place.crossing == cut.crossing
        assert place.nbytes == (None if None in sizes else sum(sizes))
        assert place.after == (graph.nodes[index - 1].name if index else "")


@given(graphs(), st.integers(1, 4))
def test_the_narrowest_places_carry_no_more_than_any_other_split(graph, count):
    places = frontier(graph)
    chosen = narrowest(graph, count)
    rest = {
        frozenset(place.crossing): place.nbytes
        for place in places
        if place.nbytes is not None and place.crossing
    }
    rest.pop(frozenset(places[0].crossing), None)
    assert [place.nbytes for place in chosen] == sorted(rest.values())[:count]
    assert len({frozenset(place.crossing) for place in chosen}) == len(chosen)


@st.composite
def grouped(draw):
    graph = draw(graphs(max_nodes=14))
    number_of = {node.name: draw(st.integers(0, 5)) for node in graph.nodes}
    groups = [[name for name, n in number_of.items() if n == number] for number in range(1, 6)]
    return graph, groups


@settings(max_examples=60)
@given(grouped(), st.data())
def test_a_kernel_graph_runs_in_order_and_cuts_as_the_original_does(pair, data):
    graph, groups = pair
    kernels = contract(graph, groups)
    available = set(graph.inputs)
    for kernel in kernels.nodes:
        assert available.issuperset(kernel.inputs)
        assert available.isdisjoint(kernel.outputs)
        available.update(kernel.outputs)
    members = [name for kernel in kernels.nodes for name in kernel.members]
    assert sorted(members) == sorted(graph.node_of)
    assert len(kernels.node_of) == len(kernels.nodes)
    assert set(graph.outputs) <= available
    assert sum(kernel.flops for kernel in kernels.nodes) == sum(node.flops for node in graph.nodes)
    for group in groups:
        assert len({k.name for k in kernels.nodes if set(k.members) & set(group)}) <= 1
    head = needed_for(kernels, data.draw(st.lists(st.sampled_from(sorted(kernels.tensors)))))
    fine = cut_of(graph, expand(kernels, head))
    assert set(fine.crossing) == set(cut_of(kernels, head).crossing)


def diamond() -> Graph:
    nodes = (
        Node("a", "Conv", ("x",), ("a",), weights=("w",), flops=10),
        Node("b", "Relu", ("a",), ("b",), flops=1),
        Node("c", "Neg", ("a",), ("c",), flops=2),
        Node("d", "Add", ("b", "c"), ("d",), weights=("w", "v"), flops=4),
    )
    tensors = {name: Tensor(name, "float32", (4,)) for name in "xabcd"}
    return Graph(nodes, tensors, ("x",), ("d",), "0" * 64)


def test_a_kernel_is_named_after_the_last_tensor_that_leaves_it():
    kernels = contract(diamond(), [["a", "b"]])
    assert [node.name for node in kernels.nodes] == ["b", "c", "d"]
    kernel = kernels.node_of["b"]
    assert kernel.op_type == "Conv+Relu"
    assert kernel.outputs == ("a", "b")
    assert kernel.members == ("a", "b")
    assert (kernel.weights, kernel.flops) == (("w",), 11)


def test_groups_that_wait_for_each_other_become_one_kernel():
    kernels = contract(diamond(), [["a", "d"]])
    assert [node.members for node in kernels.nodes] == [("a", "b", "c", "d")]
    assert kernels.nodes[0].op_type == "Conv+..+Add"
    assert kernels.nodes[0].weights == ("w", "v")
    assert list(kernels.tensors) == ["x", "d"]


def test_contracting_nothing_keeps_every_node():
    kernels = contract(diamond(), [])
    assert [node.members for node in kernels.nodes] == [("a",), ("b",), ("c",), ("d",)]
    assert frontier(kernels) == frontier(diamond())


@pytest.mark.parametrize(
    ("groups", "message"), [([["z"]], "'z'"), ([["a"], ["a", "b"]], "'a' is in two groups")]
)
def test_groups_of_unknown_or_shared_nodes_are_refused(groups, message):
    with pytest.raises(CutError, match=message):
        contract(diamond(), groups)


def test_expanding_an_unknown_kernel_is_refused():
    with pytest.raises(CutError, match="no kernel is named 'q'"):
        expand(diamond(), ["q"])
