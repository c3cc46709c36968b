"""Seconds to plan, by size of the graph: JSON lines out, medians over interleaved runs.

``total_s`` is what the bar is about: build, presolve, solve and check of the best cut.
``everything_s`` adds the alternatives and the validity, as ``splitter plan`` does.

    python benchmarks/planning_time.py --nodes 100 800 5000 20000 --runs 3
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable

from splitter.graph.values import Graph, Node, Tensor
from splitter.link import Link
from splitter.planning.optimum import optimum
from splitter.planning.planner import solve_problem
from splitter.planning.presolve import presolve
from splitter.planning.program import build
from splitter.planning.records import CodecCost, Problem, TierCost
from splitter.planning.search import SolverChoice

LINK = Link(name="benchmark", up_bytes_per_s=2.5e6, down_bytes_per_s=2.5e6, rtt_s=0.015)
INPUT_BYTES = 3 * 224 * 224 * 4


def layered(nodes: int, draw: random.Random) -> Graph:
    """Layers of ten; each node reads one to three of the layer before, some also an older one."""
    reads: dict[str, tuple[str, ...]] = {}
    for i in range(nodes):
        layer = i // 10
        before = [f"t{j}" for j in range((layer - 1) * 10, layer * 10)] if layer else ["x"]
        chosen = draw.sample(before, min(len(before), draw.choice([1, 1, 2, 3])))
        if layer > 2 and draw.random() < 0.3:
            chosen.append(f"t{draw.randrange((layer - 1) * 10)}")
        reads[f"t{i}"] = tuple(chosen)
    return _graph(reads, draw)


def residual(nodes: int, draw: random.Random) -> Graph:
    """Blocks of convolution, activation, convolution, sum with what came in, activation."""
    reads: dict[str, tuple[str, ...]] = {}
    last = "x"
    while len(reads) < nodes:
        first, block_input = len(reads), last
        for step, source in enumerate((block_input, f"t{first}", f"t{first + 1}")):
            reads[f"t{first + step}"] = (source,)
        short = block_input
        if draw.random() < 0.3:
            short = f"t{first + 3}"
            reads[short] = (block_input,)
        total = f"t{len(reads)}"
        reads[total] = (f"t{first + 2}", short)
        last = f"t{len(reads)}"
        reads[last] = (total,)
    return _graph(reads, draw)


KINDS: dict[str, Callable[[int, random.Random], Graph]] = {"layered": layered, "residual": residual}


def _graph(reads: dict[str, tuple[str, ...]], draw: random.Random) -> Graph:
    """Tensors swell, then shrink along the depth, as a network's do."""
    nodes = tuple(Node(name, "Op", tensors, (name,)) for name, tensors in reads.items())
    tensors = {"x": Tensor("x", "uint8", (INPUT_BYTES,))}
    for i, name in enumerate(reads):
        nbytes = int(2 * INPUT_BYTES * 0.01 ** (i / len(reads)) * draw.uniform(0.2, 1))
        tensors[name] = Tensor(name, "uint8", (nbytes,))
    return Graph(nodes, tensors, ("x",), (nodes[-1].name,), sha256="")


def problem(kind: str, nodes: int, seed: int) -> Problem:
    """Draw a problem in which the device needs 0.4 s for the whole, the server an eighth of it."""
    draw = random.Random(seed)
    graph = KINDS[kind](nodes, draw)
    device = {name: draw.uniform(0, 0.8) / nodes for name in graph.node_of}
    codecs = {
        name: tuple(
            CodecCost(codec=codec, wire_bytes=int(tensor.shape[0] * share), encode_s=s, decode_s=s)
            for codec, share, s in (("raw", 1.0, 0.0), ("zstd", 0.5, 0.001))
        )
        for name, tensor in graph.tensors.items()
        if tensor.shape is not None
    }
    return Problem(
        graph,
        TierCost(device, base_s=0.001),
        TierCost({name: seconds / 8 for name, seconds in device.items()}, base_s=0.001),
        LINK,
        codecs,
    )


def measure(question: Problem, choice: SolverChoice, everything: bool) -> dict[str, float | None]:
    """Time one run, stage by stage."""
    start = time.perf_counter()
    program = build(question)
    built = time.perf_counter()
    presolve(program)
    presolved = time.perf_counter()
    optimum(question, choice)
    solved = time.perf_counter()
    if everything:
        solve_problem(question, solver=choice.name)
    return {
        "build_s": built - start,
        "presolve_s": presolved - built,
        "total_s": solved - presolved,
        "everything_s": time.perf_counter() - solved if everything else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[100, 800, 5000, 20000])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--solver", default="cbc")
    parser.add_argument("--everything-up-to", type=int, default=800, metavar="NODES")
    parser.add_argument("--smoke", action="store_true", help="one small size, one run")
    options = parser.parse_args()
    if options.smoke:
        options.nodes, options.runs = [100], 1
    choice = SolverChoice(options.solver)
    cases = {(kind, n): problem(kind, n, seed=n) for kind in KINDS for n in options.nodes}
    runs: dict[tuple[str, int], list[dict[str, float | None]]] = {case: [] for case in cases}
    for run in range(options.runs):
        for (kind, nodes), question in cases.items():
            print(f"run {run + 1}: {kind} {nodes}", file=sys.stderr)
            everything = nodes <= options.everything_up_to
            runs[kind, nodes].append(measure(question, choice, everything))
    for (kind, nodes), question in cases.items():
        program = build(question)
        small = presolve(program).program
        print(json.dumps({
            "benchmark": "planning_time", "kind": kind, "nodes": nodes, "solver": choice.name,
            "variables": program.size[0], "constraints": program.size[1],
            "presolved_variables": small.size[0], "presolved_constraints": small.size[1],
            "head_nodes": len(optimum(question, choice).price.head), "runs": options.runs,
            **{name: _median([run[name] for run in runs[kind, nodes]]) for name in runs[kind, nodes][0]},
        }))  # fmt: skip


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 4) if known else None


if __name__ == "__main__":
    main()
