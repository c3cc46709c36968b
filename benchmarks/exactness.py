"""Whether head then tail is the whole model, over many cuts of every shared model: JSON lines out.

``equal_off`` counts the cuts that are equal bit for bit with optimisation off, on the original file;
the figures ending in ``_on`` are at the level that is served, ``own_relative_on`` being what
optimisation changes in the whole model without any cut.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from _shared import model_names, real_feeds, shared_model

from splitter.graph.cut import Cut, cut_of, needed_for
from splitter.graph.model import Model
from splitter.graph.values import Graph
from splitter.partition.check import Difference, Values, chain, compare, run_one, tolerance
from splitter.partition.extract import Extractor, Part
from splitter.runtime import Optimisation, Runner, Settings

OFF = Settings(optimisation=Optimisation.NONE)
ON = Settings()


@dataclass(frozen=True)
class Checked:
    """The differences that one cut makes."""

    off: Difference
    on: Difference


def cuts_of(graph: Graph, places: int | None, random_count: int) -> Iterator[Cut]:
    """Cuts along the node order (all, or so many evenly), then random closed sets, each once.

    A model that is nearly a chain has fewer closed sets than are asked for.
    """
    names = [node.name for node in graph.nodes]
    step = 1 if places is None else max(1, len(names) // max(1, places))
    along = [frozenset(names[:place]) for place in range(0, len(names) + 1, step)]
    seen = set(along)
    rng = random.Random(0)
    for _ in range(20 * random_count):
        seen.add(random_closed_set(graph, rng))
        if len(seen) == len(along) + random_count:
            break
    yield from (cut_of(graph, head) for head in along)
    yield from (cut_of(graph, head) for head in sorted(seen.difference(along), key=sorted))


def random_closed_set(graph: Graph, rng: random.Random) -> frozenset[str]:
    """What a few random nodes need, or all that does not need a few random nodes."""
    chosen = rng.sample(graph.nodes, rng.randint(1, min(4, len(graph.nodes))))
    if rng.random() < 0.5:
        return needed_for(graph, [node.outputs[0] for node in chosen])
    left_out = {node.name for node in chosen}
    for node in graph.nodes:
        producers = {
            graph.producer_of[name].name for name in node.inputs if name in graph.producer_of
        }
        if not producers.isdisjoint(left_out):
            left_out.add(node.name)
    return frozenset(graph.node_of) - left_out


def can_travel(graph: Graph, cut: Cut) -> bool:
    return all(graph.tensors[name].nbytes is not None for name in cut.crossing)


def check(
    model: Model, extractor: Extractor, cut: Cut, feeds: Values, whole: Mapping[Settings, Values]
) -> Checked:
    head, tail = extractor.head(cut), extractor.tail(cut)
    differences = {
        settings: compare(
            whole[settings],
            chain(runner(head, model, settings), runner(tail, model, settings), feeds),
        )
        for settings in (OFF, ON)
    }
    return Checked(differences[OFF], differences[ON])


def runner(part: Part, model: Model, settings: Settings) -> Runner | None:
    if not part.outputs:
        return None
    return Runner(part.to_bytes(), settings, weights_dir=model.weights_dir)


def measure(name: str, places: int | None, random_count: int) -> dict[str, object]:
    started = time.perf_counter()
    model = shared_model(name)
    feeds = real_feeds(name, model)
    whole = {settings: run_one(Runner(model.path, settings), feeds) for settings in (OFF, ON)}
    extractor = Extractor(model)
    cuts = list(cuts_of(model.graph, places, random_count))
    travelling = [cut for cut in cuts if can_travel(model.graph, cut)]
    checked = [check(model, extractor, cut, feeds, whole) for cut in travelling]
    limit = tolerance(model.graph, ON)
    own = compare(whole[OFF], whole[ON])
    return {
        "benchmark": "exactness",
        "model": name,
        "nodes": len(model.graph.nodes),
        "cuts": len(checked),
        "skipped": len(cuts) - len(checked),
        "equal_off": sum(c.off.is_equal for c in checked),
        "max_relative_off": max(c.off.max_relative for c in checked),
        "equal_on": sum(c.on.is_equal for c in checked),
        "max_relative_on": max(c.on.max_relative for c in checked),
        "own_relative_on": own.max_relative,
        "max_abs_on": max(c.on.max_abs for c in checked),
        "tolerance_on": limit,
        "within_on": sum(c.on.max_relative <= limit for c in checked),
        "same_answer_on": sum(c.on.same_answer for c in checked),
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="names of shared models; all when left out")
    parser.add_argument("--cuts", type=int, help="places along the node order; all when left out")
    parser.add_argument("--random", type=int, default=50, help="random closed sets a model")
    parser.add_argument("--smoke", action="store_true", help="one small model, a few cuts")
    options = parser.parse_args()
    names = options.models or model_names()
    if options.smoke:
        names, options.cuts, options.random = names[:1], 2, 2
    for name in names:
        print(json.dumps(measure(name, options.cuts, options.random)), flush=True)


if __name__ == "__main__":
    main()
