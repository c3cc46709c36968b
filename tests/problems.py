"""Small planning problems, and what they cost written out plainly: the specification of the planner."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import inf

from splitter.graph.values import Graph, Node, Tensor
from splitter.link import Link
from splitter.planning.records import CodecCost, Problem, TierCost

LINK = Link(name="test", up_bytes_per_s=1000.0, down_bytes_per_s=2000.0, rtt_s=0.01)


@dataclass(frozen=True)
class World:
    """Factors that validity moves; the round trip is in seconds."""

    wire: float = 1.0
    rtt_s: float | None = None
    server: float = 1.0


def raw(nbytes: int, encode_s: float = 0.0, decode_s: float = 0.0) -> CodecCost:
    return CodecCost(codec="raw", wire_bytes=nbytes, encode_s=encode_s, decode_s=decode_s)


def graph_of(
    arrows: Mapping[str, tuple[str, ...]], sizes: Mapping[str, int], outputs: tuple[str, ...]
) -> Graph:
    """Make a graph of one-output nodes from what each reads; names that no node has are model inputs."""
    nodes = tuple(Node(name, "Op", reads, (name,)) for name, reads in arrows.items())
    inputs = tuple(dict.fromkeys(t for reads in arrows.values() for t in reads if t not in arrows))
    tensors = {name: Tensor(name, "uint8", (sizes[name],)) for name in (*inputs, *arrows)}
    return Graph(nodes, tensors, inputs, outputs, sha256="0" * 64)


def problem_of(
    graph: Graph, device: Mapping[str, float], server: Mapping[str, float], link: Link = LINK
) -> Problem:
    """Everything can travel, uncompressed."""
    codecs = {name: (raw(tensor.nbytes or 0),) for name, tensor in graph.tensors.items()}
    return Problem(graph, TierCost(device), TierCost(server), link, codecs)


def random_problem(seed: int, size: int, limits: bool = True) -> Problem:
    """Draw a problem with every feature that the objective has; nearly balanced, so that cuts compete.

    ``limits`` adds nodes that a tier cannot run and tensors that cannot travel.
    """
    draw = random.Random(seed)
    graph = _random_graph(draw, size)
    names = list(graph.node_of)
    crossing = [name for name in graph.tensors if draw.random() < 0.3]
    codecs = {
        name: tuple(
            CodecCost(
                codec=codec,
                wire_bytes=int((tensor.nbytes or 0) * factor),
                encode_s=draw.random() * 0.01,
                decode_s=draw.random() * 0.01,
            )
            for codec, factor in (("raw", 1.0), ("zstd", draw.random()))[: draw.choice([1, 2])]
        )
        for name, tensor in graph.tensors.items()
        if tensor.nbytes is not None and not (limits and draw.random() < 0.1)
    }
    return Problem(
        graph,
        TierCost(
            {name: draw.uniform(-0.02, 0.2) for name in names},
            base_s=draw.choice([0.0, 0.05, -0.02]),
            crossing_s={name: draw.random() * 0.02 for name in crossing},
            unsupported=frozenset(n for n in names if limits and draw.random() < 0.04),
        ),
        TierCost(
            {name: draw.uniform(-0.01, 0.05) for name in names},
            base_s=draw.choice([0.0, 0.02, -0.03]),
            crossing_s={name: draw.random() * 0.02 for name in crossing},
            unsupported=frozenset(n for n in names if limits and draw.random() < 0.04),
        ),
        Link(
            name="drawn",
            up_bytes_per_s=draw.choice([500.0, 2000.0, 10000.0]),
            down_bytes_per_s=draw.choice([500.0, 5000.0]),
            rtt_s=draw.choice([0.0, 0.01, 0.1]),
        ),
        codecs,
        bytes_weight=draw.choice([0.0, 1e-4]),
    )


def with_losses(problem: Problem, seed: int) -> Problem:
    """Give tensors up to four lossy codecs beside their own, not all of them a lossless one, and a budget.

    Losses are on a grid or not, so that sums meet the limit exactly and nearly.
    """
    draw = random.Random(seed)
    grid = draw.random() < 0.5
    codecs = {}
    for tensor, choices in problem.codecs.items():
        lossy = tuple(
            CodecCost(
                codec=f"lossy{index}",
                wire_bytes=int(choices[0].wire_bytes * draw.random()),
                encode_s=draw.random() * 0.01,
                decode_s=draw.random() * 0.01,
                loss=draw.randint(0, 6) / 100 if grid else draw.random() * 0.06,
            )
            for index in range(draw.choice([0, 1, 2, 3, 4]))
        )
        codecs[tensor] = (*choices, *lossy) if draw.random() < 0.8 else lossy or choices
    forbidden = [
        {name: draw.choice(codecs[name]).codec for name in names}
        for names in (_some(draw, list(codecs)) for _ in range(draw.choice([0, 0, 1, 3])))
        if names
    ]
    return replace(
        problem,
        codecs=codecs,
        loss_limit=draw.choice([None, 0.0, 0.02, 0.05, 0.05, 0.1]),
        forbidden=tuple(forbidden),
    )


def _some(draw: random.Random, names: list[str]) -> list[str]:
    return draw.sample(names, min(len(names), draw.choice([1, 2, 2, 3])))


def _random_graph(draw: random.Random, size: int) -> Graph:
    """Several inputs and outputs, nodes of two outputs, shared tensors, now and then a node alone."""
    inputs = tuple(f"in{i}" for i in range(draw.choice([1, 1, 2])))
    made, nodes = list(inputs), []
    for i in range(size):
        reads = draw.sample(made, min(len(made), draw.choice([0, 1, 1, 1, 2, 2, 3])))
        outputs = (f"t{i}",) if draw.random() < 0.8 else (f"t{i}", f"u{i}")
        nodes.append(Node(f"t{i}", f"Op{i}", tuple(reads), outputs))
        made.extend(outputs)
    tensors = {name: Tensor(name, "uint8", (draw.randrange(1, 300),)) for name in made}
    unsized = draw.choice(made)
    if draw.random() < 0.2:
        tensors[unsized] = Tensor(unsized, "uint8", None)
    outputs = tuple(dict.fromkeys([made[-1], *draw.sample(made, draw.choice([0, 1]))]))
    return Graph(tuple(nodes), tensors, inputs, outputs, sha256="0" * 64)


def closed_sets(graph: Graph) -> Iterator[frozenset[str]]:
    """Every head that a cut may have."""

    def grow(index: int, head: frozenset[str]) -> Iterator[frozenset[str]]:
        if index == len(graph.nodes):
            yield head
            return
        node = graph.nodes[index]
        yield from grow(index + 1, head)
        makers = {graph.producer_of[t].name for t in node.inputs if t in graph.producer_of}
        if makers <= head:
            yield from grow(index + 1, head | {node.name})

    yield from grow(0, frozenset())


def plain_costs(
    problem: Problem, head: frozenset[str], world: World = World()
) -> dict[tuple[str, ...], float]:
    """Cost of a head by choice of codecs, term by term; empty where it cannot be carried out."""
    graph, device, server, link = problem.graph, problem.device, problem.server, problem.link
    tail = [name for name in graph.node_of if name not in head]
    sent = []
    for tensor in graph.tensors:
        maker = graph.producer_of.get(tensor)
        if (maker is None or maker.name in head) and any(
            reader.name in tail for reader in graph.consumers_of[tensor]
        ):
            sent.append(tensor)
    if device.unsupported & head or server.unsupported.intersection(tail):
        return {}
    fixed = 0.0
    if head:
        fixed += device.base_s + sum(device.node_s[name] for name in head)
        fixed += sum(device.crossing_s.get(name, 0) for name in sent)
    if tail:
        fixed += world.server * (
            server.base_s
            + sum(server.node_s[name] for name in tail)
            + sum(server.crossing_s.get(name, 0) for name in sent)
        )
        fixed += link.rtt_s if world.rtt_s is None else world.rtt_s
    for name in graph.outputs:
        if name in graph.producer_of and graph.producer_of[name].name in tail:
            nbytes = graph.tensors[name].nbytes or 0
            fixed += nbytes * (world.wire / link.down_bytes_per_s + problem.bytes_weight)
    costs = {}
    for choice in itertools.product(*(problem.codecs.get(name, ()) for name in sent)):
        if not allowed(problem, dict(zip(sent, choice, strict=True))):
            continue
        costs[tuple(c.codec for c in choice)] = fixed + sum(
            c.encode_s
            + c.wire_bytes * (world.wire / link.up_bytes_per_s + problem.bytes_weight)
            + world.server * c.decode_s
            for c in choice
        )
    return costs


def allowed(problem: Problem, sent: Mapping[str, CodecCost]) -> bool:
    """Whether crossing tensors in these codecs keep the accuracy budget."""
    limit = inf if problem.loss_limit is None else problem.loss_limit * (1 + 1e-9)
    if sum(choice.loss for choice in sent.values()) > limit:
        return False
    for names in problem.forbidden:
        least = {
            tensor: next(c.loss for c in problem.codecs[tensor] if c.codec == codec)
            for tensor, codec in names.items()
        }
        if all(tensor in sent and sent[tensor].loss >= loss for tensor, loss in least.items()):
            return False
    return True


def plain_objective(problem: Problem, head: frozenset[str]) -> float:
    """The cheapest choice of codecs; infinite where the head cannot be carried out."""
    return min(plain_costs(problem, head).values(), default=inf)
