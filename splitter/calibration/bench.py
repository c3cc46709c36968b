"""The model, the data and the whole model's answers: what every codec is compared against."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np

from splitter.calibration.answers import (
    Kind,
    Outcome,
    Values,
    answer_kind,
    class_count,
    compare_answers,
    summarise,
    usual_sizes,
)
from splitter.calibration.records import Answer
from splitter.dataset import Dataset, Sample
from splitter.errors import CalibrationError, InputError
from splitter.graph.cut import Cut
from splitter.graph.model import Model
from splitter.partition.check import run_one
from splitter.partition.extract import Extractor, Part
from splitter.runtime import Array, Runner, Settings

MAX_KEPT_BYTES = 1 << 30
"""Of prepared inputs; those beyond are read from their files each time."""

Progress = Callable[[int, int], None]
"""Told how many samples are done, and how many there are."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class Bench:
    """Samples run through a model as it will be served; made by ``make_bench``."""

    model: Model
    extractor: Extractor
    dataset: Dataset
    settings: Settings
    jobs: int
    kind: Kind
    reference: tuple[Values, ...]
    """The whole model's outputs, in the order of the samples."""
    usual: Mapping[str, float]
    """How large each output usually is."""
    whole: Answer
    """The whole model's answer beside itself: with labels, its accuracy."""
    _kept: dict[int, Mapping[str, Array]] = field(repr=False)

    @property
    def samples(self) -> tuple[Sample, ...]:
        """All of them."""
        return self.dataset.samples

    def feeds(self, index: int) -> Mapping[str, Array]:
        """One sample's model inputs."""
        kept = self._kept.get(index)
        return self.dataset.feeds(self.samples[index]) if kept is None else kept

    def outcome(self, index: int, outputs: Values) -> Outcome:
        """One sample's outputs beside the whole model's."""
        label = self.samples[index].label
        return compare_answers(self.reference[index], outputs, self.kind, label, self.usual)

    def runner(self, part: Part) -> Runner:
        """Load a part as it will be served; raises ModelError."""
        return Runner(part.to_bytes(), self.settings, weights_dir=self.model.weights_dir)

    def shuffled(self) -> list[int]:
        """The samples' indices so that any first few are a fair choice: files are often sorted by class."""
        return [int(index) for index in np.random.default_rng(0).permutation(len(self.samples))]


@dataclass(frozen=True, eq=False)
class LoadedParts:
    """Both parts of a cut, loaded; a part that makes nothing is None."""

    cut: Cut
    outputs: tuple[str, ...]
    head: Runner | None
    tail: Runner | None

    def crossing(self, feeds: Values) -> dict[str, Array]:
        """Run the head: the feeds, what crosses, and the model outputs that are made on the way."""
        return dict(feeds) | (run_one(self.head, feeds) if self.head is not None else {})

    def finish(self, values: Values, decoded: Values) -> dict[str, Array]:
        """Run the tail on what crossed, some of it decoded: the model's outputs.

        Those that the head made stay as they were: they do not travel.
        """
        made = run_one(self.tail, {**values, **decoded}) if self.tail is not None else {}
        return {name: made[name] if name in made else values[name] for name in self.outputs}


def load_parts(bench: Bench, cut: Cut) -> LoadedParts:
    """Extract and load both parts; raises ModelError, or CutError where a value cannot cross."""
    head, tail = bench.extractor.head(cut), bench.extractor.tail(cut)
    return LoadedParts(
        cut,
        bench.model.graph.outputs,
        bench.runner(head) if head.outputs else None,
        bench.runner(tail) if tail.outputs else None,
    )


def make_bench(
    model: Model,
    dataset: Dataset,
    settings: Settings,
    answer: Literal["auto", "top1", "values"] = "auto",
    jobs: int = 2,
    progress: Progress = lambda done, total: None,
) -> Bench:
    """Run the whole model on every sample, and decide what its answer is.

    Raises
    ------
    CalibrationError
        There are no samples; or labels do not fit what the model answers.
    InputError
        The runtime refuses a sample; the message names it.
    """
    if not dataset.samples:
        raise CalibrationError(f"{dataset.folder}: no sample; give a folder that holds some")
    extractor = Extractor(model)
    whole = Runner(extractor.whole().to_bytes(), settings, weights_dir=model.weights_dir)
    kept: dict[int, Mapping[str, Array]] = {}
    room = MAX_KEPT_BYTES // len(dataset.samples)

    def run(index: int) -> Values:
        sample = dataset.samples[index]
        feeds = dataset.feeds(sample)
        if sum(array.nbytes for array in feeds.values()) <= room:
            kept[index] = feeds
        try:
            return run_one(whole, feeds)
        except InputError as exc:
            raise InputError(f"{sample.name}: {exc}") from exc

    total = len(dataset.samples)
    reference: list[Values] = []
    for outputs in parallel(run, range(total), jobs):
        reference.append(outputs)
        progress(len(reference), total)
    is_labelled = any(sample.label is not None for sample in dataset.samples)
    kind = answer_kind(
        reference[0], answer, is_labelled=is_labelled, is_text=dataset.kind == "text"
    )
    if is_labelled:
        _demand_labels(dataset, class_count(reference[0]))
    usual = usual_sizes(reference)
    whole_answer = summarise(
        [
            compare_answers(outputs, outputs, kind, sample.label, usual)
            for outputs, sample in zip(reference, dataset.samples, strict=True)
        ]
    )
    return Bench(
        model, extractor, dataset, settings, jobs, kind, tuple(reference), usual, whole_answer, kept
    )


def parallel(call: Callable[[T], R], items: Iterable[T], jobs: int) -> Iterator[R]:
    """Results in the order of the items; what has not begun is dropped when one fails or the caller stops.

    Threads suffice: the runtime, numpy and the compressors let others run meanwhile.
    """
    pool = ThreadPoolExecutor(jobs)
    try:
        yield from pool.map(call, items)
    finally:
        pool.shutdown(cancel_futures=True)


def evenly(indices: Sequence[T], count: int) -> list[T]:
    """At most ``count`` of them, evenly spaced."""
    if len(indices) <= count:
        return list(indices)
    return [indices[round(place)] for place in np.linspace(0, len(indices) - 1, count)]


def _demand_labels(dataset: Dataset, classes: int) -> None:
    for sample in dataset.samples:
        if sample.label is not None and not 0 <= sample.label < classes:
            raise CalibrationError(
                f"label {sample.label} of {sample.name}: the model answers with {classes} classes, "
                f"0 to {classes - 1}; give the labels of this model"
            )
