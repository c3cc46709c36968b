"""Planning problems whose optima others published: JSON lines out, none where the data is absent.

``blocks``: nine networks measured block by block, two links, crossing bytes divided by 1, 4 and 16, two tiers
and three; ``gap`` is against the best by enumeration, and the bar is 0. ``cut``: graphs of device placement
as two-tier problems (the host is the device, an accelerator the server, each tensor costs its ``cost`` to
cross), beside an integer minimum cut; the bar is equality, in under 0.3 s each. ``accelerators``: the same
graphs over k accelerators and a host, the largest load as small as can be; best value and proven bound
when the time is over, beside the published optimum.

    python benchmarks/published.py --seconds 300
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf
from typing import Any

import networkx as nx
from _shared import SHARED

from splitter.errors import InfeasibleError
from splitter.graph.values import Graph, Node, Tensor
from splitter.link import Link
from splitter.planning.optimum import optimum
from splitter.planning.placed import place
from splitter.planning.program import Program, Row
from splitter.planning.records import CodecCost, Problem, Relay, TierCost
from splitter.planning.search import SolverChoice
from splitter.planning.solver import solve
from splitter.planning.sums import ONE, ZERO, Sum

DATA = SHARED / "planning"
DIVISIONS = (1, 4, 16)
SIXTEENTHS = 16
"""Bytes are counted in sixteenths, so that every division leaves whole ones."""

PUBLISHED_MS = {
    "layer-bert24": 17.790, "layer-resnet50": 33.775, "operator-bert_l-3": 27.919,
    "operator-resnet50": 124.349,
}  # fmt: skip
"""The largest load, contiguous, by an exact dynamic program; inceptionv3 was not done by it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seconds", type=float, default=300.0, help="for each k-accelerator problem"
    )
    parser.add_argument("--parts", nargs="+", default=["blocks", "cut", "accelerators"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--solver", default="cbc")
    parser.add_argument(
        "--smoke", action="store_true", help="one of each, a second each; invented data"
    )
    options = parser.parse_args()
    choice = SolverChoice(options.solver)
    if options.smoke:
        options.runs, options.seconds = 1, 2.0
        show(accelerators("smoke", INVENTED, options))
        show(cut("smoke", INVENTED, choice, 1))
        return
    if "blocks" in options.parts:
        for line in blocks(choice):
            show(line)
    for path in sorted((DATA / "placement").glob("*.json")):
        data = json.loads(path.read_text())
        if "cut" in options.parts:
            show(cut(path.stem, data, choice, options.runs))
    for path in sorted((DATA / "placement").glob("throughput-*.json")):
        if "accelerators" in options.parts:
            show(accelerators(path.stem, json.loads(path.read_text()), options))


def show(line: Mapping[str, object]) -> None:
    print(json.dumps({"benchmark": "published", **line}), flush=True)


def blocks(choice: SolverChoice) -> Iterator[Mapping[str, object]]:
    """Every network, link and division, two tiers and three."""
    path = DATA / "blocks"
    if not path.is_dir():
        return
    data = json.loads((path / "blocks.json").read_text())
    optima = json.loads((path / "optima.json").read_text())
    kinds = data["machines"]
    edges = [name for name, kind in kinds.items() if kind == "edge"]
    others = [name for name, kind in kinds.items() if kind != "device"]
    for network, setting in ((n, s) for n in data["models"] for s in data["links"]):
        for division in DIVISIONS:
            chain = Chain(data, network, setting, division)
            known = optima[network][f"{setting}/{division}"]
            start = time.perf_counter()
            two = min(optimum(chain.two(name), choice).price.objective for name in others)
            middle = time.perf_counter()
            pairs = [(edge, cloud) for edge in edges for cloud in others if kinds[cloud] == "cloud"]
            three = min(place(chain.three(*pair), choice).best.objective for pair in pairs)
            end = time.perf_counter()
            yield {
                "part": "blocks", "network": network, "link": setting, "division": division,
                "two_tiers_s": two, "gap": two / known["two_tiers_s"] - 1,
                "three_tiers_s": three, "gap_of_three": three / known["three_tiers_s"] - 1,
                "seconds": round((middle - start) / len(others), 3),
                "seconds_of_three": round((end - middle) / len(pairs), 3),
            }  # fmt: skip


class Chain:
    """One network under one setting of links."""

    def __init__(self, data: Mapping[str, Any], network: str, setting: str, division: int) -> None:
        self.model, self.kinds = data["models"][network], data["machines"]
        self.links = {(link["from"], link["to"]): link for link in data["links"][setting]}
        self.device = next(name for name, kind in self.kinds.items() if kind == "device")
        count = self.model["blocks"]
        names = [f"b{i}" for i in range(count)]
        reads = ["x", *names]
        nodes = tuple(Node(name, "Block", (reads[i],), (name,)) for i, name in enumerate(names))
        sizes = [data["input_bytes"] * division, *self.model["output_bytes"]]
        tensors = {
            name: Tensor(name, "uint8", (nbytes,))
            for name, nbytes in zip(reads, sizes, strict=True)
        }
        # The answer's way back is free.
        tensors[names[-1]] = Tensor(names[-1], "uint8", None)
        self.graph = Graph(nodes, tensors, ("x",), (names[-1],), sha256="")
        self.codecs = {
            name: (
                CodecCost(
                    codec="raw",
                    wire_bytes=nbytes * SIXTEENTHS // division,
                    encode_s=0.0,
                    decode_s=0.0,
                ),
            )
            for name, nbytes in zip(reads[:-1], sizes, strict=False)
        }

    def tier(self, machine: str) -> TierCost:
        seconds = self.model["block_s"][machine]
        return TierCost({f"b{i}": s for i, s in enumerate(seconds)}, name=machine)

    def link(self, start: str, end: str) -> Link:
        found = self.links[start, end]
        rate = found["bytes_per_s"] * SIXTEENTHS
        return Link(name=end, up_bytes_per_s=rate, down_bytes_per_s=rate, rtt_s=found["rtt_s"])

    def two(self, server: str) -> Problem:
        device, link = self.device, self.link(self.device, server)
        return Problem(self.graph, self.tier(device), self.tier(server), link, self.codecs)

    def three(self, edge: str, cloud: str) -> Problem:
        relay = Relay(self.tier(edge), self.link(edge, cloud))
        base = replace(self.two(cloud), link=self.link(self.device, edge), relays=(relay,))
        return replace(base, shortcuts={(0, 2): self.link(self.device, cloud)})


def cut(
    name: str, data: Mapping[str, Any], choice: SolverChoice, runs: int
) -> Mapping[str, object]:
    """Plan in nanoseconds, and cut the flow graph in integers; then again with all sources on the host."""
    problem = two_tier(data)
    sources = frozenset(node.name for node in problem.graph.nodes if not node.inputs)
    held = replace(problem, server=replace(problem.server, unsupported=sources))
    free, from_host = (_compared(one, choice, runs) for one in (problem, held))
    return {
        "part": "cut", "workload": name, "nodes": len(problem.graph.nodes), **free,
        **{f"sources_held_{key}": value for key, value in from_host.items()},
    }  # fmt: skip


def _compared(problem: Problem, choice: SolverChoice, runs: int) -> dict[str, object]:
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        found = optimum(problem, choice)
        seconds.append(time.perf_counter() - start)
    objective_ns, cut_ns = round(found.price.objective * 1e9), minimum_cut_ns(problem)
    return {
        "objective_ms": objective_ns / 1e6, "minimum_cut_ms": cut_ns / 1e6,
        "is_equal": objective_ns == cut_ns, "head_nodes": len(found.price.head),
        "seconds": round(statistics.median(seconds), 4),
    }  # fmt: skip


def two_tier(data: Mapping[str, Any]) -> Problem:
    """The host as device, the accelerator as server; times to whole nanoseconds."""
    graph, cost_ns = _graph(data)
    nodes = {f"n{node['id']}": node for node in data["nodes"]}
    tiers = [
        TierCost({name: _ns(node[key]) * 1e-9 for name, node in nodes.items()})
        for key in ("cpuLatency", "fpgaLatency")
    ]
    codecs = {
        name: (CodecCost(codec="move", wire_bytes=0, encode_s=ns * 1e-9, decode_s=0.0),)
        for name, ns in cost_ns.items()
    }
    link = Link(name="bus", up_bytes_per_s=1e9, down_bytes_per_s=1e9, rtt_s=0.0)
    return Problem(graph, *tiers, link, codecs)


def minimum_cut_ns(problem: Problem) -> int:
    """What lies on the source's side is on the device; an arc without capacity is infinite."""
    flow = nx.DiGraph()
    for node in problem.graph.nodes:
        if node.name in problem.server.unsupported:
            flow.add_edge("source", node.name)
        else:
            flow.add_edge("source", node.name, capacity=_ns(problem.server.node_s[node.name] * 1e3))
        flow.add_edge(node.name, "sink", capacity=_ns(problem.device.node_s[node.name] * 1e3))
        flow.add_edges_from((node.name, read) for read in node.inputs)
    for name, (choice,) in problem.codecs.items():
        if problem.graph.consumers_of[name]:
            flow.add_edge(name, f"sent {name}", capacity=_ns(choice.encode_s * 1e3))
            readers = problem.graph.consumers_of[name]
            flow.add_edges_from((f"sent {name}", reader.name) for reader in readers)
    value, _ = nx.minimum_cut(flow, "source", "sink", flow_func=nx.flow.boykov_kolmogorov)
    return int(value)


def _graph(data: Mapping[str, Any]) -> tuple[Graph, dict[str, int]]:
    """Nodes in an order in which they can run, and what it costs to move each output."""
    arrows = nx.DiGraph()
    arrows.add_nodes_from(node["id"] for node in data["nodes"])
    arrows.add_edges_from((edge["sourceId"], edge["destId"]) for edge in data["edges"])
    cost_ns = {f"n{edge['sourceId']}": _ns(edge["cost"]) for edge in data["edges"]}
    nodes = tuple(
        Node(f"n{i}", "Op", tuple(f"n{j}" for j in arrows.predecessors(i)), (f"n{i}",))
        for i in nx.lexicographical_topological_sort(arrows)
    )
    tensors = {node.name: Tensor(node.name, "uint8", None) for node in nodes}
    return Graph(nodes, tensors, (), (), sha256=""), cost_ns


def _ns(ms: float) -> int:
    return round(ms * 1e6)


@dataclass(frozen=True)
class Machine:
    """One place of the pipeline."""

    latency: str
    """The field of a node that says how long it takes there."""
    is_host: bool


def accelerators(
    name: str, data: Mapping[str, Any], options: argparse.Namespace
) -> Mapping[str, object]:
    """Divide the time among the places that the host may have in the pipeline."""
    count = data["maxFPGAs"] + 1
    start, best, bound = time.perf_counter(), inf, inf
    for host in range(count):
        left = options.seconds - (time.perf_counter() - start)
        machines = [Machine("cpuLatency", True) if k == host else Machine("fpgaLatency", False)
                    for k in range(count)]  # fmt: skip
        print(f"{name}: the host at {host} of {count}", file=sys.stderr)
        pipeline = Pipeline(data, machines)
        try:
            solved = solve(
                pipeline.program(), options.solver, left / (count - host), near_cut=False
            )
        except InfeasibleError:
            continue
        if solved.values is not None:
            best = min(best, pipeline.largest_ms(solved.values))
        bound = min(bound, solved.bound)
    return {
        "part": "accelerators", "workload": name, "accelerators": count - 1,
        "best_ms": None if best == inf else round(best, 3), "bound_ms": round(bound, 3),
        "published_ms": PUBLISHED_MS.get(name.removeprefix("throughput-")),
        "seconds": round(time.perf_counter() - start, 1),
    }  # fmt: skip


class Pipeline:
    """Machines in a row, each with a contiguous part: node v is on machine k or before where x_vk is 1.

    An accelerator's load is its nodes' milliseconds, and the cost of each output that it reads from or leaves
    to others; a host's is its nodes' alone. Outputs go through the host's memory, so that a reader anywhere
    pays once for the machine that it is on.
    """

    def __init__(self, data: Mapping[str, Any], machines: Sequence[Machine]) -> None:
        self.data, self.machines = data, machines
        self.graph, cost_ns = _graph(data)
        self.cost_ms = {name: ns / 1e6 for name, ns in cost_ns.items()}
        self.node = {f"n{node['id']}": node for node in data["nodes"]}
        names = list(self.graph.node_of)
        self.last = len(machines) - 1
        self.x = {
            (name, k): i * self.last + k for i, name in enumerate(names) for k in range(self.last)
        }
        self.largest = len(self.x)
        self.count = self.largest + 1
        self.rows: list[Row] = []
        self.arcs: dict[tuple[int, int], None] = {}

    def program(self) -> Program:
        for node in self.graph.nodes:
            befores = [self.x[node.name, k] for k in range(self.last)]
            self.arcs |= {(after, before): None for before, after in pairwise(befores)}
            for read in node.inputs:
                self.arcs |= {
                    (self.x[read, k], self.x[node.name, k]): None for k in range(self.last)
                }
        for first, second in self._classes():
            for k in range(self.last):
                a, b = self.x[first, k], self.x[second, k]
                self.arcs |= {(a, b): None, (b, a): None}
        for k, machine in enumerate(self.machines):
            self._machine(k, machine)
        weights = [0.0] * self.count
        weights[self.largest] = 1.0
        continuous = frozenset(range(self.largest + 1, self.count))
        return Program(
            tuple(weights), 0.0, tuple(self.arcs), rows=tuple(self.rows),
            continuous=continuous, unbounded=frozenset({self.largest}),
        )  # fmt: skip

    def largest_ms(self, values: Sequence[int]) -> float:
        """By the definition, apart from the program."""
        place_of = {
            name: next((k for k in range(self.last) if values[self.x[name, k]]), self.last)
            for name in self.graph.node_of
        }
        loads = [0.0] * len(self.machines)
        for name, k in place_of.items():
            machine = self.machines[k]
            loads[k] += self.node[name][machine.latency]
            others = {place_of[reader.name] for reader in self.graph.consumers_of[name]} - {k}
            if others and not machine.is_host:
                loads[k] += self.cost_ms[name]
            for other in others:
                if not self.machines[other].is_host:
                    loads[other] += self.cost_ms[name]
        return max(loads)

    def _classes(self) -> Iterator[tuple[str, str]]:
        by_class: dict[int, list[str]] = {}
        for name, node in self.node.items():
            if "colorClass" in node:
                by_class.setdefault(node["colorClass"], []).append(name)
        for names in by_class.values():
            yield from pairwise(names)

    def _machine(self, k: int, machine: Machine) -> None:
        load, size = Sum(), Sum()
        for name, node in self.node.items():
            upper, lower = self._on(name, k)
            load.differ((upper, lower), node[machine.latency])
            size.differ((upper, lower), node["size"])
        if not machine.is_host:
            for name, cost in self.cost_ms.items():
                if cost:
                    self._moves(load, name, k, cost)
            self.rows.append(size.at_most(self.data["maxSizePerFPGA"]))
        load.add(self.largest, -1.0)
        self.rows.append(load.at_most(0.0, 1.0))

    def _moves(self, load: Sum, name: str, k: int, cost: float) -> None:
        """Pay for an output that comes in for a reader here, and for one that leaves for a later reader."""
        readers = [reader.name for reader in self.graph.consumers_of[name]]
        into, out = self._new(), self._new()
        made = self._on(name, k)
        for reader in readers:
            here = self._on(reader, k)
            # in: the reader is here, the maker before; out: the maker is here, the reader after
            self._at_least(into, [(here, 1.0), (made, -1.0)])
            self._at_least(out, [(made, 1.0), (here, -1.0)])
        load.add(into, cost)
        load.add(out, cost)

    def _at_least(self, variable: int, terms: list[tuple[tuple[int, int], float]]) -> None:
        found = Sum()
        for pair, weight in terms:
            found.differ(pair, weight)
        found.add(variable, -1.0)
        self.rows.append(found.at_most(0.0, 1.0))

    def _on(self, name: str, k: int) -> tuple[int, int]:
        upper = ONE if k == self.last else self.x[name, k]
        return upper, ZERO if k == 0 else self.x[name, k - 1]

    def _new(self) -> int:
        self.count += 1
        return self.count - 1


INVENTED: Mapping[str, Any] = {
    "maxFPGAs": 2, "maxSizePerFPGA": 100.0,
    "nodes": [
        {"id": i, "cpuLatency": 10.0 + i, "fpgaLatency": 1.0 + i / 4, "size": 10.0, "colorClass": i}
        for i in range(6)
    ],
    "edges": [
        {"sourceId": i, "destId": j, "cost": 0.5 + i / 8}
        for i, j in ((0, 1), (0, 2), (1, 3), (2, 3), (3, 4), (3, 5))
    ],
}  # fmt: skip


if __name__ == "__main__":
    main()
