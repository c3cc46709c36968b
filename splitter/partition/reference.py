"""What the whole model answers: run once, and then compared with any number of cuts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from splitter.graph.model import Model
from splitter.partition.check import (
    Values,
    accepted_feeds,
    compare,
    compare_each,
    demand_equal,
    run_one,
    served_limit,
    tolerance,
)
from splitter.runtime import Optimisation, Runner, Settings

EXACT = Settings(optimisation=Optimisation.NONE)


@dataclass(frozen=True)
class _Answer:
    settings: Settings
    outputs: Values
    limit: float
    """The largest relative difference that a right split can have."""


class Reference:
    """The whole model's outputs with optimisation off, and as the parts will be served."""

    def __init__(self, model: Model, served: Settings, feeds: Values | None = None) -> None:
        """Run the whole on ``feeds``, or on random inputs that it accepts; raises InputError."""
        whole = Runner(model.path, EXACT)
        if feeds is None:
            feeds, plain = accepted_feeds(whole, model.graph)
        else:
            plain = run_one(whole, feeds)
        del whole  # two copies of the weights in memory at most
        self.feeds = feeds
        self.rounding = tolerance(model.graph, Settings())
        """What a product of other sizes may round: the tolerance with optimisation on."""
        self.plain = plain
        """The outputs with optimisation off."""
        self.answers = [_Answer(EXACT, plain, tolerance(model.graph, EXACT))]
        if served.optimisation is not EXACT.optimisation:
            expected = run_one(Runner(model.path, served), feeds)
            limit = served_limit(model.graph, served, compare(plain, expected))
            self.answers.append(_Answer(served, expected, limit))

    def demand(self, *parts: Path | None) -> None:
        """Refuse parts that do not give, one after the other, what the whole gives; raises BundleError."""
        for answer in self.answers:
            made = dict(self.feeds)
            for runner in [Runner(path, answer.settings) for path in parts if path is not None]:
                made.update(run_one(runner, made))
            for difference in compare_each(answer.outputs, made):
                demand_equal(difference, answer.limit, answer.settings)
