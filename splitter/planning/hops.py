"""A plan over tiers, or several devices, as it is deployed: what runs where and how, and what it sends."""

from __future__ import annotations

import os
from dataclasses import replace

from splitter.errors import PlanError
from splitter.graph.model import Model
from splitter.graph.values import Graph
from splitter.link import Link
from splitter.partition.bundle import Bundle, Deployment, Division
from splitter.partition.chain import Hop, write_chain
from splitter.partition.check import Values
from splitter.partition.star import Ray, write_star
from splitter.planning.divisions import divisions_of
from splitter.planning.plan import cut_at_head
from splitter.planning.records import Plan, Stage
from splitter.runtime import Settings

_LEAST_STAGES = 3


def is_over_tiers(plan: Plan) -> bool:
    """Whether it is more than one cut: that of several devices, or of three tiers in use."""
    return bool(plan.sources) or len(plan.stages) >= _LEAST_STAGES


def write_tiers(
    model: Model,
    plan: Plan,
    deployment: Deployment,
    out_dir: str | os.PathLike[str],
    *,
    whole: Division | None = None,
    feeds: Values | None = None,
    quantise_in_graph: bool = True,
) -> tuple[Bundle, ...]:
    """Write the bundles of a plan that ``is_over_tiers``, the device's first.

    ``deployment`` is the device's, and ``whole`` what it falls back on.

    Raises
    ------
    PlanError
        The stages are not of this model, or a fallback is wanted of one device of several.
    BundleError, CutError, CodecError
        As ``write_chain`` and ``write_star``.
    """
    if plan.relays and plan.limits.kept:
        raise PlanError(
            f"output {plan.limits.kept[0]!r} is wanted on the server, which a plan over relays in use cannot "
            "carry out; plan without relays"
        )
    devices = [n for s in plan.stages if s.role.startswith("device") for n in s.nodes]
    if cut_at_head(model.graph, plan, devices).states:
        raise PlanError(
            "state lives beyond the device, which a plan over relays or several devices cannot carry out; "
            "plan with one device and one server"
        )
    if not plan.sources:
        hops = hops_of(model.graph, plan, deployment, whole)
        return write_chain(model, hops, out_dir, feeds=feeds, quantise_in_graph=quantise_in_graph)
    if whole is not None or deployment.stand_in is not None:
        raise PlanError("one device of several cannot answer alone: leave the fallback out")
    division = divisions_of(model.graph, plan)[0]
    return write_star(model, division, rays_of(model.graph, plan, deployment), out_dir, feeds=feeds)


def rays_of(graph: Graph, plan: Plan, deployment: Deployment) -> list[Ray]:
    """Give every device; ``deployment`` is the first one's. Raises PlanError for stages of another model."""
    _demand_stages(graph, plan)
    nodes_of = {stage.role: frozenset(stage.nodes) for stage in plan.stages}
    elsewhere = {name for source in plan.sources for name in source.inputs}
    born = tuple(name for name in graph.inputs if name not in elsewhere)
    rays = [Ray("device", born, nodes_of.pop("device", frozenset()), deployment)]
    for number, source in enumerate(plan.sources, start=2):
        own = replace(deployment, settings=source.settings, link=source.link)
        nodes = nodes_of.pop(f"device{number}", frozenset())
        rays.append(Ray(f"device{number}", source.inputs, nodes, own))
    if nodes_of.keys() - {"server"}:
        raise PlanError(f"the plan has no device {min(nodes_of.keys() - {'server'})!r}; plan again")
    return rays


def hops_of(
    graph: Graph, plan: Plan, deployment: Deployment, whole: Division | None = None
) -> list[Hop]:
    """One for each tier in use but the last.

    ``deployment`` is the device's, and ``whole`` what it falls back on.

    Raises
    ------
    PlanError
        The stages are not of this model.
    """
    stages = plan.stages
    _demand_stages(graph, plan)
    hops = []
    for place, (here, onward) in enumerate(zip(stages, stages[1:], strict=False)):
        own = Deployment(
            settings=_settings(plan, here),
            tail_settings=_settings(plan, onward),
            link=_link(plan, here, onward),
        )
        if place == 0:
            own = Deployment(
                settings=deployment.settings, tail_settings=own.tail_settings, link=own.link,
                predicted_s=deployment.predicted_s, preprocess=deployment.preprocess,
                stand_in=deployment.stand_in,
            )  # fmt: skip
        hops.append(
            Hop(
                name=f"{place + 1}-{here.role}-{onward.role}",
                nodes=frozenset(here.nodes),
                codecs={item.tensor: plan.codec_of(item) for item in here.sends},
                deployment=own,
                whole=whole if place == 0 else None,
            )
        )
    return hops


def _demand_stages(graph: Graph, plan: Plan) -> None:
    made = [name for stage in plan.stages for name in stage.nodes]
    if len(made) != len(set(made)) or set(made) != graph.node_of.keys():
        raise PlanError("the plan's stages are not the nodes of this model; plan again")


def _number(plan: Plan, stage: Stage) -> int:
    """Of the stage's tier among all of the plan, from the device on."""
    count = len(plan.relays)
    relays = ["relay"] if count == 1 else [f"relay{i}" for i in range(1, count + 1)]
    roles = ["device", *relays, "server"]
    if stage.role not in roles:
        raise PlanError(f"the plan has no tier {stage.role!r}, only {', '.join(roles)}; plan again")
    return roles.index(stage.role)


def _settings(plan: Plan, stage: Stage) -> Settings:
    own = [plan.settings, *(relay.settings for relay in plan.relays), plan.server_settings]
    return own[_number(plan, stage)]


def _link(plan: Plan, here: Stage, onward: Stage) -> Link | None:
    """None where the way leads over a tier that is skipped: it then is learnt from the requests."""
    links = [plan.link, *(relay.link for relay in plan.relays)]
    number = _number(plan, here)
    return links[number] if _number(plan, onward) == number + 1 else None
