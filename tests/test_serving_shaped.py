"""A session across a cable that the kernel shapes: it follows the rate down and up again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from splitter.codec import get_codec
from splitter.graph.cut import cut_of
from splitter.graph.read import load_model
from splitter.link import Link
from splitter.partition.bundle import Deployment, Division, write_bundle
from splitter.partition.manifest import CutCost
from splitter.runtime import Runner
from splitter.serving.device.session import Session
from tests.models import save

SPACE, NEAR, FAR = "splitter-shape", "splitshape0", "splitshape1"
HERE, THERE = "10.213.78.1", "10.213.78.2"
DEADLINE_S = 60.0
WHOLE_S = 0.15


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def shape() -> Iterator[Callable[[str], None]]:
    """A network namespace at the end of a cable, whose rate each way can be set."""
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("tc") is None:
        pytest.skip("shaping a cable needs root, ip and tc")

    def set_rate(rate: str) -> None:
        tbf = ["root", "tbf", "rate", rate, "burst", "8kb", "latency", "400ms"]
        run("tc", "qdisc", "replace", "dev", NEAR, *tbf)
        run("tc", "-n", SPACE, "qdisc", "replace", "dev", FAR, *tbf)

    try:
        run("ip", "netns", "add", SPACE)
    except subprocess.CalledProcessError as exc:
        pytest.skip(f"this machine makes no network namespaces: {exc.stderr.decode().strip()}")
    try:
        run("ip", "link", "add", NEAR, "type", "veth", "peer", "name", FAR, "netns", SPACE)
        run("ip", "addr", "add", f"{HERE}/30", "dev", NEAR)
        run("ip", "link", "set", NEAR, "up")
        for command in (f"addr add {THERE}/30 dev {FAR}", f"link set {FAR} up", "link set lo up"):
            run("ip", "-n", SPACE, *command.split())
        try:
            set_rate("50mbit")
        except subprocess.CalledProcessError as exc:
            pytest.skip(f"this kernel does not shape: {exc.stderr.decode().strip()}")
        yield set_rate
    finally:
        run("ip", "netns", "del", SPACE)


@contextmanager
def serving(bundle: Path) -> Iterator[str]:
    command = ["ip", "netns", "exec", SPACE, sys.executable, "-m", "splitter", "serve", str(bundle)]
    listen = ["--listen", f"{THERE}:8001", "--insecure"]
    with subprocess.Popen([*command, *listen], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert THERE in process.stdout.readline()
            yield f"{THERE}:8001"
        finally:
            process.kill()


def bundle_of_two(folder: Path) -> Path:
    """The input sent, 40 kB as it is, or all on the device, said to take 0.15 s."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[10000] x) => (float[10] y) <int64[1] s = {0}, int64[1] e = {10}> {
            n = Neg(x)
            y = Slice(n, s, e)
        }"""
    model = load_model(save(onnx.parser.parse_model(text), folder / "model.onnx"))
    nothing = dict.fromkeys(("head_s", "encode_s", "decode_s", "tail_s"), 0.0)
    sent = CutCost(**{**nothing, "tail_s": 0.002}, up_bytes=40_000, down_bytes=200)
    kept = CutCost(**{**nothing, "head_s": WHOLE_S}, up_bytes=0, down_bytes=0)
    divisions = [
        Division(cut_of(model.graph, []), {"x": get_codec("raw")}, cost=sent),
        Division(cut_of(model.graph, list(model.graph.node_of)), cost=kept),
    ]
    link = Link(name="test", up_bytes_per_s=6e6, down_bytes_per_s=6e6, rtt_s=0.002)
    return write_bundle(model, divisions, folder / "bundle", Deployment(link=link)).folder


@pytest.mark.slow
def test_a_session_follows_the_rate_of_a_shaped_cable_down_and_up_again(
    shape, tmp_path, monkeypatch
):
    bundle = bundle_of_two(tmp_path)
    run_model = Runner.run

    def slow(self: Runner, feeds: Mapping[str, Any], *more: Any) -> list[Any]:
        time.sleep(WHOLE_S)  # as a device that is slower than the server
        return run_model(self, feeds, *more)

    monkeypatch.setattr(Runner, "run", slow)
    feeds = {"x": np.arange(10_000, dtype=np.float32)}
    with serving(bundle) as address, Session(bundle, address, deadline_s=5.0) as session:

        def settles_on(by: str) -> None:
            """Three answers in a row from there, within the deadline; every answer right."""
            ends_s, in_a_row = time.monotonic() + DEADLINE_S, 0
            while in_a_row < 3:
                assert time.monotonic() < ends_s, f"still not on the {by}: {session.last}"
                (y,) = session.run(None, feeds)
                assert np.array_equal(y, -feeds["x"][:10])
                in_a_row = in_a_row + 1 if session.last.answered_by == by else 0

        settles_on("server")
        shape("500kbit")
        settles_on("device")
        shape("50mbit")
        settles_on("server")
