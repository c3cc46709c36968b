"""Bundles for more than two tiers: each divides the tail of the one before it once more.

The first is cut where the device ends, so that its tail is all the rest; the second is of that tail, cut
where the relay ends; and so on to the server. Each is an ordinary bundle.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from splitter.codec import Codec
from splitter.graph.cut import Cut, cut_of, needed_for
from splitter.graph.model import Model
from splitter.graph.read import load_model
from splitter.graph.values import Graph
from splitter.partition.bundle import Bundle, Deployment, Division, write_bundle
from splitter.partition.check import Values, accepted_feeds, chain
from splitter.partition.folder import replacing_parts
from splitter.partition.manifest import BATCH
from splitter.partition.reference import EXACT
from splitter.runtime import Runner


@dataclass(frozen=True)
class Hop:
    """One tier, and how it sends to the next."""

    name: str
    """Of the bundle's folder."""
    nodes: frozenset[str]
    """What the tier runs."""
    codecs: Mapping[str, Codec] = field(default_factory=dict)
    """By tensor that it sends, whether it makes it or passes it on."""
    deployment: Deployment = Deployment()
    whole: Division | None = None
    """Of the model, for the device to fall back on; a relay's is made with it."""


def write_chain(
    model: Model,
    hops: Sequence[Hop],
    out_dir: str | os.PathLike[str],
    *,
    feeds: Values | None = None,
    quantise_in_graph: bool = True,
) -> tuple[Bundle, ...]:
    """Write a bundle for each hop below ``out_dir``, and check each on what the one before it sends.

    So all parts in a row give what the whole model gives: bit for bit with optimisation off. Only the last
    bundle quantises in its parts, as the tails of the others are models to be divided.

    Raises
    ------
    BundleError, CutError, CodecError
        As ``write_bundle``; then nothing changes at ``out_dir``.
    """
    out_dir = Path(out_dir).resolve()
    if feeds is None:
        feeds, _ = accepted_feeds(Runner(model.path, EXACT), model.graph)
    known = frozenset(model.graph.node_of)
    with_whole = hops[0].whole is not None
    bundles: list[Bundle] = []
    with replacing_parts(out_dir) as folder:
        for place, hop in enumerate(hops):
            divisions = [Division(_cut(model.graph, hop.nodes, known), hop.codecs)]
            if with_whole:
                everything = Division(
                    cut_of(model.graph, model.graph.node_of), name="all on the device"
                )
                divisions.append(hop.whole or everything)
            deployment = hop.deployment
            if bundles:
                deployment = replace(
                    deployment, name=bundles[0].manifest.name, tail_of=bundles[-1].manifest.digest
                )
            is_last = place == len(hops) - 1
            bundle = write_bundle(
                model, divisions, folder / hop.name, deployment, feeds=feeds,
                quantise_in_graph=quantise_in_graph and is_last,
            )  # fmt: skip
            bundles.append(bundle)
            if is_last or bundle.tail is None:
                break
            model, feeds = _rest(bundle, feeds)
    return tuple(Bundle(out_dir / one.folder.name, one.manifest) for one in bundles)


def _cut(graph: Graph, nodes: frozenset[str], known: frozenset[str]) -> Cut:
    """The nodes that are in this tail, with any that writing it has put before them."""
    chosen = nodes & graph.node_of.keys()
    read = {name for node in chosen for name in graph.node_of[node].inputs}
    return cut_of(graph, chosen | (needed_for(graph, read) - known))


def _rest(bundle: Bundle, feeds: Values) -> tuple[Model, Values]:
    """The tail as a model, and what the head sends it."""
    assert bundle.tail is not None
    head = None if bundle.head is None else Runner(bundle.head, EXACT)
    model = load_model(bundle.tail, {BATCH: 1} if bundle.manifest.planned.batches else None)
    values = chain(head, None, feeds)
    return model, {name: values[name] for name in model.graph.inputs}
