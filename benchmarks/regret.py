"""How much worse the plan's choice is than the best that was measured: JSON lines out.

Each shared model is profiled once; the server is this machine, the device this machine with every
second multiplied by 4 or by 10; five links. The planned cut, both rivals and the alternatives of all ten
plans are then extracted and timed afresh, in turn with the whole model, and priced by the clock: measured
seconds (the device's multiplied likewise), bytes really encoded, the link by arithmetic. ``regret`` is
against the best of all cuts measured for that model, ``worse_than_unsplit`` against the better rival.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from _shared import model_names, real_feeds, shared_model

from splitter.codec import CODECS
from splitter.graph.cut import Cut
from splitter.graph.model import Model
from splitter.link import Link
from splitter.link_parse import find_link
from splitter.partition.extract import Extractor
from splitter.planning.plan import PlanOptions, cut_of_candidate, make_plan
from splitter.planning.records import Plan
from splitter.profiling.measure import Effort, measure
from splitter.profiling.parts import Bench, load_cut
from splitter.profiling.profile import Profile
from splitter.profiling.timing import Rounds, interleaved, relative
from splitter.runtime import Array, Runner, Settings

LINKS = ("3g", "lte", "5g", "wifi", "ethernet")
SLOWDOWNS = (4.0, 10.0)


@dataclass(frozen=True)
class Clocked:
    """One cut by the clock, in this machine's seconds."""

    head_s: float
    tail_s: float
    codecs: Mapping[str, Mapping[str, tuple[int, float, float]]]
    """Bytes, encode and decode seconds by crossing tensor and codec."""
    down_bytes: int

    def total_s(self, slowdown: float, link: Link, chosen: Mapping[str, str] | None) -> float:
        """With the given codecs, or the best for this link."""
        if self.tail_s == 0.0:
            return self.head_s * slowdown
        total = self.head_s * slowdown + self.tail_s + link.transfer_s(0, self.down_bytes)
        for tensor, choices in self.codecs.items():
            costs = {
                name: nbytes / link.up_bytes_per_s + encode_s * slowdown + decode_s
                for name, (nbytes, encode_s, decode_s) in choices.items()
            }
            total += costs[chosen[tensor]] if chosen else min(costs.values())
        return total


def clock(
    model: Model, feeds: Mapping[str, Array], cuts: Sequence[Cut], rounds: Rounds
) -> list[Clocked]:
    """Time all cuts in turn, a round of everything at a time."""
    extractor, settings = Extractor(model), Settings()
    whole = Runner(extractor.whole().to_bytes(), settings, weights_dir=model.weights_dir)
    bench = Bench(model, extractor, settings, feeds, whole, rounds)
    loaded = [load_cut(bench, cut) for cut in cuts]
    calls = [call for cut in loaded for call in (cut.head, cut.tail) if call is not None]
    base, *times = interleaved([bench.run_whole, *calls], rounds)
    seconds = iter(relative(series, base).median_s * base.median_s for series in times)
    found = []
    for cut, parts in zip(cuts, loaded, strict=True):
        head_s = next(seconds) if parts.head else 0.0
        tail_s = next(seconds) if parts.tail else 0.0
        codecs = {name: encoded(array) for name, array in parts.crossing.items() if parts.tail}
        tail = [n for n in model.graph.nodes if n.name not in cut.head]
        down = sum(
            model.graph.tensors[o].nbytes or 0
            for n in tail
            for o in n.outputs
            if o in model.graph.outputs
        )
        found.append(Clocked(head_s, tail_s, codecs, down))
    return found


def encoded(array: Array) -> dict[str, tuple[int, float, float]]:
    result = {}
    for name, codec in CODECS.items():
        payload = codec.encode(array)
        decode = partial(codec.decode, payload, array.dtype.name, array.shape)
        one, two = interleaved([partial(codec.encode, array), decode], Rounds(5, 15, 0.05))
        result[name] = (len(payload), one.median_s, two.median_s)
    return result


def lines(
    name: str, seconds: float, rounds: Rounds, profiles: Path | None
) -> Iterator[dict[str, object]]:
    model = shared_model(name)
    feeds = real_feeds(name, model)
    saved = profiles / f"{name}.json" if profiles else None
    if saved is not None and saved.is_file():
        here = Profile.load(saved)
    else:
        here = measure(model, feeds=feeds, effort=Effort(anchors_s=seconds))
    plans: dict[tuple[float, str], Plan] = {}
    for factor in SLOWDOWNS:
        device = here.slowed(factor)
        for link in LINKS:
            plans[factor, link] = make_plan(
                model, (device, here), find_link(link), PlanOptions(alternatives=3)
            )
    cuts: dict[frozenset[str], Cut] = {}
    for plan in plans.values():
        for item in (plan.predicted, *plan.baselines, *plan.alternatives):
            if item.feasible:
                cut = cut_of_candidate(model.graph, plan, item)
                cuts.setdefault(cut.head, cut)
    clocked = dict(zip(cuts, clock(model, feeds, list(cuts.values()), rounds), strict=True))
    for (factor, link), plan in plans.items():
        where = find_link(link)
        chosen = cut_of_candidate(model.graph, plan, plan.predicted)
        codecs = {item.tensor: item.codec for item in plan.predicted.crossing}
        mine = clocked[chosen.head].total_s(factor, where, codecs)
        best = min(mine, *(c.total_s(factor, where, None) for c in clocked.values()))
        rivals = [frozenset(model.graph.node_of), frozenset[str]()]
        unsplit = min(
            clocked[head].total_s(factor, where, None) for head in rivals if head in clocked
        )
        yield {
            "benchmark": "regret", "model": name, "slowdown": factor, "link": link,
            "decision": plan.decision, "predicted_ms": round(1e3 * plan.predicted.total_s, 3),
            "measured_ms": round(1e3 * mine, 3), "best_ms": round(1e3 * best, 3),
            "regret": round(mine / best - 1, 4), "worse_than_unsplit": round(mine / unsplit - 1, 4),
            "cuts_measured": len(clocked),
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=model_names())
    parser.add_argument("--seconds", type=float, default=90.0, help="for the anchors of a profile")
    parser.add_argument("--profiles", type=Path, help="what prediction.py --keep left")
    parser.add_argument("--smoke", action="store_true", help="one small model, quickly")
    arguments = parser.parse_args()
    rounds = Rounds(least=9, most=80, budget_s=20.0)
    if arguments.smoke:
        arguments.models, arguments.seconds = arguments.models[:1], 1.0
        rounds = Rounds(least=3, most=3, budget_s=0.0)
    if not arguments.models:
        print("no shared models beside the checkout: nothing measured", file=sys.stderr)
    found = []
    for name in arguments.models:
        for line in lines(name, arguments.seconds, rounds, arguments.profiles):
            found.append(line)
            print(json.dumps(line), flush=True)
    if found:
        regrets = [float(str(line["regret"])) for line in found]
        worse = [float(str(line["worse_than_unsplit"])) for line in found]
        summary = {
            "benchmark": "regret", "model": "all", "plans": len(found),
            "splits": sum(line["decision"] == "split" for line in found),
            "median": float(np.median(regrets)), "p95": round(float(np.percentile(regrets, 95)), 4),
            "largest": max(regrets), "largest_worse_than_unsplit": max(worse),
        }  # fmt: skip
        print(json.dumps(summary))


if __name__ == "__main__":
    main()
