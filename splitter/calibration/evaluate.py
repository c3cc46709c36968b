"""Codecs on several crossing tensors of one cut, measured together on the calibration's data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from splitter.calibration.answers import Outcome, summarise
from splitter.calibration.bench import (
    Bench,
    LoadedParts,
    Progress,
    load_parts,
    make_bench,
    parallel,
)
from splitter.calibration.records import Answer
from splitter.codec import Codec
from splitter.dataset import Dataset
from splitter.errors import CalibrationError, CodecError, nearest
from splitter.graph.cut import Cut
from splitter.graph.model import Model
from splitter.runtime import Settings


@dataclass(frozen=True, eq=False)
class Evaluator:
    """For several combinations in a row: the whole model is run on the data once."""

    bench: Bench

    def evaluate(
        self,
        cut: Cut,
        codecs: Mapping[str, Codec],
        progress: Progress = lambda done, total: None,
    ) -> Answer:
        """Send every sample through the codecs and the tail; as ``evaluate``."""
        for name in codecs:
            if name not in cut.crossing:
                raise CalibrationError(
                    f"{name!r} does not cross at this cut{nearest(name, cut.crossing)}"
                )
        bench, parts = self.bench, load_parts(self.bench, cut)
        outcomes: list[Outcome] = []
        every = range(len(bench.samples))
        for outcome in parallel(lambda i: _outcome(bench, parts, codecs, i), every, bench.jobs):
            outcomes.append(outcome)
            progress(len(outcomes), len(bench.samples))
        return summarise(outcomes)


def evaluate(
    model: Model,
    cut: Cut,
    codecs: Mapping[str, Codec],
    dataset: Dataset,
    settings: Settings,
    answer: Literal["top1", "values"],
    jobs: int = 2,
    progress: Progress = lambda done, total: None,
) -> Answer:
    """What is left of the whole model's answer when tensors of a cut go through codecs, as a whole.

    Head and tail are really run, also where all codecs are lossless: then what remains is the difference
    of the runtime's fusions on each side of the cut. ``answer`` is that of the calibration.

    Raises
    ------
    CalibrationError
        A codec is for a tensor that does not cross.
    CodecError
        A codec cannot carry a sample's tensor; the message names both.
    """
    samples = len(dataset.samples)
    bench = make_bench(
        model, dataset, settings, answer, jobs, lambda done, total: progress(done, 2 * total)
    )
    return Evaluator(bench).evaluate(
        cut, codecs, lambda done, total: progress(samples + done, samples + total)
    )


def _outcome(bench: Bench, parts: LoadedParts, codecs: Mapping[str, Codec], index: int) -> Outcome:
    values = parts.crossing(bench.feeds(index))
    decoded = {}
    for name, codec in codecs.items():
        if codec.is_lossless:
            continue
        array = values[name]
        try:
            decoded[name] = codec.decode(codec.encode(array), array.dtype.name, array.shape)
        except CodecError as exc:
            sample = bench.samples[index].name
            raise CodecError(f"{codec.name} on {name!r} of {sample}: {exc}") from exc
    return bench.outcome(index, parts.finish(values, decoded))
