"""Loopback latency of `serve` + `Session` beside a bare gRPC echo of the same messages, and codec speed.

One JSON line a figure on standard output. Rivals are timed in turns (A B A B), so that a disturbed
stretch falls on all of them. ``python benchmarks/serving.py [--smoke]``
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx.parser

from splitter.codec import CODECS, get_codec
from splitter.graph.cut import cut_of
from splitter.graph.read import load_model
from splitter.partition.bundle import write_bundle
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.protocol import SERVICE
from splitter.serving.server import serve
from splitter.serving.session import Session

SIZES = {"100 B": 25, "10 kB": 2_500, "1 MB": 250_000}
ACTIVATIONS = {0.17: (64, 55, 55), 0.61: (128, 55, 55), 0.93: (512, 13, 13)}
TERMS = ("head_s", "encode_s", "link_s", "queue_s", "decode_s", "tail_s")
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def activations(shape: tuple[int, ...], zeros: float) -> np.ndarray:
    """Rectified normals, smooth in space: neighbours correlate as after a convolution."""
    noise = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for axis in range(1, len(shape)):
        noise = noise + np.roll(noise, 1, axis)
    return np.maximum(noise - np.quantile(noise, zeros), 0).astype(np.float32)


def interleaved(rivals: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for turn in range(rounds + rounds // 10 + 1):
        for name, run in rivals.items():
            started = time.perf_counter()
            run()
            if turn > rounds // 10:
                seconds[name].append(time.perf_counter() - started)
    return {name: np.array(values) for name, values in seconds.items()}


def report(benchmark: str, subject: str, **figures: float) -> None:
    print(json.dumps({"benchmark": benchmark, "subject": subject, **figures}), flush=True)


def echo_floor(stack: ExitStack, array: np.ndarray) -> Callable[[], object]:
    """Protobuf, gRPC and nothing else: the request's tensor comes back as the response's."""

    def echo(request: pb.ModelInferRequest, _: Any) -> pb.ModelInferResponse:
        response = pb.ModelInferResponse(model_name=request.model_name)
        response.outputs.add(name="y", datatype="FP32", shape=request.inputs[0].shape)
        response.raw_output_contents.append(request.raw_input_contents[0])
        return response

    server = grpc.server(ThreadPoolExecutor(4), options=UNLIMITED)
    handler = grpc.unary_unary_rpc_method_handler(
        echo,
        request_deserializer=pb.ModelInferRequest.FromString,
        response_serializer=pb.ModelInferResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    stack.callback(lambda: server.stop(0).wait())
    channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}", options=UNLIMITED))
    infer = channel.unary_unary(
        f"/{SERVICE}/ModelInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelInferResponse.FromString,
    )

    def run() -> np.ndarray:
        request = pb.ModelInferRequest(model_name="echo")
        request.inputs.add(name="x", datatype="FP32", shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
        return np.frombuffer(infer(request).raw_output_contents[0], np.float32)

    return run


def session(stack: ExitStack, array: np.ndarray, codec: str) -> Session:
    """A bundle without head, whose tail is one cheap operator: the rest is what is timed."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        echo (float[{array.size}] x) => (float[{array.size}] y) {{ y = Neg(x) }}"""
    (folder / "echo.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    model = load_model(folder / "echo.onnx")
    bundle = write_bundle(
        model, cut_of(model.graph, []), folder / "b", codecs={"x": get_codec(codec)}
    )
    server = stack.enter_context(serve(bundle.folder))
    return stack.enter_context(Session(bundle.folder, server.address))


def latency(size: str, array: np.ndarray, rounds: int) -> None:
    with ExitStack() as stack:
        sessions = {codec: session(stack, array, codec) for codec in CODECS}
        rivals: dict[str, Callable[[], object]] = {"floor": echo_floor(stack, array)}
        for codec, running in sessions.items():
            rivals[codec] = partial(running.run, None, {"x": array})
        found = interleaved(rivals, rounds)
        floor_ms = float(np.median(found["floor"])) * 1e3
        for name, seconds in found.items():
            p50, p99 = np.percentile(seconds * 1e3, [50, 99])
            figures = {"p50_ms": p50, "p99_ms": p99, "over_floor_ms": p50 - floor_ms}
            report("latency", f"{size} {name}", **{k: round(v, 3) for k, v in figures.items()})
        for codec, running in sessions.items():
            terms = {term: round(getattr(running.last, term), 6) for term in TERMS}
            report("terms", f"{size} {codec}", **terms, up_bytes=running.last.up_bytes)


def codec_speed(label: str, array: np.ndarray, rounds: int) -> None:
    payloads = {name: codec.encode(array) for name, codec in CODECS.items()}
    rivals: dict[str, Callable[[], object]] = {}
    for name, codec in CODECS.items():
        rivals[f"{name} encode"] = partial(codec.encode, array)
        rivals[f"{name} decode"] = partial(codec.decode, payloads[name], "float32", array.shape)
    for name, seconds in interleaved(rivals, rounds).items():
        report(
            "codec",
            f"{label} {name}",
            mb_per_s=round(array.nbytes / 1e6 / float(np.median(seconds))),
            bits_per_element=round(8 * len(payloads[name.split()[0]]) / array.size, 2),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few rounds; timings mean nothing")
    rounds = 3 if parser.parse_args().smoke else 400
    for size, count in SIZES.items():
        latency(size, activations((count,), 0.5), rounds)
    for zeros, shape in ACTIVATIONS.items():
        codec_speed(f"{zeros:.0%} zeros", activations(shape, zeros), max(3, rounds // 8))


if __name__ == "__main__":
    main()
