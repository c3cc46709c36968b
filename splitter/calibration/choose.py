"""Which tensors are worth crossing, found by bytes before anything is measured.

Candidates are cuts between kernels: for each tensor that leaves one the least head that makes it, and
every place along the order of the kernels, where several tensors cross. A cut costs the bytes of its
tensors under a quick stand-in for a good codec: 16 levels, packed, zstd. It is dominated by a cut whose
head is a part of its own and whose bytes are fewer, since the device then does less and sends less;
sending the model's inputs is such a cut too. Cuts that cost more than ``SLACK`` times their best
dominator are left out; real codecs can differ from the stand-in by as much, but hardly by more. The
inputs alone leave nothing out, for one may have reasons not to send them, but what costs more comes last.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np

from splitter.calibration.bench import Bench, evenly, parallel
from splitter.calibration.fit import fit_affine, why_not_fitted
from splitter.codec import Codec
from splitter.codec.base import MAX_TENSOR_BYTES
from splitter.codec.bits import Bits
from splitter.codec.zstd import Zstd
from splitter.errors import CalibrationError, nearest
from splitter.graph.contract import contract
from splitter.graph.cut import cut_of, needed_for
from splitter.graph.frontier import frontier
from splitter.graph.fusion import fusion_groups, read_optimised
from splitter.graph.values import Graph
from splitter.partition.check import run_one
from splitter.runtime import Array, Runner

SLACK = 4.0
SLICES = 8
"""Of the depth, from each of which tensors are chosen in turn."""

_PROXY_SAMPLES = 3
_PROXY_VALUES = 1 << 12
_PROXY_LEVELS = 16
_AT_ONCE = 32


@dataclass(frozen=True)
class Candidate:
    """A cut between kernels."""

    head: frozenset[str]
    """Kernels, not nodes."""
    crossing: tuple[str, ...]


def choose_tensors(bench: Bench, count: int) -> tuple[str, ...]:
    """The model inputs that are read, then at most ``count`` tensors in the order in which they are made."""
    kernels = served_kernels(bench)
    candidates = candidate_cuts(kernels)
    made = {name for cut in candidates for name in cut.crossing}
    cost_of = proxy_bytes(bench, sorted(made))
    chosen = set(rank_tensors(kernels, candidates, cost_of, count))
    inputs = [name for name in kernels.inputs if is_travelling(kernels, name)]
    order = (name for node in kernels.nodes for name in node.outputs)
    return (*inputs, *(name for name in order if name in chosen))


def demand_tensors(graph: Graph, names: Iterable[str]) -> tuple[str, ...]:
    """Tensors by name, each once.

    Raises
    ------
    CalibrationError
        One does not exist (the nearest are suggested), or cannot cross: nothing reads it, its size is
        not known, or a message cannot hold it.
    """
    found = tuple(dict.fromkeys(names))
    for name in found:
        if name not in graph.tensors:
            raise CalibrationError(f"no tensor is named {name!r}{nearest(name, graph.tensors)}")
        if not graph.consumers_of[name]:
            raise CalibrationError(f"{name!r} is read by no node, so it never crosses")
        nbytes = graph.tensors[name].nbytes
        if nbytes is None:
            raise CalibrationError(f"{name!r} has no known size, so it cannot cross")
        if nbytes > MAX_TENSOR_BYTES:
            raise CalibrationError(
                f"{name!r} takes {nbytes} bytes, more than a message can hold ({MAX_TENSOR_BYTES})"
            )
    return found


def is_travelling(graph: Graph, name: str) -> bool:
    """Something reads it, and a message can hold it."""
    nbytes = graph.tensors[name].nbytes
    return bool(graph.consumers_of[name]) and nbytes is not None and nbytes <= MAX_TENSOR_BYTES


def served_kernels(bench: Bench) -> Graph:
    """The graph of the kernels that the runtime fuses the model into; of its nodes, where it does not say."""
    graph = bench.model.graph
    with tempfile.TemporaryDirectory(prefix="splitter-") as folder:
        path = Path(folder, "optimised.onnx")
        whole = bench.extractor.whole().to_bytes()
        Runner(whole, bench.settings, weights_dir=bench.model.weights_dir, optimised_path=path)
        optimised = read_optimised(path) if path.is_file() else ()
    return contract(graph, [group.nodes for group in fusion_groups(graph, optimised)])


def candidate_cuts(kernels: Graph) -> list[Candidate]:
    """Cuts whose tensors can all travel; of those with the same tensors the one with the least head."""
    found: dict[frozenset[str], Candidate] = {}

    def add(head: frozenset[str], crossing: tuple[str, ...]) -> None:
        if crossing and all(is_travelling(kernels, name) for name in crossing):
            known = found.get(frozenset(crossing))
            if known is None or len(head) < len(known.head):
                found[frozenset(crossing)] = Candidate(head, crossing)

    for node in kernels.nodes:
        for name in node.outputs:
            if is_travelling(kernels, name):
                cut = cut_of(kernels, needed_for(kernels, [name]))
                add(cut.head, cut.crossing)
    names = [node.name for node in kernels.nodes]
    for place in frontier(kernels):
        add(frozenset(names[: place.index]), place.crossing)
    return list(found.values())


def rank_tensors(
    kernels: Graph, candidates: Sequence[Candidate], cost_of: Mapping[str, float], count: int
) -> list[str]:
    """At most ``count`` tensors of the best cuts, model inputs not among them.

    Cuts are taken from slices of the depth in turn, in each by how they compare with their dominators.
    """
    slices: dict[int, list[tuple[float, Candidate]]] = defaultdict(list)
    for candidate, ratio in _compared(candidates, cost_of):
        depth = len(candidate.head) * SLICES // (len(kernels.nodes) + 1)
        if candidate.head and ratio <= SLACK:
            slices[depth].append((ratio, candidate))
    queues = [sorted(slices[depth], key=lambda pair: pair[0]) for depth in sorted(slices)]
    chosen: dict[str, None] = {}
    for place in range(max(map(len, queues), default=0)):
        turn = [queue[place] for queue in queues if place < len(queue)]
        for _, candidate in sorted(turn, key=lambda pair: pair[0]):
            new = [name for name in candidate.crossing if name not in kernels.inputs]
            if len(chosen.keys() | new) <= count:
                chosen.update(dict.fromkeys(new))
    return list(chosen)


def proxy_bytes(bench: Bench, names: Sequence[str]) -> dict[str, float]:
    """Mean bytes over a few samples of 16 levels, packed, zstd; of integers as they are."""
    graph = bench.model.graph
    inner = [name for name in names if name not in graph.inputs]
    runners = []
    for first in range(0, len(inner), _AT_ONCE):
        wanted = inner[first : first + _AT_ONCE]
        part = bench.extractor.part(needed_for(graph, wanted), wanted)
        runners.append(bench.runner(part))

    def measure(index: int) -> dict[str, int]:
        feeds = bench.feeds(index)
        found = {name: _proxy(feeds[name]) for name in names if name in feeds}
        for runner in runners:
            outputs = run_one(runner, feeds)
            found |= {name: _proxy(array) for name, array in outputs.items()}
        return found

    chosen = evenly(range(len(bench.samples)), _PROXY_SAMPLES)
    rows = list(parallel(measure, chosen, bench.jobs))
    return {name: sum(row[name] for row in rows) / len(rows) for name in names}


def _proxy(array: Array) -> int:
    if why_not_fitted([array]) is not None:
        return len(Codec("zstd", (Zstd(1),)).encode(array))
    flat = array.reshape(-1)
    some = flat[:: max(1, flat.size // _PROXY_VALUES)].astype(np.float64)
    ends = np.array([flat.min(), flat.max()], np.float64)
    affine = fit_affine(np.concatenate([some, ends]), _PROXY_LEVELS)
    return len(Codec("proxy", (affine, Bits(4), Zstd(1))).encode(array))


def _compared(
    candidates: Sequence[Candidate], cost_of: Mapping[str, float]
) -> list[tuple[Candidate, float]]:
    """Each with its cost over that of its best dominator; 0 where it has none.

    Infinite where it sends all that an earlier cut sends, and more.
    """
    cost = [sum(cost_of[name] for name in candidate.crossing) for candidate in candidates]
    order = sorted(range(len(candidates)), key=lambda index: len(candidates[index].head))
    found = []
    for place, index in enumerate(order):
        cut = candidates[index]
        earlier = [other for other in order[:place] if candidates[other].head < cut.head]
        sent = frozenset(cut.crossing)
        if any(sent.issuperset(candidates[other].crossing) for other in earlier):
            found.append((cut, inf))
            continue
        made = [cost[other] for other in earlier if candidates[other].head]
        given = [cost[other] for other in earlier if not candidates[other].head]
        ratio = cost[index] / max(1.0, min(made, default=inf))
        found.append((cut, max(ratio, min(SLACK, cost[index] / max(1.0, min(given, default=inf))))))
    return found
