"""Seconds to plan, by size of the graph: JSON lines out, medians over interleaved runs.

``total_s`` is what the bar is about: build, presolve, solve and check of the best cut.
``everything_s`` adds the alternatives and the validity, as ``splitter plan`` does.

    python benchmarks/planning_time.py --nodes 100 800 5000 20000 --runs 3

Then the same graphs again by what their tensors may travel in: one codec, two, or twelve with losses and
a shared budget for 30 tensors or for all. The bar is 3x the median of one codec. A *kept* input cannot be
sent and tensors are an eighth, so that wide cuts compete, whose tensors have to share the budget.

    python benchmarks/planning_time.py --codecs --nodes 100 800 5000 --runs 7

With a relay between the two, codecs and one limit that all tensors share (accuracy, and bytes): the bar is
5 s at a few hundred nodes.

    python benchmarks/planning_time.py --tiers --nodes 100 200 300 --runs 3
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import msgspec

from splitter.graph.values import Graph, Node, Tensor
from splitter.link import Link
from splitter.planning.optimum import optimum
from splitter.planning.placed import place
from splitter.planning.planner import solve_problem
from splitter.planning.presolve import presolve
from splitter.planning.records import CodecCost, Problem, Relay, TierCost
from splitter.planning.search import Search, SolverChoice
from splitter.planning.terms import Limits

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


LOSS_LIMIT = 0.01


def by_codecs(kind: str, nodes: int, kept: bool) -> dict[str, Problem]:
    """Draw a problem with 1, 2 and for 30 or all tensors 12 codecs each."""
    base = problem(kind, nodes, seed=nodes)
    codecs = dict(base.codecs)
    if kept:
        del codecs["x"]
        codecs = {name: tuple(map(_an_eighth, choices)) for name, choices in codecs.items()}
    draw = random.Random(nodes)
    made = list(base.graph.node_of)
    thirty = set(draw.sample(made, min(30, len(made))))
    lossy = {name: calibrated(codecs[name], draw) for name in made}
    one = {name: choices[:1] for name, choices in codecs.items()}
    return {
        "one": replace(base, codecs=one),
        "two": replace(base, codecs=codecs),
        "thirty": replace(
            base,
            codecs=codecs | {name: lossy[name] for name in thirty},
            loss_limit=LOSS_LIMIT,
        ),
        "all": replace(base, codecs=codecs | lossy, loss_limit=LOSS_LIMIT),
    }


def _an_eighth(choice: CodecCost) -> CodecCost:
    return CodecCost(
        codec=choice.codec,
        wire_bytes=choice.wire_bytes // 8,
        encode_s=choice.encode_s,
        decode_s=choice.decode_s,
    )


def calibrated(choices: tuple[CodecCost, ...], draw: random.Random) -> tuple[CodecCost, ...]:
    """Add ten codecs of 0.5 to 8 bits an element; each bit about halves the loss."""
    sensitivity = draw.uniform(0.3, 3)
    lossy = []
    for index in range(10):
        bits = 0.5 + 7.5 * index / 9
        lossy.append(
            CodecCost(
                codec=f"{bits:.1f} bits",
                wire_bytes=int(choices[0].wire_bytes * bits / 32 * draw.uniform(0.5, 0.7)),
                encode_s=0.0005,
                decode_s=0.0005,
                loss=round(sensitivity * 0.02 * 2**-bits * draw.uniform(0.8, 1.2), 5),
            )
        )
    return (*choices, *lossy)


def compare(options: argparse.Namespace, choice: SolverChoice) -> None:
    """Plan the same graphs with more and more codecs, in turn."""
    for nodes, kind, kept in itertools.product(options.nodes, KINDS, (False, True)):
        questions = by_codecs(kind, nodes, kept)
        everything = nodes <= options.everything_up_to
        seconds: dict[str, list[dict[str, float | None]]] = {name: [] for name in questions}
        for run in range(options.runs):
            print(f"run {run + 1}: {kind} {nodes}, codecs", file=sys.stderr)
            for name, question in questions.items():
                seconds[name].append(measure(question, choice, everything))
        total, whole = (
            {name: _median([run[term] for run in runs]) for name, runs in seconds.items()}
            for term in ("total_s", "everything_s")
        )
        for name, question in questions.items():
            found = optimum(question, choice)
            print(json.dumps({
                "benchmark": "planning_time_by_codecs", "kind": kind, "nodes": nodes, "kept_input": kept,
                "codecs": name, "solver": choice.name, "crossing": len(found.price.codecs),
                "loss": round(found.price.loss, 5), "objective": round(found.price.objective, 5),
                "variables": found.report.variables, "constraints": found.report.constraints,
                "total_s": total[name], "everything_s": whole[name],
                "times_one": _ratio(total[name], total["one"]),
                "everything_times_one": _ratio(whole[name], whole["one"]), "runs": options.runs,
            }))  # fmt: skip


def over_tiers(options: argparse.Namespace, choice: SolverChoice) -> None:
    """Plan over three tiers, by what tensors may travel in and what limits them."""
    for nodes, kind, name in itertools.product(options.nodes, KINDS, ("two", "thirty", "all")):
        for limits in (Limits(), Limits(sent_bytes=100_000)):
            question = _with_relay(replace(by_codecs(kind, nodes, False)[name], limits=limits))
            seconds = []
            for _ in range(options.runs):
                start = time.perf_counter()
                found = place(question, choice)
                seconds.append(time.perf_counter() - start)
            print(json.dumps({
                "benchmark": "planning_time_over_tiers", "kind": kind, "nodes": nodes, "codecs": name,
                "sent_bytes_limit": limits.sent_bytes, "tiers_in_use": found.best.layout.numbers,
                "objective_s": round(found.best.objective, 5), "status": found.report.status.value,
                "variables": found.report.variables, "constraints": found.report.constraints,
                "total_s": round(statistics.median(seconds), 3), "runs": options.runs,
            }), flush=True)  # fmt: skip


def _with_relay(question: Problem) -> Problem:
    """A relay three times as fast as the device, close to it, and a fast link on to the server."""
    tier = TierCost({name: s / 3 for name, s in question.device.node_s.items()}, base_s=0.001)
    onward = Link(name="relay", up_bytes_per_s=1e7, down_bytes_per_s=1e7, rtt_s=0.003)
    near = msgspec.structs.replace(question.link, rtt_s=0.008)
    return replace(
        question, link=near, relays=(Relay(tier, onward),), shortcuts={(0, 2): question.link}
    )


def _ratio(value: float | None, base: float | None) -> float | None:
    return None if value is None or not base else round(value / base, 2)


def measure(question: Problem, choice: SolverChoice, everything: bool) -> dict[str, float | None]:
    """Time one run, stage by stage."""
    start = time.perf_counter()
    program = Search(question, choice).program
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
    parser.add_argument("--codecs", action="store_true", help="compare numbers of codecs instead")
    parser.add_argument(
        "--tiers", action="store_true", help="with a relay, codecs and shared limits"
    )
    parser.add_argument("--smoke", action="store_true", help="one small size, one run")
    options = parser.parse_args()
    if options.smoke:
        options.runs = 1
    choice = SolverChoice(options.solver)
    if options.smoke:
        options.nodes = [40]
    if options.tiers or options.smoke:
        over_tiers(options, choice)
    if options.tiers:
        return
    if options.smoke:
        options.nodes = [100]
    if options.codecs or options.smoke:
        compare(options, choice)
    if options.codecs:
        return
    cases = {(kind, n): problem(kind, n, seed=n) for kind in KINDS for n in options.nodes}
    runs: dict[tuple[str, int], list[dict[str, float | None]]] = {case: [] for case in cases}
    for run in range(options.runs):
        for (kind, nodes), question in cases.items():
            print(f"run {run + 1}: {kind} {nodes}", file=sys.stderr)
            everything = nodes <= options.everything_up_to
            runs[kind, nodes].append(measure(question, choice, everything))
    for (kind, nodes), question in cases.items():
        program = Search(question, choice).program
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
