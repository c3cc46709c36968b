"""Too much of everything, and people who mean harm: others are served, and memory stays what it was."""

from __future__ import annotations

import os
import resource
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import trustme
import zstandard
from grpc_health.v1 import health_pb2, health_pb2_grpc

from splitter.errors import ServingError
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.protocol import METHODS, SERVICE
from splitter.serving.server import serve as server_module
from splitter.serving.server.calls import Patience
from splitter.serving.server.options import ServerOptions
from splitter.serving.server.serve import serve
from tests.serving import Gate, float_request, make_batching, outputs_of, plain_client, wait_until

ROW = np.array([[-1, 2, -3, 4]], np.float32)
MAY_GROW_BYTES = 64 << 20
SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_batching(tmp_path_factory.mktemp("limits"))


def request() -> pb.ModelInferRequest:
    return float_request("sums", "a", ROW)


def healthy(channel: grpc.Channel) -> bool:
    check = health_pb2_grpc.HealthStub(channel).Check
    return bool(check(health_pb2.HealthCheckRequest(), timeout=10).status == SERVING)


def infer_of(channel: grpc.Channel) -> Any:
    return channel.unary_unary(
        f"/{SERVICE}/ModelInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelInferResponse.FromString,
    )


def stream_of(channel: grpc.Channel) -> Any:
    return channel.stream_stream(
        f"/{SERVICE}/ModelStreamInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelStreamInferResponse.FromString,
    )


def test_health_and_metadata_answer_while_every_thread_for_inference_waits(
    bundle: Path, gate: Gate
) -> None:
    options = ServerOptions(workers=1, queue=1, concurrent=4, streams=1)
    with serve(bundle, options=options) as server, plain_client(server.address) as call:
        gate.shut()
        with grpc.insecure_channel(server.address) as channel:
            infer = infer_of(channel)
            running = [infer.future(request(), timeout=60)]
            gate.wait_begun()
            running.append(infer.future(request(), timeout=60))
            wait_until(lambda: sum(server.queue_depths().values()) == 1, "the second")
            with pytest.raises(grpc.RpcError) as caught:
                infer(request(), timeout=10)
            error: Any = caught.value
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "too many requests wait" in error.details()
            hint = dict(error.trailing_metadata())["grpc-retry-pushback-ms"]
            assert 1 <= int(hint) < 60_000

            def silence() -> Iterator[Any]:
                assert gate.is_open.wait(60)
                yield from ()

            streams = [stream_of(channel)(silence(), timeout=60) for _ in range(2)]
            refused = {code_of(stream) for stream in streams if stream is not streams[0]}
            assert refused == {grpc.StatusCode.RESOURCE_EXHAUSTED}
            assert server.in_flight() == 3
            assert healthy(channel)
            assert call("ServerReady", pb.ServerReadyRequest()).ready
            assert call("ModelMetadata", pb.ModelMetadataRequest(name="sums")).inputs
            gate.is_open.set()
            for one in running:
                assert one.result(30).raw_output_contents
    wait_until(lambda: server.in_flight() == 0)


def code_of(stream: Any) -> Any:
    with pytest.raises(grpc.RpcError):
        next(stream)
    return stream.code()


def test_a_call_too_many_is_refused_before_its_message_is_read(bundle: Path, gate: Gate) -> None:
    options = ServerOptions(workers=1, concurrent=2, queue=8)
    with serve(bundle, options=options) as server, grpc.insecure_channel(server.address) as channel:
        gate.shut()
        infer = infer_of(channel)
        running = [infer.future(request(), timeout=60) for _ in range(2)]
        wait_until(lambda: server.in_flight() == 2)
        with pytest.raises(grpc.RpcError) as caught:
            infer(request(), timeout=10)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "2 calls of this kind (infer) are in flight" in error.details()
        assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "100"
        gate.is_open.set()
        for one in running:
            one.result(30)


