"""The additive costs of a tier: what they give back of the curves, and what they never do."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitter.errors import ProfileError
from splitter.graph.frontier import frontier
from splitter.graph.values import Graph, Node, Tensor
from splitter.link import Link
from splitter.planning.problem import check_profile, make_problem
from splitter.planning.tiers import head_cost, head_curve, node_seconds, tail_cost, tail_curve
from splitter.profiling.profile import Anchor, Kernel, Profile
from splitter.runtime import Settings

LINK = Link(name="l", up_bytes_per_s=1e6, down_bytes_per_s=1e6, rtt_s=0.01)
SECONDS = st.floats(0, 1.0)


def a_graph(readers: list[list[int]]) -> Graph:
    """Node i reads the tensors of the nodes in ``readers[i]``, or the input where that is empty."""
    nodes = [
        Node(
            name=f"t{i}", op_type="Op", inputs=tuple(f"t{j}" for j in sorted(set(read))) or ("x",),
            outputs=(f"t{i}",), flops=i,
        )
        for i, read in enumerate(readers)
    ]  # fmt: skip
    tensors = {name: Tensor(name, "float32", (4,)) for name in ["x", *(n.name for n in nodes)]}
    return Graph(tuple(nodes), tensors, ("x",), (nodes[-1].name,), "0" * 64)


def a_profile(graph: Graph, kernel_s: list[float], anchors: list[tuple[float, float]]) -> Profile:
    names = tuple(graph.node_of)
    kernels = tuple(
        Kernel(
            name=name, op_type="Op", nodes=(name,), seconds=s, spread_s=0.0, flops=1, moved_bytes=1
        )
        for name, s in zip(names, kernel_s, strict=True)
    )
    return Profile(
        created="", tier="here", origin="measured", model_file="m.onnx", model_sha256="0" * 64,
        dims={}, shapes={}, settings=Settings(), fingerprint={}, warmup=1, runs=1,
        whole_s=sum(kernel_s) * 1.1, whole_spread_s=0.0, nodes=names, kernels=kernels,
        anchors=tuple(
            Anchor(place=i + 1, head_s=h, tail_s=t, head_spread_s=0.0, tail_spread_s=0.0)
            for i, (h, t) in enumerate(anchors)
        ),
    )  # fmt: skip


@st.composite
def graph_and_profile(draw) -> tuple[Graph, Profile]:
    count = draw(st.integers(1, 9))
    readers = [draw(st.lists(st.integers(0, i - 1), max_size=3)) if i else [] for i in range(count)]
    graph = a_graph(readers)
    kernel_s = draw(st.lists(SECONDS, min_size=count, max_size=count))
    known = draw(st.integers(0, count - 1))
    anchors = draw(st.lists(st.tuples(SECONDS, SECONDS), min_size=known, max_size=known))
    return graph, a_profile(graph, kernel_s, anchors)


def along_the_order(graph: Graph, profile: Profile) -> Iterator[tuple[float, float, float, float]]:
    """For each true cut along the node order: head priced, head on its curve, and the tail's two."""
    head, tail = head_cost(profile, graph), tail_cost(profile, graph)
    heads, tails = head_curve(profile, graph), tail_curve(profile, graph)
    order = [node.name for node in graph.nodes]
    for place in frontier(graph)[1:-1]:
        head_s = head.base_s + sum(head.node_s[name] for name in order[: place.index])
        tail_s = tail.base_s + sum(tail.node_s[name] for name in order[place.index :])
        head_s += sum(head.crossing_s.get(name, 0.0) for name in place.crossing)
        tail_s += sum(tail.crossing_s.get(name, 0.0) for name in place.crossing)
        yield head_s, heads[place.index], tail_s, tails[place.index]


