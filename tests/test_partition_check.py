"""Comparing outputs, drawing inputs, and refusing a split that differs."""

from __future__ import annotations

import numpy as np
import pytest

from splitter.errors import BundleError, InputError
from splitter.graph.values import Graph, Node, Tensor
from splitter.partition.check import (
    compare,
    compare_each,
    demand_equal,
    random_feeds,
    served_limit,
    tolerance,
)
from splitter.runtime import Optimisation, Settings

EXACT = Settings(optimisation=Optimisation.NONE)


def graph_of(*inputs: Tensor, op_type: str = "Relu") -> Graph:
    nodes = (Node("y", op_type, tuple(t.name for t in inputs), ("y",)),)
    tensors = {tensor.name: tensor for tensor in (*inputs, Tensor("y", "float32", (1,)))}
    return Graph(nodes, tensors, tuple(t.name for t in inputs), ("y",), "")


def test_the_same_nan_is_equal() -> None:
    values = np.array([np.nan, np.inf, -0.0], np.float32)
    difference = compare({"y": values}, {"y": values.copy()})
    assert difference.is_equal
    assert difference.max_relative == 0


def test_a_negative_zero_is_not_bit_for_bit_a_zero() -> None:
    difference = compare({"y": np.array([0.0])}, {"y": np.array([-0.0])})
    assert not difference.is_equal
    assert difference.max_relative == 0


def test_a_nan_in_another_place_is_an_infinite_difference() -> None:
    difference = compare({"y": np.array([1.0, 2.0])}, {"y": np.array([1.0, np.nan])})
    assert difference.max_relative == np.inf


def test_the_worst_output_is_the_one_reported() -> None:
    whole = {"a": np.array([1.0, 4.0]), "b": np.array([2.0, 8.0])}
    split = {"a": np.array([1.0, 4.0]), "b": np.array([9.0, 8.0])}
    difference = compare(whole, split)
    assert (difference.output, difference.max_abs, difference.same_answer) == ("b", 7.0, False)
    assert difference.max_relative == 7 / 8


def test_another_dtype_or_shape_is_never_equal() -> None:
    whole = {"y": np.zeros(2, np.float32)}
    assert not compare(whole, {"y": np.zeros(2, np.float64)}).is_same_type
    assert not compare(whole, {"y": np.zeros((1, 2), np.float32)}).is_same_type


def test_sequences_are_compared_leaf_by_leaf() -> None:
    one, two = np.ones(2, np.float32), np.full(3, 2, np.float32)
    assert compare({"y": [one, two]}, {"y": [one, two]}).is_equal  # type: ignore[dict-item]
    assert not compare({"y": [one, two]}, {"y": [one]}).is_same_type  # type: ignore[dict-item]


def test_feeds_are_drawn_by_dtype_and_repeat_with_the_seed() -> None:
    graph = graph_of(
        Tensor("image", "float16", (2, 3)),
        Tensor("ids", "int64", (40,)),
        Tensor("mask", "bool", (4,)),
        Tensor("pixels", "uint8", (100,)),
        Tensor("rate", "float32", ()),
    )
    feeds = random_feeds(graph, seed=3)
    for name, array in feeds.items():
        assert array.dtype.name == graph.tensors[name].dtype
        assert array.shape == graph.tensors[name].shape
    assert 0 <= feeds["ids"].min() <= feeds["ids"].max() < 10
    assert feeds["pixels"].max() > 100
    assert compare(feeds, random_feeds(graph, seed=3)).is_equal


def test_an_input_of_strings_has_to_be_given() -> None:
    with pytest.raises(InputError, match="'words' is string"):
        random_feeds(graph_of(Tensor("words", "string", (1,))))


def test_tolerance_follows_dtype_quantisation_and_optimisation() -> None:
    single, half = graph_of(Tensor("x", "float32", (1,))), graph_of(Tensor("x", "float16", (1,)))
    quantised = graph_of(Tensor("x", "float32", (1,)), op_type="QLinearConv")
    assert [tolerance(g, EXACT) for g in (single, half, quantised)] == [0, 4e-3, 0]
    assert [tolerance(g, Settings()) for g in (single, half, quantised)] == [1e-5, 5e-3, 2e-2]


def test_a_served_split_may_differ_twice_as_much_as_optimisation_changes_the_whole() -> None:
    graph = graph_of(Tensor("x", "float32", (1,)))
    own = compare({"y": np.array([1.0])}, {"y": np.array([1.25])})
    assert served_limit(graph, Settings(), own) == 0.5
    none = compare({"y": np.array([1.0])}, {"y": np.array([1.0])})
    assert served_limit(graph, Settings(), none) == 1e-5
    endless = compare({"y": np.array([1.0])}, {"y": np.array([np.nan])})
    assert served_limit(graph, Settings(), endless) == 1e-5


def test_a_split_that_differs_is_refused_with_the_output_and_the_difference() -> None:
    difference = compare({"scores": np.array([1.0])}, {"scores": np.array([1.5])})
    with pytest.raises(BundleError, match="'scores' differs by 0.5 relative.*at most 1e-05"):
        demand_equal(difference, 1e-5, Settings())
    demand_equal(difference, 0.6, Settings())


def test_with_optimisation_off_no_difference_is_small_enough() -> None:
    difference = compare({"y": np.array([1.0])}, {"y": np.array([np.nextafter(1.0, 2.0)])})
    with pytest.raises(BundleError, match="no difference is allowed"):
        demand_equal(difference, 0, EXACT)


def test_an_output_near_zero_does_not_hide_another_that_is_far_off():
    whole = {"tiny": np.array([1e-9]), "big": np.array([1.0])}
    split = {"tiny": np.array([-1e-9]), "big": np.array([2.0])}
    tiny, big = compare_each(whole, split)
    demand_equal(tiny, 1e-5, Settings())
    with pytest.raises(BundleError, match="'big'"):
        demand_equal(big, 1e-5, Settings())
