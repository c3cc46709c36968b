"""Chains of bundles for the tests of relays: a model cut after so many nodes, again and again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from splitter.codec import Codec
from splitter.graph.cut import cut_of
from splitter.graph.model import Model
from splitter.graph.read import load_model
from splitter.partition.bundle import Bundle, Deployment, Division
from splitter.partition.chain import Hop, write_chain
from splitter.partition.check import chain, random_feeds
from splitter.runtime import Optimisation, Runner, Settings
from tests.models import save

Array = np.ndarray[Any, Any]
EXACT = Settings(optimisation=Optimisation.NONE)


def hops_at(
    model: Model,
    ends: Sequence[int],
    *,
    whole: bool = False,
    codecs: Mapping[int, Mapping[str, Codec]] | None = None,
) -> list[Hop]:
    """Tiers that run the nodes up to each end, and a server that runs the rest."""
    nodes = [node.name for node in model.graph.nodes]
    everything = Division(cut_of(model.graph, nodes), name="all on the device")
    return [
        Hop(
            name=f"{place + 1}-tier{place}-tier{place + 1}",
            nodes=frozenset(nodes[start:end]),
            codecs=(codecs or {}).get(place, {}),
            deployment=Deployment(EXACT),
            whole=everything if whole and place == 0 else None,
        )
        for place, (start, end) in enumerate(zip([0, *ends], ends, strict=False))
    ]


def make_chain(
    proto: onnx.ModelProto, folder: Path, ends: Sequence[int], *, whole: bool = False
) -> tuple[Bundle, ...]:
    """Written below ``folder/chain``, with the model beside it."""
    model = load_model(save(proto, folder / "model.onnx"))
    return write_chain(model, hops_at(model, ends, whole=whole), folder / "chain")


def run_parts(bundles: Sequence[Bundle], feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Every head in a row, then the last tail."""
    values = dict(feeds)
    for bundle in bundles:
        values = chain(runner(bundle.head), None, values)
    return chain(None, runner(bundles[-1].tail), values)


def runner(path: Path | None) -> Runner | None:
    return None if path is None else Runner(path, EXACT)


def run_model(model: Model, seed: int = 3) -> tuple[dict[str, Array], dict[str, Array]]:
    """Random feeds, and what the whole model makes of them."""
    feeds = random_feeds(model.graph, seed, integer_high=2)
    return feeds, chain(Runner(model.path, EXACT), None, feeds)
