"""A server that stops: health first, then what is in flight, then nothing."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.server.options import ServerOptions
from splitter.serving.server.serve import serve
from tests.serving import Gate, float_request, make_batching, plain_client, wait_until
from tests.test_serving_limits import infer_of, stream_of

ROW = np.array([[-1, 2, -3, 4]], np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_batching(tmp_path_factory.mktemp("drain"))


def request() -> pb.ModelInferRequest:
    return float_request("sums", "a", ROW)


def test_in_flight_requests_end_while_new_ones_are_refused(bundle: Path, gate: Gate) -> None:
    options = ServerOptions(workers=1)
    server = serve(bundle, options=options)
    with (
        grpc.insecure_channel(server.address) as channel,
        plain_client(server.address) as call,
        ThreadPoolExecutor(1) as pool,
    ):
        infer = infer_of(channel)
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        gate.shut()
        running = [infer.future(request(), timeout=60) for _ in range(3)]
        gate.wait_begun()
        wait_until(lambda: sum(server.queue_depths().values()) == 2)
        stopping = pool.submit(server.stop, 60.0)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        check = health.Check(health_pb2.HealthCheckRequest(service="sums"), timeout=10)
        assert check.status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert not call("ServerReady", pb.ServerReadyRequest()).ready
        assert not call("ModelReady", pb.ModelReadyRequest(name="sums")).ready
        assert call("ServerLive", pb.ServerLiveRequest()).live
        with pytest.raises(grpc.RpcError) as caught:
            infer(request(), timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not stopping.done()
        gate.is_open.set()
        for one in running:
            assert one.result(30).raw_output_contents
        stopping.result(30)
        with pytest.raises(grpc.RpcError) as caught:
            infer(request(), timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_stream_gets_its_answers_and_then_the_end(bundle: Path, gate: Gate) -> None:
    server = serve(bundle, options=ServerOptions(workers=1))
    with grpc.insecure_channel(server.address) as channel, ThreadPoolExecutor(1) as pool:
        gate.shut()

        def requests() -> Iterator[Any]:
            for _ in range(3):
                yield request()
            assert gate.is_open.wait(60)  # the client does not end it
            wait_until(lambda: not server.in_flight())

        stream = stream_of(channel)(requests(), timeout=60)
        gate.wait_begun()
        wait_until(lambda: sum(server.queue_depths().values()) == 2)
        stopping = pool.submit(server.stop, 60.0)
        wait_until(lambda: server._admission.is_closed)
        gate.is_open.set()
        for _ in range(3):
            assert not next(stream).error_message
        with pytest.raises(grpc.RpcError):
            next(stream)
        assert stream.code() is grpc.StatusCode.UNAVAILABLE
        stopping.result(30)


def test_grace_is_not_for_ever(bundle: Path, gate: Gate) -> None:
    server = serve(bundle, options=ServerOptions(workers=1))
    with grpc.insecure_channel(server.address) as channel:
        gate.shut()
        running = infer_of(channel).future(request(), timeout=60)
        gate.wait_begun()
        server.stop(grace_s=0.05)
        assert running.exception(30) is not None
        gate.is_open.set()
    server.stop()  # twice does no harm
