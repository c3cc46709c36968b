"""State that lives on the server: every session has its own, whatever is lost on the way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from placements import question

import splitter
from splitter import api
from splitter.errors import (
    BundleError,
    CutError,
    InfeasibleError,
    InputError,
    PlanError,
    ServingError,
)
from splitter.graph.cut import cut_of
from splitter.graph.read import load_model
from splitter.partition.bundle import Bundle, Deployment, Division, write_bundle
from splitter.planning.plan import PlanOptions, check_model
from splitter.planning.planner import solve_problem
from splitter.planning.problem import Wishes
from splitter.planning.terms import Limits, Pin, State
from splitter.runtime import Runner
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.device.session import Session
from splitter.serving.server.admission import Admission
from splitter.serving.server.batching import Policy, Scheduler
from splitter.serving.server.inference import Call, Inference
from splitter.serving.server.loading import Loader
from splitter.serving.server.options import ServerOptions
from splitter.serving.server.repository import Repository
from splitter.serving.server.sequences import Sequences
from splitter.serving.server.serve import serve
from splitter.serving.server.status import Refusal
from tests import models
from tests.chains import EXACT
from tests.contract import same_bits
from tests.models import save
from tests.serving import Array, holding_runs, outputs_of, plain_client, wait_until
from tests.sessions import eventually
from tests.test_planning_sources import LINK, profile

LONG_S = 30.0
Codes = grpc.StatusCode
FED_BACK = (("state", "stateN"),)


def recurrent(batch: str = "1") -> onnx.ModelProto:
    """``y`` depends on every ``frame`` so far."""
    return models.parse(
        f"""
        <ir_version: 8, opset_import: ["" : 17]>
        recurrent (float[{batch}, 8] frame, float[{batch}, 8] state)
            => (float[{batch}, 8] y, float[{batch}, 8] stateN) {{
            p = Relu(frame)
            q = Neg(p)
            a = Add(q, state)
            stateN = Tanh(a)
            y = Exp(a)
        }}
        """
    )


def write(folder: Path, head: tuple[str, ...] = ("p", "q"), **bound: Any) -> Bundle:
    proto = recurrent("n" if bound else "1")
    model = load_model(save(proto, folder / "model.onnx"), bound or None)
    division = Division(cut_of(model.graph, head, (), FED_BACK))
    return write_bundle(model, [division], folder / "bundle", Deployment(EXACT))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write(tmp_path_factory.mktemp("recurrent"))


def frames(seed: int, count: int = 6) -> list[dict[str, Array]]:
    draw = np.random.default_rng(seed)
    return [{"frame": draw.standard_normal((1, 8)).astype(np.float32)} for _ in range(count)]


def one_by_one(bundle: Bundle, feeds: list[dict[str, Array]]) -> list[Array]:
    """What the whole model makes of them, its state fed back by hand."""
    whole = Runner(bundle.folder.parent / "model.onnx", EXACT)
    state, made = np.zeros((1, 8), np.float32), []
    for feed in feeds:
        y, state = whole.run({**feed, "state": state}, ["y", "stateN"])
        made.append(y)
    return made


@pytest.mark.parametrize("head", [(), ("p",), ("p", "q")])
def test_every_step_gives_the_bits_of_the_whole(head: tuple[str, ...], tmp_path: Path) -> None:
    bundle = write(tmp_path, head)
    assert [spec.tensor for spec in bundle.manifest.planned.crossing] == [(*("frame",), *head)[-1]]
    feeds = frames(1)
    with serve(bundle.folder) as server, Session(bundle.folder, server.address) as session:
        assert list(session.inputs) == [port.name for port in session.get_inputs()] == ["frame"]
        assert [port.name for port in session.get_outputs()] == ["y"]
        for feed, whole in zip(feeds, one_by_one(bundle, feeds), strict=True):
            assert same_bits(whole, session.run(None, feed)[0])
        session.reset()
        with session.run_stream(feeds, in_flight=8) as stream:
            for result, whole in zip(stream, one_by_one(bundle, feeds), strict=True):
                assert same_bits(whole, result.outputs["y"])
        session.warm_up()
        y, after = session.run(["y", "stateN"], feeds[0])
        assert same_bits(one_by_one(bundle, feeds)[0], y)
        assert after.shape == (1, 8)


def test_sessions_do_not_see_the_state_of_others(bundle: Bundle) -> None:
    with serve(bundle.folder) as server:
        sessions = [Session(bundle.folder, server.address) for _ in range(4)]

        def run(number: int) -> list[Array]:
            return [sessions[number].run(None, feed)[0] for feed in frames(number, 12)]

        with ThreadPoolExecutor(4) as pool:
            for number, made in enumerate(pool.map(run, range(4))):
                for one, whole in zip(made, one_by_one(bundle, frames(number, 12)), strict=True):
                    assert same_bits(whole, one)
        for session in sessions:
            session.close()


def test_requests_of_one_session_wait_for_one_another(bundle: Bundle) -> None:
    with serve(bundle.folder) as server, Session(bundle.folder, server.address) as session:
        same = [frames(2, 1)[0]] * 16
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda feed: session.run(None, feed)[0].tobytes(), same))
        assert sorted(made) == sorted(one.tobytes() for one in one_by_one(bundle, same))


def test_state_that_is_lost_is_said_and_begun_anew(bundle: Bundle) -> None:
    feeds = frames(3)
    with serve(bundle.folder) as server:
        address = server.address
        session = Session(bundle.folder, address, retries=0)
        session.run(None, feeds[0])
    with session, serve(bundle.folder, address):
        session.wait_for_server(LONG_S)
        assert eventually(lambda: "is known here" in _refusal(session, feeds[1]))
        session.reset()
        for feed, whole in zip(feeds, one_by_one(bundle, feeds), strict=True):
            assert same_bits(whole, session.run(None, feed)[0])


def _refusal(session: Session, feed: dict[str, Array]) -> str:
    """Why there is no answer; the connection need not be back at once."""
    try:
        session.run(None, feed)
    except ServingError as exc:
        return str(exc)
    return ""


def test_a_request_that_failed_has_not_happened(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer is lost after the tail has run; the next request begins where it began."""
    feeds = frames(4)
    wanted = one_by_one(bundle, feeds)
    with (
        holding_runs(monkeypatch) as gate,
        serve(bundle.folder) as server,
        Session(bundle.folder, server.address, retries=0) as session,
    ):
        assert same_bits(wanted[0], session.run(None, feeds[0])[0])
        gate.shut()
        with pytest.raises(ServingError):
            session.infer(frames(9, 1)[0], deadline_s=0.3)
        gate.is_open.set()
        for feed, whole in zip(feeds[1:], wanted[1:], strict=True):
            assert same_bits(whole, session.run(None, feed)[0])