def test_one_address_has_a_limit_of_its_own(bundle: Path, gate: Gate) -> None:
    options = ServerOptions(workers=1, per_peer=2, insecure=True)
    with ExitStack() as stack:
        server = stack.enter_context(serve(bundle, "0.0.0.0:0", options))
        gate.shut()
        near, other = (
            infer_of(stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{server.port}")))
            if host == "127.0.0.1"
            else infer_of(
                stack.enter_context(grpc.insecure_channel(f"{own_address()}:{server.port}"))
            )
            for host in ("127.0.0.1", "other")
        )
        running = [near.future(request(), timeout=60) for _ in range(2)]
        wait_until(lambda: server.in_flight() == 2)
        with pytest.raises(grpc.RpcError) as caught:
            near(request(), timeout=10)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "2 requests of ipv4:127.0.0.1 are in flight" in error.details()
        running.append(other.future(request(), timeout=60))
        wait_until(lambda: server.in_flight() == 3)
        gate.is_open.set()
        for one in running:
            one.result(30)


def own_address() -> str:
    """Of this machine, as seen from outside."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            pytest.skip("needs an address beside loopback")
        address = str(probe.getsockname()[0])
    if address.startswith("127."):
        pytest.skip("needs an address beside loopback")
    return address


def test_work_whose_caller_hung_up_is_not_run(bundle: Path, gate: Gate) -> None:
    options = ServerOptions(workers=1)
    with serve(bundle, options=options) as server, grpc.insecure_channel(server.address) as channel:
        gate.shut()
        infer = infer_of(channel)
        running = infer.future(request(), timeout=60)
        gate.wait_begun()
        gone = infer.future(request(), timeout=60)
        stream = stream_of(channel)(iter([request()] * 3), timeout=60)
        late = infer.future(request(), timeout=1)
        wait_until(lambda: sum(server.queue_depths().values()) == 5)
        gone.cancel()
        stream.cancel()
        assert late.exception(30).code() is grpc.StatusCode.DEADLINE_EXCEEDED  # type: ignore[union-attr]
        wait_until(lambda: sum(server.queue_depths().values()) == 0)
        gate.is_open.set()
        running.result(30)
        wait_until(lambda: server.in_flight() == 0)
    assert len(gate.sizes) == 1


def test_clients_share_runs(bundle: Path, gate: Gate) -> None:
    options = ServerOptions(workers=1, max_batch=8)
    with serve(bundle, options=options) as server, ExitStack() as stack:
        channels = [
            stack.enter_context(
                grpc.insecure_channel(
                    server.address, options=[("grpc.use_local_subchannel_pool", 1)]
                )
            )
            for _ in range(8)
        ]
        gate.shut()
        first = infer_of(channels[0]).future(request(), timeout=60)
        gate.wait_begun()
        rows = [np.full((1, 4), number, np.float32) for number in range(8)]
        running = [
            infer_of(channel).future(float_request("sums", "a", row), timeout=60)
            for channel, row in zip(channels, rows, strict=True)
        ]
        wait_until(lambda: sum(server.queue_depths().values()) == 8)
        gate.is_open.set()
        first.result(30)
        for one, row in zip(running, rows, strict=True):
            response = one.result(30)
            assert np.array_equal(outputs_of(response)["y"], row)
            assert response.parameters["batch_size"].int64_param == 8
        stats = server.repository.find("sums").statistics.message("sums", "1")
        runs = {batch.batch_size: batch.compute_infer.count for batch in stats.batch_stats}
        assert runs == {1: 1, 8: 1}, "batches count runs"
        assert (stats.inference_count, stats.execution_count) == (9, 2)
        assert stats.inference_stats.compute_infer.count == 9, "the model counts requests"
    assert gate.sizes == [1, 8]


def test_only_calls_that_are_allowed_are_answered(bundle: Path) -> None:
    seen: list[Any] = []

    def authenticate(metadata: Any) -> bool:
        seen.append(dict(metadata))
        if seen[-1].get("authorization") == "break":
            raise RuntimeError("no")
        return bool(seen[-1].get("authorization") == "Bearer good")

    options = ServerOptions(authenticate=authenticate)
    with serve(bundle, options=options) as server, grpc.insecure_channel(server.address) as channel:
        good = (("authorization", "Bearer good"),)
        infer = infer_of(channel)
        assert infer(request(), timeout=10, metadata=good).raw_output_contents
        for name in METHODS:
            stranger = channel.unary_unary(f"/{SERVICE}/{name}")
            for metadata in (None, (("authorization", "break"),)):
                with pytest.raises(grpc.RpcError) as caught:
                    stranger(b"", timeout=10, metadata=metadata)
                assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        reflection = channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        )
        assert code_of(reflection(iter([b""]), timeout=10)) is grpc.StatusCode.UNAUTHENTICATED
        assert healthy(channel), "health is for everybody"


def test_with_a_certificate_it_may_listen_everywhere(bundle: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    credentials = grpc.ssl_server_credentials(
        [(certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes())]
    )
    with serve(bundle, "0.0.0.0:0", ServerOptions(credentials=credentials)) as server:
        trusted = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
        with grpc.secure_channel(f"localhost:{server.port}", trusted) as channel:
            assert infer_of(channel)(request(), timeout=30).raw_output_contents


@pytest.mark.parametrize(
    "wrong",
    [{"workers": 0}, {"max_batch": 0}, {"queue": -1}, {"max_delay_s": -1.0}, {"preferred": (9,)}],
)
def test_options_that_make_no_sense_are_refused(wrong: Any) -> None:
    with pytest.raises(ServingError, match=next(iter(wrong))):
        ServerOptions(**wrong)


class Process:
    """A server in a process of its own, whose memory is watched."""

    def __init__(self, bundle: Path) -> None:
        code = (
            "import sys; from splitter.serving.server.serve import serve; "
            "server = serve(sys.argv[1]); print(server.port, flush=True); server.wait()"
        )
        self.running = subprocess.Popen(
            [sys.executable, "-c", code, str(bundle)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        assert self.running.stdout is not None
        self.port = int(self.running.stdout.readline())
        self.address = f"127.0.0.1:{self.port}"
        self.process = psutil.Process(self.running.pid)
        self.serves()
        self.nbytes = self.process.memory_info().rss

    def serves(self) -> None:
        """Another client is served."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(self.address, options=options) as channel:
            response = infer_of(channel)(request(), timeout=30)
            assert np.array_equal(outputs_of(response)["y"], np.maximum(ROW, 0))
            assert healthy(channel)

    def is_well(self) -> None:
        """It serves others, in the memory that it had."""
        self.serves()
        assert self.process.memory_info().rss < self.nbytes + MAY_GROW_BYTES


@pytest.fixture(scope="module")
def process(bundle: Path) -> Iterator[Process]:
    made = Process(bundle)
    yield made
    made.running.send_signal(signal.SIGKILL)
    made.running.wait()
    assert made.running.stdout is not None
    made.running.stdout.close()


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def raw_call(port: int, path: str = f"/{SERVICE}/ModelInfer") -> socket.socket:
    """A connection on which a call has begun, written by hand."""
    made = socket.create_connection(("127.0.0.1", port), timeout=10)
    headers = {
        ":method": "POST", ":scheme": "http", ":path": path, ":authority": "x",
        "content-type": "application/grpc", "te": "trailers",
    }  # fmt: skip
    block = b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in headers.items()
    )
    made.sendall(PREFACE + frame(4, 0, 0, b"") + frame(1, 4, 1, block))
    return made


