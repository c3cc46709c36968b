"""Reading models: names, constants, dimensions, folding."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from splitter.errors import DimensionError, ModelError, SplitterError
from splitter.graph import Model, load_model
from splitter.runtime import Optimisation, Runner, Settings
from tests import models

LIGHT = Path(onnx.__file__).parent / "backend/test/data"

BOUND = {
    "mobilenetv2_fp32": {"dims": {"batch_size": 1}},
    "mobilenetv2_qdq_int8": {"dims": {"batch_size": 1}},
    "ppocr_v3_det_en": {"shapes": {"x": (1, 3, 544, 800)}},
    "silero_vad_16k_op15": {"shapes": {"input": (1, 576)}},
    "tinygpt": {"dims": {"batch": 1, "seq": 128}},
}
OUTPUTS = {
    "dtln_1": [(1, 1, 257), (1, 2, 128, 2)],
    "dtln_2": [(1, 1, 512), (1, 2, 128, 2)],
    "mobilenetv2_fp32": [(1, 1000)],
    "mobilenetv2_qdq_int8": [(1, 1000)],
    "ppocr_v3_det_en": [(1, 1, 544, 800)],
    "silero_vad_16k_op15": [(1, 1), (2, 1, 128)],
    "squeezenet_fp32": [(1, 1000, 1, 1)],
    "tbefn_240x320": [(1, 240, 320, 3)],
    "tinygpt": [(1, 128, 128)],
    "ultraface_rfb320": [(1, 4420, 2), (1, 4420, 4)],
    "yolox_nano": [(1, 3549, 85)],
}
MMAC = {
    "mobilenetv2_fp32": 300.77, "mobilenetv2_qdq_int8": 300.77, "yolox_nano": 522.55,
    "ultraface_rfb320": 100.42, "ppocr_v3_det_en": 2031.27, "tbefn_240x320": 3844.68,
    "tinygpt": 440.4, "dtln_1": 0.36, "dtln_2": 0.62,
}  # fmt: skip
MULTIPLY_ADD = {"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM"}


def shared_model(name: str) -> Model:
    path = models.SHARED / "models" / f"{name}.onnx"
    if not path.exists():
        pytest.skip("the shared models are not beside this checkout")
    return load_model(path, **BOUND.get(name, {}))


def loaded(tmp_path: Path, model: onnx.ModelProto, **bound: object) -> Model:
    return load_model(models.save(model, tmp_path / "model.onnx"), **bound)


def refused(tmp_path: Path, model: onnx.ModelProto, **bound: object) -> str:
    with pytest.raises(ModelError) as caught:
        loaded(tmp_path, model, **bound)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def peak_bytes(path: Path, *dims: str) -> int:
    """Resident bytes, at most, of a process that reads the model and nothing else."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of a child process is read from /proc")
    script = (
        "import sys; from splitter.graph import load_model; "
        "load_model(sys.argv[1], {k: int(v) for k, v in (d.split('=') for d in sys.argv[2:])}); "
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    command = [sys.executable, "-c", script, str(path), *dims]
    root = Path(__file__).parents[1]
    ran = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return int(ran.stdout.split()[1]) * 1024


def every_tensor(model: Model, seed: int = 0) -> dict[str, np.ndarray]:
    """Run the model with optimisation off and look at all it makes at the top level."""
    rng = np.random.default_rng(seed)
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    weights = {tensor.name for tensor in proto.graph.initializer}
    have = weights | {value.name for value in (*proto.graph.output, *proto.graph.input)}
    for node in proto.graph.node:
        for name in node.output:
            if name and name not in have:
                proto.graph.output.add(name=name)
    feeds = {}
    for name in model.graph.inputs:
        tensor = model.graph.tensors[name]
        feeds[name] = rng.random(tensor.shape).astype(tensor.dtype)
    settings = Settings(optimisation=Optimisation.NONE)
    runner = Runner(proto.SerializeToString(), settings, weights_dir=model.weights_dir)
    names = [port.name for port in runner.outputs]
    return dict(zip(names, runner.run(feeds), strict=True))


def check_against_runtime(model: Model) -> int:
    """Every known shape and folded value is what the runtime makes; returns the number of shapes."""
    found = every_tensor(model)
    known = 0
    for name, array in found.items():
        tensor = model.graph.tensors.get(name) or model.graph.weights[name]
        if tensor.shape is not None:
            assert (name, tensor.dtype, tensor.shape) == (name, array.dtype.name, array.shape)
            known += 1
        if name in model.folded:
            assert model.folded[name].dtype == array.dtype
            assert model.folded[name].shape == array.shape
            assert model.folded[name].tobytes() == array.tobytes()
    return known


@pytest.mark.parametrize("name", sorted(OUTPUTS))
def test_every_shape_of_a_shared_model_is_known_and_is_the_runtimes(name):
    model = shared_model(name)
    graph = model.graph
    assert [graph.tensors[output].shape for output in graph.outputs] == OUTPUTS[name]
    read = {tensor for node in graph.nodes for tensor in node.inputs}
    assert not [tensor for tensor in read if graph.tensors[tensor].nbytes is None]
    assert check_against_runtime(model) >= len(graph.nodes)


@pytest.mark.parametrize("name", sorted(MMAC))
def test_multiply_adds_of_shared_models_are_the_published_ones(name):
    graph = shared_model(name).graph
    counted = sum(node.flops for node in graph.nodes if node.op_type in MULTIPLY_ADD) / 2e6
    assert counted == pytest.approx(MMAC[name], rel=0.02 if MMAC[name] < 1 else 1e-3)


@pytest.mark.parametrize("name", sorted(models.every_model()))
def test_the_small_models_are_read_as_the_runtime_runs_them(tmp_path, name):
    proto = models.every_model()[name]
    dynamic = any(dim.dim_param for dim in proto.graph.input[0].type.tensor_type.shape.dim)
    model = loaded(tmp_path, proto, dims={"batch": 2} if dynamic else None)
    assert check_against_runtime(model) > 0


def test_nodes_are_named_by_their_first_output_whatever_the_file_calls_them(tmp_path):
    model = loaded(tmp_path, models.awkward_names(), dims={"batch": 3})
    assert [node.name for node in model.graph.nodes] == ["scope/a:0", "../b", "c d", "y:0"]
    assert [node.label for node in model.graph.nodes] == ["../b", "", "", ""]
    assert model.graph.tensors["y:0"].shape == (3, 8), "binding wins over the stale declaration"


def test_values_captured_by_bodies_are_inputs_of_their_node(tmp_path):
    chosen = loaded(tmp_path, models.if_with_captures()).graph.node_of["chosen"]
    assert set(chosen.inputs) == {"positive", "a", "b"}
    assert chosen.weights == ("w",)
    assert loaded(tmp_path, models.loop_with_captures()).graph.node_of["state"].inputs == ("x", "a")
    assert "bias" in loaded(tmp_path, models.scan_with_captures()).graph.node_of["last"].inputs


def test_a_name_that_a_body_defines_again_is_no_capture(tmp_path):
    model = models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        shadowed (bool go, float[4] x) => (float[4] y) {
            t = Relu(x)
            y = If (go) <
                then_branch = yes () => (float[4] o) {
                    o = If (go) <
                        then_branch = inner () => (float[4] q) { t = Neg(x) q = Exp(t) },
                        else_branch = other () => (float[4] r) { r = Identity(x) }
                    >
                },
                else_branch = no () => (float[4] s) { s = Identity(x) }
            >
        }
        """
    )
    assert set(loaded(tmp_path, model).graph.node_of["y"].inputs) == {"go", "x"}


def test_weights_listed_as_inputs_are_not_fed(tmp_path):
    graph = loaded(tmp_path, models.weights_as_inputs()).graph
    assert graph.inputs == ("x",)
    assert graph.node_of["a"].weights == ("w",)
    assert graph.weights["w"].shape == (4, 6)


def test_what_depends_on_constants_only_is_a_weight_unless_it_is_random(tmp_path):
    model = models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        constants (float[2, 3] x) => (float[2, 3] y, float[3, 2] back) {
            size = Constant <value = int64[2] {2, 3}> ()
            zeros = ConstantOfShape(size)
            more = Exp(zeros)
            noise = RandomNormalLike(zeros)
            a = Add(x, more)
            y = Add(a, noise)
            back = Transpose(more)
        }
        """
    )
    graph = loaded(tmp_path, model).graph
    assert [node.name for node in graph.nodes] == ["noise", "a", "y", "back"]
    assert {"size", "zeros", "more"} <= set(graph.weights)
    assert graph.node_of["noise"].inputs == ()
    assert graph.node_of["a"].weights == ("more",)


