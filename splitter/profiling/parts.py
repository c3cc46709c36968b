"""A cut's head and tail as calls that can be timed in turn with the whole model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from splitter.graph.cut import Cut
from splitter.graph.model import Model
from splitter.partition.check import run_one
from splitter.partition.extract import Extractor, Part
from splitter.profiling.timing import Clock, Rounds
from splitter.runtime import Array, Runner, Settings

Call = Callable[[], object]


@dataclass(frozen=True)
class Bench:
    """What measuring a part needs: the model, how it is served, and a run of the whole to compare."""

    model: Model
    extractor: Extractor
    settings: Settings
    feeds: Mapping[str, Array]
    whole: Runner
    rounds: Rounds
    clock: Clock = time.perf_counter
    tail_settings: Settings | None = None
    """Of the tails, where they are served otherwise."""

    def runner(self, part: Part, settings: Settings | None = None) -> Runner:
        """Load a part as it will be served; raises ModelError."""
        how = settings or self.settings
        return Runner(part.to_bytes(), how, weights_dir=self.model.weights_dir)

    def run_whole(self) -> object:
        """The call that others are timed in turn with."""
        return self.whole.run(self.feeds)


@dataclass(frozen=True)
class LoadedCut:
    """Both parts of a cut, loaded, with what each is fed; a part that is empty is None."""

    head: Call | None
    tail: Call | None
    crossing: Mapping[str, Array]
    """The values that the tail is sent."""


def load_cut(bench: Bench, cut: Cut) -> LoadedCut:
    """Extract and load both parts, and run the head once for what crosses; raises ModelError."""
    known = dict(bench.feeds)
    head = _call(bench, bench.extractor.head(cut), known, bench.settings)
    crossing = {name: known[name] for name in cut.crossing}
    tail_settings = bench.tail_settings or bench.settings
    tail = _call(bench, bench.extractor.tail(cut), known, tail_settings)
    return LoadedCut(head if cut.head else None, tail, crossing)


def _call(bench: Bench, part: Part, known: dict[str, Array], settings: Settings) -> Call | None:
    """A call that runs a part on the values made so far, to which it adds its outputs."""
    if not part.outputs:
        return None
    runner = bench.runner(part, settings)
    feeds = {name: known[name] for name in part.inputs}
    known.update(run_one(runner, feeds))
    return lambda: runner.run(feeds)
