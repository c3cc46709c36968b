"""Hand a program to CBC or HiGHS through PuLP: the only user of ``pulp``."""

from __future__ import annotations

import contextlib
import gc
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import psutil
import pulp

from splitter.errors import InfeasibleError, PlanError
from splitter.planning.program import Program, Tension
from splitter.planning.records import SolverStatus

SOLVERS = ("cbc", "highs")

CBC_OPTIONS = ("cuts off", "heuristicsOnOff off", "strong 0")
"""The relaxation of a program with few rows is all but integral: these cost ten times what they save.
Preprocessing stays: without it CBC crashes where nothing is feasible."""

MANY_ROWS_OPTIONS = ("cuts off", "presolve off")
"""Of a program with rows of many variables. Cuts cost more than they save here too; the presolve of linear
programs calls some feasible ones infeasible (rows with a bound of 1e-8 to spare after it)."""

WATCH_EVERY_S = 0.5

GRACE_S = 2.0
"""After the time limit, for CBC to end by itself and to write what it has."""


_NUMBER = r"[-+]?[\d.]+(?:e[-+]?\d+)?"
_BEST = re.compile(rf"(?:solution of|best solution,?|Objective value:)\s*({_NUMBER})")
_BOUND = re.compile(rf"(?:best possible|Lower bound:|Continuous objective value is)\s*({_NUMBER})")

Watch = Callable[[float | None, float], None]
"""Best objective so far, None where there is none, and the bound."""

OBJECTIVE_SCALE = 1e6
"""What the cheaper of the two all-or-nothing choices is scaled to, so that the solvers' absolute
tolerances (1e-7) are twelve digits below the objective."""


@dataclass(frozen=True)
class Solved:
    """What the solver says; without values where its time ran out."""

    status: SolverStatus
    values: tuple[int, ...] | None
    objective: float | None
    bound: float
    """No choice of values weighs less."""
    tensions: tuple[Tension, ...] = ()
    """The dual solution of a program without rows, by arcs; none where the solver gave none."""