def test_shape_arithmetic_is_folded_once_the_dimensions_are_bound(tmp_path):
    model = loaded(tmp_path, models.dynamic_reshape(), dims={"batch": 5})
    assert [node.op_type for node in model.graph.nodes] == ["Relu", "Exp", "Reshape", "Mul"]
    assert model.folded["target"].tolist() == [5, -1]
    assert model.graph.node_of["flat"].weights == ("target",)
    assert model.graph.tensors["y"].shape == (5, 12)
    assert model.graph.dims == {"batch": 5}


def test_arithmetic_on_shapes_gives_the_runtimes_bits(tmp_path):
    model = models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        arithmetic (float[n, 3, h, w] x) => (float[a, b, c, d] y, float[e, f] z) {
            dims = Shape(x)
            tail = Shape <start = 2> (x)
            count = Size(x)
            two = Constant <value = int64[1] {2}> ()
            minus = Constant <value = int64[1] {-7}> ()
            third = Constant <value = float[1] {0.3333}> ()
            zero = Constant <value = int64[1] {0}> ()
            end = Constant <value = int64[1] {4}> ()
            negative = Sub(zero, tail)
            quotient = Div(negative, two)
            remainder = Mod(negative, minus)
            signed = Mod <fmod = 1> (negative, minus)
            real = Cast <to = 1> (tail)
            scaled = Mul(real, third)
            low = Floor(scaled)
            whole = Cast <to = 7> (low)
            first = Slice(dims, zero, two, zero)
            larger = Max(whole, quotient, two)
            same = Equal(larger, two)
            chosen = Where(same, two, larger)
            times = Mul(chosen, two)
            sizes = Concat <axis = 0> (first, times)
            y = Resize <mode = "nearest"> (x, , , sizes)
            product = ReduceProd <keepdims = 1> (tail)
            column = Unsqueeze(count, zero)
            all = Div(column, product)
            flat = Concat <axis = 0> (all, product)
            z = Reshape(x, flat)
        }
        """
    )
    bound = loaded(tmp_path, model, shapes={"x": (2, 3, 11, 7)})
    assert [node.name for node in bound.graph.nodes] == ["y", "z"]
    assert bound.graph.tensors["z"].shape == (6, 77)
    check_against_runtime(bound)


def test_shapes_that_depend_on_data_are_unknown_and_never_folded(tmp_path):
    model = models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        data (float[4] x) => (int64[n] y) {
            places = NonZero(x)
            y = Shape(places)
            doubled = Add(y, y)
        }
        """
    )
    found = loaded(tmp_path, model)
    assert not found.folded
    assert found.graph.tensors["places"].shape is None


