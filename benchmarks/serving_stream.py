"""Throughput of ``run_stream`` over that of its slowest stage, each stage alone, in turns.

Three cases: the head is slowest, the link is (shaped by a relay), the tail is. The tail's server and the far
end of the link alone are processes of their own. ``python benchmarks/serving_stream.py [--smoke]``
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from _serving import Alone, bundle_at, network, photo, report, serving

from splitter.codec import RAW
from splitter.graph.model import Model
from splitter.serving.device.session import Session
from splitter.serving.relay.relay import Relay

CASES = {"head": 0.85, "link": 0.5, "tail": 0.15}
"""The slowest stage, and after what share of the nodes the cut is."""
LINK_SLOWER = 2.0
"""Than head or tail, where the link is to be slowest."""
IN_FLIGHT = 8


def per_second(run: object, seconds: float) -> float:
    """Calls a second of a function, for about so long."""
    assert callable(run)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        run()
        count += 1
    return count / (time.perf_counter() - started)


def link_per_second(alone: Alone, seconds: float) -> float:
    """Messages a second with as many under way as the stream has."""
    ended, counts = threading.Event(), itertools.count()

    def send() -> None:
        while not ended.is_set():
            alone.link()
            next(counts)

    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        started = time.perf_counter()
        for _ in range(IN_FLIGHT):
            pool.submit(send)
        ended.wait(seconds)
        done = next(counts)
        took_s = time.perf_counter() - started
        ended.set()
    return done / took_s


def stream_per_second(session: Session, feeds: dict[str, np.ndarray], seconds: float) -> float:
    """Results a second once the stages are full."""
    with session.run_stream(itertools.repeat(feeds), in_flight=IN_FLIGHT) as stream:
        for _ in range(IN_FLIGHT):
            next(stream)
        return per_second(lambda: next(stream), seconds)


def measure(slowest: str, model: Model, folder: Path, rounds: int, seconds: float) -> None:
    bundle = bundle_at(model, CASES[slowest], folder / "bundle", codec=RAW)
    feeds = photo(model)
    found: dict[str, list[float]] = {"stream": [], "head": [], "link": [], "tail": []}
    with ExitStack() as stack:
        alone = Alone(stack, bundle, feeds)
        address = stack.enter_context(serving(bundle))
        way, other_way = (stack.enter_context(Relay(each)) for each in (address, alone.address))
        near = slowest == "link"
        if near:
            stage_s = max(alone.head(), sum(alone.decode_and_tail(5)))
            rate = len(alone.message) / (LINK_SLOWER * stage_s)
            for relay in (way, other_way):
                relay.shape(rate, None, delay_s=0.005)
            alone.link_through(stack, other_way.address)
        session = stack.enter_context(Session(bundle.folder, way.address if near else address))
        session.warm_up()
        for _ in range(rounds):
            found["stream"].append(stream_per_second(session, feeds, seconds))
            found["head"].append(per_second(alone.head, seconds / 2))
            found["link"].append(link_per_second(alone, seconds if near else seconds / 2))
            found["tail"].append(1 / sum(alone.decode_and_tail(max(1, int(10 * seconds)))))
    slowest_each = [
        min(each) for each in zip(found["head"], found["link"], found["tail"], strict=True)
    ]
    ratios = [got / bound for got, bound in zip(found["stream"], slowest_each, strict=True)]
    rates = {f"{name}_per_s": round(float(np.median(values)), 2) for name, values in found.items()}
    report(
        "stream", f"{bundle.manifest.name}, {slowest} slowest", up_bytes=len(alone.message),
        of_slowest=round(float(np.median(ratios)), 3), least=round(min(ratios), 3),
        most=round(max(ratios), 3), **rates,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a moment; its figures mean nothing")
    smoke = parser.parse_args().smoke
    with tempfile.TemporaryDirectory() as folder:
        model = network(Path(folder))
        for slowest in CASES:
            measure(slowest, model, Path(folder), 1 if smoke else 9, 0.3 if smoke else 2.0)


if __name__ == "__main__":
    main()
