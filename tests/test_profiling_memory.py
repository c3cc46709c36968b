"""The memory of parts: measured in processes of their own, and a bound for what lies between."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from splitter import api
from splitter.graph.contract import contract
from splitter.link import Link
from splitter.planning.layout import two_tiers
from splitter.planning.memory import memory_of
from splitter.planning.problem import make_problem
from splitter.profiling.measure import Effort
from splitter.profiling.profile import PartMemory, Profile
from splitter.profiling.resident import resident
from splitter.profiling.timing import Rounds
from splitter.runtime import Runner, Settings
from tests import models

ROUNDS = Rounds(least=3, most=5, budget_s=0.01)
LINK = Link(name="some", up_bytes_per_s=1e6, down_bytes_per_s=1e6, rtt_s=0.01)
SIDE = 1024


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return models.save(models.convolutions(), tmp_path_factory.mktemp("memory") / "model.onnx")


@pytest.fixture(scope="module")
def profile(saved) -> Profile:
    effort = Effort(anchors_s=0.2, codecs_s=0.1, memory_s=0.01, rounds=ROUNDS, trace_runs=3)
    return api.profile(api.load(saved), effort=effort)


def test_a_profile_has_the_memory_of_the_whole_model_as_head_and_as_tail(profile):
    found = {part.place: part for part in profile.parts_memory}
    assert found[len(profile.nodes)].head_bytes is not None
    assert found[len(profile.nodes)].tail_bytes is None
    assert found[0].tail_bytes is not None
    assert found[0].head_bytes is None


def test_what_a_model_really_keeps_is_counted(tmp_path):
    product = models.parse(f"""
        <ir_version: 8, opset_import: ["" : 17]>
        product (float[1, {SIDE}] x) => (float[1, {SIDE}] y) {{ y = MatMul(x, w) }}
        """)
    path = models.save(models.with_weights(product, w=(SIDE, SIDE)), tmp_path / "product.onnx")
    feeds = {"x": np.ones((1, SIDE), np.float32)}
    found = resident(path, feeds)
    assert found is not None
    assert found.running_bytes >= 0.9 * SIDE * SIDE * 4


def test_a_model_that_does_not_run_has_no_memory(tmp_path):
    path = tmp_path / "not.onnx"
    path.write_bytes(b"no model")
    assert resident(path, {"x": np.ones(1, np.float32)}) is None


def test_without_an_arena_a_model_answers_the_same(saved):
    model = api.load(saved)
    rng = np.random.default_rng(0)
    feeds = {
        name: rng.standard_normal(model.graph.tensors[name].shape).astype(np.float32)
        for name in model.graph.inputs
    }
    kept, returned = (Runner(saved, Settings(arena=arena)).run(feeds) for arena in (True, False))
    for one, other in zip(kept, returned, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_part_is_charged_at_least_what_the_next_larger_measured_one_took(saved, profile):
    model = api.load(saved)
    count = len(profile.nodes)
    took = {place: 10_000_000 + 1_000_000 * place for place in range(1, count + 1, 2)} | {
        count: 10_000_000 + 1_000_000 * count
    }
    parts = tuple(
        PartMemory(place=place, head_bytes=nbytes, tail_bytes=20_000_000 - 1_000_000 * place)
        for place, nbytes in took.items()
    )
    measured = msgspec.structs.replace(
        profile, parts_memory=parts,
        kernels=tuple(
            msgspec.structs.replace(profile.kernels[0], name=name, nodes=(name,))
            for name in profile.nodes
        ),
    )  # fmt: skip
    problem = make_problem(model.graph, (measured, measured), LINK)
    assert list(problem.graph.node_of) == list(contract(model.graph, []).node_of)
    for place in range(1, count + 1):
        head = set(profile.nodes[:place])
        on_device, on_server = memory_of(problem, two_tiers(problem), head)
        assert on_device >= min(nbytes for at, nbytes in took.items() if at >= place)
        if place < count:
            at_or_before = [p for p in took if p <= place]
            if at_or_before:
                assert on_server >= 20_000_000 - 1_000_000 * max(at_or_before)
