"""The report of a large model: how long it takes to write, its bytes, and how soon a browser has drawn it.

Bars: 2 s, 3 MB, and 1.5 s in Chromium for a model of 1,000 nodes. Where there is no Chromium or no
Playwright, the last is left out. ``fluid_ms`` is the longest of a block's opening, a move of the slider to
another cut, and a search.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from _browser import browser
from onnx import TensorProto, helper, numpy_helper

from splitter import api
from splitter.planning.plan import PlanOptions
from splitter.planning.records import Plan
from splitter.profiling.measure import Effort
from splitter.profiling.timing import Rounds
from splitter.reporting.html import report_html

EFFORT = Effort(
    anchors_s=1.0, codecs_s=1.0, rounds=Rounds(least=3, most=3, budget_s=0.1), trace_runs=2
)
DRAWN = "performance.getEntriesByName('graph-drawn')"


def residual(nodes: int) -> onnx.ModelProto:
    """Blocks of convolution, activation, convolution, sum and activation, named as PyTorch names them."""
    draw = np.random.default_rng(0)
    made, weights, last, size, channels = [], [], "image", 32, 8
    names = ("conv1/Conv", "relu1/Relu", "conv2/Conv", "Add", "relu2/Relu")
    while len(made) < nodes:
        block = len(made) // 5
        prefix = f"/layer{block // 10}/layer{block // 10}.{block % 10}"
        first = last if block else "stem"
        if not block:
            weights.append(numpy_helper.from_array(
                draw.standard_normal((channels, 3, 3, 3)).astype(np.float32), "stem.weight"))  # fmt: skip
            made.append(helper.make_node(
                "Conv", ["image", "stem.weight"], ["stem"], "/stem/Conv", pads=[1] * 4))  # fmt: skip
        current = first
        for name in names:
            kind, output = name.rpartition("/")[2], f"{prefix}/{name}_output_0"
            inputs = [current]
            if kind == "Conv":
                weight = f"{prefix}/{name}.weight"
                values = draw.standard_normal((channels, channels, 3, 3)).astype(np.float32)
                weights.append(numpy_helper.from_array(values * np.float32(0.1), weight))
                inputs.append(weight)
            attributes = {"pads": [1] * 4} if kind == "Conv" else {}
            if kind == "Add":
                inputs.append(first)
            made.append(helper.make_node(kind, inputs, [output], f"{prefix}/{name}", **attributes))
            current = output
        last = current
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, width, size, size])
        for name, width in (("image", 3), (last, channels))
    ]
    graph = helper.make_graph(made, "residual", ends[:1], ends[1:], weights)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def planned(nodes: int) -> Plan:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "residual.onnx"
        onnx.save(residual(nodes), path)
        model = api.load(path)
        profile = api.profile(model, effort=EFFORT)
        options = PlanOptions(envelope=True, explain=True)
        return api.plan(
            model, device="raspberry-pi-4", server=profile, link="100Mbit/s,5ms", options=options
        )


def in_browser(page_file: Path, runs: int) -> dict[str, float]:
    with browser() as chromium:
        if chromium is None:
            print("no Chromium or no Playwright: nothing is drawn", file=sys.stderr)
            return {}
        drawn, fluid = [], []
        for _ in range(runs):
            page = chromium.new_page(viewport={"width": 1280, "height": 900})
            page.goto(page_file.as_uri())
            page.wait_for_function(f"{DRAWN}.length")
            drawn.append(page.evaluate(f"{DRAWN}[0].startTime"))
            fluid.append(max(_taken(page, act) for act in ACTS))
            page.close()
    return {
        "first_draw_s": round(statistics.median(drawn) / 1e3, 3),
        "worst_draw_s": round(max(drawn) / 1e3, 3),
        "fluid_ms": round(statistics.median(fluid)),
    }


ACTS = (
    "document.getElementById('graph').focus(), document.getElementById('graph').dispatchEvent("
    "new KeyboardEvent('keydown', {key: 'ArrowDown'})), document.getElementById('graph').dispatchEvent("
    "new KeyboardEvent('keydown', {key: 'Enter'}))",
    "(s => { s.value = 1000; s.dispatchEvent(new Event('input')); })(document.getElementById('slide-up'))",
    "(s => { s.value = 'Conv'; s.dispatchEvent(new Event('input')); })(document.getElementById('search')),"
    "document.querySelector('#found button').click()",
)
"""Opening a block by keys, moving the slider to the end, and jumping to what a search finds."""


def _taken(page: object, act: str) -> float:
    """Milliseconds until the frame after it is painted."""
    script = (
        "() => new Promise(done => { const start = performance.now(); " + act + ";"
        "requestAnimationFrame(() => setTimeout(() => done(performance.now() - start))); })"
    )
    return float(page.evaluate(script))  # type: ignore[attr-defined]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[100, 1000, 5000])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--smoke", action="store_true", help="one small model, once")
    options = parser.parse_args()
    if options.smoke:
        options.nodes, options.runs = [60], 1
    for nodes in options.nodes:
        plan = planned(nodes)
        seconds = []
        for _ in range(options.runs):
            started = time.perf_counter()
            page = report_html(plan).encode()
            seconds.append(time.perf_counter() - started)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "report.html"
            file.write_bytes(page)
            drawn = in_browser(file, options.runs)
        print(json.dumps({
            "benchmark": "report", "nodes": len(plan.graph.nodes) if plan.graph else 0,
            "places": len(plan.order), "built_s": round(statistics.median(seconds), 3),
            "megabytes": round(len(page) / 1e6, 3), **drawn, "runs": options.runs,
        }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
