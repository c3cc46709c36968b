"""Loopback latency of `serve` + `Session` by codec, in its terms, and codec speed.

One JSON line a figure on standard output. Rivals are timed in turns (A B A B), so that a disturbed
stretch falls on all of them. What the server costs over a bare one is in ``serving_overhead.py``.
``python benchmarks/serving.py [--smoke]``
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import onnx.parser

from splitter.codec import CODECS, get_codec
from splitter.graph.cut import cut_of
from splitter.graph.read import load_model
from splitter.partition.bundle import Division, write_bundle
from splitter.serving.server import serve
from splitter.serving.session import Session

SIZES = {"100 B": 25, "10 kB": 2_500, "1 MB": 250_000}
ACTIVATIONS = {0.17: (64, 55, 55), 0.61: (128, 55, 55), 0.93: (512, 13, 13)}
TERMS = ("head_s", "encode_s", "link_s", "queue_s", "decode_s", "tail_s")


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


def session(stack: ExitStack, array: np.ndarray, codec: str) -> Session:
    """A bundle without head, whose tail is one cheap operator: the rest is what is timed."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        echo (float[{array.size}] x) => (float[{array.size}] y) {{ y = Neg(x) }}"""
    (folder / "echo.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    model = load_model(folder / "echo.onnx")
    division = Division(cut_of(model.graph, []), {"x": get_codec(codec)})
    bundle = write_bundle(model, [division], folder / "b")
    server = stack.enter_context(serve(bundle.folder))
    return stack.enter_context(Session(bundle.folder, server.address))


def latency(size: str, array: np.ndarray, rounds: int) -> None:
    with ExitStack() as stack:
        sessions = {codec: session(stack, array, codec) for codec in CODECS}
        rivals: dict[str, Callable[[], object]] = {
            codec: partial(running.run, None, {"x": array}) for codec, running in sessions.items()
        }
        for name, seconds in interleaved(rivals, rounds).items():
            p50, p99 = np.percentile(seconds * 1e3, [50, 99])
            figures = {"p50_ms": p50, "p99_ms": p99}
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
