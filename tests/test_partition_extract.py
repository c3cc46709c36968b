"""What a part holds: the nodes asked for, the weights they use, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from splitter.errors import CutError
from splitter.graph.cut import cut_at, cut_of
from splitter.graph.model import Model
from splitter.graph.read import load_model
from splitter.partition.check import chain, run_one
from splitter.partition.extract import Extractor, Part
from splitter.runtime import Runner
from tests import models


def load(proto: onnx.ModelProto, folder: Path, **dims: int) -> Model:
    return load_model(models.save(proto, folder / "model.onnx"), dims)


def weights(part: Part) -> list[str]:
    return [tensor.name for tensor in part.proto.graph.initializer]


def test_a_weight_goes_only_where_it_is_used(tmp_path: Path) -> None:
    model = load(models.convolutions(), tmp_path)
    cut = cut_at(model.graph, ["p1"])
    extractor = Extractor(model)
    assert weights(extractor.head(cut)) == ["w1", "b1"]
    assert weights(extractor.tail(cut)) == ["w2", "w3"]


def test_a_weight_that_both_parts_use_is_in_both(tmp_path: Path) -> None:
    proto = models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        shared (float[1, 4] x) => (float[1, 4] y) { a = Add(x, w) y = Mul(a, w) }
        """
    )
    model = load(models.with_weights(proto, w=(4,)), tmp_path)
    extractor, cut = Extractor(model), cut_at(model.graph, ["a"])
    assert weights(extractor.head(cut)) == weights(extractor.tail(cut)) == ["w"]


def test_a_weight_used_only_inside_a_branch_comes_along(tmp_path: Path) -> None:
    model = load(models.if_with_captures(), tmp_path)
    cut = cut_of(model.graph, ["a", "b", "total", "positive"])
    assert weights(Extractor(model).tail(cut)) == ["w"]
    assert set(Extractor(model).tail(cut).inputs) == {"a", "b", "positive"}


def test_an_output_that_also_crosses_is_listed_once_and_is_not_made_again(tmp_path: Path) -> None:
    model = load(models.two_outputs(), tmp_path)
    extractor, cut = Extractor(model), cut_at(model.graph, ["early"])
    assert extractor.head(cut).outputs == ("early",)
    assert extractor.tail(cut).outputs == ("late",)


def test_an_input_read_only_by_the_tail_is_not_in_the_head(tmp_path: Path) -> None:
    model = load(models.two_inputs(), tmp_path)
    extractor, cut = Extractor(model), cut_at(model.graph, ["b"])
    assert extractor.head(cut).inputs == ("left",)
    assert extractor.tail(cut).inputs == ("right", "b")


def test_weights_listed_as_inputs_become_plain_weights(tmp_path: Path) -> None:
    model = load(models.weights_as_inputs(), tmp_path)
    whole = Extractor(model).whole()
    assert whole.inputs == ("x",)
    assert whole.proto.ir_version == 4
    assert whole.proto.opset_import[0].version == 7
    onnx.checker.check_model(whole.proto, full_check=True)


def test_a_function_is_kept_only_where_it_is_called(tmp_path: Path) -> None:
    model = load(models.local_function(), tmp_path)
    extractor = Extractor(model)
    assert [function.name for function in extractor.part(["a"], ["a"]).proto.functions] == ["gate"]
    assert not extractor.part(["b"], ["b"]).proto.functions


def test_a_tail_input_has_its_dtype_and_bound_shape(tmp_path: Path) -> None:
    model = load(models.dynamic_reshape(), tmp_path, batch=5)
    tail = Extractor(model).tail(cut_at(model.graph, ["b"]))
    (given,) = tail.proto.graph.input
    assert given.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert [dim.dim_value for dim in given.type.tensor_type.shape.dim] == [5, 3, 4]


def test_outputs_that_no_node_makes_are_handed_through_by_the_head(tmp_path: Path) -> None:
    proto = models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        through (float[2] x) => (float[2] x, float[2] c, float[2] y)
        <float[2] c = {1, 2}> { a = Neg(x) y = Add(a, c) }
        """
    )
    model = load(proto, tmp_path)
    feeds = {"x": np.array([3, 4], np.float32)}
    extractor = Extractor(model)
    for head_nodes in ([], ["a"], ["a", "y"]):
        head, tail = (f(cut_of(model.graph, head_nodes)) for f in (extractor.head, extractor.tail))
        assert {"x", "c"} <= set(head.outputs)
        runners = [Runner(part.to_bytes()) if part.outputs else None for part in (head, tail)]
        made = chain(*runners, feeds)
        assert [made[name].tolist() for name in "xcy"] == [[3, 4], [1, 2], [-2, -2]]


def test_nodes_that_depend_on_constants_only_come_with_their_readers(tmp_path: Path) -> None:
    proto = models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        constants (float[2, 2] x) => (float[2, 2] y) {
            one = Constant <value = float[4] {1, 2, 3, 4}> ()
            size = Constant <value = int64[2] {2, 2}> ()
            square = Reshape(one, size)
            turned = Transpose(square)
            a = MatMul(x, turned)
            y = Add(a, square)
        }
        """
    )
    model = load(proto, tmp_path)
    tail = Extractor(model).tail(cut_at(model.graph, ["a"]))
    onnx.checker.check_model(tail.proto, full_check=True)
    made = run_one(Runner(tail.to_bytes()), {"a": np.zeros((2, 2), np.float32)})
    assert made["y"].tolist() == [[1, 2], [3, 4]]


def test_a_sequence_cannot_cross(tmp_path: Path) -> None:
    proto = models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        sequence (float[4] x) => (float[4] y) {
            parts = SplitToSequence(x)
            y = ConcatFromSequence <axis = 0> (parts)
        }
        """
    )
    model = load(proto, tmp_path)
    with pytest.raises(CutError, match="'parts' is a sequence.*cannot cross"):
        Extractor(model).tail(cut_of(model.graph, ["parts"]))


def test_an_unknown_node_is_named(tmp_path: Path) -> None:
    with pytest.raises(CutError, match="no node is named 'zzz'"):
        Extractor(load(models.chain(), tmp_path)).part(["zzz"], ["y"])


def test_the_model_is_not_changed(tmp_path: Path) -> None:
    model = load(models.if_with_captures(), tmp_path)
    before = model.proto.SerializeToString(deterministic=True)
    extractor, cut = Extractor(model), cut_at(model.graph, ["chosen"])
    for part in (extractor.head(cut), extractor.tail(cut), extractor.whole()):
        part.proto.graph.node[0].op_type = "Changed"
    assert model.proto.SerializeToString(deterministic=True) == before