def test_what_does_not_suit_state_on_the_server_is_refused(bundle: Bundle) -> None:
    with pytest.raises(ServingError, match="gate is not for state on the server"):
        Session(bundle.folder, "127.0.0.1:1", gate=lambda feeds: ([], 0.0))
    with serve(bundle.folder) as server, Session(bundle.folder, server.address) as session:
        with pytest.raises(ServingError, match="alone can answer"):
            next(session.run_refined(None, frames(0)[0]))
        with pytest.raises(InputError, match="state"):
            session.run(None, {**frames(0)[0], "state": np.zeros((1, 8), np.float32)})


class Bench:
    """The bundle, answered without sockets."""

    def __init__(self, folder: Path, limit: int = 3, idle_s: float = LONG_S) -> None:
        self.scheduler = Scheduler(1)
        self.repository = Repository(folder, Loader(self.scheduler, Policy(max_batch=4), None))
        self.repository.load_all()
        self.admission = Admission(None, 1 << 20)
        self.sequences = Sequences(self.admission, limit, idle_s)
        self.inference = Inference(self.repository, self.admission, sequences=self.sequences)
        self.pool = ThreadPoolExecutor(8)

    def begin(self, request: pb.ModelInferRequest, **call: Any) -> Future[Any]:
        def answer() -> pb.ModelInferResponse | Refusal:
            found = self.inference.answer(request.SerializeToString(), Call(**call))
            return found if isinstance(found, Refusal) else pb.ModelInferResponse.FromString(found)

        return self.pool.submit(answer)

    def y(self, *given: Any, **parameters: Any) -> Array:
        found = self.begin(step(*given, **parameters)).result(LONG_S)
        assert not isinstance(found, Refusal), found
        assert list(outputs_of(found)) == ["y"]
        return outputs_of(found)["y"]

    def refused(self, *given: Any, **parameters: Any) -> Refusal:
        found = self.begin(step(*given, **parameters)).result(LONG_S)
        assert isinstance(found, Refusal), found
        assert "\n" not in found.details
        return found


