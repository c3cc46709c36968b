"""Plans against the machine: memory under a limit, and the throughput of a stream; JSON lines out.

``memory``: each shared model is profiled with the memory of its parts; plans are made under limits of
device memory from a tenth of the whole model's up, for the fewest seconds of the server, so that they fill
the limit; the head of each is written as in a bundle and run in a process of its own. Its resident memory,
less the runtime's base, is set beside the limit and beside what the plan predicts. ``arithmetic`` is what
a plan from a profile without measured memory predicts for the same head. With ``--no-arena`` parts are
profiled and run so.

``stream``: plans for throughput over a shaped link; ``run_stream`` against the predicted seconds a sample.
The link is a relay in a process of its own; ``cores_busy`` is what device, server and relay took of the
machine.

``python benchmarks/reality.py [--only memory|stream] [--models NAME ...] [--no-arena] [--smoke]``
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import psutil
from _serving import network, photo, process, report
from _shared import model_names, real_feeds, shared_model

from splitter import api
from splitter.errors import InfeasibleError
from splitter.graph.model import Model
from splitter.link import Link
from splitter.planning.plan import PlanOptions
from splitter.planning.problem import Wishes
from splitter.planning.records import Plan
from splitter.planning.terms import Limits, Objective
from splitter.profiling.measure import Effort, measure
from splitter.profiling.profile import Profile
from splitter.profiling.resident import resident
from splitter.runtime import Array, Runner, Settings
from splitter.serving.device.session import Session
from splitter.serving.relay.relay import Relay

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Of the whole model's memory, as limits."""
LINK = Link(name="some", up_bytes_per_s=1e6, down_bytes_per_s=1e6, rtt_s=0.05, source="benchmark")
IN_FLIGHT = 8
STREAMS = (10.0, 30.0, 100.0)
"""Mbit/s."""


def plan_under(model: Model, profile: Profile, limits: Limits) -> Plan:
    """What leaves the server the least to do."""
    wishes = Wishes(objective=Objective.of("money"), limits=limits, server_price_per_hour=1.0)
    options = PlanOptions(wishes=wishes, alternatives=0)
    return api.plan(model, device=profile, server=profile, link=LINK, options=options)


def memory_of(name: str, effort: Effort, shares: tuple[float, ...], settings: Settings) -> None:
    model = shared_model(name)
    feeds = real_feeds(name, model)
    profile = measure(model, settings, feeds, effort)
    bare = msgspec.structs.replace(profile, parts_memory=())
    whole = plan_under(model, profile, Limits()).predicted.memory_bytes[0]
    for share in shares:
        limit = int(share * whole)
        try:
            plan = plan_under(model, profile, Limits(device_memory_bytes=limit))
        except InfeasibleError:
            report("memory", name, share=share, limit_bytes=limit, head_nodes=None)
            continue
        with tempfile.TemporaryDirectory() as folder:
            bundle = api.split(model, Path(folder) / "bundle", plan=plan)
            if bundle.head is None:
                report("memory", name, share=share, limit_bytes=limit, head_nodes=0)
                continue
            ports = [port.name for port in Runner(bundle.head).inputs]
            found = resident(bundle.head, {port: feeds[port] for port in ports}, settings)
        assert found is not None
        predicted = plan.predicted.memory_bytes[0]
        priced = api.plan(
            model, device=bare, server=bare, link=LINK,
            at=[item.tensor for item in plan.cut.crossing],
        ) if plan.cut.crossing else plan_under(model, bare, Limits())  # fmt: skip
        report(
            "memory", name, share=share, limit_bytes=limit, head_nodes=plan.predicted.head_nodes,
            running_bytes=found.running_bytes, loading_bytes=found.loading_bytes,
            of_limit=round(found.running_bytes / limit, 3),
            of_predicted=round(found.running_bytes / predicted, 3),
            arithmetic_bytes=priced.predicted.memory_bytes[0],
        )  # fmt: skip


def stream_rate(session: Session, feeds: dict[str, Array], seconds: float) -> float:
    """Results a second once the stages are full."""
    with session.run_stream(itertools.repeat(feeds), in_flight=IN_FLIGHT) as stream:
        for _ in range(2 * IN_FLIGHT):
            next(stream)
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            next(stream)
            count += 1
        return count / (time.perf_counter() - started)


def processor_s(processes: Sequence[psutil.Process]) -> list[float]:
    return [sum(one.cpu_times()[:2]) for one in processes]


