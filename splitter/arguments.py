"""What callers of the library may give in several forms: tiers, and a calibration with its data."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from splitter.calibration.bench import make_bench
from splitter.calibration.evaluate import Evaluator
from splitter.calibration.records import Answer, Calibration
from splitter.codec import Codec
from splitter.dataset import open_dataset
from splitter.errors import PlanError
from splitter.graph.cut import cut_of
from splitter.graph.model import Model
from splitter.planning.budget import Budget, default_budget
from splitter.planning.choices import Calibrated
from splitter.planning.cuts import PlannedCut
from splitter.planning.measured import Evaluate
from splitter.planning.problem import Wishes, check_calibration
from splitter.profiling.device import device_names, find_device
from splitter.profiling.estimate import estimate
from splitter.profiling.measure import Effort, Progress, measure
from splitter.profiling.profile import Profile

Tier = Profile | str | os.PathLike[str]
"""A profile, the path of one, or the name (or YAML file) of a device description."""

QUICK = Effort(anchors_s=15.0, codecs_s=4.0)
"""For a measurement that nobody asked for by name."""


def calibrated_with(
    model: Model, calibration: Calibration | str | os.PathLike[str] | None, budget: Budget | None
) -> Calibrated | None:
    """Read and checked against the model, under the default budget where none is given.

    Raises
    ------
    PlanError
        It is of another model or stopped before its end, or there is a budget without one.
    CalibrationError
        It cannot be read.
    """
    if calibration is None:
        if budget is not None:
            raise PlanError(
                "a budget says how much codecs may lose: give the calibration they are in"
            )
        return None
    found = calibration if isinstance(calibration, Calibration) else Calibration.load(calibration)
    check_calibration(model.graph, found)
    return Calibrated(found, budget or default_budget(found))


def evaluation(
    model: Model,
    calibration: Calibration,
    data: str | os.PathLike[str] | None,
    progress: Progress,
    wishes: Wishes,
) -> Evaluate:
    """How to measure several codecs together; data is read, and the whole model run, once and if needed."""

    @cache
    def evaluator() -> Evaluator:
        source = calibration.data
        dataset = open_dataset(
            data or source.folder,
            {name: model.graph.tensors[name] for name in model.graph.inputs},
            labels=source.labels or None,
            preprocess=source.preprocess,
            limit=source.samples,
        )
        if dataset.digest != source.digest:
            raise PlanError(
                f"{dataset.folder}: not the data that the calibration was made on, so the codecs cannot "
                "be measured together there; calibrate again, or give that data with --data"
            )
        return Evaluator(make_bench(model, dataset, calibration.settings, calibration.answer))

    def evaluate(cut: PlannedCut, codecs: Mapping[str, Codec]) -> Answer:
        return evaluator().evaluate(
            cut_of(model.graph, cut.head, wishes.limits.kept, wishes.limits.fed_back),
            codecs,
            lambda done, total: progress("codecs together", done, total),
        )

    return evaluate


def profiles_of(
    model: Model, tiers: Sequence[Tier], base: Tier | None, progress: Progress
) -> list[Profile]:
    """All profiles, descriptions scaled; one measurement serves all where one has to be made."""
    # all names are looked up first: a wrong one is said before anything is measured
    found = [
        find_device(str(tier)) if _is_description(tier) else read_profile(tier) for tier in tiers
    ]
    measured = [tier for tier in found if isinstance(tier, Profile) and tier.origin == "measured"]
    source = read_profile(base) if base is not None else next(iter(measured), None)
    profiles = []
    for tier in found:
        if isinstance(tier, Profile):
            profiles.append(tier)
            continue
        if source is None:
            source = measure(model, effort=QUICK, progress=progress)
        profiles.append(estimate(source, tier))
    return profiles


def _is_description(tier: Tier) -> bool:
    if isinstance(tier, Profile):
        return False
    return (
        str(tier) in device_names() or Path(tier).suffix in (".yaml", ".yml") or not _is_file(tier)
    )


def _is_file(tier: str | os.PathLike[str]) -> bool:
    return Path(tier).suffix == ".json" or Path(tier).is_file()


def read_profile(tier: Tier) -> Profile:
    """A profile, or that of a file; raises ProfileError."""
    return tier if isinstance(tier, Profile) else Profile.load(tier)
