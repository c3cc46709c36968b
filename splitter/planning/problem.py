"""From a model's graph, two profiles and a link to the planner's ``Problem``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from splitter.calibration.records import Calibration
from splitter.codec import CODECS
from splitter.errors import PlanError, ProfileError, nearest
from splitter.graph.contract import contract
from splitter.graph.values import Graph
from splitter.link import Link
from splitter.planning.births import FurtherDevice, check_births
from splitter.planning.choices import Calibrated, choices
from splitter.planning.homes import homes
from splitter.planning.own_memory import with_own_memory
from splitter.planning.records import Problem, Relay, Source, TierCost
from splitter.planning.terms import LATENCY, Limits, Objective, PowerDraw
from splitter.planning.tiers import head_cost, tail_cost
from splitter.profiling.profile import Profile


@dataclass(frozen=True)
class Wishes:
    """What a plan is judged by, and what it has to keep."""

    objective: Objective = LATENCY
    limits: Limits = Limits()
    bytes_weight: float = 0.0
    """What one byte on a wire is worth, in the unit of the objective."""
    power: PowerDraw | None = None
    """Of the device; None is what its profile has of it."""
    server_price_per_hour: float = 0.0


Relays = Sequence[tuple[Profile, Link]]
"""Tiers between device and server, each with its link to the next one."""


def make_problem(
    graph: Graph,
    profiles: tuple[Profile, Profile],
    link: Link,
    wishes: Wishes = Wishes(),  # noqa: B008  (frozen)
    head: Collection[str] | None = None,
    calibrated: Calibrated | None = None,
    relays: Relays = (),
    sources: Sequence[FurtherDevice] = (),
) -> Problem:
    """Build the problem over the device's kernels.

    Parameters
    ----------
    graph
        The model's own graph, not contracted.
    profiles
        Of the device and of the server.
    link
        From the device to the server, or to the first relay.
    head
        A cut to be priced: kernels that it divides are taken apart, so that it can be.
    calibrated
        Codecs that lose something, and how much may be lost; without it, the profiles' lossless ones.
    sources
        Further devices; not together with relays.

    Raises
    ------
    ProfileError
        A profile is of another model, or of other dimensions.
    PlanError
        The calibration is, or does not fit the budget; an objective or a limit means nothing; an input
        is born on two devices or on none.
    """
    device, server = profiles
    if relays and sources:
        raise PlanError("a plan has relays or several devices, not both: leave one of them out")
    check_births(graph, [source.inputs for source in sources])
    others = (*(relay for relay, _ in relays), *(source.profile for source in sources))
    for profile in (*profiles, *others):
        check_profile(graph, profile)
    wishes.objective.check()
    wishes.limits.check()
    _check_names(graph, wishes.limits)
    if calibrated is not None:
        check_calibration(graph, calibrated.calibration)
    groups = [kernel.nodes for kernel in device.kernels]
    if head is not None:
        groups = [nodes for nodes in groups if len({name in head for name in nodes}) == 1]
    kernels = contract(graph, groups)
    first = _by_kernel(head_cost(device, graph), kernels)
    last = _by_kernel(tail_cost(server, graph), kernels)
    problem = Problem(
        graph=kernels,
        device=replace(first, power=wishes.power or _power(device)),
        server=replace(last, price_per_hour=wishes.server_price_per_hour),
        link=link,
        codecs=choices(kernels, profiles, calibrated),
        bytes_weight=wishes.bytes_weight,
        loss_limit=calibrated.budget.limit if calibrated else None,
        objective=wishes.objective,
        limits=wishes.limits,
        relays=tuple(
            Relay(
                _by_kernel(head_cost(relay, graph), kernels),
                onward,
                choices(kernels, (relay, relay), calibrated),
            )
            for relay, onward in relays
        ),
        sources=tuple(
            Source(
                replace(
                    _by_kernel(head_cost(source.profile, graph), kernels),
                    power=_power(source.profile),
                ),
                source.link,
                source.inputs,
            )
            for source in sources
        ),
    )
    problem = with_own_memory(problem, profiles)
    return _coded_at_home(problem, sources, server, calibrated) if sources else problem


def _coded_at_home(
    problem: Problem,
    sources: Sequence[FurtherDevice],
    server: Profile,
    calibrated: Calibrated | None,
) -> Problem:
    """Take the codecs of what only one of several devices can make from that device's profile."""
    home_of, codecs = homes(problem), dict(problem.codecs)
    for number, source in enumerate(sources, start=1):
        own = choices(problem.graph, (source.profile, server), calibrated)
        codecs |= {tensor: found for tensor, found in own.items() if home_of.get(tensor) == number}
    return replace(problem, codecs=codecs)


