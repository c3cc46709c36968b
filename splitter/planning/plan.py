"""From a model, two profiles and a link to the plan that other stages read."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import msgspec

from splitter.errors import PlanError
from splitter.graph.cut import Cut, cut_at, cut_of
from splitter.graph.model import Model
from splitter.graph.values import Graph
from splitter.link import Link
from splitter.planning.births import FurtherDevice
from splitter.planning.candidates import ON_DEVICE, ON_SERVER, candidate, title_of
from splitter.planning.choices import Calibrated
from splitter.planning.cost import Price
from splitter.planning.cuts import PlannedCut
from splitter.planning.draw import draw
from splitter.planning.explain import explain
from splitter.planning.measured import Evaluate, policy_within_budget, within_budget
from splitter.planning.order import order
from splitter.planning.pareto import pareto
from splitter.planning.planner import Solution, price, solve_problem
from splitter.planning.policy import Policy, Progress, policy
from splitter.planning.problem import Relays, Wishes, make_problem
from splitter.planning.records import (
    Candidate,
    DeviceSource,
    ModelSource,
    Plan,
    Problem,
    RelaySource,
    SolverStatus,
    Tradeoff,
)
from splitter.planning.search import Progress as SolveProgress
from splitter.planning.search import SolverChoice
from splitter.planning.sources import (
    calibration_source,
    codec_sample,
    codec_warnings,
    fitted_codecs,
    tier_source,
    warnings,
)
from splitter.planning.stages import placed_candidate, placed_title
from splitter.planning.states import suggestion
from splitter.planning.table import PolicyTable
from splitter.planning.terms import Term
from splitter.profiling.profile import Profile


@dataclass(frozen=True)
class PlanOptions:
    """How to decide, and how much to say."""

    wishes: Wishes = Wishes()
    alternatives: int = 5
    solver: str = "cbc"
    time_limit_s: float | None = None
    """For each solve, and for all of an envelope."""
    envelope: bool = False
    """Whether to find what is best at every bandwidth and server slowdown too."""
    pareto: tuple[Term, ...] = ()
    """Two or three terms to trade for one another."""
    explain: bool = False
    """Whether to find the plan's reasons too."""


def _silent(stage: str, done: int, total: int) -> None:
    """No progress is shown unless it is asked for."""


def make_plan(
    model: Model,
    profiles: tuple[Profile, Profile],
    link: Link,
    options: PlanOptions = PlanOptions(),  # noqa: B008  (frozen)
    cut: Cut | None = None,
    calibrated: Calibrated | None = None,
    evaluate: Evaluate | None = None,
    progress: Progress = _silent,
    relays: Relays = (),
    sources: Sequence[FurtherDevice] = (),
) -> Plan:
    """Choose the best cut, or price the one given; ``profiles`` are of the device and of the server.

    With ``calibrated`` tensors may go through codecs that lose something. Where several do, the sum of
    what each loses alone is a guess: the combination is measured by ``evaluate``, and cut off if it
    breaks the budget.

    Raises
    ------
    ProfileError
        A profile is of another model, or of other dimensions.
    PlanError
        The calibration is, or does not fit the budget.
    InfeasibleError
        No cut, or not this one, can be carried out.
    """
    if options.explain and (relays or sources):
        raise PlanError(
            "reasons are of two tiers: plan with relays or further devices without --explain"
        )
    problem = make_problem(
        model.graph, profiles, link, options.wishes, cut.head if cut else None, calibrated, relays,
        sources,
    )  # fmt: skip
    evaluated = None
    if calibrated is None:
        solution = _solve(problem, options, cut, progress)
    else:
        evaluated = within_budget(
            problem, lambda narrowed: _solve(narrowed, options, cut, progress), calibrated, evaluate
        )
        problem, solution = evaluated.problem, evaluated.solution
    plan = _plan(model, profiles, solution, (link, options.wishes), is_calibrated=bool(calibrated))
    hint = suggestion(model.graph, options.wishes.limits.states)
    plan = msgspec.structs.replace(
        plan,
        warnings=(*plan.warnings, *([hint] if hint else [])),
        relays=tuple(
            RelaySource(tier=tier_source(tier), settings=tier.settings, link=own)
            for tier, own in relays
        ),
        sources=tuple(
            DeviceSource(
                tier=tier_source(source.profile),
                settings=source.profile.settings,
                link=source.link,
                inputs=source.inputs,
            )
            for source in sources
        ),
        graph=draw(
            model,
            problem,
            (
                profiles[0],
                *(source.profile for source in sources),
                *(tier for tier, _ in relays),
                profiles[1],
            ),
        ),
        order=order(problem),
    )
    if solution.solver.status is SolverStatus.OPTIMAL:
        choice = SolverChoice(options.solver, options.time_limit_s)
        table, reasons, tradeoff = None, None, None
        if options.envelope:
            table = _table(problem, solution, choice, calibrated, evaluate, progress)
        if options.pareto:
            tradeoff = _tradeoff(problem, options.pareto, choice)
        if options.explain:
            reasons = explain(problem, solution.pool, choice)
        plan = msgspec.structs.replace(
            plan,
            table=table and _table_in_model_order(table, model.graph),
            tradeoff=tradeoff,
            reasons=reasons,
        )
    if calibrated is None or evaluated is None:
        return plan
    source = calibration_source(calibrated, profiles, evaluated)
    return msgspec.structs.replace(
        plan,
        codecs=fitted_codecs(plan, calibrated),
        calibration=source,
        warnings=plan.warnings + codec_warnings(source),
    )


