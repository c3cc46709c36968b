from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from splitter.graph import Graph
from splitter.graph.contract import contract
from splitter.graph.fusion import FusionGroup, OptimisedKernel, fusion_groups
from splitter.graph.read import load_model
from splitter.partition.check import random_feeds
from splitter.profiling.kernels import trace_kernels
from splitter.runtime import Optimisation, Settings
from tests import models
from tests.graphs import graphs

LEVELS = list(Optimisation)


def branches() -> onnx.ModelProto:
    """Two convolutions meet in a Concat without a name, all of it in the runtime's blocked layout."""
    model = models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        branches (float[1, 8, 8, 8] x) => (float[1, 8, 8, 8] y) {
            a = Conv <pads = [1, 1, 1, 1]> (x, w1)
            ra = Relu(a)
            b = Conv <pads = [1, 1, 1, 1]> (ra, w2)
            rb = Relu(b)
            c = Concat <axis = 1> (ra, rb)
            d = Conv <pads = [1, 1, 1, 1]> (c, w3)
            y = Relu(d)
        }
        """
    )
    return models.with_weights(model, w1=(8, 8, 3, 3), w2=(8, 8, 3, 3), w3=(8, 16, 3, 3))


def quantised() -> onnx.ModelProto:
    """QDQ: two convolutions and a skip connection between integer tensors."""
    model = models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        quantised (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y)
        <float s = {0.05}, uint8 z = {128}, float sw = {0.01}, int8 zw = {0}>
        {
            xq = QuantizeLinear(x, s, z)
            xd = DequantizeLinear(xq, s, z)
            w1d = DequantizeLinear(w1, sw, zw)
            a = Conv <pads = [1, 1, 1, 1]> (xd, w1d)
            aq = QuantizeLinear(a, s, z)
            ad = DequantizeLinear(aq, s, z)
            w2d = DequantizeLinear(w2, sw, zw)
            b = Conv <pads = [1, 1, 1, 1]> (ad, w2d)
            bq = QuantizeLinear(b, s, z)
            bd = DequantizeLinear(bq, s, z)
            total = Add(ad, bd)
            tq = QuantizeLinear(total, s, z)
            y = DequantizeLinear(tq, s, z)
        }
        """
    )
    rng = np.random.default_rng(0)
    for name in ("w1", "w2"):
        weights = rng.integers(-100, 100, (4, 4, 3, 3)).astype(np.int8)
        model.graph.initializer.append(numpy_helper.from_array(weights, name))
    return model