def test_a_shape_that_the_file_merely_declares_is_not_folded(tmp_path):
    model = models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        opaque (float[2, 8] x) => (int64[2] y) <float[2, 8] a> {
            a = com.microsoft.QuickGelu(x)
            dims = Shape(a)
            y = Add(dims, dims)
        }
        """
    )
    found = loaded(tmp_path, model)
    assert found.graph.tensors["a"].shape == (2, 8)
    assert not found.folded


def test_an_if_whose_condition_follows_from_the_shapes_is_seen_through(tmp_path):
    model = models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        decided (float[n, 8] x) => (float[m] y) {
            dims = Shape(x)
            rank = Size(dims)
            two = Constant <value = int64 {2}> ()
            flat = Equal(rank, two)
            a = If (flat) <
                then_branch = yes () => (float[k] t) {
                    shape = Constant <value = int64[1] {-1}> ()
                    t = Reshape(x, shape)
                },
                else_branch = no () => (float[p, q] e) { shape = Exp(x) e = Identity(shape) }
            >
            y = Relu(a)
        }
        """
    )
    graph = loaded(tmp_path, model, dims={"n": 3}).graph
    assert graph.tensors["y"].shape == (24,)
    assert [node.op_type for node in graph.nodes] == ["If", "Relu"]


def loop_over(turn: str) -> onnx.ModelProto:
    return models.parse(
        f"""
        <ir_version: 8, opset_import: ["" : 17]>
        loop_over (float[n, 8] x, int64 trips) => (float[m, k] y) {{
            go = Constant <value = bool {{1}}> ()
            state, other = Loop (trips, go, x, x) <
                body = turn (int64 i, bool on, float before, float still)
                    => (bool on_out, float after, float still_out) {{
                    on_out = Identity(on)
                    {turn}
                    still_out = Neg(still)
                }}
            >
            y = Tanh(state)
        }}
        """
    )


