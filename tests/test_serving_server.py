from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from splitter.codec import get_codec
from splitter.errors import BundleError, ServingError
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.device.session import Session
from splitter.serving.protocol import SERVICE
from splitter.serving.server.options import ServerOptions
from splitter.serving.server.serve import Server, serve
from tests import models
from tests.contract import same_bits
from tests.serving import float_request, make_bundle, plain_client, run_whole

SPARSE = np.maximum(np.arange(-32, 32, dtype=np.float32), 0).reshape(1, 64)


def one_input() -> Any:
    return models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        one (float[1, 64] x) => (float[1, 64] y, float[1, 64] z) { a = Neg(x) y = Exp(a) z = Relu(a) }
        """
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(one_input(), tmp_path_factory.mktemp("served"), ["a"])


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Server]:
    with serve(bundle) as running:
        yield running


@pytest.fixture
def call(server: Server) -> Iterator[Any]:
    with plain_client(server.address) as caller:
        yield caller


def tail_of(array: np.ndarray) -> list[np.ndarray]:
    return [np.exp(array), np.maximum(array, 0)]


def outputs(response: pb.ModelInferResponse) -> dict[str, np.ndarray]:
    return {
        header.name: np.frombuffer(raw, "<f4").reshape(tuple(header.shape))
        for header, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def test_a_plain_client_reads_what_the_tail_is(call: Any) -> None:
    assert call("ServerLive", pb.ServerLiveRequest()).live
    assert call("ServerReady", pb.ServerReadyRequest()).ready
    assert call("ModelReady", pb.ModelReadyRequest(name="model")).ready
    assert call("ServerMetadata", pb.ServerMetadataRequest()).name == "splitter"
    model = call("ModelMetadata", pb.ModelMetadataRequest(name="model"))
    assert list(model.versions) == ["1"]
    assert [(t.name, t.datatype, list(t.shape)) for t in model.inputs] == [("a", "FP32", [1, 64])]
    assert [t.name for t in model.outputs] == ["y", "z"]


def test_a_plain_client_calls_the_tail_with_raw_tensors(call: Any) -> None:
    request = float_request("model", "a", SPARSE)
    request.id = "seven"
    response = call("ModelInfer", request)
    assert response.id == "seven"
    assert (response.model_name, response.model_version) == ("model", "1")
    np.testing.assert_allclose(outputs(response)["y"], np.exp(SPARSE), rtol=1e-5)
    assert same_bits(outputs(response)["z"], SPARSE)
    seconds = [response.parameters[key].double_param for key in ("queue_s", "decode_s", "tail_s")]
    assert all(value > 0 for value in seconds)


def test_a_plain_client_calls_the_tail_with_typed_contents(call: Any) -> None:
    request = pb.ModelInferRequest(model_name="model", model_version="1")
    tensor = request.inputs.add(name="a", datatype="FP32", shape=[1, 64])
    tensor.contents.fp32_contents.extend(SPARSE.ravel().tolist())
    request.outputs.add(name="z")
    response = call("ModelInfer", request)
    assert list(outputs(response)) == ["z"]
    assert same_bits(outputs(response)["z"], SPARSE)


def test_outputs_travel_in_the_codec_asked_for(call: Any) -> None:
    request = float_request("model", "a", SPARSE)
    request.outputs.add(name="z").parameters["codec"].string_param = "zstd"
    response = call("ModelInfer", request)
    (tensor,), (payload,) = response.outputs, response.raw_output_contents
    assert (tensor.datatype, list(tensor.shape)) == ("UINT8", [len(payload)])
    assert {key: value.string_param for key, value in tensor.parameters.items()} == {
        "codec": "zstd",
        "dtype": "FP32",
        "shape": "1,64",
    }
    assert same_bits(get_codec("zstd").decode(payload, "float32", (1, 64)), SPARSE)


TRITON = """
import sys
import numpy as np
{imports}
client = triton.InferenceServerClient(sys.argv[1])
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("model")
assert client.get_model_metadata("model").inputs[0].shape == [1, 64]
array = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 64)
tensor = triton.InferInput("a", [1, 64], "FP32")
tensor.set_data_from_numpy(array)
result = client.infer("model", [tensor], outputs=[triton.InferRequestedOutput("z")], request_id="7")
assert np.array_equal(result.as_numpy("z"), np.maximum(array, 0))
try:
    client.infer("other", [tensor])
except triton.InferenceServerException as exc:
    assert "no model is named 'other'" in exc.message()
else:
    raise SystemExit("an unknown model was served")