def _tradeoff(problem: Problem, terms: Sequence[Term], choice: SolverChoice) -> Tradeoff:
    """Codecs that lose something are taken at the sum of their losses: the combinations are not measured."""
    front = pareto(problem, terms, choice)
    return Tradeoff(
        terms=front.terms,
        candidates=tuple(
            candidate(problem, one, title_of(problem, one))
            if isinstance(one, Price)
            else placed_candidate(problem, one, placed_title(one))
            for one in front.plans
        ),
        knee=front.knee,
        is_complete=front.is_complete,
    )


def _table(
    problem: Problem, solution: Solution, choice: SolverChoice, calibrated: Calibrated | None,
    evaluate: Evaluate | None, progress: Progress,
) -> PolicyTable:  # fmt: skip
    def make(narrowed: Problem) -> Policy:
        return policy(narrowed, solution.pool, choice, progress)

    if calibrated is None:
        return make(problem).table
    return policy_within_budget(problem, make, calibrated, evaluate).table


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
    if set(plan.limits.kept) - set(graph.outputs):
        raise PlanError("the plan's limits name outputs that the model does not have; plan again")
    if set(dict(plan.limits.fed_back)) - set(graph.inputs):
        raise PlanError("the plan's limits name states that the model does not have; plan again")
    crossing = cut_at_head(graph, plan, plan.cut.head).crossing
    for items in (plan.cut.crossing, plan.predicted.crossing):
        if {item.tensor for item in items} != set(crossing):
            raise PlanError("the plan's crossing tensors are not those of its cut; plan again")
    for item in plan.predicted.crossing:
        plan.codec_of(item)
    for cut in plan.table.cuts if plan.table else ():
        sent = {item.tensor for item in cut.cut.crossing}
        if set(cut_at_head(graph, plan, cut.cut.head).crossing) != sent:
            raise PlanError(f"the crossing tensors of cut {cut.name!r} are not its own; plan again")
        for item in cut.cut.crossing:
            plan.codec_of(item)


def cut_of_candidate(graph: Graph, plan: Plan, candidate: Candidate) -> Cut:
    """The cut by which a candidate of the plan can be carried out; raises CutError."""
    if candidate.name == ON_DEVICE:
        head: Collection[str] = graph.node_of.keys()
    elif candidate.name == ON_SERVER:
        head = ()
    elif candidate == plan.predicted:
        head = plan.cut.head
    else:
        head = cut_at(graph, [item.tensor for item in candidate.crossing]).head
    return cut_at_head(graph, plan, head)


def cut_at_head(graph: Graph, plan: Plan, head: Collection[str]) -> Cut:
    """The cut of some nodes, with outputs and state where the plan wants them; raises CutError."""
    return cut_of(graph, head, plan.limits.kept, plan.limits.fed_back)


def _solve(problem: Problem, options: PlanOptions, cut: Cut | None, progress: Progress) -> Solution:
    def report(found: SolveProgress) -> None:
        """Show the bound, in percent of the best plan so far."""
        if found.objective and found.bound > 0:
            done = min(int(100 * found.bound / found.objective), 100)
            progress("percent of the best plan so far that are proven", done, 100)

    if cut is None:
        return solve_problem(
            problem,
            alternatives=options.alternatives,
            solver=options.solver,
            time_limit_s=options.time_limit_s,
            report=report,
        )
    inside = [node.name for node in problem.graph.nodes if cut.head.issuperset(node.members)]
    return price(problem, inside)


def _plan(
    model: Model,
    profiles: tuple[Profile, Profile],
    solution: Solution,
    terms: tuple[Link, Wishes],
    *,
    is_calibrated: bool = False,
) -> Plan:
    device, server = profiles
    link, wishes = terms
    decisions = {ON_DEVICE: "device", ON_SERVER: "server"}
    return Plan(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        model=ModelSource(
            file=model.path.name,
            sha256=model.graph.sha256,
            dims=dict(model.graph.dims),
            shapes={name: tuple(shape) for name, shape in model.shapes.items()},
        ),
        device=tier_source(device),
        server=tier_source(server),
        link=link,
        bytes_weight=wishes.bytes_weight,
        objective=wishes.objective,
        limits=wishes.limits,
        stages=solution.stages,
        settings=device.settings,
        server_settings=server.settings,
        decision=decisions.get(solution.predicted.name, "split"),
        cut=_in_model_order(solution.cut, model.graph),
        predicted=solution.predicted,
        baselines=solution.baselines,
        alternatives=solution.alternatives,
        solver=solution.solver,
        validity=solution.validity,
        codec_sample=codec_sample(device, is_calibrated),
        warnings=warnings(device, server, is_calibrated, wishes.limits),
    )


def _in_model_order(cut: PlannedCut, graph: Graph) -> PlannedCut:
    """The kernels' order is one that can run, but not the one that the model's file has."""
    head = frozenset(cut.head)
    return msgspec.structs.replace(cut, head=tuple(n.name for n in graph.nodes if n.name in head))


def _table_in_model_order(table: PolicyTable, graph: Graph) -> PolicyTable:
    cuts = (msgspec.structs.replace(cut, cut=_in_model_order(cut.cut, graph)) for cut in table.cuts)
    return msgspec.structs.replace(table, cuts=tuple(cuts))