def stream_of(name: str, mbit_per_s: float, effort: Effort, rounds: int, seconds: float) -> None:
    """Each round profiles anew, streams, and compares: the machine drifts by more than the bar.

    The link is a relay in a process of its own, so that it takes no part of the head's.
    """
    model = shared_model(name) if name in model_names() else None
    with tempfile.TemporaryDirectory() as folder:
        model = model or network(Path(folder))
        feeds = real_feeds(name, model) if name in model_names() else photo(model)
        rate = mbit_per_s * 125e3
        link = Link(
            name="shaped", up_bytes_per_s=rate, down_bytes_per_s=rate, rtt_s=0.01,
            source="benchmark",
        )  # fmt: skip
        options = PlanOptions(wishes=Wishes(objective=Objective.of("throughput")), alternatives=0)
        found: list[dict[str, float]] = []
        for number in range(rounds):
            profile = measure(model, Settings(), feeds, effort)
            plan = api.plan(model, device=profile, server=profile, link=link, options=options)
            best = plan.predicted
            if plan.decision != "split":
                report("stream", f"{name}, {mbit_per_s:g} Mbit/s", decision=plan.decision)
                return
            bundle = api.split(model, Path(folder) / f"bundle{number}", plan=plan)
            shape = (str(rate), str(link.rtt_s / 2))
            serve = ("-m", "splitter", "serve", str(bundle.folder), "--listen", "127.0.0.1:0")
            with (
                process(*serve) as (server, address),
                process(__file__, "--relay", address, *shape) as (between, way),
                Session(bundle.folder, way, adapt=False) as session,
            ):
                session.warm_up()
                stream_rate(session, feeds, seconds / 5)
                busy = [psutil.Process(pid) for pid in (os.getpid(), server.pid, between.pid)]
                before, started = processor_s(busy), time.perf_counter()
                measured = stream_rate(session, feeds, seconds)
                took_s = time.perf_counter() - started
                used = [b - a for a, b in zip(before, processor_s(busy), strict=True)]
            found.append({
                "of_predicted": measured * best.terms.bottleneck_s, "measured_per_s": measured,
                "predicted_per_s": 1 / best.terms.bottleneck_s, "head_ms": 1e3 * best.head_s,
                "tail_ms": 1e3 * best.tail_s, "up_ms": 1e3 * best.up_bytes / rate,
                "device_cpu_ms": 1e3 * used[0] / took_s / measured,
                "server_cpu_ms": 1e3 * used[1] / took_s / measured,
                "cores_busy": sum(used) / took_s,
            })  # fmt: skip
        ratios = [one["of_predicted"] for one in found]
        report(
            "stream", f"{name}, {mbit_per_s:g} Mbit/s", least=round(min(ratios), 3),
            most=round(max(ratios), 3),
            **{key: round(float(np.median([one[key] for one in found])), 3) for key in found[0]},
        )  # fmt: skip


def relay(target: str, rate: str, delay: str) -> None:
    """Be the link, until the process is ended."""
    with Relay(target) as way:
        way.shape(float(rate), float(rate), delay_s=float(delay))
        print(f"relay {way.address}", flush=True)
        threading.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["memory", "stream"])
    parser.add_argument("--models", nargs="*", default=model_names())
    parser.add_argument("--no-arena", action="store_true")
    parser.add_argument("--seconds", type=float, default=20.0, help="a profile's, for memory")
    parser.add_argument("--smoke", action="store_true", help="a moment; its figures mean nothing")
    parser.add_argument(
        "--relay", nargs=3, metavar="X", help="be the link: address, bytes/s, delay"
    )
    given = parser.parse_args()
    if given.relay:
        relay(*given.relay)
        return
    brief = Effort(anchors_s=0.2, codecs_s=0.2, memory_s=0.1)
    effort = brief if given.smoke else Effort(anchors_s=6.0, codecs_s=1.0, memory_s=given.seconds)
    names = given.models[:1] if given.smoke else given.models
    for name in names if given.only in (None, "memory") else ():
        shares = (0.5,) if given.smoke else SHARES
        memory_of(name, effort, shares, Settings(arena=not given.no_arena))
    cases = ((50.0,) if given.smoke else STREAMS) if given.only in (None, "stream") else ()
    for mbit_per_s, name in itertools.product(cases, names):
        quick = brief if given.smoke else Effort(anchors_s=8.0, codecs_s=2.0)
        stream_of(name, mbit_per_s, quick, 1 if given.smoke else 3, 0.3 if given.smoke else 5.0)


if __name__ == "__main__":
    main()
