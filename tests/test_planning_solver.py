from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pulp
import pytest
from problems import graph_of, problem_of, random_problem

from splitter.errors import InfeasibleError, PlanError
from splitter.planning import search as search_module
from splitter.planning import solver as solver_module
from splitter.planning.optimum import optimum
from splitter.planning.planner import solve_problem
from splitter.planning.presolve import presolve
from splitter.planning.program import Program, Row
from splitter.planning.records import SolverStatus
from splitter.planning.search import SolverChoice
from splitter.planning.solver import Solved, solve

PAIR = Program(weights=(1.0, -3.0, 1.0), constant=5.0, arcs=((0, 1), (2, 1)))


@pytest.mark.parametrize("solver", ["cbc", "highs"])
def test_a_program_gives_its_values_and_objective(solver: str) -> None:
    if solver == "highs":
        pytest.importorskip("highspy")
    solved = solve(PAIR, solver)
    assert solved.values == (1, 1, 1)
    assert solved.objective == pytest.approx(4.0)
    assert solved.bound == pytest.approx(4.0)
    assert solved.status is SolverStatus.OPTIMAL


@pytest.mark.parametrize("solver", ["cbc", "highs"])
def test_a_program_that_excludes_everything_is_infeasible(solver: str) -> None:
    if solver == "highs":
        pytest.importorskip("highspy")
    rows = (Row({0: 1, 1: 1}, 1), Row({0: -1, 1: -1}, 0))
    with pytest.raises(InfeasibleError):
        solve(Program((1.0, 1.0), 0.0, (), rows=rows), solver)


def test_an_unknown_solver_is_refused_with_the_known_ones() -> None:
    with pytest.raises(PlanError, match="'gurobi', not one of: cbc, highs"):
        solve(PAIR, "gurobi")


def test_a_missing_solver_names_the_extra_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulp.HiGHS, "available", lambda self: False)
    with pytest.raises(PlanError, match=r"pip install splitter\[highs\]"):
        solve(PAIR, "highs")


def test_a_solver_that_fails_is_one_line_and_leaves_no_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(pulp.PULP_CBC_CMD, "pulp_cbc_path", "/bin/false")
    with pytest.raises(PlanError, match="solver cbc failed"):
        solve(PAIR)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("solver", ["cbc", "highs"])
def test_solving_prints_nothing_and_leaves_no_files(
    solver: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    if solver == "highs":
        pytest.importorskip("highspy")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    solve_problem(random_problem(7, 10, limits=False), solver=solver)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_values_of_a_solver_that_was_stopped_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(problem: pulp.LpProblem, _: object) -> None:
        problem.sol_status = pulp.LpSolutionIntegerFeasible
        for variable in problem.variables():
            variable.varValue = 1.0

    monkeypatch.setattr(pulp.LpProblem, "solve", stopped)
    solved = solve(PAIR)
    assert solved.status is SolverStatus.FEASIBLE
    assert solved.values is None
    assert solved.bound <= 4.0


def test_without_an_answer_in_time_the_better_baseline_is_the_plan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        search_module,
        "solve",
        lambda *_: Solved(SolverStatus.FEASIBLE, None, None, bound=0.001),
    )
    graph = graph_of({"a": ("x",)}, {"x": 100, "a": 10}, ("a",))
    plan = solve_problem(problem_of(graph, {"a": 0.01}, {"a": 0.01}))
    assert plan.predicted.name == "all on the device"
    assert plan.solver.status is SolverStatus.FEASIBLE
    assert plan.solver.gap == pytest.approx(0.9)
    assert plan.alternatives == ()
    assert plan.validity is None


def test_an_objective_that_the_cost_function_does_not_confirm_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lie(program: Program, *_: object) -> Solved:
        told = solve(program)
        return Solved(told.status, told.values, 2 * (told.objective or 0.0), told.bound)

    monkeypatch.setattr(search_module, "solve", lie)
    graph = graph_of({"a": ("x",)}, {"x": 100, "a": 10}, ("a",))
    with pytest.raises(PlanError, match="please report this"):
        optimum(problem_of(graph, {"a": 0.01}, {"a": 0.01}), SolverChoice())


def test_a_row_that_a_solution_keeps_by_little_is_not_called_infeasible() -> None:
    # CBC 2.10.3 says so of this one unless the presolve of linear programs is off.
    rows = [
        ({0: -1.8112278149798868, 1: -2.418909467796408, 2: -1.7678578141926327, 3: -3.013119574803957,
          4: -0.35908136886056896, 6: -0.07066989999408169, 5: 0.15635532613903627, 7: 1.0},
         0.0856854261449546),
        ({0: 0.4563848026420558, 1: 0.1915444317813201, 2: 0.24364907722201506, 3: 0.10842168835460902,
          6: -0.009145216986337057, 5: 0.15214961102696123, 7: 1.0}, 1.6816264473314777),
        ({6: 0.07181627377211379, 5: 0.17954068443028448, 1: -0.5745301901769103,
          2: 0.5745301901769103, 7: 1.0}, 0.2513569582023983),
        ({3: 10.341543423184387, 7: 1.0}, 10.341543423184387),
        ({0: -0.07861280357237797, 1: -0.1625759125161963, 2: -0.05510372225869317,
          3: 0.4315121914890086, 4: -0.02083517637074969, 6: -0.00046412129244087795,
          5: 0.02831814035687027}, -0.2723989970160298),
        ({0: 0.004897762144040802, 1: -0.21990806909030164, 2: 0.22457841367975664, 3: 1.0,
          6: 0.027647313849313536, 5: 0.07099645923392588}, 1.0276473915597046),
    ]  # fmt: skip
    program = Program(
        (0.0,) * 7 + (0.05569768229263375,), 0.0,
        ((1, 2), (4, 0), (4, 1), (4, 3), (0, 5), (1, 5), (2, 5), (6, 5)),
        rows=tuple(Row(*row) for row in rows),
        continuous=frozenset({4, 5}), unbounded=frozenset({7}),
    )  # fmt: skip
    assert solve(program, near_cut=False).objective == pytest.approx(0.29741359, rel=1e-6)


def test_a_variable_merged_with_a_whole_one_stays_whole() -> None:
    program = Program(
        (1.0, -0.1, 0.0), 0.0, ((0, 1), (1, 0)),
        rows=(Row({0: 2.0}, 1.0), Row({2: 1.0}, 0.0)), continuous=frozenset({1}),
    )  # fmt: skip
    small = presolve(program).program
    assert small.continuous == frozenset()


def test_a_solver_that_overruns_its_limit_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sleeper = tmp_path / "cbc"
    sleeper.write_text("#!/bin/sh\nexec sleep 600 # \n")
    sleeper.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(600)\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr(pulp.PULP_CBC_CMD, "pulp_cbc_path", str(sleeper))
    monkeypatch.setattr(solver_module, "GRACE_S", 0.0)
    program = Program((1.0, 1.0), 0.0, (), rows=(Row({0: 1, 1: 1}, 1),))
    solved = solve(program, time_limit_s=0.3)
    assert solved.status is SolverStatus.FEASIBLE
    assert solved.values is None
    assert solved.bound <= 1.0