def test_a_loop_whose_turns_keep_the_shape_is_seen_through(tmp_path):
    graph = loaded(tmp_path, loop_over("after = Add(before, still)"), dims={"n": 3}).graph
    assert graph.tensors["y"].shape == (3, 8)
    assert graph.tensors["other"].shape == (3, 8)


def test_a_loop_whose_turns_change_a_shape_leaves_it_unknown(tmp_path):
    grows = loop_over("after = Concat <axis = 0> (before, still)")
    graph = loaded(tmp_path, grows, dims={"n": 3}).graph
    assert graph.tensors["y"].shape is None
    assert graph.tensors["other"].shape is None


def test_nodes_out_of_order_are_sorted_and_the_order_is_otherwise_kept(tmp_path):
    model = models.residual()
    backwards = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(backwards)
    assert [n.name for n in loaded(tmp_path, model).graph.nodes] == ["a", "b", "c", "d", "y"]


def test_an_output_made_of_constants_still_has_a_node(tmp_path):
    model = models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        outputs (float[2, 3] x) => (int64[2] dims, float[2, 3] y) {
            dims = Shape(x)
            y = Reshape(x, dims)
        }
        """
    )
    found = loaded(tmp_path, model)
    assert [node.name for node in found.graph.nodes] == ["dims", "y"]
    assert "dims" not in found.folded
    assert found.graph.node_of["y"].inputs == ("x", "dims")


def test_sparse_weights_strings_and_sequences_are_described(tmp_path):
    model = models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        kinds (float[2, 2] x, string[2] words) => (float[2, 2] y, seq(float[2, 2]) parts, string[2] out) {
            y = MatMul(x, sparse)
            parts = SequenceConstruct(x, y)
            out = Identity(words)
        }
        """
    )
    values = helper.make_tensor("sparse", TensorProto.FLOAT, [1], [2.0])
    indices = helper.make_tensor("at", TensorProto.INT64, [1], [3])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2, 2]))
    graph = loaded(tmp_path, model).graph
    assert graph.weights["sparse"].shape == (2, 2)
    assert graph.tensors["parts"].dtype == "sequence(float32)"
    assert graph.tensors["parts"].shape is None
    assert (graph.tensors["words"].dtype, graph.tensors["out"].nbytes) == ("string", None)


