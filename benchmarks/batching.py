"""What batching across 32 clients gives: inferences a second and latency, beside batch 8 in one process.

The tail of MobileNetV2 from a middle tensor on, float32, one onnxruntime thread (``--threads``). Four kinds
of phases take turns, so that a disturbed stretch falls on all of them:

- ``alone``: batches of 8 (and of 1) one after the other in one process, without any server;
- ``on``, ``off``, ``wide``: the server with one worker and at most 8, 1 and 32 samples a batch, called by
  32 plain clients of the protocol (a thread and a connection each, in two processes), each of which sends
  its next request when it has its answer;
- ``paced``: as ``on``, but each client sends at random times, together 60 % of what ``on`` reached. Latency
  counts from when the request was due.

``alone`` and the servers run on the same core (as many as threads), one of them at a time; the clients run
on the others, or on the same where none is left. On a machine of two cores that are threads of one, clients
therefore slow the servers, but not ``alone``.

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
import psutil
from _processes import end_on_sigterm
from _shared import SHAPES, SHARED
from _workers import Worker, at

from splitter.graph.cut import cut_at
from splitter.graph.read import load_model
from splitter.partition.bundle import Bundle, Deployment, Division, write_bundle
from splitter.runtime import Runner, Settings
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.protocol import SERVICE
from splitter.serving.server.options import ServerOptions
from splitter.serving.server.serve import serve

Answers = list[tuple[float, float]]
"""Seconds from the phase's beginning to the answer, and of the request."""

CLIENTS = 32
PROCESSES = 2
BATCH = 8
SIZES = {"on": BATCH, "off": 1, "wide": CLIENTS}
LOAD = 0.6
"""Of what ``on`` reached, in the paced phases."""
SETTLED = 0.2
"""Share of a phase after which answers are counted: until then the queues fill."""
LEAST_OF_ALONE = 0.75
REQUEST_TIMEOUT_S = 30.0

Array = np.ndarray


@dataclass(frozen=True)
class Load:
    """What a phase of the clients gave."""

    per_s: float
    latency_s: Array
    cpu_s: float
    """Processor seconds of the server for a request; of ``alone``, for a sample."""


def report(subject: str, **figures: object) -> None:
    print(json.dumps({"benchmark": "batching", "subject": subject, **figures}), flush=True)


# --- what runs in processes of its own


def in_process(folder: str) -> Callable[[int, float], tuple[float, float]]:
    """Samples a second of the tail alone, in batches of one size, and processor seconds for one."""
    bundle = Bundle.open(folder, role="server")
    assert bundle.tail is not None
    runner = Runner(bundle.tail, bundle.manifest.tail_settings)
    (spec,) = bundle.manifest.planned.crossing

    def run(size: int, seconds: float) -> tuple[float, float]:
        rng = np.random.default_rng(0)
        feeds = {spec.tensor: rng.random((size, *spec.shape[1:]), np.float32)}
        runner.run(feeds)
        count, started, before = 0, time.perf_counter(), time.process_time()
        while (taken := time.perf_counter() - started) < seconds:
            runner.run(feeds)
            count += size
        return count / taken, (time.process_time() - before) / count

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

    def __call__(self, port: int, begins: float, seconds: float, rate: float) -> Answers:
        """Answers of a phase from ``begins`` (``time.monotonic``) on; rate 0 sends at once, always."""
        ends = begins + seconds
        phase = self._closed if rate == 0 else partial(self._paced, rate=rate)
        with ThreadPoolExecutor(len(self._gaps)) as pool:
            found = pool.map(
                lambda call, gaps: phase(call, gaps, begins, ends), self._calls[port], self._gaps
            )
            return [answer for answers in found for answer in answers]

    def _closed(self, call: Any, _: Any, begins: float, ends: float) -> Answers:
        answers: Answers = []
        at(begins)
        while (sent := time.monotonic()) < ends:
            call(self._message, timeout=REQUEST_TIMEOUT_S)
            answered = time.monotonic()
            answers.append((answered - begins, answered - sent))
        return answers

    def _paced(self, call: Any, gaps: Any, begins: float, ends: float, *, rate: float) -> Answers:
        answers: Answers = []
        due = begins + gaps.exponential(CLIENTS / rate)
        while due < ends:
            at(due)
            call(self._message, timeout=REQUEST_TIMEOUT_S)
            answered = time.monotonic()
            answers.append((answered - begins, answered - due))
            due += gaps.exponential(CLIENTS / rate)
        return answers


def _call(port: int) -> Any:
    options = [("grpc.use_local_subchannel_pool", 1)]
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=options)
    return channel.unary_unary(f"/{SERVICE}/ModelInfer")  # of bytes: the clients are to cost little


# --- phases

Rates = dict[int, list[tuple[float, float]]]
"""Samples a second alone, and processor seconds for one, of each round, by the size of batch."""
Loads = dict[str, list[Load]]
"""Of each round, by the kind of phase."""


