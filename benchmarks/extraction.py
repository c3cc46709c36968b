"""Seconds and memory to cut a 1,000-node model in two: JSON lines out.

Each phase runs in a process of its own, so that its peak memory is its own: ``start`` imports the
package, ``load`` reads the model too, ``extract`` also makes head and tail and writes them, ``split``
writes a checked bundle instead, which runs the whole model and both parts.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from splitter.graph.cut import cut_of
from splitter.graph.read import load_model
from splitter.partition.bundle import Division, write_bundle
from splitter.partition.extract import Extractor
from splitter.partition.parts import PartWriter

PHASES = ("start", "load", "extract", "split")
NODES_A_BLOCK = 4


def make_model(path: Path, blocks: int, width: int, external: bool) -> None:
    """Residual blocks of MatMul, Add, Relu, Add; each has a square weight and a bias."""
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for i in range(blocks):
        scale = np.float32(0.1 / width**0.5)
        square = rng.standard_normal((width, width), dtype=np.float32) * scale
        weights.append(numpy_helper.from_array(square, f"w{i}"))
        weights.append(numpy_helper.from_array(np.zeros(width, np.float32), f"b{i}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{i}"], [f"m{i}"]))
        nodes.append(helper.make_node("Add", [f"m{i}", f"b{i}"], [f"a{i}"]))
        nodes.append(helper.make_node("Relu", [f"a{i}"], [f"r{i}"]))
        nodes.append(helper.make_node("Add", [f"r{i}", last], [f"y{i}"]))
        last = f"y{i}"
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, width]) for name in ("x", last)
    ]
    graph = helper.make_graph(nodes, "blocks", ports[:1], ports[1:], weights)
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    onnx.save(model, path, save_as_external_data=external, location=f"{path.name}.data")


def make_apart(path: Path, *about: int) -> None:
    """In another process: the peak that a process reports includes its parent's when it started."""
    maker = multiprocessing.get_context("spawn").Process(target=make_model, args=(path, *about))
    maker.start()
    maker.join()


def run_phase(phase: str, path: Path, out_dir: Path) -> dict[str, float]:
    """In this process: seconds by step, and the peak of its memory."""
    seconds = {}
    if phase != "start":
        started = time.perf_counter()
        model = load_model(path)
        seconds["load_s"] = time.perf_counter() - started
        names = [node.name for node in model.graph.nodes]
        cut = cut_of(model.graph, names[: len(names) // 2])
    if phase == "extract":
        started = time.perf_counter()
        extractor = Extractor(model)
        for make in (extractor.head, extractor.tail):
            make(cut)
        seconds["extract_s"] = time.perf_counter() - started
        started = time.perf_counter()
        with PartWriter(model, out_dir) as writer:
            writer.write(cut)
        seconds["write_s"] = time.perf_counter() - started
    if phase == "split":
        started = time.perf_counter()
        write_bundle(model, [Division(cut)], out_dir / "bundle")
        seconds["split_s"] = time.perf_counter() - started
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return seconds | {"peak_bytes": peak_bytes}


def run_apart(phase: str, path: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=path.parent) as out_dir:
        command = [sys.executable, __file__, "--phase", phase, str(path), out_dir]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def measure(path: Path, repeats: int) -> dict[str, object]:
    """Medians over interleaved runs; memory over that of the imports, as a multiple of the model."""
    runs = [{phase: run_apart(phase, path) for phase in PHASES} for _ in range(repeats)]
    model_bytes = sum(file.stat().st_size for file in path.parent.iterdir() if file.is_file())
    result: dict[str, object] = {"model_bytes": model_bytes}
    for phase in PHASES:
        for key in runs[0][phase]:
            median = statistics.median(run[phase][key] for run in runs)
            result[key if key != "peak_bytes" else f"{phase}_peak_bytes"] = round(median, 4)
        own = [run[phase]["peak_bytes"] - run["start"]["peak_bytes"] for run in runs]
        result[f"{phase}_times_model"] = round(statistics.median(own) / model_bytes, 3)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="a small model, once")
    parser.add_argument("--phase", nargs=3, metavar=("PHASE", "MODEL", "DIR"), help="for itself")
    options = parser.parse_args()
    if options.phase:
        phase, path, out_dir = options.phase
        print(json.dumps(run_phase(phase, Path(path), Path(out_dir))))
        return
    blocks, width = (10, 16) if options.smoke else (250, 447)
    for external in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            make_apart(path, blocks, width, external)
            result = measure(path, 1 if options.smoke else options.repeats)
        about = {"benchmark": "extraction", "nodes": blocks * NODES_A_BLOCK, "external": external}
        print(json.dumps(about | result), flush=True)


if __name__ == "__main__":
    main()