def test_branches_cost_as_the_dearer_and_loops_as_often_as_they_turn(tmp_path):
    branches = loaded(tmp_path, models.if_with_captures()).graph
    assert branches.node_of["chosen"].flops == 16, "Add and Exp, not Mul"
    assert loaded(tmp_path, models.loop_with_captures()).graph.node_of["state"].flops == 3 * 8
    assert loaded(tmp_path, models.scan_with_captures()).graph.node_of["last"].flops == 4 * 6
    assert loaded(tmp_path, models.local_function()).graph.node_of["a"].flops == 16


@pytest.mark.parametrize(
    ("bound", "message"),
    [
        ({}, r"input 'x' dimension 0 \('batch'\) is dynamic; bind it with --dim batch=1 or --shape x=1,3,4"),
        ({"dims": {"bach": 1}}, "no dimension 'bach'; its dimensions are batch"),
        ({"dims": {"batch": 0}}, "--dim batch=0: must be positive"),
        ({"shapes": {"q": (1,)}}, "no input 'q'; its inputs are x"),
        ({"shapes": {"x": (2, 3)}}, "has 3 dimensions, got 2"),
        ({"shapes": {"x": (2, 3, -4)}}, "every dimension must be positive"),
        ({"shapes": {"x": (2, 3, 5)}}, "--shape x=2,3,5: dimension 2 is 4 elsewhere, got 5"),
        ({"shapes": {"x": (2, 3, 4)}, "dims": {"batch": 3}}, r"\('batch'\) is 3 elsewhere, got 2"),
    ],
)  # fmt: skip
def test_a_dimension_that_is_open_unknown_or_contradicted_is_named(tmp_path, bound, message):
    with pytest.raises(DimensionError, match=message):
        loaded(tmp_path, models.dynamic_reshape(), **bound)


@pytest.mark.parametrize("unnamed", ["?", "", None])
def test_a_dynamic_dimension_without_a_name_needs_the_whole_shape(tmp_path, unnamed):
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, [unnamed, 8])
    model = models.chain()
    model.graph.input[0].CopyFrom(info)
    assert "dimension 0 (without a name) is dynamic; bind it with --shape x=1,8" in refused(
        tmp_path, model
    )
    assert loaded(tmp_path, model, shapes={"x": (4, 8)}).graph.tensors["y"].shape == (4, 8)


def test_files_that_are_not_models_are_refused_in_one_line(tmp_path):
    whole = models.convolutions().SerializeToString()
    path = tmp_path / "m.onnx"
    for size in [0, 1, 7, *range(20, len(whole), 97)]:
        path.write_bytes(whole[:size])
        with pytest.raises(
            ModelError, match=r"m\.onnx: (not an ONNX model|no operator set)"
        ) as caught:
            load_model(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="no such file"):
        load_model(tmp_path / "absent.onnx")
    with pytest.raises(ModelError, match="a folder"):
        load_model(tmp_path)


def test_hostile_bytes_end_in_an_error_of_ours(tmp_path):
    rng = np.random.default_rng(1)
    whole = bytearray(models.if_with_captures().SerializeToString())
    path = tmp_path / "m.onnx"
    for _ in range(60):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 3):
            damaged[at] = rng.integers(0, 256)
        path.write_bytes(damaged)
        with contextlib.suppress(SplitterError):
            load_model(path)


def test_an_operator_of_an_unknown_domain_is_refused(tmp_path):
    model = models.chain()
    model.graph.node[1].domain = "my.own"
    assert "operator 'Neg' is of the unknown domain 'my.own'" in refused(tmp_path, model)
    model.graph.node[1].domain = "com.microsoft"
    assert "does not import" in refused(tmp_path, model)


def test_dangling_repeated_and_cyclic_tensors_are_named(tmp_path):
    dangling, twice, cyclic = models.chain(), models.chain(), models.residual()
    dangling.graph.node[1].input[0] = "nowhere"
    assert "Neg node 'b' reads 'nowhere', which nothing makes" in refused(tmp_path, dangling)
    twice.graph.node[1].output[0] = "a"
    assert "tensor 'a' is made twice" in refused(tmp_path, twice)
    cyclic.graph.node[0].input[0] = "c"
    assert "cycle" in refused(tmp_path, cyclic)


