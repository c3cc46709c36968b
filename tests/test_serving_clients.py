"""Clients that others wrote: Triton's in all its ways of calling, and gRPC's for health and reflection."""

from __future__ import annotations

import asyncio
import queue
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from splitter.partition.manifest import Manifest
from splitter.serving.server.options import ServerOptions
from splitter.serving.server.serve import Server, serve
from tests.serving import make_batching

triton = pytest.importorskip("tritonclient.grpc")
triton_aio = pytest.importorskip("tritonclient.grpc.aio")

ROWS = np.array([[-1, 2, -3, 4], [5, -6, 7, -8]], np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_batching(tmp_path_factory.mktemp("made"))
    root = tmp_path_factory.mktemp("repository")
    shutil.copytree(made, root / "sums" / "3")
    shutil.copytree(made, root / "spare")
    text = (root / "spare" / "manifest.json").read_text()
    (root / "spare" / "manifest.json").write_text(text.replace('"sums"', '"spare"'))
    return root


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    options = ServerOptions(max_batch=4, preferred=(2, 4), max_delay_s=0.0, queue=16)
    with serve(folder, options=options) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    made = triton.InferenceServerClient(server.address)
    yield made
    made.close()


def tensor(rows: np.ndarray = ROWS, library: Any = triton) -> Any:
    made = library.InferInput("a", list(rows.shape), "FP32")
    made.set_data_from_numpy(rows)
    return made


def check(result: Any, rows: np.ndarray = ROWS) -> None:
    assert np.array_equal(result.as_numpy("y"), np.maximum(rows, 0))


def test_triton_describes_the_server_and_its_models(client: Any, folder: Path) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("sums")
    assert client.is_model_ready("sums", "3")
    metadata = client.get_server_metadata()
    assert metadata.name == "splitter"
    assert {"model_repository", "statistics", "schedule_policy"} <= set(metadata.extensions)
    model = client.get_model_metadata("sums")
    assert (list(model.versions), model.platform) == (["3"], "onnxruntime_onnx")
    assert [(t.name, t.datatype, list(t.shape)) for t in model.inputs] == [("a", "FP32", [-1, 4])]
    assert [(t.name, list(t.shape)) for t in model.outputs] == [("y", [-1, 4]), ("s", [-1, 1])]
    config = client.get_model_config("sums").config
    assert (config.name, config.backend, config.max_batch_size) == ("sums", "onnxruntime", 4)
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [("a", 11, [4])]
    assert [(o.name, list(o.dims)) for o in config.output] == [("y", [4]), ("s", [1])]
    assert list(config.dynamic_batching.preferred_batch_size) == [2, 4]
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 16
    digest = Manifest.load(folder / "sums" / "3").digest
    assert config.parameters["bundle"].string_value == digest
    assert client.get_model_config("sums", as_json=True)["config"]["platform"] == "onnxruntime_onnx"


def test_triton_infers_with_priority_and_timeout(client: Any) -> None:
    result = client.infer(
        "sums", [tensor()], model_version="3", request_id="one", priority=1, timeout=5_000_000,
        outputs=[triton.InferRequestedOutput("s"), triton.InferRequestedOutput("y")],
    )  # fmt: skip
    check(result)
    assert result.get_response().id == "one"
    assert [output.name for output in result.get_response().outputs] == ["s", "y"]
    done: queue.Queue[Any] = queue.Queue()
    client.async_infer("sums", [tensor()], lambda result, error: done.put((result, error)))
    result, error = done.get(timeout=30)
    assert error is None
    check(result)


def test_triton_compresses_and_sends_headers(client: Any) -> None:
    zeros = np.zeros((4, 4), np.float32)
    for algorithm in ("gzip", "deflate"):
        result = client.infer(
            "sums", [tensor(zeros)], compression_algorithm=algorithm, headers={"x-more": "1"}
        )
        check(result, zeros)


def test_triton_reads_statistics(client: Any) -> None:
    before = client.get_inference_statistics("sums").model_stats[0]
    client.infer("sums", [tensor()])
    after = client.get_inference_statistics("sums", "3").model_stats[0]
    assert after.inference_count - before.inference_count == 2
    assert after.execution_count - before.execution_count == 1
    assert after.inference_stats.success.count > before.inference_stats.success.count
    names = {stats.name for stats in client.get_inference_statistics().model_stats}
    assert names >= {"sums"}


def test_triton_loads_and_unloads(client: Any) -> None:
    client.load_model("spare")
    index = client.get_model_repository_index().models
    assert [(m.name, m.version, m.state) for m in index] == [
        ("spare", "1", "READY"),
        ("sums", "3", "READY"),
    ]
    client.infer("spare", [tensor()])
    client.unload_model("spare")
    index = client.get_model_repository_index().models
    assert [(m.name, m.state, m.reason) for m in index][0] == ("spare", "UNAVAILABLE", "unloaded")
    assert not client.is_model_ready("spare")
    with pytest.raises(triton.InferenceServerException, match="UNAVAILABLE"):
        client.infer("spare", [tensor()])
    client.load_model("spare")
    assert client.is_model_ready("spare")
    for refused in ({"config": "{}"}, {"files": {"file:1/model.onnx": b"x"}, "config": "{}"}):
        with pytest.raises(triton.InferenceServerException, match=r"parameters .* are not taken"):
            client.load_model("spare", **refused)
    for call in (client.load_model, client.unload_model):
        with pytest.raises(triton.InferenceServerException, match="no model is named 'other'"):
            call("other")


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("get_system_shared_memory_status", ()),
        ("get_cuda_shared_memory_status", ()),
        ("register_system_shared_memory", ("x", "/x", 1)),
        ("get_trace_settings", ()),
        ("get_log_settings", ()),
    ],
)
def test_what_is_not_offered_says_so(client: Any, method: str, arguments: Any) -> None:
    with pytest.raises(triton.InferenceServerException, match="is not offered") as caught:
        getattr(client, method)(*arguments)
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