@given(graph_and_profile())
@settings(max_examples=200)
def test_no_node_and_no_crossing_tensor_takes_negative_seconds(pair):
    graph, profile = pair
    for cost in (head_cost(profile, graph), tail_cost(profile, graph)):
        assert cost.base_s >= 0
        assert min(cost.node_s.values()) >= -1e-12
        assert all(charge > 0 for charge in cost.crossing_s.values())


@given(graph_and_profile())
def test_the_whole_model_costs_what_was_measured(pair):
    graph, profile = pair
    for cost in (head_cost(profile, graph), tail_cost(profile, graph)):
        assert cost.base_s + sum(cost.node_s.values()) == pytest.approx(profile.whole_s)


@given(st.lists(st.floats(0.01, 1.0), min_size=2, max_size=9), st.randoms())
def test_a_chain_whose_longer_parts_take_longer_is_priced_exactly(steps, random):
    graph = a_graph([[i - 1] if i else [] for i in range(len(steps))])
    kernels = [random.uniform(0.01, 1.0) for _ in steps]
    ends = np.cumsum(steps)
    anchors = [(end, ends[-1] - end) for end in ends[:-1]]
    profile = msgspec.structs.replace(a_profile(graph, kernels, anchors), whole_s=float(ends[-1]))
    for head_s, head_curve_s, tail_s, tail_curve_s in along_the_order(graph, profile):
        assert head_s == pytest.approx(head_curve_s)
        assert tail_s == pytest.approx(tail_curve_s)


def test_a_dear_place_is_charged_to_the_tensor_that_crosses_there():
    graph = a_graph([[], [0], [1], [2]])
    # A head of one node takes longer than a head of two: to cut there costs something.
    anchors = [(2.6, 3.5), (2.0, 2.0), (3.0, 1.0)]
    profile = msgspec.structs.replace(a_profile(graph, [1.0] * 4, anchors), whole_s=4.0)
    assert head_cost(profile, graph).crossing_s == {"t0": pytest.approx(0.6)}
    priced = list(along_the_order(graph, profile))
    assert [round(row[0], 9) for row in priced] == [2.6, 2.0, 3.0]


@given(graph_and_profile())
def test_curves_pass_through_every_anchor_and_end_at_the_whole_model(pair):
    graph, profile = pair
    heads, tails = head_curve(profile, graph), tail_curve(profile, graph)
    for anchor in profile.anchors:
        assert heads[anchor.place] == pytest.approx(anchor.head_s)
        assert tails[anchor.place] == pytest.approx(anchor.tail_s)
    assert heads[0] == 0.0
    assert tails[-1] == 0.0
    assert heads[-1] == tails[0] == profile.whole_s


def test_kernel_seconds_are_scaled_to_the_unprofiled_whole():
    graph = a_graph([[], [0], [1]])
    profile = a_profile(graph, [1.0, 2.0, 1.0], [])
    seconds = node_seconds(profile, graph)
    assert sum(seconds.values()) == pytest.approx(profile.whole_s)
    assert seconds["t1"] == pytest.approx(profile.whole_s / 2)


def test_without_a_trace_operations_stand_for_seconds():
    graph = a_graph([[], [0], [1]])
    profile = msgspec.structs.replace(a_profile(graph, [0.0, 0.0, 0.0], []), whole_s=3.0)
    assert np.allclose(list(node_seconds(profile, graph).values()), [0.0, 1.0, 2.0])


def test_a_profile_of_another_model_is_refused_by_both_digests():
    graph = a_graph([[], [0]])
    other = msgspec.structs.replace(a_profile(graph, [1.0, 1.0], []), model_sha256="f" * 64)
    with pytest.raises(
        ProfileError, match=r"another model: m.onnx \(f{12}\), not this one \(0{12}\)"
    ):
        check_profile(graph, other)


def test_a_profile_with_other_dimensions_is_refused():
    graph = a_graph([[], [0]])
    other = msgspec.structs.replace(a_profile(graph, [1.0, 1.0], []), dims={"batch": 2})
    with pytest.raises(ProfileError, match="batch=2"):
        check_profile(graph, other)


