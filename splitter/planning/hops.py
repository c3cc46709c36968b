"""A plan over tiers as it is deployed: what runs where, how it is run, and over which link it sends."""

from __future__ import annotations

from splitter.errors import PlanError
from splitter.graph.values import Graph
from splitter.link import Link
from splitter.partition.bundle import Deployment, Division
from splitter.partition.chain import Hop
from splitter.planning.records import Plan, Stage
from splitter.runtime import Settings

_LEAST_STAGES = 3


def hops_of(
    graph: Graph, plan: Plan, deployment: Deployment, whole: Division | None = None
) -> list[Hop]:
    """One for each tier in use but the last; none where fewer than three are: that is one cut.

    ``deployment`` is the device's, and ``whole`` what it falls back on.

    Raises
    ------
    PlanError
        The stages are not of this model, or of several devices.
    """
    stages = plan.stages
    if len(stages) < _LEAST_STAGES:
        return []
    if any(stage.role.startswith("device") for stage in stages[1:]):
        raise PlanError("the plan is for several devices, which cannot be deployed: plan for one")
    made = [name for stage in stages for name in stage.nodes]
    if len(made) != len(set(made)) or set(made) != graph.node_of.keys():
        raise PlanError("the plan's stages are not the nodes of this model; plan again")
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