def data(stream: int, payload: bytes, flags: int = 0) -> bytes:
    return frame(0, flags, stream, payload)


def test_a_thousand_idle_connections_do_not_keep_others_out(process: Process) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1500:
        pytest.skip(f"needs 1500 descriptors, may have {hard}")
    if resource.prlimit(process.running.pid, resource.RLIMIT_NOFILE)[0] < 1500:
        resource.prlimit(process.running.pid, resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1500), hard))
    try:
        with ExitStack() as stack:
            for number in range(1000):
                idle = stack.enter_context(
                    socket.create_connection(("127.0.0.1", process.port), timeout=10)
                )
                if number % 2:  # others do not even say hello
                    idle.sendall(PREFACE + frame(4, 0, 0, b""))
            wait_until(lambda: process.process.num_fds() > 1000, "the last connection")
            process.serves()
            assert process.process.memory_info().rss < process.nbytes + (256 << 20)
        process.serves()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_clients_that_stop_half_way_hold_up_nobody(process: Process) -> None:
    message = struct.pack(">BI", 0, 1 << 19)
    with ExitStack() as stack:
        for number in range(40):
            made = stack.enter_context(raw_call(process.port))
            made.sendall(data(1, message + bytes(number)))
        for number in range(200):  # health and metadata as well
            path = "/grpc.health.v1.Health/Check" if number % 2 else f"/{SERVICE}/ServerReady"
            made = stack.enter_context(raw_call(process.port, path))
            made.sendall(data(1, message))
            if number % 3:
                made.sendall(data(1, b"x"))
        process.is_well()
    process.is_well()