def solve(
    program: Program,
    solver: str = "cbc",
    time_limit_s: float | None = None,
    *,
    near_cut: bool = True,
    cutoff: float = inf,
    watch: Watch | None = None,
) -> Solved:
    """Solve a program to proven optimality.

    Where the time runs out, or has already, the best values at hand come back, if there are any; a linear
    program has none.
    ``near_cut`` says that there are few rows beside the arcs, so that the relaxation is all but integral.
    Only values below ``cutoff`` are of interest: none is infeasible.
    ``watch`` is called now and then while CBC works, with the best objective and the bound so far.

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
    if time_limit_s is not None and time_limit_s <= 0:  # CBC takes a negative limit for none
        least = program.constant + sum(min(weight, 0.0) for weight in program.weights)
        return Solved(SolverStatus.FEASIBLE, None, None, least)
    with _uncollected(), tempfile.TemporaryDirectory(prefix="splitter-") as scratch:
        model = _Model(program)
        engine = _engine(solver, bool(program.rows), time_limit_s, near_cut)
        engine.tmpDir = scratch
        log = Path(scratch, "log")
        if program.rows and solver == "cbc" and cutoff < inf:
            engine.options.append(f"cutoff {model.in_solver(cutoff):.12g}")
        if program.rows and solver == "cbc":
            engine.optionsDict["logPath"] = str(log)
        deadline = _Deadline(scratch, time_limit_s if solver == "cbc" else None)
        try:
            with deadline, _watching(log, model, watch if program.rows else None):
                model.problem.solve(engine)
        except pulp.PulpError as exc:
            if deadline.passed:
                return Solved(SolverStatus.FEASIBLE, None, None, _bound(model, log))
            raise PlanError(f"solver {solver} failed: {' '.join(str(exc).split())}") from exc
        return _solved(model, log, dual=not program.rows)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Pause the cycle collector: PuLP makes objects by the 100,000, all alive until the end."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class _Model:
    """A program as PuLP has it.

    A variable z of negative weight with nothing below it (an m_t) is written p - s, where p is above
    every upper of z (the producer), or 1: s is "t is sent". Nothing sent is then a start from which
    the dual simplex method has little to repair, and CBC takes less than half the time.
    """

    def __init__(self, program: Program) -> None:
        self.problem = pulp.LpProblem("cut", pulp.LpMinimize)
        self.base_of = _bases(program)
        # With the variables of the rows given, what is left is totally unimodular again.
        free = program.continuous | program.unbounded
        integral = {v for row in program.rows for v in row.coefficients if v not in free}
        if free:  # rows of variables that are no whole numbers: nothing is totally unimodular
            integral = set(range(len(program.weights))) - free
        self.integral = [index not in free for index in range(len(program.weights))]
        # An s costs something and stays below 1 by itself; unbounded, its whole price is an arc's.
        self.variables = [
            self.problem.add_variable(
                f"z{index:07d}", 0,
                None if index in program.unbounded or index in self.base_of and not program.rows else 1,
                pulp.LpInteger if index in integral else pulp.LpContinuous,
            )
            for index in range(len(program.weights))
        ]  # fmt: skip
        for variable, value in program.fixed.items():
            self.variables[variable].bounds(value, value)
        self.constant, self.scale = program.constant, _scale(program)
        self._objective(program.weights)
        self.arcs = {arc: self._arc(*arc) for arc in program.arcs}
        for row in program.rows:
            self._require(row.coefficients, row.at_least)

    def values(self) -> list[float]:
        """Read the solver's answer back as values of the program's own variables; raises TypeError."""
        raw = [float(variable.varValue) for variable in self.variables]
        values = list(raw)
        for variable, base in self.base_of.items():
            values[variable] = (1.0 if base is None else raw[base]) - raw[variable]
        return values

    def objective(self) -> float:
        """In the objective's own unit."""
        return self.in_units(float(pulp.value(self.problem.objective)))

    def in_units(self, value: float) -> float:
        """The objective of a value of the solver's."""
        return self.constant + value / self.scale

    def in_solver(self, objective: float) -> float:
        """The solver's value of an objective."""
        return (objective - self.constant) * self.scale

    def tensions(self) -> tuple[Tension, ...]:
        """Read the dual solution: a price for each arc, and what is left of an s for p >= m."""
        left = {variable: self.costs[variable] for variable in self.base_of}
        found = []
        for (upper, lower), constraint in self.arcs.items():
            price = max(constraint.pi or 0.0, 0.0) / self.scale
            if price:
                found.append(Tension(price, upper, lower))
            if lower in left:
                left[lower] -= price
        return (*found, *(Tension(s, self.base_of[v], v) for v, s in left.items() if s > 0))

    def _objective(self, weights: Sequence[float]) -> None:
        costs = list(weights)
        for variable, base in self.base_of.items():
            costs[variable] = -weights[variable]
            if base is None:
                self.constant += weights[variable]
            else:
                costs[base] += weights[variable]
        self.loose_bound = self.constant + sum(min(cost, 0.0) for cost in costs)
        self.costs = costs
        terms = zip(self.variables, costs, strict=True)
        self.problem.setObjective(
            pulp.LpAffineExpression({variable: self.scale * cost for variable, cost in terms})
        )

    def _arc(self, upper: int, lower: int) -> pulp.LpConstraint:
        base = self.base_of.get(lower, lower)
        if base == lower:
            return self._require({upper: 1, lower: -1}, 0)
        if base is None:
            return self._require({upper: 1, lower: 1}, 1)
        return self._require({upper: 1, lower: 1, base: -1}, 0)

    def _require(self, terms: Mapping[int, float], at_least: float) -> pulp.LpConstraint:
        named = {self.variables[index]: coefficient for index, coefficient in terms.items()}
        expression = pulp.LpAffineExpression(named)
        constraint = pulp.LpConstraint(expression, pulp.LpConstraintGE, rhs=at_least)
        self.problem.addConstraint(constraint)
        return constraint


def _bases(program: Program) -> dict[int, int | None]:
    """Give p of each variable to be written p - s; None for 1."""
    uppers: list[set[int]] = [set() for _ in program.weights]
    held = set(program.fixed).union(*(row.coefficients for row in program.rows))
    for upper, lower in program.arcs:
        uppers[lower].add(upper)
        held.add(upper)  # it has something below it
    bases: dict[int, int | None] = {}
    for variable, weight in enumerate(program.weights):
        if weight < 0 and variable not in held:
            above = [uppers[upper] for upper in uppers[variable]]
            bases[variable] = min(set.intersection(*above), default=None) if above else None
    return bases


def _scale(program: Program) -> float:
    nothing, everything = program.constant, program.constant + sum(program.weights)
    largest = max(abs(weight) for weight in program.weights)
    # The floor keeps a choice that happens to cost next to nothing from blowing up the others.
    return OBJECTIVE_SCALE / (max(min(abs(nothing), abs(everything)), 1e-4 * largest) or 1.0)


