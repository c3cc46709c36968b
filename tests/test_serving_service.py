from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from splitter.codec import RAW
from splitter.errors import ServingError
from splitter.partition.manifest import CrossingSpec, Manifest, PortSpec
from splitter.runtime import Port
from splitter.serving.service import TailService
from tests.serving import float_request

ARRAY = np.ones((1, 2), np.float32)


@dataclass
class HeldTail:
    """A tail whose runs begin and end when the test says."""

    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    may_end: threading.Event = field(default_factory=threading.Event)
    inputs = (Port("a", "float32", (1, 2)),)

    def run(self, feeds: Any, outputs: Any) -> list[np.ndarray]:
        self.begun.release()
        assert self.may_end.wait(30)
        return [feeds["a"] for _ in outputs]


@dataclass(frozen=True)
class Call:
    """As much of gRPC's context as is used."""

    remaining_s: float | None = None

    def time_remaining(self) -> float | None:
        return self.remaining_s


@pytest.fixture
def tail() -> HeldTail:
    return HeldTail()


def service(tail: HeldTail, waiting: int) -> TailService:
    manifest = Manifest(
        name="m",
        model_sha256="",
        digest="d",
        dims={},
        crossing=(CrossingSpec(tensor="a", dtype="float32", shape=(1, 2), nbytes=8, codec=RAW),),
        head_nodes=(),
        inputs=(),
        outputs=(PortSpec(name="y", dtype="float32", shape=(1, 2), part="tail"),),
        files={},
    )
    return TailService(manifest, tail, workers=1, waiting=waiting)  # type: ignore[arg-type]


def infer(served: TailService, call: Call) -> Any:
    return served.model_infer(float_request("m", "a", ARRAY), call)  # type: ignore[arg-type]


def test_a_request_that_finds_the_queue_full_is_told_to_come_back(tail: HeldTail) -> None:
    served = service(tail, waiting=0)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(infer, served, Call())
        assert tail.begun.acquire(timeout=30)
        with pytest.raises(ServingError, match="too many requests wait"):
            infer(served, Call())
        tail.may_end.set()
        assert running.result(30).raw_output_contents
    assert infer(served, Call()).raw_output_contents, "its place was given back"


def test_a_request_whose_deadline_passes_in_the_queue_is_not_run(tail: HeldTail) -> None:
    served = service(tail, waiting=1)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(infer, served, Call())
        assert tail.begun.acquire(timeout=30)
        with pytest.raises(ServingError, match="deadline passed"):
            infer(served, Call(remaining_s=0.01))
        tail.may_end.set()
        running.result(30)
    assert not tail.begun.acquire(blocking=False)


def test_the_deadline_that_grpc_reports_for_none_is_no_overflow(tail: HeldTail) -> None:
    tail.may_end.set()
    assert infer(service(tail, waiting=0), Call(remaining_s=9.2e18)).raw_output_contents