def test_functions_that_call_themselves_or_explode_are_refused(tmp_path):
    model = models.local_function()
    model.functions[0].opset_import.add(domain="local", version=1)
    model.functions[0].node[0].domain = "local"
    model.functions[0].node[0].op_type = "gate"
    assert "call themselves" in refused(tmp_path, model)
    bomb = models.local_function()
    del bomb.functions[:]
    for level in range(40):
        callee = f"f{level + 1}" if level < 39 else "Relu"
        domain = "local" if level < 39 else ""
        nodes = [
            helper.make_node(callee, ["v"], ["t"], domain=domain),
            helper.make_node(callee, ["t"], ["out"], domain=domain),
        ]
        name = "gate" if level == 0 else f"f{level}"
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
        bomb.functions.append(helper.make_function("local", name, ["v"], ["out"], nodes, opsets))
    assert "write out to over" in refused(tmp_path, bomb)


def test_a_huge_shape_is_not_folded_into_memory(tmp_path):
    model = models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        huge (float[4] x) => (float[4] y) {
            size = Constant <value = int64[2] {1000000000, 1000000000}> ()
            n = Constant <value = int64 {1000000000000}> ()
            zero = Constant <value = int64 {0}> ()
            one = Constant <value = int64 {1}> ()
            zeros = ConstantOfShape(size)
            line = Range(zero, n, one)
            wide = Expand(one, size)
            many = Tile(size, size)
            y = Relu(x)
        }
        """
    )
    assert not loaded(tmp_path, model).folded


@pytest.mark.parametrize("path", sorted(LIGHT.glob("light/*.onnx")), ids=lambda path: path.stem)
def test_the_architectures_in_the_onnx_wheel_are_read_with_known_shapes(path):
    graph = load_model(path).graph
    unread_mask = {name for name, tensor in graph.tensors.items() if tensor.shape is None}
    assert not unread_mask & {name for node in graph.nodes for name in node.inputs}
    assert all(graph.tensors[name].shape is not None for name in graph.outputs)


def test_the_test_models_in_the_onnx_wheel_are_read_or_refused():
    paths = sorted(LIGHT.glob("*/*/model.onnx"))
    assert paths
    for path in paths:
        with contextlib.suppress(DimensionError):
            assert load_model(path).graph.outputs


def test_a_model_with_large_external_weights_is_read_in_little_memory(tmp_path):
    """550 MB of weights (a sparse file) are never touched."""
    nodes, info = [], helper.make_tensor_value_info
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "large",
            [info("t0", TensorProto.FLOAT, ["batch", 4096])],
            [info("t8", TensorProto.FLOAT, ["batch", 4096])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    each = 4096 * 4096 * 4
    for index in range(8):
        weight = model.graph.initializer.add(name=f"w{index}", data_type=TensorProto.FLOAT)
        weight.dims.extend([4096, 4096])
        weight.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "w.data"), ("offset", index * each), ("length", each)):
            weight.external_data.add(key=key, value=str(value))
        model.graph.node.append(
            helper.make_node("MatMul", [f"t{index}", f"w{index}"], [f"t{index + 1}"])
        )
    with (tmp_path / "w.data").open("wb") as file:
        file.truncate(8 * each)
    path = models.save(model, tmp_path / "large.onnx")
    assert peak_bytes(path, "batch=1") < 300e6


def test_weights_inside_the_file_are_not_copied(tmp_path):
    """Reading takes the bytes of the file and the one protobuf parsed from them, and no more."""
    model = models.chain()
    empty = models.save(model, tmp_path / "empty.onnx")
    big = np.zeros(60_000_000, np.uint8)
    model.graph.initializer.append(numpy_helper.from_array(big, "big"))
    path = models.save(model, tmp_path / "m.onnx")
    assert peak_bytes(path) - peak_bytes(empty) < 2.3 * big.nbytes
