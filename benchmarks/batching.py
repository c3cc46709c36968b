"""What batching across 32 clients gives: inferences a second and latency, beside batch 8 in one process.

The tail of MobileNetV2 from a middle tensor on, float32, one onnxruntime thread. Four kinds of phases take
turns, so that a disturbed stretch falls on all of them:

- ``alone``: batches of 8 (and of 1) one after the other in one process, without any server;
- ``on``, ``off``, ``wide``: the server with one worker and at most 8, 1 and 32 samples a batch, called by
  32 plain clients of the protocol (a thread and a connection each, in two processes), each of which sends
  its next request when it has its answer;
- ``paced``: as ``on``, but each client sends at random times, together 60 % of what ``on`` reached. Latency
  counts from when the request was due.

``alone`` and the servers run on the same core, one of them at a time; the clients run on the others. On a
machine of two cores that are threads of one, clients therefore slow the servers, but not ``alone``.

With at most 8 a batch, 32 clients that always wait keep four batches in flight, so no server can answer
within two: that bar is for ``paced``, and for ``wide``, where all clients fit in one. JSON lines on
standard output.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx.parser
from _processes import end_on_sigterm
from _shared import SHAPES, SHARED
from _workers import Worker, at
from splitter.serving.options import ServerOptions

from splitter.graph.cut import cut_at
from splitter.graph.read import load_model
from splitter.partition.bundle import Bundle, Deployment, Division, write_bundle
from splitter.runtime import Runner, Settings
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.protocol import SERVICE
from splitter.serving.server import serve

CLIENTS = 32
PROCESSES = 2
BATCH = 8
SIZES = {"on": BATCH, "off": 1, "wide": CLIENTS}
LOAD = 0.6
"""Of what ``on`` reached, in the paced phases."""
LEAST_OF_ALONE = 0.75
REQUEST_TIMEOUT_S = 30.0

Array = np.ndarray


@dataclass(frozen=True)
class Load:
    """What a phase of the clients gave."""

    per_s: float
    latency_s: Array


def report(subject: str, **figures: object) -> None:
    print(json.dumps({"benchmark": "batching", "subject": subject, **figures}), flush=True)


# --- what runs in processes of its own


def in_process(folder: str) -> Callable[[int, float], float]:
    """Samples a second of the tail alone, in batches of one size."""
    bundle = Bundle.open(folder, role="server")
    assert bundle.tail is not None
    runner = Runner(bundle.tail, bundle.manifest.tail_settings)
    (spec,) = bundle.manifest.planned.crossing

    def run(size: int, seconds: float) -> float:
        rng = np.random.default_rng(0)
        feeds = {spec.tensor: rng.random((size, *spec.shape[1:]), np.float32)}
        runner.run(feeds)
        count, started = 0, time.perf_counter()
        while (taken := time.perf_counter() - started) < seconds:
            runner.run(feeds)
            count += size
        return count / taken

    return run


class Served:
    """A server, for as long as its process lives."""

    def __init__(self, folder: str, max_batch: int, max_delay_s: float) -> None:
        options = ServerOptions(
            workers=1, max_batch=max_batch, max_delay_s=max_delay_s, queue=CLIENTS
        )
        self._server = serve(folder, options=options)
        self.started = self._server.port

    def __call__(self) -> None:
        """Nothing is asked of it but to go on."""


class Clients:
    """Threads that call servers, each over a connection of its own to each of them."""

    def __init__(
        self, ports: Sequence[int], model: str, name: str, shape: tuple[int, ...], seed: int
    ):
        rng = np.random.default_rng(seed)
        request = pb.ModelInferRequest(model_name=model)
        request.inputs.add(name=name, datatype="FP32", shape=shape)
        request.raw_input_contents.append(rng.random(shape, np.float32).tobytes())
        self._message = request.SerializeToString()
        count = CLIENTS // PROCESSES
        self._calls = {port: [_call(port) for _ in range(count)] for port in ports}
        self._gaps = [np.random.default_rng([seed, number]) for number in range(count)]

    def __call__(self, port: int, begins: float, seconds: float, rate: float) -> list[float]:
        """Latencies of a phase from ``begins`` (``time.monotonic``) on; rate 0 sends at once, always."""
        ends = begins + seconds
        phase = self._closed if rate == 0 else partial(self._paced, rate=rate)
        with ThreadPoolExecutor(len(self._gaps)) as pool:
            found = pool.map(
                lambda call, gaps: phase(call, gaps, begins, ends), self._calls[port], self._gaps
            )
            return [latency for latencies in found for latency in latencies]

    def _closed(self, call: Any, _: Any, begins: float, ends: float) -> list[float]:
        latencies: list[float] = []
        at(begins)
        while (sent := time.monotonic()) < ends:
            call(self._message, timeout=REQUEST_TIMEOUT_S)
            latencies.append(time.monotonic() - sent)
        return latencies

    def _paced(
        self, call: Any, gaps: Any, begins: float, ends: float, *, rate: float
    ) -> list[float]:
        latencies: list[float] = []
        due = begins + gaps.exponential(CLIENTS / rate)
        while due < ends:
            at(due)
            call(self._message, timeout=REQUEST_TIMEOUT_S)
            latencies.append(time.monotonic() - due)
            due += gaps.exponential(CLIENTS / rate)
        return latencies


def _call(port: int) -> Any:
    options = [("grpc.use_local_subchannel_pool", 1)]
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=options)
    return channel.unary_unary(f"/{SERVICE}/ModelInfer")  # of bytes: the clients are to cost little


# --- phases

Rates = dict[int, list[float]]
"""Samples a second alone, of each round, by the size of batch."""
Loads = dict[str, list[Load]]
"""Of each round, by the kind of phase."""


def load(clients: list[Worker], port: int, seconds: float, rate: float = 0.0) -> Load:
    begins = time.monotonic() + 0.1
    for worker in clients:
        worker.ask(port, begins, seconds, rate)
    latency_s = np.array([s for w in clients for s in w.answer(seconds + 2 * REQUEST_TIMEOUT_S)])
    if not len(latency_s):
        raise SystemExit("no request was answered")
    return Load(len(latency_s) / seconds, latency_s)


def measure(bundle: Bundle, delay_s: float, rounds: int, seconds: float) -> tuple[Rates, Loads]:
    spec = bundle.manifest.planned.crossing[0]
    cores = sorted(os.sched_getaffinity(0))
    own, others = cores[:1], cores[1:] or cores
    with ExitStack() as stack:
        folder = str(bundle.folder)
        alone = stack.enter_context(Worker(in_process, folder, cores=own))
        ports = {
            name: stack.enter_context(
                Worker(Served, folder, size, delay_s if size > 1 else 0.0, cores=own)
            ).started
            for name, size in SIZES.items()
        }
        arguments = (list(ports.values()), bundle.manifest.name, spec.tensor, spec.shape)
        clients = [
            stack.enter_context(Worker(Clients, *arguments, seed, cores=others))
            for seed in range(PROCESSES)
        ]
        for port in ports.values():  # connections, caches and arenas
            load(clients, port, seconds / 4)
        loads: Loads = {name: [] for name in (*SIZES, "paced")}
        rates: Rates = {size: [] for size in (BATCH, 1, CLIENTS)}
        for _ in range(rounds):
            for size, found in rates.items():
                alone.ask(size, seconds / 2)
                found.append(alone.answer())
            for name, port in ports.items():
                loads[name].append(load(clients, port, seconds))
            rate = LOAD * loads["on"][-1].per_s
            loads["paced"].append(load(clients, ports["on"], seconds, rate))
    report("cores", tails=own, clients=others)
    return rates, loads


def medians(rates: Rates) -> dict[int, float]:
    return {size: float(np.median(found)) for size, found in rates.items()}


def tell(rates: Rates, loads: Loads) -> None:
    for size, per_s in medians(rates).items():
        report(f"alone, batch {size}", per_s=round(per_s, 1), batch_ms=round(1e3 * size / per_s, 2))
    for name, found in loads.items():
        latency_ms = 1e3 * np.concatenate([one.latency_s for one in found])
        p50, p99 = np.percentile(latency_ms, [50, 99])
        per_s = float(np.median([one.per_s for one in found]))
        figures = {"per_s": per_s, "p50_ms": p50, "p99_ms": p99, "requests": len(latency_ms)}
        report(name, **{key: round(value, 2) for key, value in figures.items()})


def bars(rates: Rates, loads: Loads, delay_s: float) -> None:
    alone = medians(rates)

    def ratio(name: str, others: Sequence[float]) -> float:
        """Within each round, then the median of all rounds."""
        return float(np.median([a.per_s / b for a, b in zip(loads[name], others, strict=True)]))

    of_alone = ratio("on", rates[BATCH])
    report("bar: on over alone, batch 8", ratio=round(of_alone, 3), bar=LEAST_OF_ALONE,
           met=of_alone >= LEAST_OF_ALONE)  # fmt: skip
    of_off = ratio("on", [one.per_s for one in loads["off"]])
    report("bar: on over off", ratio=round(of_off, 3), bar=1.0, met=of_off >= 1)
    for name, size in {"paced": BATCH, "wide": CLIENTS}.items():
        p99_ms = 1e3 * float(np.percentile(np.concatenate([x.latency_s for x in loads[name]]), 99))
        bar_ms = 1e3 * (delay_s + 2 * size / alone[size])
        report(f"bar: p99 of {name} within the delay and two batches of {size}",
               p99_ms=round(p99_ms, 2), bar_ms=round(bar_ms, 2), met=p99_ms <= bar_ms)  # fmt: skip


# --- the command


def small_model(folder: Path) -> Path:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        small (float[N, 256] x) => (float[N, 256] y) { h = Relu(x)  y = Softmax<axis = 1>(h) }"""
    path = folder / "small.onnx"
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    return path