def normalised() -> onnx.ModelProto:
    """Conv, BatchNormalization and Relu, which become one convolution."""
    model = models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        normalised (float[1, 3, 8, 8] x) => (float[1, 4, 8, 8] y)
        <float[4] scale = {1, 2, 3, 4}, float[4] bias = {0, 1, 0, 1},
         float[4] mean = {0, 0, 1, 1}, float[4] var = {1, 2, 1, 2}>
        {
            c = Conv(x, w)
            n = BatchNormalization(c, scale, bias, mean, var)
            y = Relu(n)
        }
        """
    )
    return models.with_weights(model, w=(4, 3, 1, 1))


EVERY = {**models.every_model(), **{f.__name__: f() for f in (branches, quantised, normalised)}}


def trace(
    name: str, folder: Path, level: Optimisation = Optimisation.ALL
) -> tuple[Graph, tuple[OptimisedKernel, ...], tuple[FusionGroup, ...]]:
    """Optimise a model by the real runtime and group its nodes."""
    path = models.save(EVERY[name], folder / "model.onnx")
    dims = {"awkward_names": {"batch": 1}, "dynamic_reshape": {"batch": 2}}.get(name)
    graph = load_model(path, dims).graph
    kernels, samples = trace_kernels(
        path.read_bytes(), folder, Settings(optimisation=level), random_feeds(graph, 0), folder, 2
    )
    assert [len(series.seconds) for series in samples] == [2] * len(kernels)
    return graph, kernels, fusion_groups(graph, kernels)


def demand_partition(
    graph: Graph, kernels: tuple[OptimisedKernel, ...], groups: tuple[FusionGroup, ...]
) -> None:
    assert sorted(n for group in groups for n in group.nodes) == sorted(graph.node_of)
    assert sorted(i for group in groups for i in group.kernels) == list(range(len(kernels)))
    assert all(group.nodes for group in groups)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", EVERY)
def test_every_node_and_every_kernel_of_the_runtime_is_in_one_group(
    name: str, level: Optimisation, tmp_path: Path
) -> None:
    graph, kernels, groups = trace(name, tmp_path, level)
    demand_partition(graph, kernels, groups)
    contracted = contract(graph, [group.nodes for group in groups])
    assert sorted(n for node in contracted.nodes for n in node.members) == sorted(graph.node_of)


@pytest.mark.parametrize("name", ["chain", "residual", "two_inputs", "loop_with_captures"])
def test_what_cannot_be_fused_has_a_kernel_for_each_node(name: str, tmp_path: Path) -> None:
    graph, _, groups = trace(name, tmp_path, Optimisation.NONE)
    assert [group.nodes for group in groups] == [(node.name,) for node in graph.nodes]
    assert all(len(group.kernels) == 1 for group in groups)


def test_a_convolution_takes_its_activation_along_and_the_reorder_after_it(tmp_path: Path) -> None:
    _, kernels, groups = trace("convolutions", tmp_path)
    nodes = [group.nodes for group in groups]
    assert nodes == [("c1", "r1"), ("p1",), ("c2", "r2"), ("g",), ("f",), ("scores",)]
    assert all(group.kernels for group in groups)
    assert kernels[groups[0].kernels[0]].op_type == "Conv"


def test_a_folded_normalisation_belongs_to_its_convolution(tmp_path: Path) -> None:
    _, _, groups = trace("normalised", tmp_path)
    assert [group.nodes for group in groups] == [("c", "n", "y")]


def test_a_concat_without_a_name_between_renamed_tensors_is_recognised(tmp_path: Path) -> None:
    graph, kernels, groups = trace("branches", tmp_path)
    (group,) = [group for group in groups if "c" in group.nodes]
    assert group.nodes == ("c",)
    found = [kernels[i] for i in group.kernels]
    assert [kernel.op_type for kernel in found] == ["Concat"]
    if not set(found[0].outputs) & set(graph.tensors):  # where the runtime has a blocked layout
        assert found[0].name == ""


def test_between_quantised_kernels_the_tensors_are_integers(tmp_path: Path) -> None:
    graph, _, groups = trace("quantised", tmp_path)
    group_of = {name: group for group in groups for name in group.nodes}
    assert "aq" in group_of["a"].nodes
    assert "bq" in group_of["b"].nodes
    assert {"total", "tq"} <= set(group_of["total"].nodes)
    contracted = contract(graph, [group.nodes for group in groups])
    crossing = {
        name
        for node in contracted.nodes
        for name in node.inputs
        if name in contracted.producer_of and graph.producer_of[name].op_type != "DequantizeLinear"
    }
    assert {"aq", "bq"} & crossing
    assert all(graph.tensors[name].dtype == "uint8" for name in crossing)


@st.composite
def optimised(draw: st.DrawFn) -> tuple[Graph, tuple[OptimisedKernel, ...]]:
    """A graph and what an optimiser might make of it: nodes fused away, renamed, and reorders put in."""
    graph = draw(graphs())
    renamed: dict[str, str] = {}
    kernels: list[OptimisedKernel] = []
    for node in graph.nodes:
        fate = draw(st.sampled_from(["keep", "rename", "nameless", "fuse"]))
        inputs = tuple(renamed.get(name, name) for name in node.inputs)
        if fate == "fuse" and node.inputs:
            renamed.update(dict.fromkeys(node.outputs, inputs[0]))
            continue
        outputs = node.outputs
        if fate != "keep":
            outputs = tuple(f"reorder_token_{len(kernels)}_{i}" for i in range(len(outputs)))
            renamed.update(zip(node.outputs, outputs, strict=True))
        name = f"{node.outputs[0]}_nchwc" if fate == "rename" else ""
        kernels.append(OptimisedKernel(name, node.op_type, inputs, outputs))
        if draw(st.booleans()):
            made = f"reordered_{len(kernels)}"
            kernels.append(OptimisedKernel("ReorderInput", "ReorderInput", outputs[:1], (made,)))
            renamed.update(dict.fromkeys(node.outputs[:1], made))
    return graph, tuple(kernels)


@given(optimised())
def test_whatever_the_optimiser_did_nodes_and_kernels_are_divided(
    made: tuple[Graph, tuple[OptimisedKernel, ...]],
) -> None:
    graph, kernels = made
    groups = fusion_groups(graph, kernels)
    assert sorted(n for group in groups for n in group.nodes) == sorted(graph.node_of)
    placed = [i for group in groups for i in group.kernels]
    assert len(placed) == len(set(placed))
    if placed:
        demand_partition(graph, kernels, groups)


@given(graphs())
def test_a_model_that_was_not_changed_has_a_group_for_each_node(graph: Graph) -> None:
    kernels = [OptimisedKernel("", node.op_type, node.inputs, node.outputs) for node in graph.nodes]
    groups = fusion_groups(graph, kernels)
    assert [(group.nodes, group.kernels) for group in groups] == [
        ((node.name,), (i,)) for i, node in enumerate(graph.nodes)
    ]


def test_without_kernels_every_node_is_still_in_a_group() -> None:
    graph = Graph((), {}, (), (), "0" * 64)
    assert fusion_groups(graph, ()) == ()