def load(clients: list[Worker], server: Worker, seconds: float, rate: float = 0.0) -> Load:
    process = psutil.Process(server.pid)
    before = process.cpu_times()
    begins = time.monotonic() + 0.1
    for worker in clients:
        worker.ask(server.started, begins, seconds, rate)
    answers = [a for worker in clients for a in worker.answer(seconds + 2 * REQUEST_TIMEOUT_S)]
    if not answers:
        raise SystemExit("no request was answered")
    at_s, latency_s = np.array(answers).T
    # what is answered after the end was asked for by clients that do not ask again
    counted = int(np.sum((at_s > SETTLED * seconds) & (at_s <= seconds)))
    after = process.cpu_times()
    cpu_s = after.user + after.system - before.user - before.system
    return Load(counted / ((1 - SETTLED) * seconds), latency_s, cpu_s / len(answers))


def measure(bundle: Bundle, delay_s: float, rounds: int, seconds: float) -> tuple[Rates, Loads]:
    spec = bundle.manifest.planned.crossing[0]
    cores = sorted(os.sched_getaffinity(0))
    threads = bundle.manifest.tail_settings.threads
    own, others = cores[:threads], cores[threads:] or cores
    with ExitStack() as stack:
        folder = str(bundle.folder)
        alone = stack.enter_context(Worker(in_process, folder, cores=own))
        servers = {
            name: stack.enter_context(
                Worker(Served, folder, size, delay_s if size > 1 else 0.0, cores=own)
            )
            for name, size in SIZES.items()
        }
        ports = [server.started for server in servers.values()]
        arguments = (ports, bundle.manifest.name, spec.tensor, spec.shape)
        clients = [
            stack.enter_context(Worker(Clients, *arguments, seed, cores=others))
            for seed in range(PROCESSES)
        ]
        for server in servers.values():  # connections, caches and arenas
            load(clients, server, seconds / 4)
        loads: Loads = {name: [] for name in (*SIZES, "paced")}
        rates: Rates = {size: [] for size in (BATCH, 1, CLIENTS)}
        for _ in range(rounds):
            for size, found in rates.items():
                alone.ask(size, seconds / 2)
                found.append(alone.answer())
            for name, server in servers.items():
                loads[name].append(load(clients, server, seconds))
            rate = LOAD * loads["on"][-1].per_s
            loads["paced"].append(load(clients, servers["on"], seconds, rate))
    report("cores", tails=own, clients=others)
    return rates, loads


def medians(rates: Rates) -> dict[int, float]:
    return {size: float(np.median([per_s for per_s, _ in found])) for size, found in rates.items()}


def tell(rates: Rates, loads: Loads) -> None:
    for size, found in rates.items():
        per_s, cpu_s = np.median(found, axis=0)
        figures = {"per_s": per_s, "batch_ms": 1e3 * size / per_s, "cpu_ms": 1e3 * cpu_s}
        report(f"alone, batch {size}", **{k: round(float(v), 2) for k, v in figures.items()})
    for name, found in loads.items():
        latency_ms = 1e3 * np.concatenate([one.latency_s for one in found])
        p50, p99 = np.percentile(latency_ms, [50, 99])
        per_s = float(np.median([one.per_s for one in found]))
        cpu_ms = 1e3 * float(np.median([one.cpu_s for one in found]))
        figures = {"per_s": per_s, "p50_ms": p50, "p99_ms": p99, "cpu_ms": cpu_ms}
        figures["requests"] = len(latency_ms)
        report(name, **{key: round(value, 2) for key, value in figures.items()})


def bars(rates: Rates, loads: Loads, delay_s: float) -> None:
    alone = medians(rates)

    def ratio(
        subject: str, ours: Sequence[float], others: Sequence[float], bar: float | None = None
    ) -> None:
        """Of each round, then the median and the quartiles of all."""
        ratios = [a / b for a, b in zip(ours, others, strict=True)]
        low, middle, high = (round(float(q), 3) for q in np.percentile(ratios, [25, 50, 75]))
        judged = {} if bar is None else {"bar": bar, "met": middle >= bar}
        report(subject, ratio=middle, quartiles=[low, high], **judged)

    on, off = ([one.per_s for one in loads[name]] for name in ("on", "off"))
    eight, one_each = ([per_s for per_s, _ in rates[size]] for size in (BATCH, 1))
    ratio("bar: on over alone, batch 8", on, eight, LEAST_OF_ALONE)
    ratio("bar: on over off", on, off, 1.0)
    ratio("alone, batch 8 over batch 1: what batching itself can give", eight, one_each)
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
    parser.add_argument("--threads", type=int, default=1, help="and cores of the tails")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=3, help="of a phase")
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
        bundle = write_bundle(
            model, [division], folder / "b", Deployment(Settings(threads=options.threads))
        )
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