@pytest.fixture
def bench(bundle: Bundle) -> Iterator[Bench]:
    made = Bench(bundle.folder)
    yield made
    made.pool.shutdown()
    made.scheduler.close()


def step(value: float, sequence: Any = "s", **parameters: Any) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="model")
    array = np.full((1, 8), value, np.float32)
    request.inputs.add(name="q", datatype="FP32", shape=array.shape)
    request.raw_input_contents.append(array.tobytes())
    given = {} if sequence is None else {"sequence_id": sequence}
    for key, mark in {**given, **parameters}.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(mark)]
        setattr(request.parameters[key], kind, mark)
    return request


def exp(values: list[float]) -> float:
    state = np.float32(0)
    for value in values:
        made, state = np.exp(np.float32(value) + state), np.tanh(np.float32(value) + state)
    return float(made)


def test_tritons_parameters_are_enough(bench: Bench) -> None:
    for sequence in (7, "a text"):
        first = bench.y(0.5, sequence, sequence_start=True)
        second = bench.y(-0.25, sequence)
        third = bench.y(0.1, sequence, sequence_end=True)
        found = [float(one[0, 0]) for one in (first, second, third)]
        wanted = [exp([0.5]), exp([0.5, -0.25]), exp([0.5, -0.25, 0.1])]
        assert found == pytest.approx(wanted, rel=1e-5)
    assert (len(bench.sequences), bench.admission.nbytes) == (0, 0)
    assert bench.refused(0.1, 7).code is Codes.NOT_FOUND


def test_a_step_that_comes_again_begins_where_it_began(bench: Bench) -> None:
    bench.y(0.5, sequence_start=True, sequence_step=0)
    assert bench.y(0.5, sequence_start=True, sequence_step=0)[0, 0] == pytest.approx(exp([0.5]))
    for _ in range(3):
        again = bench.y(0.25, sequence_step=1)
        assert again[0, 0] == pytest.approx(exp([0.5, 0.25]), rel=1e-5)
    assert bench.y(0.1, sequence_step=2)[0, 0] == pytest.approx(exp([0.5, 0.25, 0.1]), rel=1e-5)
    for wrong in (0, 1, 4):
        refusal = bench.refused(0.1, sequence_step=wrong)
        assert refusal.code is Codes.ABORTED
        assert "where 3 is next" in refusal.details
    assert bench.y(0.1, sequence_start=True)[0, 0] == pytest.approx(exp([0.1]))


HOSTILE = {
    "no sequence": ({"sequence": None}, "this tail keeps state"),
    "sequence 0": ({"sequence": 0}, "is 0 or empty"),
    "an empty id": ({"sequence": ""}, "is 0 or empty"),
    "an endless id": ({"sequence": "s" * 129}, "over 128 characters"),
    "a negative id": ({"sequence": -1}, "must be between"),
    "an id that is true": ({"sequence": True}, "is not an integer"),
    "a step below 0": ({"sequence_start": True, "sequence_step": -1}, "must be between"),
    "a step that is text": ({"sequence_start": True, "sequence_step": "1"}, "is not an integer"),
}


@pytest.mark.parametrize(("given", "said"), HOSTILE.values(), ids=HOSTILE.keys())
def test_parameters_that_make_no_sequence_are_refused(
    given: dict[str, Any], said: str, bench: Bench
) -> None:
    refusal = bench.refused(0.5, **given)
    assert refusal.code is Codes.INVALID_ARGUMENT
    assert said in refusal.details


def test_state_cannot_be_sent_nor_come_in_a_stream(bench: Bench) -> None:
    request = step(0.5, sequence_start=True)
    request.inputs.add(name="state", datatype="FP32", shape=(1, 8))
    request.raw_input_contents.append(bytes(32))
    assert bench.begin(request).result(LONG_S).code is Codes.INVALID_ARGUMENT
    streamed = bench.begin(step(0.5, sequence_start=True), method="ModelStreamInfer")
    assert "takes no streams" in streamed.result(LONG_S).details


