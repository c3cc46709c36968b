"""Plans whose codecs lose something: within the budget by measurement, or not planned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from splitter import api
from splitter.calibration.records import Answer, Calibration, CodecResult, TensorResult
from splitter.codec import CODECS, Codec
from splitter.codec.cast import Cast
from splitter.errors import PlanError
from splitter.graph.model import Model
from splitter.link import Link
from splitter.planning.budget import Budget, default_budget
from splitter.planning.choices import Calibrated, choices, codec_factors
from splitter.planning.cuts import PlannedCut
from splitter.planning.measured import policy_within_budget, within_budget
from splitter.planning.planner import solve_problem
from splitter.planning.policy import Policy, policy
from splitter.planning.records import Plan, Problem
from splitter.planning.search import SolverChoice
from splitter.profiling.profile import Profile
from splitter.runtime import Settings
from tests.calibrations import save_arrays, save_model
from tests.models import every_model
from tests.problems import LINK, graph_of, problem_of

LOSSY = Codec("short", (Cast("float16"),))
SLOW = Link(name="slow", up_bytes_per_s=1e4, down_bytes_per_s=1e4, rtt_s=0.0)
"""Bytes are dear on it, and seconds of codecs are not."""
ALL_RIGHT = Answer(samples=10, agreement=1.0, accuracy=0.9, lost=0.0, error=0.0, cosine=1.0)


def answer(agreement: float, lost: float | None = None, error: float = 0.0) -> Answer:
    return Answer(samples=10, agreement=agreement, lost=lost, error=error, cosine=1.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return save_model(every_model()["residual"], tmp_path_factory.mktemp("calibrated"))


@pytest.fixture(scope="module")
def data(model: Model) -> Path:
    return save_arrays(model.path.parent / "data", model, count=12)


@pytest.fixture(scope="module")
def calibration(model: Model, data: Path) -> Calibration:
    return api.calibrate(model, data, answer="top1", jobs=1)


@pytest.fixture(scope="module")
def here(model: Model) -> Profile:
    from splitter.profiling.measure import Effort
    from splitter.profiling.timing import Rounds

    rounds = Rounds(least=3, most=5, budget_s=0.01)
    return api.profile(
        model, effort=Effort(anchors_s=0.2, codecs_s=0.2, rounds=rounds, trace_runs=3)
    )


def slower(profile: Profile, factor: float, codecs: float = 1.0) -> Profile:
    """A device on which the model takes longer, and codecs too, as a profile of another machine."""
    return msgspec.structs.replace(
        profile, tier="slow", fingerprint={**profile.fingerprint, "processor": "slow"},
        whole_s=profile.whole_s * factor,
        kernels=tuple(msgspec.structs.replace(k, seconds=k.seconds * factor) for k in profile.kernels),
        anchors=tuple(
            msgspec.structs.replace(a, head_s=a.head_s * factor, tail_s=a.tail_s * factor)
            for a in profile.anchors
        ),
        codecs=tuple(
            msgspec.structs.replace(c, encode_s=c.encode_s * codecs, decode_s=c.decode_s * codecs)
            for c in profile.codecs
        ),
    )  # fmt: skip


@pytest.mark.parametrize("limit", [0.0, 0.1, 0.3, 1.0])
def test_the_codecs_of_a_plan_lose_no_more_than_the_budget(
    limit: float, model: Model, here: Profile, calibration: Calibration
) -> None:
    plan = api.plan(
        model, device=slower(here, 1e6), server=here, link=SLOW, calibration=calibration,
        budget=Budget(kind="agreement", limit=limit),
    )  # fmt: skip
    assert plan.decision != "device"
    assert plan.calibration is not None
    measured = plan.calibration.answer
    if limit == 0.0:
        assert measured is None or measured.agreement == 1.0
    if measured is not None:
        assert measured.agreement is not None
        assert 1 - measured.agreement <= limit + 1e-9
    for candidate in (plan.predicted, *plan.baselines, *plan.alternatives):
        assert candidate.loss <= limit + 1e-9
        for item in candidate.crossing:
            assert plan.codec_of(item).name == item.codec


def test_more_may_be_lost_and_nothing_gets_dearer(
    model: Model, here: Profile, calibration: Calibration
) -> None:
    costs = [
        api.plan(
            model, device=slower(here, 1e6), server=here, link=SLOW, calibration=calibration,
            budget=Budget(kind="agreement", limit=limit),
        ).predicted.objective
        for limit in (0.0, 0.1, 0.3, 1.0)
    ]  # fmt: skip
    assert costs == sorted(costs, reverse=True)


def test_a_calibrated_plan_is_carried_out_and_reads_back(
    model: Model, here: Profile, calibration: Calibration, tmp_path: Path
) -> None:
    plan = api.plan(
        model, device=slower(here, 1e6), server=here, link=SLOW, calibration=calibration,
        budget=Budget(kind="agreement", limit=1.0),
    )  # fmt: skip
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    bundle = api.split(model, tmp_path / "bundle", plan=tmp_path / "plan.json")
    names = [item.codec for item in plan.predicted.crossing]
    assert [spec.codec.name for spec in bundle.manifest.planned.crossing] == names
    assert any(name not in CODECS for name in names), "nothing was lost, so nothing was shown"
    api.verify(model, plan, seconds=0.0)


def test_codec_seconds_are_those_of_the_machine_or_scaled_by_zstd(
    here: Profile, calibration: Calibration
) -> None:
    assert codec_factors(calibration, (here, here)) == (1.0, 1.0)
    device, server = codec_factors(calibration, (slower(here, 1, 7), here))
    there = codec_factors(calibration, (slower(here, 1, 14), here))[0]
    assert there / device == pytest.approx(2)
    assert server == 1.0
    strange = msgspec.structs.replace(slower(here, 1, 7), codecs=())
    with pytest.raises(PlanError, match="cannot be scaled"):
        codec_factors(calibration, (strange, here))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_sha256": "0" * 64}, "of another model"),
        ({"dims": {"batch": 3}}, "bind it alike"),
        ({"is_complete": False}, "stopped before its end"),
    ],
)
def test_a_calibration_that_does_not_belong_to_the_model(
    change: Mapping[str, object],
    message: str,
    model: Model,
    here: Profile,
    calibration: Calibration,
) -> None:
    other = msgspec.structs.replace(calibration, **change)
    with pytest.raises(PlanError, match=message):
        api.plan(model, device=here, server=here, link="lte", calibration=other)


def test_a_calibration_that_was_edited_is_refused(
    model: Model, here: Profile, calibration: Calibration
) -> None:
    first = calibration.tensors[0]
    doubled = msgspec.structs.replace(first, results=(*first.results, first.results[0]))
    reshaped = msgspec.structs.replace(first, shape=(*first.shape, 2))
    lossy = tuple(r for r in first.results if not r.codec.is_lossless)
    for changed, message in (
        (doubled, "twice"),
        (reshaped, "calibrate again"),
        (msgspec.structs.replace(first, results=lossy), "no lossless one"),
    ):
        other = msgspec.structs.replace(calibration, tensors=(changed, *calibration.tensors[1:]))
        with pytest.raises(PlanError, match=message):
            api.plan(model, device=here, server=here, link="lte", calibration=other)


def test_a_budget_needs_a_calibration_and_the_calibration_an_answer_of_its_kind(
    model: Model, here: Profile, calibration: Calibration
) -> None:
    budget = Budget(kind="agreement", limit=0.01)
    with pytest.raises(PlanError, match="give the calibration"):
        api.plan(model, device=here, server=here, link="lte", budget=budget)
    with pytest.raises(PlanError, match="--max-error"):
        budget.loss(Answer(samples=1, error=0.1, cosine=1.0))
    assert default_budget(calibration).kind == "accuracy"
    values = msgspec.structs.replace(calibration, answer="values")
    assert default_budget(values) == Budget(kind="error", limit=0.01)


def test_what_was_right_by_luck_does_not_pay_for_what_was_lost() -> None:
    accuracy = Budget(kind="accuracy", limit=0.01)
    assert accuracy.loss(answer(0.96, lost=0.04)) == 0.04
    assert accuracy.loss(answer(0.92, lost=0.0)) == 0.04, (
        "eight changed: half may be lost elsewhere"
    )
    assert Budget(kind="accuracy", limit=0.01).loss(answer(0.99)) == 0.01
    assert Budget(kind="error", limit=0.01).loss(answer(0.9, error=0.2)) == 0.2


def two_tensors() -> tuple[Problem, Calibrated]:
    """Two nodes that both must be sent, as both the device's and the tail's reader are given."""
    graph = graph_of(
        {"a": ("x",), "b": ("x",), "c": ("a", "b")},
        {"x": 9000, "a": 4000, "b": 4000, "c": 1},
        ("c",),
    )
    problem = problem_of(graph, {"a": 0, "b": 0, "c": 99}, {"a": 9, "b": 9, "c": 0})
    results = tuple(
        CodecResult(
            codec=codec, wire_bytes=nbytes, wire_bytes_p95=nbytes, encode_s=0.0, decode_s=0.0,
            answer=kept,
        )
        for codec, nbytes, kept in ((CODECS["raw"], 4000, ALL_RIGHT), (LOSSY, 400, answer(0.99)))
    )  # fmt: skip
    tensors = tuple(
        TensorResult(tensor=name, dtype="uint8", shape=(4000,), nbytes=4000, results=results)
        for name in ("a", "b")
    )
    calibration = msgspec.structs.replace(EMPTY, tensors=tensors)
    budget = Budget(kind="agreement", limit=0.05)
    costs = {
        name: tuple(
            msgspec.structs.replace(
                problem.codecs[name][0], codec=result.codec.name, wire_bytes=result.wire_bytes,
                loss=budget.loss(result.answer),
            )
            for result in results
        )
        for name in ("a", "b")
    }  # fmt: skip
    narrowed = replace(problem, codecs={**problem.codecs, **costs}, loss_limit=budget.limit)
    return narrowed, Calibrated(calibration, budget)


EMPTY = msgspec.convert(
    {
        "created": "", "model_file": "", "model_sha256": "", "dims": {}, "shapes": {},
        "fingerprint": {}, "tier": "", "settings": msgspec.to_builtins(Settings()),
        "data": {"folder": "", "digest": "", "samples": 10, "labelled": False},
        "answer": "top1", "whole_accuracy": None, "tensors": [],
    },
    Calibration,
)  # fmt: skip


def test_a_combination_that_breaks_the_budget_is_cut_off_and_solved_again() -> None:
    problem, calibrated = two_tensors()
    asked: list[set[str]] = []

    def evaluate(cut: PlannedCut, codecs: Mapping[str, Codec]) -> Answer:
        asked.append(set(codecs))
        return answer(0.9 if len(codecs) == 2 else 0.99)

    found = within_budget(problem, solve_problem, calibrated, evaluate)
    assert asked == [{"a", "b"}, asked[1]]
    assert len(asked[1]) == 1
    assert found.refused == 1
    assert sorted(c.codec for c in found.solution.codecs.values()) == ["raw", "short"]
    assert found.answer == answer(0.99)


def test_the_combinations_of_a_table_are_measured_and_cut_off_too() -> None:
    problem, calibrated = two_tensors()
    codecs = {
        name: tuple(msgspec.structs.replace(c, encode_s=0.1 * (c.codec != "raw")) for c in choices)
        for name, choices in problem.codecs.items()
    }
    link = msgspec.structs.replace(problem.link, up_bytes_per_s=1e6)
    fast = replace(problem, codecs=codecs, link=link)
    seen: list[set[str]] = []

    def evaluate(cut: PlannedCut, codecs: Mapping[str, Codec]) -> Answer:
        assert {item.tensor for item in cut.crossing} == {"a", "b"}
        seen.append(set(codecs))
        return answer(0.9 if len(codecs) == 2 else 0.99)

    found = within_budget(fast, solve_problem, calibrated, evaluate)
    assert not seen, "what the plan sends over a fast link is lossless"

    def make(narrowed: Problem) -> Policy:
        return policy(narrowed, found.solution.pool, SolverChoice())

    table = policy_within_budget(found.problem, make, calibrated, evaluate).table
    assert {"a", "b"} in seen
    kinds = [{item.codec for item in cut.cut.crossing} for cut in table.cuts]
    assert {"raw", LOSSY.name} in kinds, "one of the two may be short"
    assert {LOSSY.name} not in kinds
    assert table.up_bytes_per_s.gap == 0


def test_where_everything_lossy_breaks_the_budget_the_plan_is_lossless() -> None:
    problem, calibrated = two_tensors()
    found = within_budget(problem, solve_problem, calibrated, lambda *_: answer(0.0))
    assert {c.codec for c in found.solution.codecs.values()} == {"raw"}
    assert (found.answer, found.refused) == (None, 3)


def test_several_lossy_tensors_need_data_to_be_measured_on() -> None:
    problem, calibrated = two_tensors()
    with pytest.raises(PlanError, match="give the calibration's data"):
        within_budget(problem, solve_problem, calibrated, None)


def test_without_a_calibration_everything_is_lossless(model: Model, here: Profile) -> None:
    found = choices(model.graph, (here, here))
    assert {choice.codec for name in found for choice in found[name]} <= set(CODECS)
    plan = api.plan(model, device=here, server=here, link=LINK)
    assert plan.calibration is None
    assert plan.codecs == ()
