"""What `splitter serve` costs over a bare gRPC server of the same protocol, messages and work.

Servers run in processes of their own, and one client times them in turns (A B A B):

- ``floor``: `grpc.aio`, an echo: it parses the request and answers with its tensor;
- ``floor_run``: the same, but it runs the model in the handler, as ours does;
- ``ours``: a bundle without head whose tail is the same model (``y = -x``); ``ours_stream``: by a stream.

One JSON line for each size and server, with p50 and p99 over those of the floor.
``python benchmarks/serving_overhead.py [--smoke]``
"""

from __future__ import annotations

import argparse
import asyncio
import json
import queue
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import numpy as np
import onnx.parser

from splitter.codec import RAW
from splitter.graph.cut import cut_of
from splitter.graph.read import load_model
from splitter.partition.bundle import Division, write_bundle
from splitter.runtime import Runner
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.protocol import SERVICE
from splitter.serving.server.serve import serve

SIZES = {"100 B": 25, "10 kB": 2_500, "1 MB": 250_000}
SERVERS = ("floor", "floor_run", "ours")
UNLIMITED = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
]


def model_of(count: int) -> bytes:
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        echo (float[{count}] x) => (float[{count}] y) {{ y = Neg(x) }}"""
    return bytes(onnx.parser.parse_model(text).SerializeToString())


def echo(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    response = pb.ModelInferResponse(model_name=request.model_name)
    response.outputs.add(name="y", datatype="FP32", shape=request.inputs[0].shape)
    response.raw_output_contents.append(request.raw_input_contents[0])
    return response


def run_by(runner: Runner) -> Callable[[pb.ModelInferRequest], pb.ModelInferResponse]:
    def run(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        (result,) = runner.run({"x": np.frombuffer(request.raw_input_contents[0], np.float32)})
        response = pb.ModelInferResponse(model_name=request.model_name)
        response.outputs.add(name="y", datatype="FP32", shape=result.shape)
        response.raw_output_contents.append(result.tobytes())
        return response

    return run


async def serve_floor(answer: Callable[[pb.ModelInferRequest], pb.ModelInferResponse]) -> None:
    async def handle(request: pb.ModelInferRequest, _: object) -> pb.ModelInferResponse:
        return answer(request)

    server = grpc.aio.server(options=UNLIMITED)
    handler = grpc.unary_unary_rpc_method_handler(
        handle,
        request_deserializer=pb.ModelInferRequest.FromString,
        response_serializer=pb.ModelInferResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


def be_server(kind: str, count: int) -> None:
    if kind == "ours":
        with tempfile.TemporaryDirectory() as name:
            path = Path(name, "echo.onnx")
            path.write_bytes(model_of(count))
            model = load_model(path)
            division = Division(cut_of(model.graph, []), {"x": RAW})
            bundle = write_bundle(model, [division], Path(name, "bundle"))
            server = serve(bundle.folder)
        print(server.port, flush=True)
        server.wait()
    else:
        answer = echo if kind == "floor" else run_by(Runner(model_of(count)))
        asyncio.run(serve_floor(answer))


@contextmanager
def started(kind: str, count: int) -> Iterator[str]:
    command = [sys.executable, __file__, "--server", kind, str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def unary(channel: grpc.Channel, request: pb.ModelInferRequest) -> Callable[[], object]:
    call = channel.unary_unary(
        f"/{SERVICE}/ModelInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelInferResponse.FromString,
    )
    return lambda: call(request)


def streamed(
    stack: ExitStack, channel: grpc.Channel, request: pb.ModelInferRequest
) -> Callable[[], object]:
    """One request at a time over one stream."""
    call = channel.stream_stream(
        f"/{SERVICE}/ModelStreamInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelStreamInferResponse.FromString,
    )
    messages: queue.SimpleQueue[pb.ModelInferRequest | None] = queue.SimpleQueue()
    answers = call(iter(messages.get, None))
    stack.callback(messages.put, None)

    def run() -> object:
        messages.put(request)
        return next(answers)

    return run


def measure(label: str, count: int, rounds: int) -> None:
    array = np.ones(count, np.float32)
    request = pb.ModelInferRequest(model_name="echo")
    request.inputs.add(name="x", datatype="FP32", shape=[count])
    request.raw_input_contents.append(array.tobytes())
    with ExitStack() as stack:
        rivals: dict[str, Callable[[], object]] = {}
        for kind in SERVERS:
            address = stack.enter_context(started(kind, count))
            channel = stack.enter_context(grpc.insecure_channel(address, options=UNLIMITED))
            rivals[kind] = unary(channel, request)
            if kind == "ours":
                rivals["ours_stream"] = streamed(stack, channel, request)
        seconds: dict[str, list[float]] = {kind: [] for kind in rivals}
        order, draw = list(rivals), random.Random(0)
        for turn in range(rounds + rounds // 10 + 1):
            draw.shuffle(
                order
            )  # each comes after each: one leaves the caches as the next finds them
            for kind in order:
                run = rivals[kind]
                begun = time.perf_counter()
                run()
                if turn > rounds // 10:
                    seconds[kind].append(time.perf_counter() - begun)
        rivals.clear()
    floor = np.percentile(seconds["floor"], [50, 99])
    for kind, values in seconds.items():
        p50, p99 = np.percentile(values, [50, 99])
        figures = {
            "p50_ms": round(p50 * 1e3, 3),
            "p99_ms": round(p99 * 1e3, 3),
            "p50_over_floor": round(p50 / floor[0], 3),
            "p99_over_floor": round(p99 / floor[1], 3),
        }
        line = {"benchmark": "serving_overhead", "subject": f"{label} {kind}", **figures}
        print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few rounds; timings mean nothing")
    parser.add_argument("--server", nargs=2, metavar=("KIND", "COUNT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.server:
        be_server(arguments.server[0], int(arguments.server[1]))
        return
    for label, count in SIZES.items():
        measure(label, count, 5 if arguments.smoke else 1000)


if __name__ == "__main__":
    main()