def test_a_negative_or_nan_time_in_a_profile_is_refused(tmp_path):
    graph = a_graph([[], [0]])
    path = tmp_path / "profile.json"
    good = a_profile(graph, [1.0, 1.0], [])
    for bad in ("-1.0", "NaN"):
        text = msgspec.json.encode(good).decode().replace('"whole_s":2.2', f'"whole_s":{bad}')
        path.write_text(text)
        with pytest.raises(ProfileError, match=str(path)):
            Profile.load(path)


def test_a_cut_inside_a_kernel_can_be_priced():
    graph = a_graph([[], [0], [1]])
    base = a_profile(graph, [1.0, 2.0, 1.0], [])
    fused = Kernel(
        name="t2", op_type="Op+Op", nodes=("t1", "t2"), seconds=3.0, spread_s=0.0, flops=1,
        moved_bytes=1,
    )  # fmt: skip
    profile = msgspec.structs.replace(base, kernels=(base.kernels[0], fused))
    chosen = make_problem(graph, (profile, profile), LINK)
    assert [node.members for node in chosen.graph.nodes] == [("t0",), ("t1", "t2")]
    priced = make_problem(graph, (profile, profile), LINK, head={"t0", "t1"})
    assert [node.members for node in priced.graph.nodes] == [("t0",), ("t1",), ("t2",)]


def fused_pairs(profile: Profile, seconds: float) -> Profile:
    """The same nodes, two to a kernel."""
    kernels = tuple(
        Kernel(
            name=profile.nodes[i + 1], op_type="Op+Op", nodes=profile.nodes[i : i + 2],
            seconds=seconds, spread_s=0.0, flops=1, moved_bytes=1,
        )
        for i in range(0, len(profile.nodes), 2)
    )  # fmt: skip
    return msgspec.structs.replace(profile, kernels=kernels, anchors=(), whole_s=4.0)


def test_places_inside_kernels_are_known_as_such():
    graph = a_graph([[], [0], [1], [2]])
    profile = fused_pairs(a_profile(graph, [1.0] * 4, []), 2.0)
    found = profile.divisions()
    assert [division and division.kind for division in found] == [
        None, ("Op+Op", 1), None, ("Op+Op", 1), None,
    ]  # fmt: skip


def test_a_broken_fusion_is_priced_by_what_the_same_cost_elsewhere():
    graph = a_graph([[], [0], [1], [2]])
    profile = fused_pairs(a_profile(graph, [1.0] * 4, []), 2.0)
    # Known: between the kernels 2 s each side; inside the first kernel both parts take 0.5 s more.
    anchors = (
        Anchor(place=1, head_s=0.5, tail_s=4.5, head_spread_s=0.0, tail_spread_s=0.0),
        Anchor(place=2, head_s=2.0, tail_s=2.0, head_spread_s=0.0, tail_spread_s=0.0),
    )
    profile = msgspec.structs.replace(profile, anchors=anchors)
    heads, tails = head_curve(profile, graph), tail_curve(profile, graph)
    # The kernel's seconds are its last node's, which has the most operations: they are the tail's.
    assert heads == pytest.approx([0.0, 0.5, 2.0, 2.5, 4.0])
    assert tails == pytest.approx([4.0, 4.5, 2.0, 2.5, 0.0])


def test_an_anchor_inside_a_kernel_does_not_bend_its_neighbours():
    graph = a_graph([[], [0], [1], [2]])
    profile = fused_pairs(a_profile(graph, [1.0] * 4, []), 2.0)
    dear = Anchor(place=1, head_s=3.9, tail_s=9.0, head_spread_s=0.0, tail_spread_s=0.0)
    bent = msgspec.structs.replace(profile, anchors=(dear,))
    assert head_curve(bent, graph)[2] == pytest.approx(head_curve(profile, graph)[2])
    assert tail_curve(bent, graph)[2] == pytest.approx(tail_curve(profile, graph)[2])