def test_no_more_are_held_than_may(bench: Bench) -> None:
    for name in "abc":
        bench.y(0.5, name, sequence_start=True)
    assert bench.admission.nbytes == 3 * 2 * 32
    assert bench.refused(0.5, "d", sequence_start=True).code is Codes.RESOURCE_EXHAUSTED
    bench.y(0.5, "b", sequence_end=True)
    bench.y(0.5, "d", sequence_start=True)
    bench.y(0.5, "a", sequence_start=True)  # begun anew, it takes no further room
    assert len(bench.sequences) == 3


def test_what_is_held_counts_as_memory(bench: Bench) -> None:
    bench.admission._memory_bytes = 170
    bench.y(0.5, "a", sequence_start=True)
    assert bench.refused(0.5, "b", sequence_start=True).code is Codes.RESOURCE_EXHAUSTED
    assert len(bench.sequences) == 1


def test_a_sequence_that_rests_too_long_is_dropped(bundle: Bundle) -> None:
    bench = Bench(bundle.folder, idle_s=0.05)
    bench.y(0.5, sequence_start=True)
    time.sleep(0.06)
    refusal = bench.refused(0.5)
    assert (refusal.code, "rested for over 0.05 s" in refusal.details) == (Codes.NOT_FOUND, True)
    assert bench.admission.nbytes == 0
    bench.pool.shutdown()


