"""State that a model's names give away, and what is no state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from splitter import api
from splitter.graph.read import load_model
from splitter.graph.values import Graph, Node, Tensor
from splitter.planning.records import Plan
from splitter.planning.states import likely_states, suggestion
from splitter.planning.terms import State
from tests.cli import run, succeed
from tests.models import SHARED, parse, save
from tests.pages import TINY


def graph_of(pairs: dict[str, str], shapes: dict[str, tuple[int, ...]] | None = None) -> Graph:
    """An input ``frame`` and the inputs and outputs of the pairs, all of one shape unless it is said."""
    names = ["frame", *pairs, *pairs.values(), "label"]
    tensors = {name: Tensor(name, "float32", (shapes or {}).get(name, (1, 2, 4))) for name in names}
    node = Node("n", "Op", ("frame", *pairs), (*pairs.values(), "label"))
    return Graph((node,), tensors, ("frame", *pairs), (*pairs.values(), "label"), "0" * 64)


PAIRS = {
    "state": "stateN", "h0": "hn", "c0": "cn", "h_0": "h_n", "cache_in": "cache_out",
    "in_cache": "out_cache", "prev_state": "next_state", "c": "new_c", "hidden_state_in": "hidden_state_out",
    "past_0": "present_0", "past_key_values.3.key": "present.3.key",
    "past_key_values.0.decoder.value": "present.0.decoder.value", "past_key_self_3": "present_key_self_3",
    "k_cache_0": "new_k_cache_0", "h0_1": "hn_1", "mem.1": "mem.1_out",
}  # fmt: skip


@pytest.mark.parametrize(("before", "after"), PAIRS.items())
def test_names_that_differ_only_in_the_side_are_one_state(before: str, after: str) -> None:
    assert likely_states(graph_of({before: after})) == (State(before, after),)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("image_in", "image_out"), ("input", "output"), ("x", "y"), ("audio_in", "audio_out"),
        ("mask", "scores"), ("past.0.key", "present.1.key"), ("past.0.key", "present.0.value"),
        ("state", "status"), ("h0", "cn"),
    ],
)  # fmt: skip
def test_other_names_are_none(before: str, after: str) -> None:
    assert likely_states(graph_of({before: after})) == ()


def test_other_shapes_are_none_but_for_a_cache_that_grows() -> None:
    assert likely_states(graph_of({"state": "stateN"}, {"stateN": (1, 2, 5)})) == ()
    grown = {"past.0.key": "present.0.key"}
    assert likely_states(graph_of(grown, {"present.0.key": (1, 3, 4)}))
    assert likely_states(graph_of(grown, {"present.0.key": (3, 4)})) == ()


def test_a_model_of_states_alone_has_none() -> None:
    graph = graph_of({"state": "stateN"})
    alone = Graph(graph.nodes, graph.tensors, ("state",), graph.outputs, graph.sha256)
    assert likely_states(alone) == ()


def test_what_is_kept_already_is_not_suggested() -> None:
    graph = graph_of({"h0": "hn", "c0": "cn", "mem_in": "mem_out"})
    said = suggestion(graph, ())
    assert "--keep-state h0=hn --keep-state c0=cn and 1 more" in said
    assert "--keep-state mem_in=mem_out; give" in suggestion(
        graph, [State("h0", "hn"), State("c0", "cn")]
    )
    assert suggestion(graph, likely_states(graph)) == ""


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared models are not here")
def test_silero_is_recognised() -> None:
    path = SHARED / "models" / "silero_vad_16k_op15.onnx"
    model = load_model(path, {"batch": 1, "sequence": 576})
    assert likely_states(model.graph) == (State("state", "stateN"),)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    proto = parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        filter (float[1, 8] frame, float[1, 8] state) => (float[1, 8] y, float[1, 8] stateN) {
            a = Add(frame, state)
            stateN = Tanh(a)
            b = Relu(a)
            y = Neg(b)
        }
        """
    )
    path = save(proto, tmp_path / "model.onnx")
    api.profile(api.load(path), effort=TINY).save(tmp_path / "here.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


PLAN = "plan model.onnx --device here.json --server here.json --link wifi -o plan.json"


def test_a_plan_suggests_what_to_keep_and_auto_keeps_it(folder: Path, capfd: Any) -> None:
    said = " ".join(succeed(capfd, *PLAN.split()).split())
    assert "--keep-state state=stateN; give that, or --keep-state auto" in said
    said = succeed(capfd, *PLAN.split(), "--keep-state", "auto")
    assert "--keep-state" not in said
    assert Plan.load("plan.json").limits.states == (State("state", "stateN"),)


def test_auto_where_nothing_is_found_is_one_line(tmp_path: Path, capfd: Any, folder: Path) -> None:
    proto = parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        plain (float[1, 8] x) => (float[1, 8] y) {
            y = Relu(x)
        }
        """
    )
    save(proto, tmp_path / "model.onnx")
    outcome = run(capfd, *PLAN.split(), "--keep-state", "auto")
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err == (
        "splitter: error: no input and output look like one state by their names; name them: "
        "--keep-state IN=OUT\n"
    )
