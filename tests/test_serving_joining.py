"""Parts of a request that come from several devices: joined, or dropped, whatever else comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from splitter.errors import InputError, ServingError
from splitter.graph.read import load_model
from splitter.partition.bundle import Bundle
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.device.report import AnsweredBy
from splitter.serving.device.session import Session
from splitter.serving.server.admission import Admission
from splitter.serving.server.batching import Policy, Scheduler
from splitter.serving.server.inference import Call, Inference
from splitter.serving.server.joining import Joins
from splitter.serving.server.loading import Loader
from splitter.serving.server.options import ServerOptions
from splitter.serving.server.repository import Repository
from splitter.serving.server.serve import Server, serve
from splitter.serving.server.status import Refusal
from tests import models
from tests.chains import run_model
from tests.contract import same_bits
from tests.models import save
from tests.serving import Array, holding_runs, outputs_of, plain_client, run_whole, wait_until
from tests.sessions import eventually, our_threads
from tests.stars import CAMERAS, make_star, star_at

LONG_S = 30.0
HEADS = (("lc", "seen", "lr"), ("rc", "n"))
Codes = grpc.StatusCode


@pytest.fixture(scope="module")
def star(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, ...]:
    return make_star(models.two_cameras(), tmp_path_factory.mktemp("star"), HEADS)


def feeds_of(seed: int) -> tuple[dict[str, Array], ...]:
    """What each device has, then all of it."""
    draw = np.random.default_rng(seed)
    whole = {
        name: draw.standard_normal(shape).astype(np.float32)
        for name, shape in (("left", (1, 2, 8, 8)), ("right", (1, 2, 8, 8)), ("level", (1, 3)))
    }
    return (*({name: whole[name] for name in born} for born in CAMERAS), whole)


def expected(star: tuple[Bundle, ...], seed: int) -> dict[str, Array]:
    made = run_whole(star[0].folder.parent, feeds_of(seed)[-1])
    return dict(zip(("seen", "scores"), made, strict=True))


def sessions(star: tuple[Bundle, ...], server: Server, **options: Any) -> list[Session]:
    return [Session(bundle.folder, server.address, **options) for bundle in star[:-1]]


def test_two_sessions_and_a_server_give_the_bits_of_the_whole(star: tuple[Bundle, ...]) -> None:
    with serve(star[-1].folder) as server:
        one, two = sessions(star, server)
        with one, two, ThreadPoolExecutor(1) as beside:
            for seed in range(6):
                left, right, _ = feeds_of(seed)
                other = beside.submit(two.infer, right, deadline_s=LONG_S)
                result = one.infer(left, deadline_s=LONG_S)
                for name, whole in expected(star, seed).items():
                    assert same_bits(whole, result.outputs[name])
                acknowledged = other.result()
                assert acknowledged.outputs == {}
                assert acknowledged.timing.answered_by is AnsweredBy.SERVER
                assert min(result.timing.join_s, acknowledged.timing.join_s) < LONG_S
    assert eventually(lambda: not our_threads())


def test_streams_of_two_devices_meet_request_by_request(star: tuple[Bundle, ...]) -> None:
    count = 24
    with serve(star[-1].folder) as server:
        one, two = sessions(star, server, deadline_s=LONG_S, group="rig 7")
        rights = (feeds_of(seed)[1] for seed in range(count))
        with (
            one, two,
            one.run_stream((feeds_of(s)[0] for s in range(count)), in_flight=6) as lefts,
            two.run_stream(rights, in_flight=3) as acknowledged,
            ThreadPoolExecutor(1) as beside,
        ):  # fmt: skip
            done = beside.submit(lambda: [result.outputs for result in acknowledged])
            for seed, result in enumerate(lefts):
                assert same_bits(expected(star, seed)["scores"], result.outputs["scores"])
            assert done.result() == [{}] * count


def test_three_devices_in_any_order_each_with_its_own_id(tmp_path: Path) -> None:
    born = (("level",), ("left",), ("right",))
    star = make_star(models.two_cameras(), tmp_path, ((), ("lc",), ("rc", "rr")), born)
    with serve(star[-1].folder) as server:
        trio = sessions(star, server, deadline_s=LONG_S)
        with trio[0], trio[1], trio[2], ThreadPoolExecutor(12) as pool:
            asked: dict[int, Future[Any]] = {}
            for number in (2, 0, 1):
                for seed in range(4):
                    feeds = {name: feeds_of(seed)[-1][name] for name in born[number]}
                    call = pool.submit(trio[number].infer, feeds, join=f"frame {seed}")
                    if number == 0:
                        asked[seed] = call
            for seed, call in asked.items():
                for name, whole in expected(star, seed).items():
                    assert same_bits(whole, call.result().outputs[name])


def test_another_device_may_ask_for_outputs_too(star: tuple[Bundle, ...]) -> None:
    left, right, _ = feeds_of(3)
    with serve(star[-1].folder) as server:
        one, two = sessions(star, server, deadline_s=LONG_S)
        with one, two, ThreadPoolExecutor(1) as beside:
            other = beside.submit(two.run, ["scores"], right)
            assert one.infer(left, ["seen"]).outputs.keys() == {"seen"}
            assert same_bits(expected(star, 3)["scores"], other.result()[0])


def test_what_does_not_suit_one_device_of_several_is_refused(star: tuple[Bundle, ...]) -> None:
    with pytest.raises(ServingError, match="hedge_s is not for one device of several"):
        Session(star[0].folder, "127.0.0.1:1", hedge_s=0.1)
    with pytest.raises(ServingError, match="gate is not for one device of several"):
        Session(star[0].folder, "127.0.0.1:1", gate="seen")
    with pytest.raises(ServingError, match="group is"):
        Session(star[0].folder, "127.0.0.1:1", group="g" * 101)
    with serve(star[-1].folder) as server, sessions(star, server)[0] as session:
        with pytest.raises(InputError, match="join has 129 characters"):
            session.infer(feeds_of(0)[0], join="j" * 129)
        with (
            Session(star[-1].folder, server.address) as whole,
            pytest.raises(InputError, match="this one is whole"),
        ):
            whole.infer(feeds_of(0)[-1], join="1")


def test_a_half_request_is_dropped_with_a_line_that_names_the_missing_part(
    star: tuple[Bundle, ...],
) -> None:
    with serve(star[-1].folder, options=ServerOptions(join_s=0.2)) as server:
        one, two = sessions(star, server)
        with one, two:
            with pytest.raises(ServingError, match=r"part 2 \(device2\) of 2 is missing"):
                one.infer(feeds_of(0)[0])
            with pytest.raises(ServingError, match=r"part 1 \(device\) of 2 is missing"):
                two.infer(feeds_of(0)[1])
        assert server.in_flight_bytes() == 0
        assert eventually(lambda: server.in_flight() == 0)


def test_a_caller_that_leaves_less_time_is_told_in_time(star: tuple[Bundle, ...]) -> None:
    with serve(star[-1].folder) as server, sessions(star, server)[0] as session:
        session.wait_for_server(5)
        with pytest.raises(ServingError, match="was not whole in time"):
            session.infer(feeds_of(0)[0], deadline_s=1.5)


def test_a_device_that_hung_up_can_come_again(star: tuple[Bundle, ...]) -> None:
    left, right, _ = feeds_of(5)
    with serve(star[-1].folder) as server:
        one, two = sessions(star, server, deadline_s=LONG_S)
        with two, ThreadPoolExecutor(1) as beside:
            with one:
                call = beside.submit(one.infer, left, join="x")
                wait_until(lambda: len(server._joins) == 1)
            with pytest.raises(ServingError):
                call.result()
            wait_until(lambda: len(server._joins) == 0)
            with sessions(star, server, deadline_s=LONG_S)[0] as again:
                call = beside.submit(again.infer, left, join="x")
                two.infer(right, join="x")
                scores = call.result().outputs["scores"]
                assert same_bits(expected(star, 5)["scores"], scores)


class Bench:
    """The server's bundle, answered without sockets."""

    def __init__(self, folder: Path, joins: Joins, memory_bytes: int = 1 << 30) -> None:
        self.scheduler = Scheduler(1)
        self.repository = Repository(folder, Loader(self.scheduler, Policy(), None))
        self.repository.load_all()
        self.admission = Admission(None, memory_bytes)
        self.joins = joins
        self.inference = Inference(self.repository, self.admission, (), joins)
        self.pool = ThreadPoolExecutor(8)

    def send(self, request: pb.ModelInferRequest, **call: Any) -> Future[Any]:
        def answer() -> pb.ModelInferResponse | Refusal:
            found = self.inference.answer(request.SerializeToString(), Call(**call))
            return found if isinstance(found, Refusal) else pb.ModelInferResponse.FromString(found)

        return self.pool.submit(answer)

    def refused(self, request: pb.ModelInferRequest, **call: Any) -> Refusal:
        found = self.send(request, **call).result(LONG_S)
        assert isinstance(found, Refusal), found
        return found

    def close(self) -> None:
        self.joins.close()
        self.pool.shutdown()
        self.scheduler.close()


