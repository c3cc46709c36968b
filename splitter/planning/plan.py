"""From a model, two profiles and a link to the plan that other stages read."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import msgspec

from splitter import runtime
from splitter.errors import PlanError
from splitter.graph.cut import Cut, cut_at, cut_of
from splitter.graph.model import Model
from splitter.graph.values import Graph
from splitter.link import Link
from splitter.planning.candidates import ON_DEVICE, ON_SERVER
from splitter.planning.planner import Solution, price, solve_problem
from splitter.planning.problem import make_problem
from splitter.planning.records import (
    Candidate,
    ModelSource,
    Origin,
    Plan,
    PlannedCut,
    TierSource,
)
from splitter.profiling.measure import staleness
from splitter.profiling.profile import Profile


@dataclass(frozen=True)
class PlanOptions:
    """How to decide, and how much to say."""

    bytes_weight: float = 0.0
    """Seconds that one byte on the wire is worth."""
    alternatives: int = 5
    solver: str = "cbc"
    time_limit_s: float | None = None


def make_plan(
    model: Model,
    profiles: tuple[Profile, Profile],
    link: Link,
    options: PlanOptions = PlanOptions(),  # noqa: B008  (frozen)
    cut: Cut | None = None,
) -> Plan:
    """Choose the best cut, or price the one given; ``profiles`` are of the device and of the server.

    Raises
    ------
    ProfileError
        A profile is of another model, or of other dimensions.
    InfeasibleError
        No cut, or not this one, can be carried out.
    """
    head = None if cut is None else cut.head
    problem = make_problem(model.graph, profiles, link, options.bytes_weight, head)
    if head is None:
        solution = solve_problem(
            problem,
            alternatives=options.alternatives,
            solver=options.solver,
            time_limit_s=options.time_limit_s,
        )
    else:
        inside = [node.name for node in problem.graph.nodes if head.issuperset(node.members)]
        solution = price(problem, inside)
    return _plan(model, profiles, solution, (link, options.bytes_weight))


def check_model(plan: Plan, graph: Graph) -> None:
    """Refuse a plan for another model or other dimensions, or one that contradicts itself.

    Raises
    ------
    PlanError, CutError, CodecError
    """
    source = plan.model
    if source.sha256 != graph.sha256:
        raise PlanError(
            f"the plan is for another model: {source.file} ({source.sha256[:12]}), not this one "
            f"({graph.sha256[:12]}); plan this model"
        )
    unknown = [name for name in plan.cut.head if name not in graph.node_of]
    nodes = len(plan.cut.head) + plan.cut.tail_nodes
    if unknown or nodes != len(graph.nodes) or source.dims != dict(graph.dims):
        raise PlanError(
            "the plan was made for other dimensions of this model: give the --dim and --shape that "
            "it was made with, or plan again"
        )
    crossing = cut_of(graph, plan.cut.head).crossing
    for items in (plan.cut.crossing, plan.predicted.crossing):
        if {item.tensor for item in items} != set(crossing):
            raise PlanError("the plan's crossing tensors are not those of its cut; plan again")
    for item in plan.predicted.crossing:
        plan.codec_of(item)


def cut_of_candidate(graph: Graph, plan: Plan, candidate: Candidate) -> Cut:
    """The cut by which a candidate of the plan can be carried out; raises CutError."""
    if candidate.name == ON_DEVICE:
        return cut_of(graph, graph.node_of.keys())
    if candidate.name == ON_SERVER:
        return cut_of(graph, ())
    if candidate == plan.predicted:
        return cut_of(graph, plan.cut.head)
    return cut_at(graph, [item.tensor for item in candidate.crossing])


def _plan(
    model: Model,
    profiles: tuple[Profile, Profile],
    solution: Solution,
    terms: tuple[Link, float],
) -> Plan:
    device, server = profiles
    link, bytes_weight = terms
    decisions = {ON_DEVICE: "device", ON_SERVER: "server"}
    return Plan(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        model=ModelSource(
            file=model.path.name,
            sha256=model.graph.sha256,
            dims=dict(model.graph.dims),
            shapes={name: tuple(shape) for name, shape in model.shapes.items()},
        ),
        device=_source(device),
        server=_source(server),
        link=link,
        bytes_weight=bytes_weight,
        settings=device.settings,
        server_settings=server.settings,
        decision=decisions.get(solution.predicted.name, "split"),
        cut=_in_model_order(solution.cut, model.graph),
        predicted=solution.predicted,
        baselines=solution.baselines,
        alternatives=solution.alternatives,
        solver=solution.solver,
        validity=solution.validity,
        codec_sample=device.sample if device.codecs else "none",
        warnings=_warnings(device, server),
    )


def _in_model_order(cut: PlannedCut, graph: Graph) -> PlannedCut:
    """The kernels' order is one that can run, but not the one that the model's file has."""
    head = frozenset(cut.head)
    return msgspec.structs.replace(cut, head=tuple(n.name for n in graph.nodes if n.name in head))


def _source(profile: Profile) -> TierSource:
    return TierSource(
        name=profile.tier,
        origin=Origin(profile.origin),
        whole_s=profile.whole_s,
        fingerprint=profile.fingerprint,
        note=profile.note,
    )


def _warnings(device: Profile, server: Profile) -> tuple[str, ...]:
    found = [f"device: {text}" for text in staleness(device, runtime.version())]
    found += [f"server: {text}" for text in staleness(server, runtime.version())]
    if device.codecs and device.sample == "random":
        found.append(
            "compressed bytes were measured on a random input; profile with --input for real ones"
        )
    return tuple(found)