def test_triton_streams_in_order_and_errors_do_not_end_the_stream(client: Any) -> None:
    done: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: done.put((result, error)))
    rows = [np.full((1 + i % 2, 4), i, np.float32) for i in range(60)]
    for number, one in enumerate(rows):
        bad = number % 10 == 3
        client.async_stream_infer(
            "nothing" if bad else "sums", [tensor(one)], request_id=str(number)
        )
    for number, one in enumerate(rows):
        result, error = done.get(timeout=30)
        if number % 10 == 3:
            assert "NOT_FOUND: no model is named 'nothing'" in error.message()
        else:
            assert error is None
            assert result.get_response().id == str(number)
            check(result, one)
    client.async_stream_infer("sums", [tensor()], enable_empty_final_response=True)
    result, _ = done.get(timeout=30)
    assert result.get_response().parameters["triton_final_response"].bool_param
    client.stop_stream()


def test_triton_calls_from_asyncio(server: Server) -> None:
    async def call() -> None:
        async with triton_aio.InferenceServerClient(server.address) as client:
            assert await client.is_server_ready()
            assert (await client.get_model_config("sums")).config.name == "sums"
            await client.get_inference_statistics()
            await client.get_model_repository_index()
            many = [client.infer("sums", [tensor(library=triton_aio)]) for _ in range(20)]
            for result in await asyncio.gather(*many):
                check(result)

            async def requests() -> AsyncIterator[dict[str, Any]]:
                for number in range(20):
                    rows = np.full((1, 4), number, np.float32)
                    yield {"model_name": "sums", "inputs": [tensor(rows, triton_aio)]}

            number = 0
            async for result, error in client.stream_infer(requests()):
                assert error is None
                check(result, np.full((1, 4), number, np.float32))
                number += 1
            assert number == 20

    asyncio.run(call())


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as made:
        yield made


def test_health_knows_the_server_the_service_and_each_model(
    channel: grpc.Channel, client: Any
) -> None:
    client.load_model("spare")
    stub = health_pb2_grpc.HealthStub(channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    for name in ("", "inference.GRPCInferenceService", "sums", "spare"):
        request = health_pb2.HealthCheckRequest(service=name)
        assert stub.Check(request, timeout=10).status == serving
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="other"), timeout=10)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    listed = stub.List(health_pb2.HealthListRequest(), timeout=10).statuses
    assert listed["sums"].status == serving


def test_health_is_watched(channel: grpc.Channel, client: Any) -> None:
    client.load_model("spare")
    stub = health_pb2_grpc.HealthStub(channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="spare"), timeout=30)
    unknown = stub.Watch(health_pb2.HealthCheckRequest(service="other"), timeout=30)
    response = health_pb2.HealthCheckResponse
    assert next(watch).status == response.SERVING
    assert next(unknown).status == response.SERVICE_UNKNOWN
    client.unload_model("spare")
    assert next(watch).status == response.NOT_SERVING
    client.load_model("spare")
    assert next(watch).status == response.SERVING
    watch.cancel()
    unknown.cancel()


def test_reflection_shows_what_is_offered(channel: grpc.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest
    answers = stub.ServerReflectionInfo(
        iter(
            [
                request(list_services=""),
                request(file_containing_symbol="inference.GRPCInferenceService"),
                request(file_containing_symbol="grpc.health.v1.Health"),
                request(file_containing_symbol="no.such.Service"),
            ]
        ),
        timeout=30,
    )
    services = {service.name for service in next(answers).list_services_response.service}
    assert services == {
        "inference.GRPCInferenceService",
        "splitter.Monitor",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    files = next(answers).file_descriptor_response.file_descriptor_proto
    file = FileDescriptorProto.FromString(files[0])
    assert {"ModelInfer", "ModelStreamInfer"} <= {m.name for m in file.service[0].method}
    assert next(answers).file_descriptor_response.file_descriptor_proto
    assert next(answers).error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
