"""Calibrate a model: every tensor worth crossing, resumed where a calibration of the same was stopped."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from splitter.calibration.bench import Bench, make_bench
from splitter.calibration.choose import choose_tensors, demand_tensors
from splitter.calibration.records import Calibration, DataSource, TensorResult
from splitter.calibration.tensor import calibrate_tensor
from splitter.dataset import Dataset
from splitter.errors import CalibrationError
from splitter.graph.model import Model
from splitter.profiling.measure import fingerprint
from splitter.runtime import Settings

Progress = Callable[[str, int, int], None]
"""Told the stage, what is done of it, and how much there is."""


@dataclass(frozen=True)
class Options:
    """What to try."""

    tensors: int = 30
    """At most, beside the model's inputs."""
    only: tuple[str, ...] = ()
    """These tensors instead of those that are worth crossing."""
    answer: Literal["auto", "top1", "values"] = "auto"
    jobs: int = 2
    """Samples at a time, each on one thread."""


def calibrate(
    model: Model,
    dataset: Dataset,
    settings: Settings,
    options: Options = Options(),  # noqa: B008  (frozen)
    *,
    labels: str = "",
    output: str | os.PathLike[str] | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Calibration:
    """Measure codecs on the tensors that are worth crossing, and save what is found to ``output``.

    After each tensor what there is so far is saved beside ``output``, and used the next time if model,
    data, settings and machine are still the same.

    Parameters
    ----------
    labels
        The file that the data's labels were read from.

    Raises
    ------
    CalibrationError
        A tensor in ``options.only`` cannot cross, or the labels do not fit the model's answer.
    InputError, ModelError
        The runtime refuses a sample, or cannot load the model or a part of it.
    SplitterError
        ``output`` cannot be written; said before anything is measured.
    """
    only = demand_tensors(model.graph, options.only)
    partial = None if output is None else partial_path(output)
    bench = make_bench(
        model, dataset, settings, options.answer, options.jobs,
        lambda done, total: progress("whole model", done, total),
    )  # fmt: skip
    progress("tensors", 0, options.tensors)
    names = only or choose_tensors(bench, options.tensors)
    found = _header(bench, labels)
    known = {} if partial is None else _resumed(partial, found)
    for done, name in enumerate(names):
        progress("tensors", done, len(names))
        result = known.get(name) or calibrate_tensor(
            bench, name, lambda done, total: progress("samples", done, total)
        )
        found = msgspec.structs.replace(found, tensors=(*found.tensors, result))
        if partial is not None:
            found.save(partial)
    progress("tensors", len(names), len(names))
    complete = msgspec.structs.replace(found, is_complete=True)
    if output is not None and partial is not None:
        complete.save(output)
        partial.unlink(missing_ok=True)
    return complete


def partial_path(output: str | os.PathLike[str]) -> Path:
    """Where to keep what there is so far; raises CalibrationError where the output cannot be written."""
    output = Path(output)
    if output.is_dir():
        raise CalibrationError(f"{output}: is a folder; name a file to write the calibration to")
    folder = output.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        what = "cannot be written to" if folder.is_dir() else "does not exist"
        raise CalibrationError(f"{output}: the folder {what}; name one that can")
    return output.with_name(f"{output.name}.partial")


def _header(bench: Bench, labels: str) -> Calibration:
    """All but the tensors."""
    model, data = bench.model, bench.dataset
    return Calibration(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        model_file=model.path.name,
        model_sha256=model.graph.sha256,
        dims=dict(model.graph.dims),
        shapes=dict(model.shapes),
        fingerprint=fingerprint(bench.settings),
        tier=platform.node() or "this machine",
        settings=bench.settings,
        data=DataSource(
            folder=data.folder,
            digest=data.digest,
            samples=len(data.samples),
            labelled=any(sample.label is not None for sample in data.samples),
            labels=labels,
            skipped=data.skipped,
            preprocess=data.preprocess,
        ),
        answer=bench.kind,
        whole_accuracy=bench.whole.accuracy,
        tensors=(),
        is_complete=False,
    )


def _resumed(partial: Path, header: Calibration) -> dict[str, TensorResult]:
    """Results of a calibration that was stopped, where it was one of just this; else none."""
    if not partial.is_file():
        return {}
    try:
        found = Calibration.load(partial)
    except CalibrationError:
        return {}  # of another version, or broken: it is overwritten
    about = msgspec.structs.replace(found, created=header.created, tensors=())
    if about != header:
        return {}
    return {result.tensor: result for result in found.tensors}
