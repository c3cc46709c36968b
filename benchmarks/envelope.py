"""The policy table against fresh solves, and the seconds that it takes: JSON lines out.

Exactness: each shared model is measured once, the device is this machine with every second multiplied by 4 or
20, and a plan with a table is made, with the codecs of the profile or with ten lossy ones (drawn, not
calibrated) beside them under a budget that tensors share. At random bandwidths (and, the same number, random
server slowdowns), log-uniform over six decades around the plan's, the table's cut is priced and a fresh plan
is solved from nothing. ``worst`` is the largest difference between the two, relative to the cost; the bar
is 1e-9, rounding.

    python benchmarks/envelope.py --draws 1000

Time: the graphs of ``planning_time.py``, seconds of both envelopes and of the map, after the plan; the bar is
3 s at 800 nodes. ``cpu_s`` is processor time, the solver's included, which a busy machine does not lengthen.

    python benchmarks/envelope.py --time --nodes 100 800 5000 --runs 3
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import msgspec
from _shared import model_names, real_feeds, shared_model
from planning_time import KINDS, LOSS_LIMIT, by_codecs, calibrated

from splitter.link_parse import find_link
from splitter.planning.baselines import whole_cuts
from splitter.planning.cost import objective
from splitter.planning.optimum import optimum
from splitter.planning.planner import solve_problem
from splitter.planning.policy import Policy, policy
from splitter.planning.problem import make_problem
from splitter.planning.records import Problem
from splitter.planning.search import SolverChoice
from splitter.planning.table import Pieces
from splitter.planning.worlds import Factors, world
from splitter.profiling.measure import Effort, measure

CHOICE = SolverChoice()
DECADES = 3
SLOWDOWNS = (4.0, 20.0)
EFFORT = Effort(anchors_s=5.0, codecs_s=5.0)


def exactness(name: str, draws: int) -> None:
    """Compare one model's tables with fresh solves."""
    model = shared_model(name)
    profile = measure(model, feeds=real_feeds(name, model), effort=EFFORT)
    for factor in SLOWDOWNS:
        problem = make_problem(model.graph, (profile, profile), find_link("wifi"))
        problem = world(problem, Factors(device=factor))
        compare({"model": name, "slowdown": factor, "codecs": "lossless"}, problem, draws)
        draw = random.Random(name)
        lossy = {tensor: calibrated(choices, draw) for tensor, choices in problem.codecs.items()}
        problem = replace(problem, codecs=lossy, loss_limit=LOSS_LIMIT)
        compare({"model": name, "slowdown": factor, "codecs": "lossy"}, problem, draws)


def compare(case: Mapping[str, object], problem: Problem, draws: int) -> None:
    """Compare one problem's table with fresh solves."""
    solution = solve_problem(problem)
    start = time.perf_counter()
    found = policy(problem, solution.pool, CHOICE)
    seconds = time.perf_counter() - start
    draw = random.Random(str(case))
    up, down = problem.link.up_bytes_per_s, problem.link.down_bytes_per_s

    def at_bandwidth(value: float) -> Problem:
        link = msgspec.structs.replace(
            problem.link, up_bytes_per_s=value, down_bytes_per_s=down * value / up
        )
        return replace(problem, link=link)

    def at_slowdown(value: float) -> Problem:
        return world(problem, Factors(server=value))

    table = found.table
    for axis, pieces, question in (
        ("up_bytes_per_s", table.up_bytes_per_s, at_bandwidth),
        ("server_slowdown", table.server_slowdown, at_slowdown),
    ):
        values = [pieces.at * 10 ** draw.uniform(-DECADES, DECADES) for _ in range(draws)]
        worst = max(_difference(problem, found, pieces, question, value) for value in values)
        print(json.dumps({
            "benchmark": "envelope_exactness", **case, "axis": axis,
            "nodes": len(problem.graph.nodes), "pieces": len(pieces.pieces), "solves": pieces.solves,
            "cuts": len(table.cuts), "draws": draws, "worst": worst, "exact": worst <= 1e-9,
            "table_s": round(seconds, 3), "breakpoints": [piece.low for piece in pieces.pieces[1:]],
        }), flush=True)  # fmt: skip


def _difference(
    problem: Problem, found: Policy, pieces: Pieces, question: Callable[[float], Problem], value: float
) -> float:  # fmt: skip
    plan = found.plans[pieces.at_value(value).cut]
    there = question(value)
    factor = value if pieces is found.table.server_slowdown else 1.0
    codecs = {
        name: Factors(server=factor).codec(name, codec) for name, codec in plan.codecs.items()
    }
    mine = objective(there, plan.head, codecs)
    best = optimum(there, CHOICE).price.objective
    return abs(mine - best) / best


def timing(nodes: int, kind: str, kept: bool, runs: int, codecs: str) -> None:
    """Time one graph's table, the plan being made."""
    problem = by_codecs(kind, nodes, kept)[codecs]
    best = optimum(problem, CHOICE).price
    seconds, processor = [], []
    for _ in range(runs):
        start, before = time.perf_counter(), sum(os.times()[:4])
        found = policy(problem, [best, *whole_cuts(problem)], CHOICE)
        seconds.append(time.perf_counter() - start)
        processor.append(sum(os.times()[:4]) - before)
    table = found.table
    print(json.dumps({
        "benchmark": "envelope_time", "kind": kind, "nodes": nodes, "kept_input": kept, "codecs": codecs,
        "bandwidths": len(table.up_bytes_per_s.pieces), "slowdowns": len(table.server_slowdown.pieces),
        "cuts": len(table.cuts), "proven": table.up_bytes_per_s.gap == table.server_slowdown.gap == 0,
        "solves": table.up_bytes_per_s.solves + table.server_slowdown.solves,
        "seconds": round(statistics.median(seconds), 3), "cpu_s": round(statistics.median(processor), 3),
        "runs": runs,
    }), flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--models", nargs="+", default=model_names())
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--nodes", type=int, nargs="+", default=[100, 800])
    parser.add_argument("--codecs", nargs="+", default=["one", "two", "thirty", "all"])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="one small graph, one small model")
    options = parser.parse_args()
    if options.smoke:
        options.draws, options.nodes, options.runs, options.codecs = 3, [30], 1, ["two"]
        options.models = options.models[:1]
    if options.time or options.smoke:
        for case in itertools.product(options.nodes, KINDS, (False, True)):
            for codecs in options.codecs:
                timing(*case, options.runs, codecs)
    if not options.time:
        for name in options.models:
            exactness(name, options.draws)


if __name__ == "__main__":
    main()
