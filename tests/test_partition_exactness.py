"""Head then tail is the whole model, bit for bit, wherever it is cut."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from splitter.graph.cut import Cut, cut_of, needed_for
from splitter.graph.model import Model
from splitter.graph.read import load_model
from splitter.graph.values import Graph
from splitter.partition.check import chain, compare, random_feeds, run_one
from splitter.partition.extract import Extractor, Part
from splitter.runtime import Optimisation, Runner, Settings
from tests import models
from tests.models import SHARED

EXACT = Settings(optimisation=Optimisation.NONE)
SHARED_SHAPES = {
    "squeezenet_fp32": {},
    "silero_vad_16k_op15": {"input": (1, 576), "state": (2, 1, 128)},
    "dtln_1": {},
    "tinygpt": {"input_ids": (1, 16)},
    "mobilenetv2_qdq_int8": {"input": (1, 3, 224, 224)},
}


def load(proto: onnx.ModelProto, folder: Path) -> Model:
    symbolic = [
        dim.dim_param
        for value in proto.graph.input
        for dim in value.type.tensor_type.shape.dim
        if dim.dim_param
    ]
    path = models.save(proto, folder / "model.onnx")
    return load_model(path, dict.fromkeys(symbolic, 2))


def cuts_along_order(graph: Graph) -> Iterator[Cut]:
    names = [node.name for node in graph.nodes]
    for count in range(len(names) + 1):
        yield cut_of(graph, names[:count])


def random_cuts(graph: Graph, count: int, seed: int = 0) -> Iterator[Cut]:
    """What a few random nodes need, each closed set once."""
    rng = random.Random(seed)
    outputs = [node.outputs[0] for node in graph.nodes]
    closed = {
        needed_for(graph, rng.sample(outputs, rng.randint(1, min(3, len(outputs)))))
        for _ in range(count)
    }
    yield from (cut_of(graph, head) for head in closed)


def can_travel(graph: Graph, cut: Cut) -> bool:
    return all(graph.tensors[name].nbytes is not None for name in cut.crossing)


def runner(part: Part, model: Model) -> Runner | None:
    if not part.outputs:
        return None
    if not any(tensor.external_data for tensor in part.proto.graph.initializer):
        onnx.checker.check_model(part.proto)
    return Runner(part.to_bytes(), EXACT, weights_dir=model.weights_dir)


def assert_exact(model: Model, cuts: list[Cut]) -> None:
    extractor = Extractor(model)
    feeds = random_feeds(model.graph)
    if "sr" in feeds:  # the only rate that the voice detector knows
        feeds["sr"] = np.array(16000)
    whole = run_one(Runner(model.path, EXACT), feeds)
    for cut in cuts:
        head, tail = extractor.head(cut), extractor.tail(cut)
        assert set(tail.inputs) == set(cut.crossing)
        made = chain(runner(head, model), runner(tail, model), feeds)
        assert compare(whole, made).is_equal, sorted(cut.head)


@pytest.mark.parametrize("name", list(models.every_model()))
def test_every_cut_gives_what_the_whole_gives(name: str, tmp_path: Path) -> None:
    model = load(models.every_model()[name], tmp_path)
    cuts = [*cuts_along_order(model.graph), *random_cuts(model.graph, 50)]
    assert_exact(model, [cut for cut in cuts if can_travel(model.graph, cut)])


@pytest.mark.parametrize("name", list(SHARED_SHAPES))
def test_a_few_cuts_of_a_trained_model_give_what_the_whole_gives(name: str) -> None:
    path = SHARED / "models" / f"{name}.onnx"
    if not path.is_file():
        pytest.skip("needs the trained models in ../shared")
    model = load_model(path, None, SHARED_SHAPES[name])
    along = list(cuts_along_order(model.graph))
    cuts = [*along[:: len(along) // 3], *random_cuts(model.graph, 2)]
    assert_exact(model, [cut for cut in cuts if can_travel(model.graph, cut)])
