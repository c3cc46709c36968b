"""Requests without sockets: bytes in, bytes or a refusal out."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from splitter.codec import get_codec
from splitter.partition.manifest import Manifest
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.observe import Served
from splitter.serving.server.admission import Admission
from splitter.serving.server.batching import Policy, Scheduler
from splitter.serving.server.inference import Call, Inference
from splitter.serving.server.loading import Loader
from splitter.serving.server.repository import Repository
from splitter.serving.server.status import Refusal
from tests.serving import float_request, make_batching, outputs_of

ROW = np.array([[-1, 2, -3, 4]], np.float32)


class Bench:
    """One bundle, and what answers for it."""

    def __init__(self, folder: Path, memory_bytes: int = 1 << 30, **policy: Any) -> None:
        self.manifest = Manifest.load(folder)
        self.scheduler = Scheduler(1)
        loader = Loader(self.scheduler, Policy(**policy), None)
        self.repository = Repository(folder, loader)
        self.repository.load_all()
        self.admission = Admission(None, memory_bytes)
        self.told: list[Served] = []
        self.inference = Inference(self.repository, self.admission, (self,))

    def request(self, served: Served) -> None:
        self.told.append(served)

    def send(self, request: pb.ModelInferRequest, **call: Any) -> pb.ModelInferResponse | Refusal:
        found = self.inference.answer(request.SerializeToString(), Call(**call))
        return found if isinstance(found, Refusal) else pb.ModelInferResponse.FromString(found)

    def refusal(self, request: pb.ModelInferRequest, **call: Any) -> Refusal:
        found = self.send(request, **call)
        assert isinstance(found, Refusal), found
        return found

    def answer(self, request: pb.ModelInferRequest, **call: Any) -> pb.ModelInferResponse:
        found = self.send(request, **call)
        assert not isinstance(found, Refusal), found
        return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_batching(tmp_path_factory.mktemp("batching"))


@pytest.fixture
def bench(folder: Path) -> Bench:
    return Bench(folder, max_batch=4)


def sums_request(rows: int = 1) -> pb.ModelInferRequest:
    return float_request("sums", "a", np.repeat(ROW, rows, axis=0))


def test_every_term_of_the_servers_time_is_in_the_answer(bench: Bench) -> None:
    request = sums_request()
    request.id = "sëven"
    response = bench.answer(request)
    assert response.id == "sëven"
    assert (response.model_name, response.model_version) == ("sums", "1")
    keys = {"receive_s", "queue_s", "decode_s", "tail_s", "encode_s"}
    assert set(response.parameters) == keys
    assert all(0 < response.parameters[key].double_param < 10 for key in keys)


def test_a_request_may_bring_several_samples(bench: Bench) -> None:
    response = bench.answer(sums_request(rows=3))
    assert response.parameters["batch_size"].int64_param == 3
    found = outputs_of(response)
    assert found["y"].tolist() == np.maximum(np.repeat(ROW, 3, axis=0), 0).tolist()
    assert found["s"].tolist() == [[2]] * 3


@pytest.mark.parametrize("rows", [0, 5])
def test_more_samples_than_a_run_takes_are_refused(bench: Bench, rows: int) -> None:
    refusal = bench.refusal(sums_request(rows))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "expected [1 to 4, 4]" in refusal.details


def test_samples_may_come_in_a_codec(bench: Bench) -> None:
    request = sums_request(rows=2)
    payload = get_codec("zstd").encode(np.zeros((2, 4), np.float32))
    request.raw_input_contents[0] = payload
    header = request.inputs[0]
    header.datatype = "UINT8"
    header.shape[:] = [len(payload)]
    for key, value in {"codec": "zstd", "dtype": "FP32", "shape": "2,4"}.items():
        header.parameters[key].string_param = value
    assert outputs_of(bench.answer(request))["s"].tolist() == [[0], [0]]


def test_large_messages_are_read_like_small_ones(tmp_path: Path) -> None:
    """Their raw contents are cut out before protobuf reads the rest."""
    bench = Bench(make_batching(tmp_path), max_batch=1 << 14)
    rows = np.arange(4 << 14, dtype=np.float32).reshape(-1, 4)
    request = float_request("sums", "a", rows)
    request.id = "large"
    request.parameters["priority"].int64_param = 1
    response = bench.answer(request)
    assert response.id == "large"
    assert np.array_equal(outputs_of(response)["y"], rows)
    split = float_request("sums", "a", rows)
    split.raw_input_contents.append(b"one too many")
    refusal = bench.refusal(split)
    assert "2 raw contents for 1 tensors" in refusal.details
    message = request.SerializeToString()
    for end in (1, 7, len(message) // 2, len(message) - 1):
        found = bench.inference.answer(message[:end], Call())
        assert isinstance(found, Refusal)
        assert found.code.name in ("INVALID_ARGUMENT", "NOT_FOUND")


def test_the_planned_cut_of_the_newest_bundle_answers_where_none_is_named(bench: Bench) -> None:
    cut = bench.manifest.planned.id
    for key, value in (("bundle", bench.manifest.digest), ("cut", cut)):
        request = sums_request()
        request.parameters[key].string_param = value
        bench.answer(request)


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (
            lambda r: r.parameters["bundle"].__setattr__("string_param", "0" * 64),
            "FAILED_PRECONDITION",
            "the device has bundle '0000",
        ),
        (
            lambda r: r.parameters["cut"].__setattr__("string_param", "0" * 12),
            "FAILED_PRECONDITION",
            "no tail for cut '000000000000'",
        ),
        (
            lambda r: r.parameters["cut"].__setattr__("int64_param", 1),
            "INVALID_ARGUMENT",
            "parameter 'cut' is not a string",
        ),
        (
            lambda r: r.parameters["priority"].__setattr__("int64_param", -1),
            "INVALID_ARGUMENT",
            "parameter 'priority' is -1",
        ),
        (
            lambda r: r.parameters["timeout"].__setattr__("double_param", 1.0),
            "INVALID_ARGUMENT",
            "parameter 'timeout' is not an integer",
        ),
        (lambda r: r.__setattr__("model_name", "sum"), "NOT_FOUND", "no model is named 'sum'"),
        (lambda r: r.__setattr__("model_version", "7"), "NOT_FOUND", "no version '7', only '1'"),
        (
            lambda r: r.inputs[0].shape.__setitem__(slice(None), [1 << 62, 1 << 62, 4]),
            "INVALID_ARGUMENT",
            "has shape [4611686018427387904, 4611686018427387904, 4]",
        ),
        (
            lambda r: r.inputs.add(name="b"),
            "INVALID_ARGUMENT",
            "2 tensors given, the tail reads 1",
        ),
        (
            lambda r: r.inputs[0].__setattr__("datatype", "BYTES"),
            "INVALID_ARGUMENT",
            "datatype 'BYTES'",
        ),
    ],
)
def test_what_is_wrong_is_named_and_has_its_status(
    bench: Bench, change: Callable[[Any], None], code: str, words: str
) -> None:
    request = sums_request()
    change(request)
    refusal = bench.refusal(request)
    assert refusal.code.name == code
    assert words in refusal.details
    assert bench.told[-1].status == code
    assert bench.admission.nbytes == 0
    bench.answer(sums_request())


def test_bytes_that_are_no_message_are_an_invalid_argument(bench: Bench) -> None:
    for message in (b"\xff\xff\xff", b"\x0a\x05ab", b"\x3a" + b"\xff" * 20, b"\x0b" * 40000):
        found = bench.inference.answer(message, Call())
        assert isinstance(found, Refusal)
        assert found.code is grpc.StatusCode.INVALID_ARGUMENT
        assert found.details == "the bytes are no ModelInferRequest"
    empty = bench.inference.answer(b"", Call())
    assert isinstance(empty, Refusal)
    assert empty.code is grpc.StatusCode.NOT_FOUND


def test_a_deadline_that_has_passed_and_a_caller_that_has_gone_are_not_decoded(
    bench: Bench,
) -> None:
    assert bench.refusal(sums_request(), remaining_s=0).code is grpc.StatusCode.DEADLINE_EXCEEDED
    gone = bench.refusal(sums_request(), is_active=lambda: False)
    assert gone.code is grpc.StatusCode.CANCELLED
    assert [served.decode_s for served in bench.told] == [0, 0]


def test_the_sooner_of_deadline_and_timeout_counts(folder: Path, gate: Any) -> None:
    bench = Bench(folder)
    gate.shut()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(bench.answer, sums_request())
        gate.wait_begun()
        request = sums_request()
        request.parameters["timeout"].int64_param = 10_000
        started = time.monotonic()
        refusal = bench.refusal(request, remaining_s=60)
        assert refusal.code is grpc.StatusCode.DEADLINE_EXCEEDED
        request.parameters["timeout"].uint64_param = 60_000_000
        refusal = bench.refusal(request, remaining_s=0.01)
        assert refusal.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - started < 30
        gate.is_open.set()
        running.result(30)
    assert len(gate.sizes) == 1


def test_tensors_that_find_no_room_are_not_decoded(folder: Path, gate: Any) -> None:
    bench = Bench(folder, memory_bytes=40)
    gate.shut()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(bench.answer, sums_request())
        gate.wait_begun()
        refusal = bench.refusal(sums_request())
        assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "36 bytes of tensors are in flight, of 40 allowed" in refusal.details
        assert refusal.retry_s is not None
        assert bench.told[-1].decode_s == 0
        gate.is_open.set()
        running.result(30)
    bench.answer(sums_request())
    assert bench.admission.nbytes == 0


def test_a_full_queue_is_refused_before_decoding(folder: Path, gate: Any) -> None:
    bench = Bench(folder, limit=0)
    gate.shut()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(bench.answer, sums_request())
        gate.wait_begun()
        refusal = bench.refusal(sums_request())
        assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "too many requests wait already" in refusal.details
        assert bench.told[-1].decode_s == 0
        gate.is_open.set()
        running.result(30)


def test_observers_are_told_of_everything(bench: Bench) -> None:
    request = sums_request(rows=2)
    request.id = "7"
    message = request.SerializeToString()
    found = bench.inference.answer(message, Call("ModelInfer", "ipv4:1.2.3.4:5", "00-trace"))
    assert isinstance(found, bytes)
    (served,) = bench.told
    assert (served.model, served.version, served.status) == ("sums", "1", "OK")
    assert (served.bundle, served.cut) == (bench.manifest.digest[:12], bench.manifest.planned.id)
    assert (served.method, served.peer) == ("ModelInfer", "ipv4:1.2.3.4:5")
    assert (served.request_id, served.traceparent) == ("7", "00-trace")
    assert (served.up_bytes, served.down_bytes) == (len(message), len(found))
    assert (served.raw_up_bytes, served.raw_down_bytes) == (32, 40)
    assert served.batch_size == 2
    terms = (served.receive_s, served.queue_s, served.decode_s, served.tail_s, served.encode_s)
    assert min(terms) > 0


def test_an_observer_that_fails_changes_no_answer(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(folder)

    class Broken:
        def request(self, served: Served) -> None:
            raise RuntimeError("no")

    inference = Inference(bench.repository, bench.admission, (Broken(), bench))
    assert isinstance(inference.answer(sums_request().SerializeToString(), Call()), bytes)
    assert len(bench.told) == 1
    assert "failed" in caplog.text


def test_a_defect_is_internal_and_logged_and_no_trace_goes_out(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(bench.repository, "tail", fail)
    refusal = bench.refusal(sums_request())
    assert refusal == Refusal(grpc.StatusCode.INTERNAL, "a defect in the server; please report it")
    assert "ZeroDivisionError: secret" in caplog.text


def test_statistics_add_up(bench: Bench) -> None:
    bench.answer(sums_request())
    bench.answer(sums_request(rows=3))
    bench.refusal(sums_request(rows=9))
    stats = bench.repository.find("sums").statistics.message("sums", "1")
    assert (stats.inference_count, stats.execution_count) == (4, 2)
    assert stats.inference_stats.success.count == 2
    assert stats.inference_stats.fail.count == 1
    assert [(b.batch_size, b.compute_infer.count) for b in stats.batch_stats] == [(1, 1), (3, 1)]
    assert stats.inference_stats.compute_infer.ns > 0
    assert stats.last_inference > 0