def test_a_client_that_trickles_bytes_holds_up_nobody(process: Process) -> None:
    whole = request().SerializeToString()
    message = struct.pack(">BI", 0, len(whole)) + whole
    with raw_call(process.port) as slow:
        for at in range(len(message)):
            slow.sendall(data(1, message[at : at + 1], flags=at == len(message) - 1))
            if at % 20 == 0:
                process.serves()
        answer = b""
        while b"sums" not in answer:
            received = slow.recv(65536)
            assert received, answer
            answer += received
    process.is_well()


def test_a_client_that_never_reads_its_answers_holds_up_nobody(process: Process) -> None:
    whole = request().SerializeToString()
    message = struct.pack(">BI", 0, len(whole)) + whole
    with raw_call(process.port, f"/{SERVICE}/ModelStreamInfer") as deaf:
        deaf.sendall(frame(4, 0, 0, struct.pack(">HI", 4, 0)))  # a window of no bytes
        for _ in range(200):
            deaf.sendall(data(1, message))
        process.is_well()
    process.is_well()


def test_a_stream_that_is_cut_off_holds_up_nobody(process: Process) -> None:
    message = struct.pack(">BI", 0, 100) + bytes(50)
    for path in ("ModelInfer", "ModelStreamInfer"):
        for flags in (0, 1):  # the connection goes, or the stream ends in the middle
            with raw_call(process.port, f"/{SERVICE}/{path}") as made:
                made.sendall(data(1, message, flags))
                process.serves()
    process.is_well()


def bomb(declared: bool) -> bytes:
    """Half a gigabyte of zeros, in some twenty thousand bytes."""
    compressor = zstandard.ZstdCompressor(level=1, write_content_size=declared)
    worker = compressor.compressobj(size=512 << 20 if declared else -1)
    zeros = bytes(8 << 20)
    return b"".join(worker.compress(zeros) for _ in range(64)) + worker.flush()


def test_a_decompression_bomb_is_refused_unopened(process: Process) -> None:
    for declared in (True, False):
        payload = bomb(declared)
        hostile = pb.ModelInferRequest(model_name="sums")
        for shape in ("1,4", "134217728", "33554432,4"):
            hostile.ClearField("inputs")
            hostile.ClearField("raw_input_contents")
            header = hostile.inputs.add(name="a", datatype="UINT8", shape=[len(payload)])
            for key, value in {"codec": "zstd", "dtype": "FP32", "shape": shape}.items():
                header.parameters[key].string_param = value
            hostile.raw_input_contents.append(payload)
            with (
                grpc.insecure_channel(process.address) as channel,
                pytest.raises(grpc.RpcError) as caught,
            ):
                infer_of(channel)(hostile, timeout=30)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    process.is_well()


def test_shapes_beyond_all_bounds_are_refused(process: Process) -> None:
    with plain_client(process.address) as call:
        for shape in ([1 << 62, 1 << 62], [(1 << 63) - 1], [-1, 4], [0] * 10_000, [1, 1 << 62]):
            hostile = request()
            hostile.inputs[0].shape[:] = shape
            with pytest.raises(grpc.RpcError) as caught:
                call("ModelInfer", hostile)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    process.is_well()


def test_a_message_that_never_comes_whole_loses_its_thread(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        server_module, "_PATIENCE", Patience(most_s=-1e6)
    )  # whoever is looked for is late
    with serve(bundle) as server, raw_call(server.port) as slow:
        slow.sendall(data(1, struct.pack(">BI", 0, 100)))
        wait_until(lambda: server.in_flight() == 1)
        wait_until(lambda: server.in_flight() == 0)


def test_many_clients_at_once_each_get_their_own(process: Process) -> None:
    def work(number: int) -> None:
        row = np.full((1, 4), number, np.float32)
        with grpc.insecure_channel(process.address) as channel:
            infer = infer_of(channel)
            for _ in range(20):
                response = infer(float_request("sums", "a", row), timeout=30)
                assert np.array_equal(outputs_of(response)["y"], row)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))


def test_descriptors_are_given_back(process: Process) -> None:
    wait_until(lambda: process.process.num_fds() < 100 + os.cpu_count() * 4)  # type: ignore[operator]