client.close()
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import tritonclient.grpc as triton",
        "import tritonclient.grpc as triton\nimport splitter.serving.device.session",
        "import splitter.serving.device.session\nimport tritonclient.grpc as triton",
    ],
    ids=["alone", "before ours", "after ours"],
)
def test_tritons_client_calls_the_tail_beside_our_messages_or_without(
    server: Server, imports: str
) -> None:
    pytest.importorskip("tritonclient")
    code = TRITON.format(imports=imports)
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code, server.address],
        capture_output=True,
        text=True,
        cwd=root,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


SERVE = """
import sys
from splitter.serving.server.serve import serve
server = serve(sys.argv[1])
sys.stdout.write(server.address + "\\n")
sys.stdout.flush()
sys.stdin.read()
server.stop()
"""


def test_a_session_runs_against_a_server_in_another_process(bundle: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(bundle)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    with process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        with Session(bundle, address) as session:
            got = session.run(None, {"x": SPARSE})
        process.communicate(timeout=30)
    assert process.returncode == 0
    for left, right in zip(got, run_whole(bundle, {"x": SPARSE}), strict=True):
        assert same_bits(left, right)


def _short_raw(r: pb.ModelInferRequest) -> None:
    r.raw_input_contents[0] = r.raw_input_contents[0][:-1]


def _huge_shape(r: pb.ModelInferRequest) -> None:
    r.inputs[0].shape[:] = [1 << 40, 1 << 40]


def _negative_shape(r: pb.ModelInferRequest) -> None:
    r.inputs[0].shape[:] = [-1, -64]


def _other_datatype(r: pb.ModelInferRequest) -> None:
    r.inputs[0].datatype = "INT32"


def _unknown_datatype(r: pb.ModelInferRequest) -> None:
    r.inputs[0].datatype = "BYTES"


def _mixed_contents(r: pb.ModelInferRequest) -> None:
    r.inputs[0].contents.fp32_contents.append(1)


def _wrong_field(r: pb.ModelInferRequest) -> None:
    r.ClearField("raw_input_contents")
    r.inputs[0].contents.int_contents.extend(range(64))


def _short_contents(r: pb.ModelInferRequest) -> None:
    r.ClearField("raw_input_contents")
    r.inputs[0].contents.fp32_contents.extend([0.0] * 63)


def _huge_empty_contents(r: pb.ModelInferRequest) -> None:
    r.ClearField("raw_input_contents")
    r.inputs[0].shape[:] = [1 << 62]


def _one_raw_too_many(r: pb.ModelInferRequest) -> None:
    r.raw_input_contents.append(b"")


def _wrong_name(r: pb.ModelInferRequest) -> None:
    r.inputs[0].name = "b\n" * 5000


def _twice(r: pb.ModelInferRequest) -> None:
    r.inputs.append(r.inputs[0])
    r.raw_input_contents.append(r.raw_input_contents[0])


def _none(r: pb.ModelInferRequest) -> None:
    r.ClearField("inputs")
    r.ClearField("raw_input_contents")


def _wrong_output(r: pb.ModelInferRequest) -> None:
    r.outputs.add(name="w")


def _unknown_output_parameter(r: pb.ModelInferRequest) -> None:
    r.outputs.add(name="y").parameters["classification"].int64_param = 3


def _packed(
    r: pb.ModelInferRequest, payload: bytes, *, codec: str = "zstd", shape: str = "1,64"
) -> None:
    r.inputs[0].datatype = "UINT8"
    r.inputs[0].shape[:] = [len(payload)]
    r.inputs[0].parameters["codec"].string_param = codec
    r.inputs[0].parameters["dtype"].string_param = "FP32"
    r.inputs[0].parameters["shape"].string_param = shape
    r.raw_input_contents[0] = payload


def _unknown_codec(r: pb.ModelInferRequest) -> None:
    _packed(r, b"abc", codec="gzip")


def _codec_is_no_string(r: pb.ModelInferRequest) -> None:
    r.inputs[0].parameters["codec"].int64_param = 1


def _codec_without_shape(r: pb.ModelInferRequest) -> None:
    _packed(r, b"abc")
    del r.inputs[0].parameters["shape"]


def _codec_on_floats(r: pb.ModelInferRequest) -> None:
    r.inputs[0].parameters["codec"].string_param = "zstd"


def _no_frame(r: pb.ModelInferRequest) -> None:
    _packed(r, b"not a frame")


def _frame_of_another_size(r: pb.ModelInferRequest) -> None:
    _packed(r, get_codec("zstd").encode(np.zeros(1 << 20, np.float32)))


def _packed_shape_huge(r: pb.ModelInferRequest) -> None:
    _packed(r, b"abc", shape=",".join(["999999999999999999"] * 64))


def _packed_shape_malformed(r: pb.ModelInferRequest) -> None:
    _packed(r, b"abc", shape="1," * 100_000)


HOSTILE = [
    _short_raw,
    _huge_shape,
    _negative_shape,
    _other_datatype,
    _unknown_datatype,
    _mixed_contents,
    _wrong_field,
    _short_contents,
    _huge_empty_contents,
    _one_raw_too_many,
    _wrong_name,
    _twice,
    _none,
    _wrong_output,
    _unknown_output_parameter,
    _unknown_codec,
    _codec_is_no_string,
    _codec_without_shape,
    _codec_on_floats,
    _no_frame,
    _frame_of_another_size,
    _packed_shape_huge,
    _packed_shape_malformed,
]


@pytest.mark.parametrize("change", HOSTILE, ids=lambda change: change.__name__[1:])
def test_a_malformed_request_is_an_invalid_argument_and_the_server_lives(
    call: Any, change: Any
) -> None:
    request = float_request("model", "a", SPARSE)
    change(request)
    with pytest.raises(grpc.RpcError) as caught:
        call("ModelInfer", request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details()
    assert "\n" not in caught.value.details()
    assert same_bits(outputs(call("ModelInfer", float_request("model", "a", SPARSE)))["z"], SPARSE)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_mutated_messages_never_break_the_server(call: Any, data: st.DataObject) -> None:
    request = float_request("model", "a", SPARSE)
    if data.draw(st.booleans()):
        _packed(request, get_codec("zstd").encode(SPARSE))
    message = bytearray(request.SerializeToString())
    for _ in range(data.draw(st.integers(1, 5))):
        message[data.draw(st.integers(0, len(message) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        mutated = pb.ModelInferRequest.FromString(bytes(message))
    except Exception:  # noqa: BLE001  (protobuf refuses it, as it does in the server)
        return
    code = grpc.StatusCode.OK
    try:
        call("ModelInfer", mutated)
    except grpc.RpcError as exc:
        code = exc.code()
    assert code.name in ("OK", "INVALID_ARGUMENT", "NOT_FOUND")


def test_bytes_that_are_no_message_do_not_break_the_server(server: Server, call: Any) -> None:
    with grpc.insecure_channel(server.address) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        with pytest.raises(grpc.RpcError):
            infer(b"\xff\xff\xff", timeout=10)
    assert call("ServerReady", pb.ServerReadyRequest()).ready


def test_a_message_larger_than_the_bundle_can_need_is_refused(call: Any) -> None:
    request = float_request("model", "a", np.zeros(1 << 20, np.float32))
    with pytest.raises(grpc.RpcError) as caught:
        call("ModelInfer", request)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("ModelReady", pb.ModelReadyRequest(name="other")),
        ("ModelMetadata", pb.ModelMetadataRequest(name="model", version="2")),
        ("ModelInfer", pb.ModelInferRequest(model_name="other")),
    ],
)
def test_another_model_or_version_is_not_found(call: Any, method: str, request_: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(method, request_)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_another_bundle_fails_a_precondition_that_names_both(server: Server, call: Any) -> None:
    request = float_request("model", "a", SPARSE)
    request.parameters["bundle"].string_param = "0" * 64
    with pytest.raises(grpc.RpcError) as caught:
        call("ModelInfer", request)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "0" * 64 in caught.value.details()
    assert server.manifest.digest in caught.value.details()


def test_clients_at_the_same_time_each_get_their_own_answer(server: Server) -> None:
    def work(seed: int) -> None:
        array = np.random.default_rng(seed).standard_normal((1, 64)).astype(np.float32)
        with plain_client(server.address) as call:
            for _ in range(10):
                response = call("ModelInfer", float_request("model", "a", array))
                assert same_bits(outputs(response)["z"], np.maximum(array, 0))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


def test_a_port_in_use_is_an_error_of_one_line(server: Server, bundle: Path) -> None:
    with pytest.raises(ServingError, match=rf"{server.address}: cannot listen there \(Address"):
        serve(bundle, server.address)


def test_an_address_that_others_can_reach_must_be_allowed(bundle: Path) -> None:
    with pytest.raises(ServingError, match="other machines could reach it"):
        serve(bundle, "0.0.0.0:0")
    with serve(bundle, "0.0.0.0:0", ServerOptions(insecure=True)) as server:
        assert server.port > 0


def test_a_host_that_is_not_ours_is_refused(bundle: Path) -> None:
    with pytest.raises(ServingError, match="cannot listen there"):
        serve(bundle, "192.0.2.1:0", ServerOptions(insecure=True))


def test_a_stopped_server_gives_its_port_back(bundle: Path) -> None:
    with serve(bundle) as server:
        assert not server.wait(timeout_s=0)
    assert server.wait(timeout_s=10)
    with serve(bundle, server.address) as again:
        assert again.address == server.address


def test_a_damaged_tail_is_not_served(tmp_path: Path) -> None:
    bundle = make_bundle(one_input(), tmp_path, ["a"])
    with (bundle / "tail.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError):
        serve(bundle)