def main() -> None:
    end_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--at", default="add_546", help="where MobileNetV2 is cut (%(default)s)")
    parser.add_argument("--delay-ms", type=float, default=2, help="a request's wait for company")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=5, help="of a phase")
    parser.add_argument("--smoke", action="store_true", help="a small model, one short round")
    options = parser.parse_args()
    path = SHARED / "models" / "mobilenetv2_fp32.onnx"
    if not (options.smoke or path.is_file()):
        parser.error(f"{path} is not there; --smoke runs without it")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.smoke:
            model, at_tensor = load_model(small_model(folder), {"N": 1}), "h"
        else:
            model, at_tensor = load_model(path, None, SHAPES["mobilenetv2_fp32"]), options.at
        division = Division(cut_at(model.graph, [at_tensor]))
        bundle = write_bundle(model, [division], folder / "b", Deployment(Settings(threads=1)))
        if not bundle.manifest.planned.batches:
            sys.exit(f"the tail from {at_tensor!r} on takes one sample at a time")
        rounds, seconds = (1, 0.3) if options.smoke else (options.rounds, options.seconds)
        delay_s = options.delay_ms / 1e3
        rates, loads = measure(bundle, delay_s, rounds, seconds)
    tell(rates, loads)
    if not options.smoke:
        bars(rates, loads, delay_s)


if __name__ == "__main__":
    main()
