"""Bundles of several devices for the tests: which inputs are born where, and which nodes run there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx

from splitter.codec import Codec
from splitter.graph.cut import cut_of
from splitter.graph.model import Model
from splitter.graph.read import load_model
from splitter.graph.values import Graph
from splitter.partition.bundle import Bundle, Deployment, Division
from splitter.partition.check import chain
from splitter.partition.star import Ray, write_star
from tests.chains import EXACT, Array, runner
from tests.models import save

CAMERAS = (("left",), ("right", "level"))


def places(graph: Graph, born: Sequence[Sequence[str]]) -> Iterator[tuple[frozenset[str], ...]]:
    """Every choice of the nodes that each device runs: all that they read is made there."""

    def grow(index: int, own: tuple[frozenset[str], ...]) -> Iterator[tuple[frozenset[str], ...]]:
        if index == len(graph.nodes):
            yield own
            return
        node = graph.nodes[index]
        yield from grow(index + 1, own)
        for number, inputs in enumerate(born):
            made = {name for n in own[number] for name in graph.node_of[n].outputs}
            if made.union(inputs).issuperset(node.inputs):
                mine = own[number] | {node.name}
                yield from grow(index + 1, (*own[:number], mine, *own[number + 1 :]))

    yield from grow(0, tuple(frozenset[str]() for _ in born))


def star_at(
    model: Model,
    own: Sequence[frozenset[str]],
    folder: Path,
    born: Sequence[Sequence[str]] = CAMERAS,
    codecs: Mapping[str, Codec] | None = None,
) -> tuple[Bundle, ...]:
    """Written at ``folder``: devices that run these nodes, and the server."""
    rays = [
        Ray(f"device{number}" if number > 1 else "device", tuple(inputs), nodes, Deployment(EXACT))
        for number, (inputs, nodes) in enumerate(zip(born, own, strict=True), start=1)
    ]
    together = cut_of(model.graph, frozenset().union(*own))
    return write_star(model, Division(together, codecs or {}), rays, folder)


def make_star(
    proto: onnx.ModelProto,
    folder: Path,
    own: Sequence[Sequence[str]],
    born: Sequence[Sequence[str]] = CAMERAS,
) -> tuple[Bundle, ...]:
    """Written below ``folder/star``, with the model beside it; nodes by their first outputs."""
    model = load_model(save(proto, folder / "model.onnx"))
    return star_at(model, [frozenset(nodes) for nodes in own], folder / "star", born)


def run_star(bundles: Sequence[Bundle], feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Every head on its own inputs, and the tail on what those send."""
    values: dict[str, Array] = {}
    tails = [bundle for bundle in bundles if bundle.manifest.planned.shares]
    for bundle in bundles:
        if bundle in tails:
            continue
        manifest = bundle.manifest
        made = chain(runner(bundle.head), None, {s.name: feeds[s.name] for s in manifest.inputs})
        kept = {spec.tensor for spec in manifest.planned.crossing}
        kept |= {spec.name for spec in manifest.outputs}
        values |= {name: array for name, array in made.items() if name in kept}
    return chain(None, runner(tails[0].tail), values) if tails else values
