from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitter.errors import InputError, ModelError, ServingError
from splitter.serving.device.cascade import confidence
from splitter.serving.device.report import AnsweredBy
from splitter.serving.device.session import Session
from splitter.serving.server.serve import serve
from tests import models
from tests.contract import same_bits
from tests.serving import run_whole
from tests.sessions import cuts_bundle, eventually, fake_server


def image(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"image": rng.standard_normal((1, 3, 16, 16)).astype(np.float32)}


def small(scale: float) -> onnx.ModelProto:
    """As sure as it is large: five scores, of which one is greater by ``scale``."""
    return models.parse(
        f"""
        <ir_version: 8, opset_import: ["" : 17]>
        small (float[1, 3, 16, 16] image) => (float[1, 5] scores) {{
            zero = Constant <value = float {{0.0}}> ()
            g = ReduceSum <keepdims = 0> (image)
            nothing = Mul(g, zero)
            base = Constant <value = float[1, 5] {{0.0, {scale}, 0.0, 0.0, 0.0}}> ()
            scores = Add(base, nothing)
        }}
        """
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bare")
    return cuts_bundle(models.convolutions(), folder, ["p1"], whole=False)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=20))
def test_confidence_is_that_of_the_softmax_and_of_probabilities_as_they_are(scores) -> None:
    values = np.array([scores], np.float32)
    powers = np.exp(values.astype(np.float64) - values.max())
    probabilities = powers / powers.sum()
    assert confidence(probabilities) == pytest.approx(probabilities.max())
    if values.min() < 0 or abs(values.sum() - 1) > 0.01:
        assert confidence(values) == pytest.approx(probabilities.max())


def test_confidence_of_nonsense_is_none() -> None:
    assert confidence(np.array([[np.nan, 1.0]])) == 0
    assert confidence(np.zeros((1, 0))) == 0
    assert confidence(np.array([[0.9, 0.1], [0.6, 0.4]])) == pytest.approx(0.6)


def test_a_sure_gate_answers_and_an_unsure_one_asks_the_server(bundle: Path, tmp_path) -> None:
    sure, unsure = tmp_path / "sure.onnx", tmp_path / "unsure.onnx"
    models.save(small(50.0), sure)
    models.save(small(0.5), unsure)
    with serve(bundle) as server:
        with Session(bundle, server.address, gate=sure, confident=0.9) as session:
            result = session.infer(image())
            assert result.timing.answered_by is AnsweredBy.GATE
            assert result.timing.up_bytes == 0
            assert np.argmax(result.outputs["scores"]) == 1
        with Session(bundle, server.address, gate=str(unsure), confident=0.9) as session:
            assert same_bits(session.run(None, image())[0], run_whole(bundle, image())[0])
            assert session.last.answered_by is AnsweredBy.SERVER
            assert session.last.gate_s > 0
            assert [r.timing.answered_by for r in session.run_stream([image()] * 2)] == [
                "server"
            ] * 2


def test_a_function_can_be_the_gate(bundle: Path) -> None:
    outputs = {"scores": np.eye(1, 5, dtype=np.float32)}
    answers = iter([(outputs, 0.95), (list(outputs.values()), 0.9), (outputs, 0.89)])
    with (
        serve(bundle) as server,
        Session(bundle, server.address, gate=lambda feeds: next(answers)) as session,
    ):
        answered = [session.infer(image()).timing.answered_by for _ in range(3)]
    assert answered == ["gate", "gate", "server"]


def exits() -> onnx.ModelProto:
    """``exit`` is made early, ``scores`` late."""
    return models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        exits (float[1, 8] x) => (float[1, 8] scores, float[1, 8] exit) {
            exit = Mul(x, x)
            b = Neg(exit)
            c = Exp(b)
            scores = Tanh(c)
        }
        """
    )


def test_an_early_exit_can_be_the_gate(tmp_path: Path) -> None:
    bundle = cuts_bundle(exits(), tmp_path, ["b"], whole=False)
    sure = {"x": np.array([[9, 0, 0, 0, 0, 0, 0, 0]], np.float32)}
    unsure = {"x": np.full((1, 8), 0.5, np.float32)}
    with serve(bundle) as server, Session(bundle, server.address, gate="exit") as session:
        result = session.infer(sure, ["scores"])
        assert result.timing.answered_by is AnsweredBy.GATE
        assert same_bits(result.outputs["scores"], sure["x"] ** 2)
        result = session.infer(unsure)
        assert result.timing.answered_by is AnsweredBy.SERVER
        for got, expected in zip(result.outputs.values(), run_whole(bundle, unsure), strict=True):
            assert same_bits(got, expected)
        first, second = session.run_refined(["scores"], unsure)
        assert same_bits(first.outputs["scores"], unsure["x"] ** 2)
        assert same_bits(second.outputs["scores"], run_whole(bundle, unsure)[0])
    with pytest.raises(InputError, match="'scores' is an output of the tail"):
        Session(bundle, "127.0.0.1:1", gate="scores")


def test_what_is_no_gate_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gate 'no.onnx' is neither a file nor an output"):
        Session(bundle, "127.0.0.1:1", gate="no.onnx")
    other = tmp_path / "other.onnx"
    models.save(models.residual(), other)
    with Session(bundle, "127.0.0.1:1", gate=other) as session, pytest.raises(ModelError):
        session.run(None, image())
    with pytest.raises(ServingError, match="confident is 2"):
        Session(bundle, "127.0.0.1:1", gate=other, confident=2.0)


def test_a_refined_run_yields_the_quick_answer_and_then_the_servers(tmp_path: Path) -> None:
    quick = small(5.0)
    bundle = cuts_bundle(models.convolutions(), tmp_path, ["p1"], whole=False, stand_in=quick)
    with serve(bundle) as server, Session(bundle, server.address) as session:
        first, second = session.run_refined(None, image())
        assert first.timing.answered_by is AnsweredBy.STAND_IN
        assert second.timing.answered_by is AnsweredBy.SERVER
        assert same_bits(second.outputs["scores"], run_whole(bundle, image())[0])
        with pytest.raises(InputError):
            list(session.run_refined(None, {}))
        server.stop(0)
        assert eventually(lambda: len(list(session.run_refined(None, image()))) == 1)


def test_a_refined_run_without_quick_answer_is_a_run(bundle: Path) -> None:
    def refuse(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.INTERNAL, "so it is")
        raise AssertionError

    with serve(bundle) as server, Session(bundle, server.address) as session:
        (only,) = session.run_refined(None, image())
        assert only.timing.answered_by is AnsweredBy.SERVER
    with (
        fake_server(refuse) as address,
        Session(bundle, address) as session,
        pytest.raises(ServingError, match="so it is"),
    ):
        list(session.run_refined(None, image()))
