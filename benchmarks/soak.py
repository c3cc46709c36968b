"""Whether a server and a device that share a load for long grow: memory, descriptors, threads.

``splitter serve`` in one process, a session in another, a relay between them. First the session's
capacity is measured (four threads that call it again at once), then it is loaded with a share of that,
paced by a clock: four fifths by ``infer`` in four threads, one fifth by ``run_stream``, a stream of 50 after
the other. Every 20 seconds the link is cut for one, so that the device falls back and connects
again, and every 10 another session is opened, used once and closed. Every answer is compared with the
whole model's. The model is small, so that there are many requests. JSON lines on standard output::

    python benchmarks/soak.py --minutes 30 --load 0.7

What a process has at the end is the median of its last samples, what it had before that of those after
the first minute.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import numpy as np
import onnx.parser
import psutil
from _processes import end_on_sigterm, free_port, running
from _workers import Worker, at

from splitter.errors import SplitterError
from splitter.graph.cut import cut_at, cut_of
from splitter.graph.read import load_model
from splitter.partition.bundle import Bundle, Deployment, Division, write_bundle
from splitter.runtime import Runner, Settings
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.device.session import AnsweredBy, Session
from splitter.serving.protocol import SERVICE
from splitter.serving.relay.relay import Relay

THREADS = 4
STREAM = 50
"""Inputs of a stream."""
STREAMED = 0.2
"""Share of the requests."""
CUT_EVERY_S, CUT_FOR_S = 20.0, 1.0
REOPENED_EVERY_S = 10.0
DEADLINE_S = 5.0
MOST_GROWTH_PERCENT = 1.0
COUNTED = ("requests", "from the device", "streams", "reopened", "late", "wrong", "lost")
"""Late: more than a second behind the clock, so the clock was set back. Lost: no answer."""

Feeds = dict[str, np.ndarray]


def report(subject: str, **figures: object) -> None:
    print(json.dumps({"benchmark": "soak", "subject": subject, **figures}), flush=True)


def make_bundle(folder: Path) -> Bundle:
    """A head, a tail and the whole model for the device, all small."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
        soak (float[1, 3, 64, 64] x) => (float[1, 8] y)
        <float[8, 3, 3, 3] w = {%s}, float[512, 8] v = {%s}> {
            c = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w)
            h = Relu(c)
            p = MaxPool<kernel_shape = [4, 4], strides = [4, 4]>(h)
            f = Flatten<axis = 1>(p)
            y = MatMul(f, v)
        }"""
    rng = np.random.default_rng(0)
    weights = [", ".join(f"{w:.4f}" for w in rng.standard_normal(n)) for n in (216, 4096)]
    path = folder / "soak.onnx"
    path.write_bytes(onnx.parser.parse_model(text % tuple(weights)).SerializeToString())
    model = load_model(path)
    cuts = [cut_at(model.graph, ["h"]), cut_of(model.graph, list(model.graph.node_of))]
    divisions = [Division(cut) for cut in cuts]
    return write_bundle(model, divisions, folder / "b", Deployment(Settings(threads=1)))


# --- the device's process


@dataclass(frozen=True)
class Share:
    """A part of the load: one request each ``gap_s``, the first at ``begins``."""

    begins: float
    ends: float
    gap_s: float

    def dues(self, counts: Counter[str]) -> Iterator[int]:
        """Sleep until each request is due, and number it."""
        due = self.begins
        for number in itertools.count():
            if (now := time.monotonic()) > due + 1:
                counts["late"] += 1
                due = now
            at(due)
            if time.monotonic() >= self.ends:
                return
            yield number
            due += self.gap_s


class Device:
    """A session under load."""

    def __init__(self, folder: str, model: str, address: str) -> None:
        self._folder, self._address = folder, address
        self._session = self._open()
        rng = np.random.default_rng(0)
        self._inputs: list[Feeds] = [
            {"x": rng.random((1, 3, 64, 64), np.float32)} for _ in range(16)
        ]
        whole = Runner(Path(model), Settings(threads=1))
        self._expected = [whole.run(feeds)[0] for feeds in self._inputs]

    def __call__(self, rate: float, seconds: float) -> dict[str, int]:
        """Load the session for so long; rate 0: as much as it takes."""
        begins = time.monotonic()
        ends = begins + seconds
        each = (1 - STREAMED) * rate / THREADS
        jobs: list[Callable[[Counter[str]], None]]
        if rate == 0:
            jobs = [lambda counts: self._calls(Share(begins, ends, 0.0), counts)] * THREADS
        else:
            shares = [Share(begins + n / rate, ends, 1 / each) for n in range(THREADS)]
            jobs = [lambda counts, share=share: self._calls(share, counts) for share in shares]
            jobs.append(
                lambda counts: self._streams(Share(begins, ends, 1 / (STREAMED * rate)), counts)
            )
            jobs.append(lambda counts: self._reopens(Share(begins, ends, REOPENED_EVERY_S), counts))
        with ThreadPoolExecutor(len(jobs)) as pool:
            counters = [Counter[str]() for _ in jobs]
            list(pool.map(lambda job, counts: job(counts), jobs, counters))
        return dict(sum(counters, Counter[str]()))

    def _open(self) -> Session:
        return Session(self._folder, self._address, deadline_s=DEADLINE_S)

    def _calls(self, share: Share, counts: Counter[str]) -> None:
        for number in share.dues(counts):
            self._infer(self._session, number, counts)

    def _reopens(self, share: Share, counts: Counter[str]) -> None:
        for number in share.dues(counts):
            with self._open() as session:
                self._infer(session, number, counts)
            counts["reopened"] += 1

    def _streams(self, share: Share, counts: Counter[str]) -> None:
        numbers = share.dues(counts)
        while numbered := list(itertools.islice(numbers, 1)):
            part = itertools.chain(numbered, itertools.islice(numbers, STREAM - 1))
            feeds = (self._inputs[number % len(self._inputs)] for number in part)
            results = iter(self._session.run_stream(feeds))
            for number in itertools.count(numbered[0]):
                try:
                    result = next(results)
                except StopIteration:
                    break
                except SplitterError:
                    counts["lost"] += 1
                    continue
                self._check(result, number, counts)
            counts["streams"] += 1

    def _infer(self, session: Session, number: int, counts: Counter[str]) -> None:
        try:
            result = session.infer(self._inputs[number % len(self._inputs)])
        except SplitterError:
            counts["lost"] += 1
        else:
            self._check(result, number, counts)

    def _check(self, result: Any, number: int, counts: Counter[str]) -> None:
        counts["requests"] += 1
        if result.timing.answered_by is not AnsweredBy.SERVER:
            counts["from the device"] += 1
            counts[f"because {result.timing.why}"] += 1
        expected = self._expected[number % len(self._expected)]
        counts["wrong"] += not np.allclose(result.outputs["y"], expected, rtol=1e-3, atol=1e-4)


# --- samples


@dataclass(frozen=True)
class Sample:
    """What a process has at a time."""

    at_s: float
    resident_bytes: int
    descriptors: int
    threads: int

    @classmethod
    def of(cls, process: psutil.Process, at_s: float) -> Sample:
        with process.oneshot():
            return cls(at_s, process.memory_info().rss, process.num_fds(), process.num_threads())


def growth(side: str, samples: list[Sample], settled_s: float, window_s: float) -> bool:
    """Report what a process has more at the end than when it had settled; whether that is within the bar."""
    first = [s for s in samples if settled_s <= s.at_s < settled_s + window_s]
    last = [s for s in samples if s.at_s >= samples[-1].at_s - window_s]
    before, after = (
        {
            name: median(getattr(sample, name) for sample in part)
            for name in ("resident_bytes", "descriptors", "threads")
        }
        for part in (first or samples[:1], last)
    )
    percent = 100 * (after["resident_bytes"] / before["resident_bytes"] - 1)
    more = after["descriptors"] - before["descriptors"]
    met = percent < MOST_GROWTH_PERCENT and more <= 0
    report(
        f"bar: growth of the {side}",
        resident_mb=[round(part["resident_bytes"] / 1e6, 2) for part in (before, after)],
        growth_percent=round(percent, 3),
        bar_percent=MOST_GROWTH_PERCENT,
        descriptors=[before["descriptors"], after["descriptors"]],
        most_descriptors=max(sample.descriptors for sample in samples),
        threads=[before["threads"], after["threads"]],
        samples=len(samples),
        met=met,
    )
    return met


def watch(
    processes: dict[str, psutil.Process], seconds: float, every_s: float
) -> dict[str, list[Sample]]:
    """Sample the processes until the time is over; a line each minute shows that it goes on."""
    samples: dict[str, list[Sample]] = {side: [] for side in processes}
    started = time.monotonic()
    said_s = 0.0
    for number in itertools.count(1):
        at(started + number * every_s)
        at_s = time.monotonic() - started
        if at_s > seconds:
            return samples
        for side, process in processes.items():
            samples[side].append(Sample.of(process, at_s))
        if at_s >= said_s:
            said_s += 60.0
            mb = {side: round(found[-1].resident_bytes / 1e6, 1) for side, found in samples.items()}
            report("resident", at_s=round(at_s), **mb)
    raise AssertionError  # the loop has no other end


def cut_often(relay: Relay, stop: threading.Event, every_s: float, for_s: float) -> None:
    while not stop.wait(every_s):
        relay.cut()
        stop.wait(for_s)
        relay.restore()


# --- the command


def is_ready(port: int) -> bool:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(
            f"/{SERVICE}/ServerReady",
            request_serializer=pb.ServerReadyRequest.SerializeToString,
            response_deserializer=pb.ServerReadyResponse.FromString,
        )
        try:
            return bool(call(pb.ServerReadyRequest(), timeout=5).ready)
        except grpc.RpcError:
            return False


def soak(folder: Path, load: float, seconds: float, every_s: float, scale: float = 1.0) -> bool:
    """Run it; ``scale`` shortens the measuring of the capacity, and the link's being cut."""
    capacity_s = 10 * scale
    bundle, port = make_bundle(folder), free_port()
    command = [sys.executable, "-m", "splitter", "serve", str(bundle.folder)]
    command += ["--listen", f"127.0.0.1:{port}"]
    with ExitStack() as stack:
        server = stack.enter_context(running(command, lambda: is_ready(port)))
        relay = stack.enter_context(Relay(f"127.0.0.1:{port}"))
        cores = sorted(os.sched_getaffinity(0))
        arguments = (str(bundle.folder), str(folder / "soak.onnx"), relay.address)
        device = stack.enter_context(Worker(Device, *arguments, cores=cores))
        for measured_s in (1.0, capacity_s):  # the first warms up
            device.ask(0.0, measured_s)
            capacity = device.answer()["requests"] / measured_s
        report("capacity", per_s=round(capacity, 1), load=load)
        stop = threading.Event()
        stack.callback(stop.set)
        cuts = threading.Thread(
            target=cut_often,
            args=(relay, stop, CUT_EVERY_S * scale, CUT_FOR_S * scale),
            daemon=True,
        )
        cuts.start()
        device.ask(load * capacity, seconds)
        samples = watch({"server": server, "device": psutil.Process(device.pid)}, seconds, every_s)
        counts = device.answer()
    settled_s, window_s = min(60.0, seconds / 4), max(every_s, min(60.0, seconds / 4))
    told = {name: counts.get(name, 0) for name in (*COUNTED, *sorted(set(counts) - set(COUNTED)))}
    report("load", per_s=round(counts["requests"] / seconds, 1), **told)
    met = [growth(side, found, settled_s, window_s) for side, found in samples.items()]
    return all(met) and not counts.get("wrong") and not counts.get("lost")


def main() -> None:
    end_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--load", type=float, default=0.7, help="share of the measured capacity")
    parser.add_argument("--every", type=float, default=5, help="seconds between samples")
    parser.add_argument("--smoke", action="store_true", help="a few seconds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.smoke:
            met = soak(Path(folder), options.load, 4.0, 0.5, 0.05)
        else:
            seconds = 60 * options.minutes
            met = soak(Path(folder), options.load, seconds, options.every)
    report("bar: all", met=met)


if __name__ == "__main__":
    main()