@pytest.fixture
def bench(star: tuple[Bundle, ...]) -> Iterator[Bench]:
    made = Bench(star[-1].folder, Joins(4, LONG_S))
    yield made
    made.close()


SHAPES = {"lr": (1, 4, 4, 4), "rc": (1, 4, 8, 8), "n": (1, 3)}


def part(number: int, join: str = "a", tensors: tuple[str, ...] | None = None) -> Any:
    """A part as a plain client would write it."""
    names = tensors if tensors is not None else (("lr",), ("rc", "n"))[number - 1]
    request = pb.ModelInferRequest(model_name="model")
    request.parameters["part"].int64_param = number
    request.parameters["join"].string_param = join
    for name in names:
        array = np.full(SHAPES.get(name, (1,)), 0.5, np.float32)
        request.inputs.add(name=name, datatype="FP32", shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request


def test_plain_clients_send_parts_and_get_what_they_ask_for(bench: Bench) -> None:
    first, second = part(1), part(2)
    first.outputs.add(name="scores")
    one = bench.send(first)
    other = bench.send(second)
    assert list(outputs_of(one.result(LONG_S))) == ["scores"]
    assert list(other.result(LONG_S).outputs) == []
    assert other.result().parameters["join_s"].double_param >= 0
    assert (len(bench.joins), bench.admission.nbytes) == (0, 0)


def test_without_a_part_the_request_is_whole(bench: Bench) -> None:
    request = part(1, tensors=("lr", "rc", "n"))
    request.parameters.clear()
    assert list(outputs_of(bench.send(request).result(LONG_S))) == ["scores"]


def _changed(change: Callable[[Any], object]) -> Any:
    request = part(1)
    change(request)
    return request


HOSTILE = {
    "part 0": (lambda: part(1), {"part": 0}, "between 1 and 2"),
    "part 3": (lambda: part(1), {"part": 3}, "between 1 and 2"),
    "a part below 0": (lambda: part(1), {"part": -1}, "must be between 0 and"),
    "a part that is text": (lambda: part(1), {"part": "1"}, "not an integer"),
    "no join": (lambda: part(1), {"join": None}, "'join', of 1 to 128 characters"),
    "an empty join": (lambda: part(1, ""), {}, "'join', of 1 to 128 characters"),
    "an endless join": (lambda: part(1, "j" * 129), {}, "'join', of 1 to 128 characters"),
    "a join that is a number": (lambda: part(1), {"join": 7}, "'join' is"),
    "tensors of another part": (lambda: part(1, tensors=("rc",)), {}, "no tensor is named 'rc'"),
    "a tensor too many": (lambda: part(2, tensors=("rc", "n", "lr")), {}, "3 tensors given"),
    "a tensor too few": (lambda: part(2, tensors=("rc",)), {}, "tensor 'n' is missing"),
    "a tensor twice": (lambda: part(2, tensors=("rc", "rc")), {}, "given twice"),
    "contents too short": (
        lambda: _changed(lambda r: r.raw_input_contents.__setitem__(0, b"1234")), {}, "bytes",
    ),
    "an unknown output": (
        lambda: _changed(lambda r: r.outputs.add(name="nix")), {}, "no output is named 'nix'",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("build", "parameters", "said"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_part_that_is_none_is_refused_and_leaves_nothing(
    build: Callable[[], Any], parameters: dict[str, Any], said: str, bench: Bench
) -> None:
    request = build()
    for key, value in parameters.items():
        request.parameters[key].Clear()
        if isinstance(value, int):
            request.parameters[key].int64_param = value
        elif value is not None:
            request.parameters[key].string_param = value
        else:
            del request.parameters[key]
    refusal = bench.refused(request)
    assert refusal.code is Codes.INVALID_ARGUMENT
    assert said in refusal.details
    assert "\n" not in refusal.details
    assert (len(bench.joins), bench.admission.nbytes) == (0, 0)


def test_a_part_of_another_bundle_or_cut_is_refused(bench: Bench) -> None:
    for key in ("bundle", "cut"):
        request = part(1)
        request.parameters[key].string_param = "0" * 12
        assert bench.refused(request).code is Codes.FAILED_PRECONDITION
    assert len(bench.joins) == 0


def test_a_part_cannot_come_in_a_stream(bench: Bench) -> None:
    refusal = bench.refused(part(1), method="ModelStreamInfer")
    assert refusal.code is Codes.INVALID_ARGUMENT
    assert "cannot come in a stream" in refusal.details


def test_a_part_that_is_here_is_replaced_by_its_own_host_only(bench: Bench) -> None:
    first = bench.send(part(1), peer="ipv4:10.0.0.1:50")
    wait_until(lambda: len(bench.joins) == 1)
    stranger = bench.refused(part(1), peer="ipv4:10.0.0.2:50")
    assert stranger.code is Codes.INVALID_ARGUMENT
    assert "part 1 of request 'a' is here already" in stranger.details
    asked = part(1)
    asked.outputs.add(name="scores")
    again = bench.send(asked, peer="ipv4:10.0.0.1:51")
    replaced = first.result(LONG_S)
    assert (replaced.code, "was sent again" in replaced.details) == (Codes.ABORTED, True)
    bench.send(part(2), peer="ipv4:10.0.0.3:50").result(LONG_S)
    assert list(outputs_of(again.result(LONG_S))) == ["scores"]


def test_parts_of_different_ids_never_meet(bench: Bench) -> None:
    waiting = [bench.send(part(1, "a")), bench.send(part(2, "b")), bench.send(part(1, "c"))]
    wait_until(lambda: len(bench.joins) == 3)
    bench.joins.close()
    for call in waiting:
        assert call.result(LONG_S).code is Codes.UNAVAILABLE
    assert bench.refused(part(1, "d")).code is Codes.UNAVAILABLE
    assert bench.admission.nbytes == 0


def test_no_more_wait_than_may_and_those_that_do_are_still_completed(bench: Bench) -> None:
    waiting = [bench.send(part(1, str(number))) for number in range(4)]
    wait_until(lambda: len(bench.joins) == 4)
    refusal = bench.refused(part(1, "one more"))
    assert refusal.code is Codes.RESOURCE_EXHAUSTED
    assert refusal.retry_s is not None
    for number, call in enumerate(waiting):
        assert list(bench.send(part(2, str(number))).result(LONG_S).outputs) == []
        assert not isinstance(call.result(LONG_S), Refusal)


def test_waiting_parts_count_as_tensors_in_flight(star: tuple[Bundle, ...]) -> None:
    bench = Bench(star[-1].folder, Joins(4, LONG_S), memory_bytes=300)
    call = bench.send(part(1))
    wait_until(lambda: len(bench.joins) == 1)
    assert bench.admission.nbytes == 4 * 64
    assert bench.refused(part(1, "b")).code is Codes.RESOURCE_EXHAUSTED
    bench.close()
    assert call.result(LONG_S).code is Codes.UNAVAILABLE
    assert bench.admission.nbytes == 0


def test_a_caller_that_hangs_up_takes_his_part_along(bench: Bench) -> None:
    leave: list[Callable[[], None]] = []

    def on_end(callback: Callable[[], None]) -> bool:
        leave.append(callback)
        return True

    gone = bench.send(part(1), on_end=on_end)
    wait_until(lambda: len(leave) == 1)
    leave[0]()
    assert gone.result(LONG_S).code is Codes.CANCELLED
    assert len(bench.joins) == 0
    assert bench.refused(part(1), on_end=lambda _: False).code is Codes.CANCELLED
    leave[0]()  # a second time it means nothing
    stays = bench.send(part(2))
    wait_until(lambda: len(bench.joins) == 1)
    bench.send(part(1)).result(LONG_S)
    assert not isinstance(stays.result(LONG_S), Refusal)


def test_parts_of_one_request_end_with_the_first_deadline(bench: Bench) -> None:
    patient = bench.send(part(1), remaining_s=LONG_S)
    wait_until(lambda: len(bench.joins) == 1)
    began = time.perf_counter()
    three = part(2)
    three.parameters["timeout"].int64_param = 100_000
    del three.inputs[:]
    del three.raw_input_contents[:]
    assert bench.refused(three).code is Codes.INVALID_ARGUMENT  # and the other waits on
    assert len(bench.joins) == 1
    bench.send(part(2), remaining_s=0.5).result(LONG_S)
    patient.result(LONG_S)
    assert time.perf_counter() - began < LONG_S


def test_what_the_tail_refuses_is_told_to_every_part(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(feeds: Any, outputs: Any) -> Any:
        raise InputError("the values are wrong")

    tail = bench.repository.ready()[0].default
    monkeypatch.setattr(tail.queue, "_run", broken)
    calls = [bench.send(part(1)), bench.send(part(2))]
    for call in calls:
        assert call.result(LONG_S).code is Codes.INVALID_ARGUMENT
    assert bench.admission.nbytes == 0


def test_a_server_that_stops_lets_no_half_request_wait(star: tuple[Bundle, ...]) -> None:
    with (
        serve(star[-1].folder, options=ServerOptions(join_s=LONG_S)) as server,
        sessions(star, server, retries=0, deadline_s=LONG_S)[0] as session,
        ThreadPoolExecutor(1) as beside,
    ):
        call = beside.submit(session.infer, feeds_of(0)[0])
        wait_until(lambda: len(server._joins) == 1)
        began = time.monotonic()
        server.stop(LONG_S / 2)
        assert time.monotonic() - began < LONG_S / 2
        with pytest.raises(ServingError, match="stopping"):
            call.result()


def test_a_part_is_one_inference_with_the_others(star: tuple[Bundle, ...]) -> None:
    with serve(star[-1].folder) as server, plain_client(server.address) as call:
        with ThreadPoolExecutor(1) as beside:
            other = beside.submit(call, "ModelInfer", part(2))
            call("ModelInfer", part(1))
            other.result()
        found = call("ModelStatistics", pb.ModelStatisticsRequest(name="model"))
        assert found.model_stats[0].inference_count == 1


def test_many_rigs_on_one_server_get_their_own_answers(
    star: tuple[Bundle, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    with holding_runs(monkeypatch), serve(star[-1].folder) as server:
        rigs = [
            sessions(star, server, group=f"rig {number}", deadline_s=LONG_S) for number in range(4)
        ]
        made: dict[int, Array] = {}

        def left(number: int) -> None:
            made[number] = rigs[number][0].run(["scores"], feeds_of(number)[0])[0]

        def right(number: int) -> None:
            rigs[number][1].run(None, feeds_of(number)[1])

        threads = [threading.Thread(target=f, args=(n,)) for n in range(4) for f in (left, right)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG_S)
        for number in range(4):
            assert same_bits(expected(star, number)["scores"], made[number])
        for session in (session for rig in rigs for session in rig):
            session.close()


def test_samples_of_all_parts_are_as_many(tmp_path: Path) -> None:
    proto = models.two_cameras()
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    del proto.graph.value_info[:]
    model = load_model(save(proto, tmp_path / "model.onnx"), {"n": 1})
    star = star_at(model, [frozenset(own) for own in HEADS], tmp_path / "star")
    assert star[-1].manifest.planned.batches
    bench = Bench(star[-1].folder, Joins(4, LONG_S))
    bench.repository.ready()[0].default.max_batch = 4
    feeds, _ = run_model(model)

    def rows(number: int, count: int) -> Any:
        request = part(number)
        del request.raw_input_contents[:]
        for header in request.inputs:
            header.shape[0] = count
            request.raw_input_contents.append(
                np.full(tuple(header.shape), 0.5, np.float32).tobytes()
            )
        return request

    asked = rows(1, 3)
    asked.outputs.add(name="scores")
    call = bench.send(asked)
    wait_until(lambda: len(bench.joins) == 1)
    refusal = bench.refused(rows(2, 2))
    assert (refusal.code, "2 samples" in refusal.details) == (Codes.INVALID_ARGUMENT, True)
    bench.send(rows(2, 3)).result(LONG_S)
    assert outputs_of(call.result(LONG_S))["scores"].shape == (3, 3)
    bench.close()
