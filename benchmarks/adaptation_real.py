"""Following a link for real: a session, a server's process, and a relay between them that a trace shapes.

For each trace the stretch on which the best cut changes most often. The session and an oracle, which is a
session that is told the best cut for the true bandwidth of the last second, take turns on it. The bundle
holds the cuts of ``adaptation.py``'s plans that are best at some bandwidth. The device is this machine,
made slower by waiting after each run of a model: waiting takes no processor from the server's process. JSON
lines out.

    python benchmarks/adaptation_real.py [--keep DIR] [--seconds 20] [--traces hsdpa_bus_1 ...] [--smoke]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path as File
from typing import Any

import numpy as np
from _serving import network, photo, serving
from _shared import real_feeds, shared_model
from adaptation import DEADLINE_S, TRACES, made_up_trace, placed, plans_of

from splitter.graph.cut import cut_of
from splitter.graph.model import Model
from splitter.link_parse import find_link
from splitter.partition.bundle import Bundle, Deployment, Division, write_bundle
from splitter.partition.manifest import CutCost, CutSpec
from splitter.planning.plan import cut_of_candidate
from splitter.runtime import Array, Runner
from splitter.serving.device.session import Session
from splitter.serving.device.simulation import SimulatedLink, Table
from splitter.serving.relay.relay import Relay
from splitter.serving.relay.trace import Trace

MODEL = "squeezenet_fp32"
SLOWDOWNS = {"hsdpa": 25.0}
OTHERWISE = 10.0
RATES = np.geomspace(5e3, 2e7, 400)
TURNS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", type=File, help="where adaptation.py keeps its measurements")
    parser.add_argument("--traces", nargs="+", help="these only")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each trace")
    parser.add_argument("--smoke", action="store_true", help="a made-up trace, two seconds")
    args = parser.parse_args()
    args.period = 0.0
    with tempfile.TemporaryDirectory() as folder:
        if args.smoke:
            smoke(File(folder))
        elif not TRACES.is_dir():
            print("skipped: the traces are not beside this checkout")
        else:
            keep = args.keep or File(folder)
            keep.mkdir(parents=True, exist_ok=True)
            run_all(File(folder), keep, args)


def smoke(folder: File) -> None:
    model = network(folder)
    nodes = list(model.graph.node_of)
    costs = [
        CutCost(
            head_s=0.01, encode_s=0, decode_s=0, tail_s=0.01, up_bytes=100_000, down_bytes=4000
        ),
        CutCost(head_s=0.1, encode_s=0, decode_s=0, tail_s=0, up_bytes=0, down_bytes=0),
    ]
    heads = [nodes[: len(nodes) // 3], nodes]
    divisions = [
        Division(cut_of(model.graph, head), cost=cost)
        for head, cost in zip(heads, costs, strict=True)
    ]
    bundle = write_bundle(model, divisions, folder / "bundle", Deployment(link=find_link("lte")))
    table = Table("smoke", bundle.manifest.cuts, find_link("lte"))
    with serving(bundle) as address, slower(2.0):
        place = Place(bundle, address, photo(model), table, 2.0)
        for follows in (True, False):
            print(json.dumps(place.once("smoke", made_up_trace(), follows=follows)))


def run_all(folder: File, keep: File, args: argparse.Namespace) -> None:
    model, names = shared_model(MODEL), sorted(path.stem for path in TRACES.glob("*.txt"))
    feeds = real_feeds(MODEL, model)
    for factor in {OTHERWISE, *SLOWDOWNS.values()}:
        bundle = written(model, keep, factor, folder / f"{factor:g}")
        with serving(bundle) as address, slower(factor):
            for name in names:
                wanted = args.traces is None or name in args.traces
                slowness = SLOWDOWNS.get(name.partition("_")[0], OTHERWISE)
                if name.startswith("rtt_") or not wanted or slowness != factor:
                    continue
                trace = Trace.load(TRACES / f"{name}.txt")
                path, table = placed(name, trace, name, bundle.manifest.cuts, args)
                place = Place(bundle, address, feeds, table, args.seconds)
                report(name, place, stretch(trace, table, path, args.seconds))


def written(model: Model, keep: File, factor: float, folder: File) -> Bundle:
    """The cuts that are best at some bandwidth, on some planned link."""
    divisions: dict[str, Division] = {}
    for plan in plans_of(MODEL, keep, factor):
        items = [c for c in (plan.predicted, *plan.baselines, *plan.alternatives) if c.feasible]
        for rate in RATES:
            best = min(items, key=lambda c, rate=rate: c.total_s - c.link_s + bool(c.tail_nodes) * (
                (c.up_bytes + c.down_bytes) / rate + plan.link.rtt_s))  # fmt: skip
            sent = [(each.tensor, each.codec) for each in best.crossing]
            divisions.setdefault(
                f"{best.head_nodes} {sent}",
                Division(
                    cut_of_candidate(model.graph, plan, best),
                    {each.tensor: plan.codec_of(each) for each in best.crossing},
                    best.name,
                    CutCost(
                        head_s=best.head_s,
                        encode_s=best.encode_s / factor,  # only models are made slower here
                        decode_s=best.decode_s,
                        tail_s=best.tail_s,
                        up_bytes=best.up_bytes,
                        down_bytes=best.down_bytes,
                    ),
                ),
            )
    return write_bundle(model, list(divisions.values()), folder, Deployment(link=find_link("lte")))


@contextmanager
def slower(factor: float) -> Iterator[None]:
    """Have every model that runs in this process take so many times as long."""
    run = Runner.run

    def waiting(self: Runner, feeds: Mapping[str, Array], *more: Any) -> list[Array]:
        started = time.perf_counter()
        outputs = run(self, feeds, *more)
        time.sleep((factor - 1) * (time.perf_counter() - started))
        return outputs

    Runner.run = waiting  # type: ignore[method-assign]
    try:
        yield
    finally:
        Runner.run = run  # type: ignore[method-assign]


def stretch(trace: Trace, table: Table, path: SimulatedLink, seconds: float) -> Trace:
    """Where the best cut changes most often, by steps of half a second."""
    at = np.arange(0.0, trace.length_s, 0.5)
    best = [table.best(path.known(float(now_s))).id for now_s in at]
    changes = np.array([0, *(a != b for a, b in pairwise(best))])
    width = max(1, round(seconds / 0.5))
    sums = np.convolve(changes, np.ones(width), "valid") if len(at) > width else np.zeros(1)
    begins_s = float(at[int(np.argmax(sums))])
    edges = np.arange(begins_s, begins_s + seconds, 0.05)
    rates = [trace.mean(float(edge), float(edge) + 0.05) for edge in edges]
    return Trace((edges - begins_s).tolist(), rates, seconds)


@dataclass(frozen=True)
class Place:
    """What session and oracle share."""

    bundle: Bundle
    server: str
    feeds: dict[str, Array]
    table: Table
    seconds: float

    def once(self, name: str, trace: Trace, *, follows: bool) -> dict[str, Any]:
        """Requests one after the other for the length of the stretch."""
        with Relay(self.server) as relay, Session(
            self.bundle.folder, relay.address, deadline_s=DEADLINE_S
        ) as session:  # fmt: skip
            session.warm_up()
            follower = session._core._follower
            began_s = time.monotonic()

            def told() -> CutSpec:
                now_s = time.monotonic() - began_s
                rate = trace.mean(max(0.0, now_s - 1.0), max(now_s, 0.05))
                best = self.table.best(rate)
                return best if follower._is_ready(best) else follower.current

            if not follows:
                follower.choose = told  # type: ignore[method-assign]
            relay.shape(trace, trace, delay_s=self.table.link.rtt_s / 2)
            began_s = time.monotonic()
            cuts, best, latencies_s = [], [], []
            while time.monotonic() - began_s < self.seconds:
                started = time.perf_counter()
                session.infer(self.feeds)
                latencies_s.append(time.perf_counter() - started)
                best.append(told().id)
                cuts.append(session.last.cut or "device")
            sent = relay.up_bytes
        return {
            "benchmark": "adaptation_real", "trace": name,
            "by": "session" if follows else "oracle", "requests": len(latencies_s),
            "mean_ms": round(1e3 * float(np.mean(latencies_s)), 2),
            "switches": sum(a != b for a, b in pairwise(cuts)),
            "crossings": sum(a != b for a, b in pairwise(best)), "up_bytes": sent,
        }  # fmt: skip


def report(name: str, place: Place, trace: Trace) -> None:
    found: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for _ in range(TURNS):
        for follows in (True, False):
            found[follows].append(place.once(name, trace, follows=follows))
    mean_ms = {follows: mean(found[follows], "mean_ms") for follows in found}
    switches, crossings = mean(found[True], "switches"), mean(found[True], "crossings")
    print(
        json.dumps(
            {
                "benchmark": "adaptation_real", "trace": name,
                "ratio": round(mean_ms[True] / mean_ms[False], 3),
                "session_ms": round(mean_ms[True], 2), "oracle_ms": round(mean_ms[False], 2),
                "switches": switches, "oracle_switches": mean(found[False], "switches"),
                "crossings": crossings,
                "up_bytes": round(mean(found[True], "up_bytes")),
                "oracle_up_bytes": round(mean(found[False], "up_bytes")),
            }
        ),
        flush=True,
    )  # fmt: skip


def mean(lines: Sequence[Mapping[str, Any]], key: str) -> float:
    return float(np.mean([line[key] for line in lines]))


if __name__ == "__main__":
    main()
