"""Hand a program to CBC or HiGHS through PuLP: the only user of ``pulp``."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass

import pulp

from splitter.errors import InfeasibleError, PlanError
from splitter.planning.program import Program
from splitter.planning.records import SolverStatus

SOLVERS = ("cbc", "highs")

CBC_OPTIONS = ("cuts off", "heuristicsOnOff off")
"""The relaxation of a program with few rows is all but integral: both cost five times what they save.
(Without preprocessing too it is twice as fast again, but CBC then crashes where nothing is feasible.)"""

OBJECTIVE_SCALE = 1e6
"""What the cheaper of the two all-or-nothing choices is scaled to, so that the solvers' absolute
tolerances (1e-7) are twelve digits below the objective."""


@dataclass(frozen=True)
class Solved:
    """What the solver says; without values where a limit stopped it before it had any."""

    status: SolverStatus
    values: tuple[int, ...] | None
    objective: float | None
    bound: float
    """No choice of values weighs less."""


def solve(program: Program, solver: str = "cbc", time_limit_s: float | None = None) -> Solved:
    """Solve a program to proven optimality, or as far as the time allows.

    A program without rows is solved as a linear one: its vertices are integral (see ``program``), which
    is checked, and the simplex method alone takes less time than the same program with integrality.

    Raises
    ------
    InfeasibleError
        No values satisfy the constraints.
    PlanError
        The solver is unknown, not installed, or failed.
    """
    if solver not in SOLVERS:
        raise PlanError(f"solver is {solver!r}, not one of: {', '.join(SOLVERS)}")
    if not program.weights:
        return Solved(SolverStatus.OPTIMAL, (), program.constant, program.constant)
    model = _model(program)
    with tempfile.TemporaryDirectory(prefix="splitter-") as scratch:
        engine = _engine(solver, bool(program.rows), time_limit_s)
        engine.tmpDir = scratch
        try:
            model.problem.solve(engine)
        except pulp.PulpError as exc:
            raise PlanError(f"solver {solver} failed: {' '.join(str(exc).split())}") from exc
    return _solved(program, model)


@dataclass(frozen=True)
class _Model:
    problem: pulp.LpProblem
    variables: list[pulp.LpVariable]
    scale: float


def _model(program: Program) -> _Model:
    problem = pulp.LpProblem("cut", pulp.LpMinimize)
    # With the variables of the rows given, what is left is totally unimodular again.
    integral = {variable for row in program.rows for variable in row.coefficients}
    variables = [
        problem.add_variable(
            f"z{index:07d}", 0, 1, pulp.LpInteger if index in integral else pulp.LpContinuous
        )
        for index in range(len(program.weights))
    ]
    for variable, value in program.fixed.items():
        variables[variable].bounds(value, value)
    scale = _scale(program)
    terms = zip(variables, program.weights, strict=True)
    problem.setObjective(pulp.LpAffineExpression({v: scale * weight for v, weight in terms}))
    for upper, lower in program.arcs:
        _require(problem, {variables[upper]: 1, variables[lower]: -1}, 0)
    for row in program.rows:
        _require(problem, {variables[v]: c for v, c in row.coefficients.items()}, row.at_least)
    return _Model(problem, variables, scale)


def _require(problem: pulp.LpProblem, terms: dict[pulp.LpVariable, float], at_least: float) -> None:
    expression = pulp.LpAffineExpression(terms)
    problem.addConstraint(pulp.LpConstraint(expression, pulp.LpConstraintGE, rhs=at_least))


def _scale(program: Program) -> float:
    nothing, everything = program.constant, program.constant + sum(program.weights)
    largest = max(abs(weight) for weight in program.weights)
    # The floor keeps a choice that happens to cost next to nothing from blowing up the others.
    return OBJECTIVE_SCALE / (max(min(abs(nothing), abs(everything)), 1e-4 * largest) or 1.0)


def _engine(solver: str, integral: bool, time_limit_s: float | None) -> pulp.LpSolver:
    options = {"mip": integral, "msg": False, "timeLimit": time_limit_s, "gapRel": 0.0}
    if solver == "highs":
        engine = pulp.HiGHS(gapAbs=0.0, **options)
        if not engine.available():
            raise PlanError("solver highs is not installed: pip install splitter[highs]")
        return engine
    # PULP_CBC_CMD leaves with PuLP 4; the executable that comes with PuLP 3 is found by its path.
    path = pulp.PULP_CBC_CMD.pulp_cbc_path
    engine = pulp.COIN_CMD(path=path, gapAbs=0.0, options=list(CBC_OPTIONS), **options)
    if not engine.available():
        engine = pulp.COIN_CMD(gapAbs=0.0, options=list(CBC_OPTIONS), **options)
    if not engine.available():
        raise PlanError("solver cbc is not installed: pip install splitter[cbc]")
    return engine


def _solved(program: Program, model: _Model) -> Solved:
    outcome = model.problem.sol_status
    if outcome == pulp.LpSolutionInfeasible:
        raise InfeasibleError("no cut satisfies every limit: too many are excluded")
    proven = outcome == pulp.LpSolutionOptimal
    found = proven or outcome == pulp.LpSolutionIntegerFeasible
    raw = [variable.varValue for variable in model.variables] if found else []
    values = tuple(round(value) for value in raw if value is not None)
    integral = len(values) == len(model.variables) and all(
        abs(value - rounded) < 1e-5 for value, rounded in zip(raw, values, strict=True)
    )
    if proven and not integral:
        raise PlanError("solver gave values that are not whole; try the other solver")
    # Stopped, PuLP gives no bound: the weights alone have one, without any constraint.
    loose = program.constant + sum(min(weight, 0.0) for weight in program.weights)
    if not integral:
        return Solved(SolverStatus.FEASIBLE, None, None, loose)
    objective = program.constant + float(pulp.value(model.problem.objective)) / model.scale
    if proven:
        return Solved(SolverStatus.OPTIMAL, values, objective, objective)
    return Solved(SolverStatus.FEASIBLE, values, objective, loose)