def _power(profile: Profile) -> PowerDraw | None:
    if profile.power is None:
        return None
    return PowerDraw(active_w=profile.power.active_w, idle_w=profile.power.idle_w)


def _check_names(graph: Graph, limits: Limits) -> None:
    """Refuse outputs and states that the model does not have; raises PlanError."""
    outputs = [*limits.outputs, *(state.output for state in limits.states)]
    for name in outputs:
        if name not in graph.outputs:
            raise PlanError(f"no output is named {name!r}{nearest(name, graph.outputs)}")
    for state in limits.states:
        if state.input not in graph.inputs:
            raise PlanError(
                f"no input is named {state.input!r}{nearest(state.input, graph.inputs)}"
            )
    for name, tier in limits.outputs.items():
        if tier not in ("device", "server"):
            raise PlanError(f"output {name!r} is wanted on {tier!r}: give device or server")


def check_profile(graph: Graph, profile: Profile) -> None:
    """Refuse a profile of another model, or of other shapes; raises ProfileError."""
    if profile.model_sha256 != graph.sha256:
        raise ProfileError(
            f"the profile of {profile.tier} is of another model: {profile.model_file} "
            f"({profile.model_sha256[:12]}), not this one ({graph.sha256[:12]}); profile this model"
        )
    if profile.dims != dict(graph.dims):
        raise ProfileError(
            f"the profile of {profile.tier} was made with {_bindings(profile.dims)}, "
            f"this model is bound to {_bindings(graph.dims)}; bind it alike or profile again"
        )
    if profile.nodes != tuple(graph.node_of):
        raise ProfileError(
            f"the profile of {profile.tier} has {len(profile.nodes)} nodes, this model as it is bound "
            f"{len(graph.nodes)}; give the --dim and --shape it was made with, or profile again"
        )
    if sorted(name for kernel in profile.kernels for name in kernel.nodes) != sorted(graph.node_of):
        raise ProfileError(f"the kernels of the profile of {profile.tier} do not cover the model")
    unknown = {sample.codec for sample in profile.codecs} - CODECS.keys()
    if unknown:
        raise ProfileError(
            f"the profile of {profile.tier} has a codec {min(unknown)!r}; this version knows "
            f"{', '.join(CODECS)}"
        )
    if any(anchor.place > len(graph.nodes) for anchor in profile.anchors):
        raise ProfileError(f"the profile of {profile.tier} has an anchor beyond the last node")


def check_calibration(graph: Graph, calibration: Calibration) -> None:
    """Refuse a calibration of another model, or of other shapes; raises PlanError."""
    if calibration.model_sha256 != graph.sha256:
        raise PlanError(
            f"the calibration is of another model: {calibration.model_file} "
            f"({calibration.model_sha256[:12]}), not this one ({graph.sha256[:12]}); calibrate this model"
        )
    if calibration.dims != dict(graph.dims):
        raise PlanError(
            f"the calibration was made with {_bindings(calibration.dims)}, this model is bound to "
            f"{_bindings(graph.dims)}; bind it alike or calibrate again"
        )
    if not calibration.is_complete:
        raise PlanError("the calibration was stopped before its end; run the same command again")


def _by_kernel(cost: TierCost, kernels: Graph) -> TierCost:
    """Sum the nodes' costs over the kernels; a tensor inside a kernel no longer crosses."""
    return replace(
        cost,
        node_s={
            node.name: sum(cost.node_s[name] for name in node.members) for node in kernels.nodes
        },
        crossing_s={name: s for name, s in cost.crossing_s.items() if name in kernels.tensors},
        unsupported=frozenset(
            node.name for node in kernels.nodes if cost.unsupported.intersection(node.members)
        ),
    )


def _bindings(dims: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in dims.items()) or "no dimension"