def test_a_step_waits_for_the_one_before_but_not_for_ever(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with holding_runs(monkeypatch) as gate:
        bench = Bench(bundle.folder)
        bench.y(0.5, sequence_start=True)
        gate.shut()
        first = bench.begin(step(0.25, sequence_step=1))
        gate.wait_begun()
        late = bench.begin(step(0.1, sequence_step=2), remaining_s=0.1).result(LONG_S)
        assert late.code is Codes.DEADLINE_EXCEEDED
        second = bench.begin(step(0.1, sequence_step=2))
        gate.is_open.set()
        assert not isinstance(first.result(LONG_S), Refusal)
        made = outputs_of(second.result(LONG_S))["y"][0, 0]
        assert made == pytest.approx(exp([0.5, 0.25, 0.1]), rel=1e-5)
        bench.pool.shutdown()


def test_a_sequence_that_ends_refuses_those_that_wait(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with holding_runs(monkeypatch) as gate:
        bench = Bench(bundle.folder)
        bench.y(0.5, sequence_start=True)
        gate.shut()
        last = bench.begin(step(0.25, sequence_end=True))
        gate.wait_begun()
        waiting = [bench.begin(step(0.1)) for _ in range(3)]
        gate.is_open.set()
        assert not isinstance(last.result(LONG_S), Refusal)
        assert {call.result(LONG_S).code for call in waiting} == {Codes.NOT_FOUND}
        assert bench.admission.nbytes == 0
        bench.pool.shutdown()


def test_sequences_share_a_run_where_the_tail_takes_any_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = write(tmp_path, n=1)
    assert bundle.manifest.planned.batches
    with holding_runs(monkeypatch) as gate:
        bench = Bench(bundle.folder, limit=8)
        for number in range(5):
            bench.y(number / 10, str(number), sequence_start=True)
        gate.shut()
        calls = [bench.begin(step(0.25, str(number))) for number in range(5)]
        gate.wait_begun()
        queue = bench.repository.ready()[0].default.queue
        wait_until(lambda: len(queue.waiting) == 4)
        gate.is_open.set()
        for number, call in enumerate(calls):
            made = outputs_of(call.result(LONG_S))["y"][0, 0]
            assert made == pytest.approx(exp([number / 10, 0.25]), rel=1e-5)
        assert gate.sizes[-1] == 4
        bench.pool.shutdown()


def test_what_the_runtime_refuses_leaves_the_state_as_it_was(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.y(0.5, sequence_start=True)
    queue = bench.repository.ready()[0].default.queue
    with monkeypatch.context() as patch:

        def broken(feeds: Any, outputs: Any) -> Any:
            raise InputError("no")

        patch.setattr(queue, "_run", broken)
        assert bench.refused(0.9).code is Codes.INVALID_ARGUMENT
    assert bench.y(0.25)[0, 0] == pytest.approx(exp([0.5, 0.25]), rel=1e-5)


def test_a_plain_client_over_the_network(bundle: Bundle) -> None:
    with (
        serve(bundle.folder, options=ServerOptions(sequences=1)) as server,
        plain_client(server.address) as call,
    ):
        call("ModelInfer", step(0.5, 9, sequence_start=True))
        made = outputs_of(call("ModelInfer", step(0.25, 9)))["y"][0, 0]
        assert made == pytest.approx(exp([0.5, 0.25]), rel=1e-5)
        with pytest.raises(grpc.RpcError) as refused:
            call("ModelInfer", step(0.5, 10, sequence_start=True))
        assert refused.value.code() is Codes.RESOURCE_EXHAUSTED


KEEP = Limits(states=(State("state", "stateN"),), pins=(Pin("q", "device"), Pin("a", "server")))


@pytest.mark.parametrize("tier", ["device", "server"])
def test_plans_with_state_are_deployed_wherever_it_lives(tier: str, tmp_path: Path) -> None:
    model = load_model(save(recurrent(), tmp_path / "model.onnx"))
    limits = Limits(states=KEEP.states, pins=(Pin("q", "device"), Pin("a", tier)))
    plan = api.plan(
        model, device=profile(model, 1), server=profile(model, 2), link=LINK,
        options=PlanOptions(wishes=Wishes(limits=limits), envelope=True),
    )  # fmt: skip
    check_model(plan, model.graph)
    bundle = splitter.split(model, tmp_path / "bundle", plan=plan)
    assert bool(bundle.manifest.planned.states) == (tier == "server")
    if tier == "server":
        assert len(bundle.manifest.cuts) == 1
        feeds = frames(7)
        with serve(bundle.folder) as server, Session(bundle.folder, server.address) as session:
            for feed, whole in zip(feeds, one_by_one(bundle, feeds), strict=True):
                assert same_bits(whole, session.run(None, feed)[0])
        for changes, said in (
            ({"alternatives": 1}, "leave alternatives out"), ({"fallback": "whole"}, "cannot answer"),
            ({"fallback": tmp_path / "model.onnx"}, "cannot answer"),
        ):  # fmt: skip
            with pytest.raises(PlanError, match=said):
                splitter.split(model, tmp_path / "other", plan=plan, **changes)


def test_state_beyond_the_device_over_relays_is_refused(tmp_path: Path) -> None:
    model = load_model(save(recurrent(), tmp_path / "model.onnx"))
    pins = (Pin("p", "device"), Pin("q", "relay"), Pin("a", "server"))
    plan = api.plan(
        model, device=profile(model, 1), server=profile(model, 2), link=LINK,
        relays=[(profile(model, 4), LINK)],
        options=PlanOptions(wishes=Wishes(limits=Limits(states=KEEP.states, pins=pins))),
    )  # fmt: skip
    with pytest.raises(PlanError, match="state lives beyond the device"):
        splitter.split(model, tmp_path / "chain", plan=plan)


@pytest.mark.parametrize("seed", range(40))
def test_what_a_plan_sends_is_what_its_cut_needs_beside_state(seed: int) -> None:
    problem = question(seed, 5, "latency", ("states",), "two")
    try:
        found = solve_problem(problem, alternatives=0, with_validity=False)
    except InfeasibleError:
        return
    cut = cut_of(problem.graph, found.cut.head, (), problem.limits.fed_back)
    assert {item.tensor for item in found.cut.crossing} == set(cut.crossing)


def test_state_that_is_divided_is_no_cut(tmp_path: Path) -> None:
    model = load_model(save(recurrent(), tmp_path / "model.onnx"))
    with pytest.raises(CutError, match="reads state 'state', which the head makes"):
        cut_of(model.graph, ["p", "q"], (), [("state", "p")])


def test_a_manifest_with_other_states_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    path = bundle.folder / "manifest.json"
    for old, new in (
        ('"input":"state"', '"input":"frame2"'),
        ('"output":"stateN"', '"output":"z"'),
    ):
        text = path.read_text()
        compact = text.replace(": ", ":")
        assert old in compact
        folder = tmp_path / new[-4:-1].strip('":')
        folder.mkdir()
        (folder / "manifest.json").write_text(compact.replace(old, new))
        with pytest.raises(BundleError):
            Bundle.open(folder, role="device")