def _engine(
    solver: str, integral: bool, time_limit_s: float | None, near_cut: bool
) -> pulp.LpSolver:
    cbc_options = list(CBC_OPTIONS if near_cut else MANY_ROWS_OPTIONS)
    options = {"mip": integral, "msg": False, "timeLimit": time_limit_s, "gapRel": 0.0}
    if solver == "highs":
        engine = pulp.HiGHS(gapAbs=0.0, **options)
        if not engine.available():
            raise PlanError("solver highs is not installed: pip install splitter[highs]")
        return engine
    # PULP_CBC_CMD leaves with PuLP 4; the executable that comes with PuLP 3 is found by its path.
    path = pulp.PULP_CBC_CMD.pulp_cbc_path
    engine = pulp.COIN_CMD(path=path, gapAbs=0.0, options=cbc_options, **options)
    if not engine.available():
        engine = pulp.COIN_CMD(gapAbs=0.0, options=cbc_options, **options)
    if not engine.available():
        raise PlanError(
            "solver cbc is not installed: this PuLP brings none, put a cbc executable on the PATH"
        )
    return engine


class _Deadline:
    """Ends CBC where it does not end itself: it looks at the clock between nodes of its search only."""

    def __init__(self, scratch: str, time_limit_s: float | None) -> None:
        self.scratch, self.passed = scratch, False
        self.timer: threading.Timer | None = None
        if time_limit_s is not None:
            self.timer = threading.Timer(time_limit_s + GRACE_S, self._end)
            self.timer.daemon = True

    def __enter__(self) -> None:
        if self.timer is not None:
            self.timer.start()

    def __exit__(self, *_: object) -> None:
        if self.timer is not None:
            self.timer.cancel()

    def _end(self) -> None:
        """Ends the child that works on a file of this scratch folder."""
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error):
                if any(word.startswith(self.scratch) for word in child.cmdline()):
                    self.passed = True
                    child.kill()


@contextlib.contextmanager
def _watching(log: Path, model: _Model, watch: Watch | None) -> Iterator[None]:
    """Read the solver's log while it is written."""
    if watch is None:
        yield
        return
    done = threading.Event()

    def read() -> None:
        while not done.wait(WATCH_EVERY_S):
            best, bound = _progress(log)
            watch(
                None if best is None else model.in_units(best),
                model.loose_bound if bound is None else model.in_units(bound),
            )

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield
    finally:
        done.set()
        reader.join()


def _progress(log: Path) -> tuple[float | None, float | None]:
    """Best objective and bound of a log of CBC, as far as it has come."""
    text = log.read_text(errors="replace") if log.is_file() else ""
    bests = _BEST.findall(text)
    bounds = _BOUND.findall(text)
    best = float(bests[-1]) if bests and float(bests[-1]) < 1e49 else None
    return best, float(bounds[-1]) if bounds and abs(float(bounds[-1])) < 1e49 else None


def _bound(model: _Model, log: Path) -> float:
    """What a solve that was stopped has proven."""
    highs = getattr(model.problem, "solverModel", None)
    found = highs.getInfo().mip_dual_bound if highs is not None else _progress(log)[1]
    if found is None or abs(found) > 1e49:
        return model.loose_bound
    return max(model.loose_bound, model.in_units(found))


def _solved(model: _Model, log: Path, dual: bool) -> Solved:
    outcome = model.problem.sol_status
    # CBC has two words for it, and PuLP takes "integer infeasible" for no solution found.
    if outcome == pulp.LpSolutionInfeasible or model.problem.status == pulp.LpStatusInfeasible:
        raise InfeasibleError("no cut satisfies every limit: too many are excluded")
    stopped = outcome != pulp.LpSolutionOptimal
    if stopped and (dual or outcome != pulp.LpSolutionIntegerFeasible):
        # Values of a simplex method that was stopped need not satisfy the constraints, and PuLP gives
        # no bound of it; the weights alone have one.
        bound = model.loose_bound if dual else _bound(model, log)
        return Solved(SolverStatus.FEASIBLE, None, None, bound)
    raw = model.values()
    values = tuple(round(value) for value in raw)
    parted = zip(raw, values, model.integral, strict=True)
    if any(abs(value - whole) > 1e-5 for value, whole, integral in parted if integral):
        if stopped:
            return Solved(SolverStatus.FEASIBLE, None, None, _bound(model, log))
        raise PlanError("the solver's values are not whole; try the other solver")
    objective = model.objective()
    if stopped:
        return Solved(SolverStatus.FEASIBLE, values, objective, min(_bound(model, log), objective))
    tensions = model.tensions() if dual else ()
    return Solved(SolverStatus.OPTIMAL, values, objective, objective, tensions)
