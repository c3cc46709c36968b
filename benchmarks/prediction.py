"""Predicted head and tail seconds against a clock, at cuts along the node order: JSON lines out.

Each model is profiled as ``splitter profile`` does it. Then heads and tails are extracted, loaded and
timed afresh at evenly spaced places, every one in turn with the whole model; a part's seconds are its
share of the whole in the same rounds times the whole's median over all of them. ``error`` compares
seconds with seconds; ``steady`` first divides by ``drift``, the whole model's seconds now over those in
the profile: what is left when a shared machine's change of speed is taken out. ``held_out`` (steady too)
predicts each place from a profile that never saw it: its anchor is removed. ``hit`` is the share within
10 %, or within 0.1 ms for a part under 0.5 ms.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from _shared import model_names, real_feeds, shared_model

from splitter.graph.cut import Cut
from splitter.graph.frontier import Place, frontier
from splitter.graph.model import Model
from splitter.link import Link
from splitter.partition.extract import Extractor
from splitter.planning.plan import make_plan
from splitter.profiling.anchors import Share, measure_cut
from splitter.profiling.measure import Effort, measure
from splitter.profiling.parts import Bench
from splitter.profiling.profile import Profile
from splitter.profiling.timing import Rounds
from splitter.runtime import Runner, Settings

LINK = Link(name="any", up_bytes_per_s=1e6, down_bytes_per_s=1e6, rtt_s=0.0)
PASSES = 3
"""Each place is timed so often, at different times; the median counts."""

SMALL_S = 0.5e-3
SMALL_ERROR_S = 0.1e-3


@dataclass(frozen=True)
class Sample:
    """One part at one place."""

    predicted_s: float
    held_out_s: float
    measured_s: float
    drift: float
    """Whole model's seconds now over those in the profile."""
    anchored: bool

    def error(self, predicted_s: float, *, steady: bool = False) -> float:
        measured_s = self.measured_s / self.drift if steady else self.measured_s
        return abs(predicted_s - measured_s) / measured_s

    def hit(self, predicted_s: float, small_model: bool, *, steady: bool = False) -> bool:
        if small_model or self.measured_s < SMALL_S:
            measured_s = self.measured_s / self.drift if steady else self.measured_s
            return abs(predicted_s - measured_s) <= SMALL_ERROR_S
        return self.error(predicted_s, steady=steady) <= 0.10


def places_of(model: Model, count: int) -> list[Place]:
    usable = [p for p in frontier(model.graph)[1:-1] if p.nbytes is not None]
    picks = np.linspace(0, len(usable) - 1, min(count, len(usable))).round().astype(int)
    return [usable[i] for i in dict.fromkeys(picks.tolist())]


def predicted(model: Model, profile: Profile, cut: Cut) -> tuple[float, float]:
    """What ``splitter plan --at`` says of the cut."""
    found = make_plan(model, (profile, profile), LINK, cut=cut).predicted
    return found.head_s, found.tail_s


def samples(model: Model, profile: Profile, bench: Bench, places: Sequence[Place]) -> list[Sample]:
    order = [node.name for node in model.graph.nodes]
    anchored = {anchor.place for anchor in profile.anchors}
    cuts = {p.index: Cut(frozenset(order[: p.index]), p.crossing) for p in places}
    looks: dict[int, list[Share]] = {place: [] for place in cuts}
    wholes: list[float] = []
    for _ in range(PASSES):
        for place, cut in cuts.items():
            share = measure_cut(bench, cut, place)
            wholes += share.whole.seconds
            looks[place].append(share)
    now_s = float(np.median(wholes))
    found = []
    for place, cut in cuts.items():
        others = tuple(anchor for anchor in profile.anchors if anchor.place != place)
        blind = msgspec.structs.replace(profile, anchors=others)
        seen, unseen = predicted(model, profile, cut), predicted(model, blind, cut)
        for part, series in enumerate(zip(*((s.head, s.tail) for s in looks[place]), strict=True)):
            medians = [samples.median_s for samples in series if samples is not None]
            if medians:
                seconds = float(np.median(medians)) * now_s
                drift, is_anchor = now_s / profile.whole_s, place in anchored
                found.append(Sample(seen[part], unseen[part], seconds, drift, is_anchor))
    return found


def figures(found: Sequence[Sample], small_model: bool) -> dict[str, object]:
    def summary(errors: list[float], hits: list[bool]) -> dict[str, float]:
        return {
            "median": round(float(np.median(errors)), 4),
            "p95": round(float(np.percentile(errors, 95)), 4),
            "within_10%": round(sum(e <= 0.10 for e in errors) / len(errors), 3),
            "hit": round(sum(hits) / len(hits), 3),
        }

    result: dict[str, object] = {
        "parts": len(found),
        "anchored": sum(s.anchored for s in found),
        "drift": round(float(np.median([s.drift for s in found])), 3),
        "error": summary(
            [s.error(s.predicted_s) for s in found],
            [s.hit(s.predicted_s, small_model) for s in found],
        ),
        "steady": summary(
            [s.error(s.predicted_s, steady=True) for s in found],
            [s.hit(s.predicted_s, small_model, steady=True) for s in found],
        ),
        "held_out": summary(
            [s.error(s.held_out_s, steady=True) for s in found],
            [s.hit(s.held_out_s, small_model, steady=True) for s in found],
        ),
        "largest_ms": round(1e3 * max(abs(s.predicted_s - s.measured_s) for s in found), 3),
    }
    return result


def run(name: str, seconds: float, count: int, keep: Path | None) -> tuple[list[Sample], bool]:
    model = shared_model(name)
    feeds = real_feeds(name, model)
    started = time.perf_counter()
    profile = measure(model, feeds=feeds, effort=Effort(anchors_s=seconds))
    spent = time.perf_counter() - started
    if keep is not None:
        profile.save(keep / f"{name}.json")
    extractor, settings = Extractor(model), Settings()
    whole = Runner(extractor.whole().to_bytes(), settings, weights_dir=model.weights_dir)
    rounds = Rounds(least=5, most=100, budget_s=0.4, warmup=1)
    bench = Bench(model, extractor, settings, feeds, whole, rounds)
    found = samples(model, profile, bench, places_of(model, count))
    small = profile.whole_s < SMALL_S
    line = {
        "benchmark": "prediction", "model": name, "whole_ms": round(1e3 * profile.whole_s, 3),
        "nodes": len(profile.nodes), "kernels": len(profile.kernels), "anchors": len(profile.anchors),
        "profile_s": round(spent, 1), **figures(found, small),
    }  # fmt: skip
    print(json.dumps(line), flush=True)
    return found, small


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=model_names())
    parser.add_argument("--seconds", type=float, default=90.0, help="for the anchors of a profile")
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--keep", type=Path, help="write the profiles to this folder")
    parser.add_argument("--smoke", action="store_true", help="two small models, few cuts")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.models, arguments.seconds, arguments.cuts = arguments.models[:1], 1.0, 3
    if not arguments.models:
        print("no shared models beside the checkout: nothing measured", file=sys.stderr)
    every: list[Sample] = []
    for name in arguments.models:
        found, small = run(name, arguments.seconds, arguments.cuts, arguments.keep)
        if not small:
            every += found
    if every and not arguments.smoke:
        print(
            json.dumps(
                {"benchmark": "prediction", "model": "all over 0.5 ms", **figures(every, False)}
            )
        )


if __name__ == "__main__":
    main()
