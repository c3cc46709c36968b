"""A link that is cut and restored twenty times in two thousand requests, in four ways.

``cut``: connections are reset and new ones refused. ``black hole``: everything is accepted and nothing
carried. ``drop``: the kernel drops every packet, between network namespaces (root only). ``kill``: the
server's process is killed and started again.

Requests come one after the other at a steady pace; the fault comes at any moment of one. Counted are
requests lost (an error), wrong (not the whole model's bits) and late, and the seconds from the link's return
(the server's, when it says that it serves) to the first answer of the server.
``python benchmarks/outage.py [--smoke] [--mode cut]``
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from _serving import bundle_at, network, photo, process, report

from splitter.errors import SplitterError
from splitter.partition.bundle import Bundle
from splitter.runtime import Optimisation, Runner, Settings
from splitter.serving.device.report import AnsweredBy
from splitter.serving.device.session import Session
from splitter.serving.relay.relay import Relay

OUTAGES, REQUESTS = 20, 2_000
DEADLINE_S = 1.0
PACE_S = 0.02
LEAST_OUTAGE_S = 1.0
LONGEST_RETURN_S = 20.0
EXACT = Settings(optimisation=Optimisation.NONE)


class Way:
    """A way to the server that can be broken; which way is up to the mode."""

    def __init__(self, address: str, fail: Callable[[], None], heal: Callable[[], None]) -> None:
        self.address, self.fail, self.heal = address, fail, heal


@contextmanager
def relayed(bundle: Bundle, mode: str) -> Iterator[Way]:
    command = ("-m", "splitter", "serve", str(bundle.folder), "--listen", "127.0.0.1:0")
    with process(*command) as (_, address), Relay(address) as relay:
        fail = relay.cut if mode == "cut" else relay.black_hole
        yield Way(relay.address, fail, relay.restore)


@contextmanager
def dropped(bundle: Bundle) -> Iterator[Way]:
    """A server in a namespace, at the end of a virtual cable whose far end is unplugged."""
    space, near, far = "splitter-out", "splitout0", "splitout1"
    subprocess.run(["ip", "netns", "add", space], check=True)
    try:
        for command in (
            f"ip link add {near} type veth peer name {far} netns {space}",
            f"ip addr add 10.213.77.1/30 dev {near}",
            f"ip link set {near} up",
            f"ip -n {space} addr add 10.213.77.2/30 dev {far}",
            f"ip -n {space} link set {far} up",
            f"ip -n {space} link set lo up",
        ):
            subprocess.run(command.split(), check=True)
        inside = ["ip", "netns", "exec", space, sys.executable, "-m", "splitter", "serve"]
        listen = ["--listen", "10.213.77.2:8001", "--insecure"]
        with process(command=[*inside, str(bundle.folder), *listen]) as (_, address):

            def plug(state: str) -> None:
                subprocess.run(["ip", "-n", space, "link", "set", far, state], check=True)

            yield Way(address, lambda: plug("down"), lambda: plug("up"))
    finally:
        subprocess.run(["ip", "netns", "del", space], check=True)


def can_drop() -> bool:
    return os.geteuid() == 0 and shutil.which("ip") is not None


@contextmanager
def killed(bundle: Bundle) -> Iterator[Way]:
    command = ("-m", "splitter", "serve", str(bundle.folder), "--listen")
    running = [process(*command, "127.0.0.1:0")]
    _, address = running[0].__enter__()

    def fail() -> None:
        running.pop().__exit__(None, None, None)

    def heal() -> None:
        running.append(process(*command, address))
        running[0].__enter__()

    try:
        yield Way(address, fail, heal)
    finally:
        while running:
            fail()


@dataclass
class Tally:
    requests: int = 0
    lost: int = 0
    wrong: int = 0
    late: int = 0
    by_server: int = 0
    worst_s: float = 0.0
    worst: dict[str, Any] = field(default_factory=dict)
    """How the slowest came about."""
    errors: set[str] = field(default_factory=set)


class Caller:
    """Asks at a steady pace, and keeps count."""

    def __init__(self, session: Session, feeds: list[dict[str, np.ndarray]], whole: Runner) -> None:
        self._session, self._feeds = session, feeds
        self._right = [whole.run(each) for each in feeds]
        self.tally = Tally()

    def ask(self) -> bool:
        """Whether the server answered."""
        which = self.tally.requests % len(self._feeds)
        self.tally.requests += 1
        started = time.monotonic()
        try:
            result = self._session.infer(self._feeds[which])
        except SplitterError as exc:
            self.tally.lost += 1
            self.tally.errors.add(str(exc))
            return False
        finally:
            took_s = time.monotonic() - started
            is_worst = took_s > self.tally.worst_s
            self.tally.worst_s = max(self.tally.worst_s, took_s)
            self.tally.late += took_s > DEADLINE_S
        if is_worst:
            self.tally.worst = msgspec.to_builtins(result.timing)
        values = zip(result.outputs.values(), self._right[which], strict=True)
        self.tally.wrong += not all(got.tobytes() == right.tobytes() for got, right in values)
        by_server = result.timing.answered_by is AnsweredBy.SERVER
        self.tally.by_server += by_server
        time.sleep(max(0.0, PACE_S - took_s))
        return by_server

    def ask_while(self, holds: Callable[[], bool]) -> None:
        while holds():
            self.ask()


def cycle(caller: Caller, way: Way, count: int) -> float:
    """One outage; seconds until the server answered again."""
    for _ in range(count * 3 // 10):
        caller.ask()
    at_s = time.monotonic()
    breaker = threading.Timer(random.uniform(0, PACE_S), way.fail)
    breaker.start()
    for _ in range(count * 4 // 10):
        caller.ask()
    caller.ask_while(lambda: time.monotonic() < at_s + LEAST_OUTAGE_S or breaker.is_alive())
    healer = threading.Thread(target=way.heal)
    healer.start()
    caller.ask_while(healer.is_alive)
    returned_s = time.monotonic()
    while not caller.ask() and time.monotonic() < returned_s + LONGEST_RETURN_S:
        pass
    back_s = time.monotonic() - returned_s
    for _ in range(count * 3 // 10):
        caller.ask()
    return back_s


def measure(mode: str, bundle: Bundle, feeds: list[dict[str, np.ndarray]], outages: int) -> None:
    whole = bundle.manifest.on_device
    assert whole is not None
    if mode == "drop" and not can_drop():
        report("outage", mode, skipped="needs root and the ip command")
        return
    ways = {"kill": killed, "drop": dropped}.get(mode, partial(relayed, mode=mode))
    with ways(bundle) as way, Session(bundle.folder, way.address, deadline_s=DEADLINE_S) as session:
        caller = Caller(session, feeds, Runner(bundle.path(whole.head), EXACT))
        while not caller.ask():
            pass
        back_s = [cycle(caller, way, REQUESTS // OUTAGES) for _ in range(outages)]
    tally = caller.tally
    report(
        "outage", mode, model=bundle.manifest.name, outages=outages, requests=tally.requests,
        by_server=tally.by_server, lost=tally.lost, wrong=tally.wrong, late=tally.late,
        deadline_s=DEADLINE_S, slowest_s=round(tally.worst_s, 3),
        slowest={k: v for k, v in tally.worst.items() if v and k != "digest"},
        back_median_s=round(float(np.median(back_s)), 3), back_max_s=round(max(back_s), 3),
        errors=sorted(tally.errors),
    )  # fmt: skip


def main() -> None:
    modes = ("cut", "black hole", "drop", "kill")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="one outage each")
    parser.add_argument("--mode", choices=modes, help="only this one")
    arguments = parser.parse_args()
    random.seed(0)
    with tempfile.TemporaryDirectory() as folder:
        model = network(Path(folder))
        bundle = bundle_at(model, 0.5, Path(folder, "bundle"), settings=EXACT, fallback=True)
        feeds = [photo(model, seed) for seed in range(8)]
        for mode in modes if arguments.mode is None else (arguments.mode,):
            measure(mode, bundle, feeds, 1 if arguments.smoke else OUTAGES)


if __name__ == "__main__":
    main()
