"""The library's verbs: what the commands do, for a notebook or a program.

``load``, ``profile``, ``calibrate``, ``plan``, ``split``, ``verify`` and ``Session`` are re-exported by
``splitter``.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from splitter.arguments import Tier, calibrated_with, evaluation, profiles_of, read_profile
from splitter.calibration.measure import Options as CalibrationOptions
from splitter.calibration.measure import calibrate as calibrate_tensors
from splitter.calibration.measure import partial_path
from splitter.calibration.records import Calibration
from splitter.dataset import open_dataset
from splitter.dataset.dataset import DEFAULT_LIMIT
from splitter.errors import PlanError, ProfileError
from splitter.graph.cut import cut_at
from splitter.graph.model import Model
from splitter.graph.read import load_model
from splitter.link import Link
from splitter.link_parse import find_link
from splitter.partition.bundle import Bundle, Deployment, Division, write_bundle
from splitter.planning.births import FurtherDevice, inputs_of
from splitter.planning.budget import Budget
from splitter.planning.divisions import demand_no_state, divisions_of, whole_on_device
from splitter.planning.hops import is_over_tiers, write_tiers
from splitter.planning.plan import PlanOptions, check_model, make_plan
from splitter.planning.problem import check_profile
from splitter.planning.records import Plan
from splitter.planning.verify import Verification
from splitter.planning.verify import verify as verify_plan
from splitter.preprocess import Preprocess, find_preprocess
from splitter.profiling.device import find_device
from splitter.profiling.estimate import estimate
from splitter.profiling.measure import Effort, Progress, measure
from splitter.profiling.profile import Profile
from splitter.runtime import Array, Settings

if TYPE_CHECKING:
    from splitter.serving.device.aio import AsyncSession
    from splitter.serving.device.options import SessionOptions
    from splitter.serving.device.session import Session
    from splitter.serving.server.options import ServerOptions
    from splitter.serving.server.serve import serve

_SERVING = {
    "AsyncSession": "device.aio", "SessionOptions": "device.options", "Session": "device.session",
    "ServerOptions": "server.options", "serve": "server.serve",
}  # fmt: skip

WHOLE = "whole"
"""The fallback that is the model itself."""


def load(
    path: str | os.PathLike[str],
    dims: Mapping[str, int] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Model:
    """Read a model and bind its dynamic dimensions, by name or by an input's whole shape.

    Raises
    ------
    ModelError
        The file is not a model that can be handled.
    DimensionError
        A dimension is left open, or bound to something it cannot be.
    """
    return load_model(path, dims=dims, shapes=shapes)


def _silent(stage: str, done: int, total: int) -> None:
    """No progress is shown unless it is asked for."""


def profile(
    model: Model,
    *,
    device: str | None = None,
    base: Tier | None = None,
    settings: Settings = Settings(),  # noqa: B008  (frozen)
    feeds: Mapping[str, Array] | None = None,
    effort: Effort = Effort(),  # noqa: B008  (frozen)
    progress: Progress = _silent,
) -> Profile:
    """Measure a model on this machine; with ``device``, scale a measured profile to that machine.

    ``base`` is the profile to scale; without it this machine is measured first. Raises ProfileError.
    """
    if base is not None and device is None:
        raise ProfileError("a base is for an estimate: name the device to estimate for")
    # A wrong name is said before minutes of measuring.
    target = None if device is None else find_device(device)
    if base is None:
        source = measure(model, settings, feeds, effort, progress)
    else:
        source = read_profile(base)
        check_profile(model.graph, source)
    return source if target is None else estimate(source, target)


def calibrate(
    model: Model,
    data: str | os.PathLike[str],
    *,
    labels: str | os.PathLike[str] | None = None,
    preprocess: str | Preprocess | None = None,
    samples: int = DEFAULT_LIMIT,
    tensors: int = 30,
    only: Sequence[str] = (),
    settings: Settings = Settings(),  # noqa: B008  (frozen)
    answer: Literal["auto", "top1", "values"] = "auto",
    jobs: int = 2,
    output: str | os.PathLike[str] | None = None,
    progress: Progress = _silent,
) -> Calibration:
    """Measure on a folder of data what codecs do to the tensors that may cross.

    At most ``tensors`` beside the model's inputs, or those in ``only``. With ``output`` it is saved there,
    and what a stopped calibration left beside it is used.

    Raises
    ------
    CalibrationError
        A tensor in ``only`` cannot cross, the labels do not fit the answer, or ``output`` cannot be
        written.
    InputError
        The data cannot be read, or does not fit the model.
    """
    if output is not None:
        partial_path(output)  # said before the data is read
    dataset = open_dataset(
        data,
        {name: model.graph.tensors[name] for name in model.graph.inputs},
        labels=labels,
        preprocess=preprocess,
        limit=samples,
    )
    return calibrate_tensors(
        model,
        dataset,
        settings,
        CalibrationOptions(tensors, tuple(only), answer, jobs),
        labels="" if labels is None else os.fspath(labels),
        output=output,
        progress=progress,
    )


def plan(
    model: Model,
    *,
    device: Tier,
    server: Tier,
    link: Link | str,
    base: Tier | None = None,
    at: Sequence[str] = (),
    relays: Sequence[tuple[Tier, Link | str]] = (),
    sources: Sequence[tuple[Tier, Link | str, Sequence[str]]] = (),
    calibration: Calibration | str | os.PathLike[str] | None = None,
    budget: Budget | None = None,
    data: str | os.PathLike[str] | None = None,
    options: PlanOptions = PlanOptions(),  # noqa: B008  (frozen)
    progress: Progress = _silent,
) -> Plan:
    """Choose the best cut, or with ``at`` price the one at those tensors.

    A description among the tiers is scaled from ``base``, else from the other tier's measured profile,
    else from a quick measurement on this machine. ``relays`` are tiers between the two, each with its link
    to the next one; ``link`` then leads to the first. ``sources`` are further devices, each with its link to
    the server and the inputs that are born there, by name or pattern; all others are born on ``device``,
    which gets the answer. With ``calibration`` tensors may go through codecs that lose something, as much as
    ``budget`` allows (1 % unless it is given); where several do, they are measured together on ``data``,
    which is the calibration's own folder unless it has moved.

    Raises
    ------
    ProfileError, LinkError
        A tier or link is unknown, malformed, or of another model.
    CutError
        The tensors in ``at`` do not exist or do not separate the model.
    CalibrationError, PlanError
        The calibration is malformed or of another model, its data has changed, or a budget was given
        without it.
    InfeasibleError
        No cut satisfies what the tiers can run and what can travel.
    """
    found, *onward = (
        find_link(one) if isinstance(one, str) else one
        for one in (link, *(own for _, own in relays), *(own for _, own, _ in sources))
    )
    born = [inputs_of(model.graph, patterns) for _, _, patterns in sources]
    cut = cut_at(model.graph, at) if at else None
    calibrated = calibrated_with(model, calibration, budget)
    tiers = (device, server, *(tier for tier, _ in relays), *(tier for tier, _, _ in sources))
    first, last, *others = profiles_of(model, tiers, base, progress)
    linked = list(zip(others, onward, strict=True))
    between, beside = linked[: len(relays)], linked[len(relays) :]
    further = [FurtherDevice(*one, inputs) for one, inputs in zip(beside, born, strict=True)]
    evaluate = None
    if calibrated is not None:
        evaluate = evaluation(model, calibrated.calibration, data, progress, options.wishes)
    return make_plan(
        model, (first, last), found, options, cut, calibrated, evaluate, progress, between, further
    )


def split(
    model: Model,
    out: str | os.PathLike[str],
    *,
    plan: Plan | str | os.PathLike[str] | None = None,
    at: Sequence[str] = (),
    alternatives: int = 0,
    fallback: str | os.PathLike[str] | None = None,
    feeds: Mapping[str, Array] | None = None,
    preprocess: str | Preprocess | None = None,
    quantise_in_graph: bool = True,
) -> Bundle:
    """Write the bundle of a plan, or of a cut at some tensors, checked against the whole model.

    With ``alternatives`` it also holds that many of the plan's next best cuts and the plan's rivals, for a
    session to follow the link. ``fallback`` is what the device answers with where there is no server:
    ``whole``, the model itself, or the file of a smaller one with the same inputs and outputs.

    A plan that uses three tiers or more becomes a folder of bundles, one for each tier but the last; the
    device's is returned, with those of the relays as its ``onward``. ``whole`` is then the fallback of each.
    So does one of several devices: a bundle for each of them, and the server's last.

    ``preprocess`` is kept in the manifest and says how ``run`` feeds a photo; by default it is that of the
    data on which the plan's codecs were calibrated. Where a codec quantises, the parts themselves do it,
    unless ``quantise_in_graph`` is off.

    Raises
    ------
    PlanError
        The plan is for another model, or says that the device cannot run the whole as its fallback; or
        neither or both of ``plan`` and ``at`` were given; or alternatives without a plan, or with one
        over three tiers.
    CutError, BundleError
        The cut is not one, or the bundle cannot be written or would differ from the model.
    """
    if (plan is None) == (not at):
        raise PlanError("give one of plan and at")
    if alternatives < 0 or (alternatives and plan is None):
        raise PlanError(f"alternatives are a plan's, 0 or more of them, got {alternatives}")
    chosen = plan if isinstance(plan, Plan) or plan is None else Plan.load(plan)
    if chosen is not None:
        check_model(chosen, model.graph)
        divisions = divisions_of(model.graph, chosen, alternatives)
    else:
        divisions = [Division(cut_at(model.graph, at))]
    if fallback is not None:
        demand_no_state(divisions)
    whole = whole_on_device(model.graph, chosen) if fallback == WHOLE else None
    deployment = _deployment(chosen, preprocess)
    if fallback not in (None, WHOLE):
        deployment = replace(deployment, stand_in=fallback)
    if chosen is not None and is_over_tiers(chosen):
        if alternatives:
            raise PlanError("alternatives are of two tiers: leave them out")
        first, *onward = write_tiers(
            model, chosen, deployment, out, whole=whole, feeds=feeds,
            quantise_in_graph=quantise_in_graph,
        )  # fmt: skip
        return replace(first, onward=tuple(onward))
    if whole is not None:
        divisions.append(whole)
    return write_bundle(
        model, divisions, out, deployment, feeds=feeds, quantise_in_graph=quantise_in_graph
    )


def _deployment(plan: Plan | None, preprocess: str | Preprocess | None) -> Deployment:
    recipe = find_preprocess(preprocess) if isinstance(preprocess, str) else preprocess
    if plan is None:
        return Deployment(preprocess=recipe)
    if recipe is None and plan.calibration is not None:
        recipe = plan.calibration.data.preprocess
    return Deployment(
        settings=plan.settings,
        tail_settings=plan.server_settings,
        link=plan.link,
        predicted_s=plan.predicted.total_s,
        preprocess=recipe,
    )


def verify(
    model: Model,
    plan: Plan | str | os.PathLike[str],
    *,
    feeds: Mapping[str, Array] | None = None,
    seconds: float = 20.0,
) -> Verification:
    """Measure a plan's cut, rivals and alternatives here, in turn; raises PlanError."""
    chosen = plan if isinstance(plan, Plan) else Plan.load(plan)
    return verify_plan(model, chosen, feeds, seconds)


def __getattr__(name: str) -> Any:
    """Import the runtime when it is first used: planning needs no gRPC."""
    if name in _SERVING:
        return getattr(importlib.import_module(f"splitter.serving.{_SERVING[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "AsyncSession", "ServerOptions", "Session", "SessionOptions", "calibrate", "load", "plan", "profile",
    "serve", "split", "verify",
]  # fmt: skip
