"""Weights drawn from a seed, for architectures that come without: real shapes and cost, no real answers.

The onnx wheel carries such models (AlexNet, ResNet-50, ...): each weight is a ``ConstantOfShape`` whose
shape is an initializer.
"""

from __future__ import annotations

from math import prod, sqrt
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from splitter.document import replacing
from splitter.errors import ModelError

LIGHT_MODELS = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def light_model(name: str) -> Path:
    """The file of an architecture in the onnx wheel, such as ``bvlc_alexnet``; raises ModelError."""
    path = LIGHT_MODELS / f"light_{name}.onnx"
    if not path.is_file():
        raise ModelError(f"this onnx installation carries no {path.name}; install onnx >= 1.17")
    return path


def write_seeded(source: Path, target: Path, seed: int = 0) -> None:
    """Write a model whose constant weights are replaced by random ones.

    Filters and matrices are normal with variance 2 / fan-in (He et al., 2015), which keeps activations
    in range through any depth; everything of one dimension stays 1 where it scales and 0 where it adds.
    """
    proto = onnx.load(source)
    graph = proto.graph
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    rng = np.random.default_rng(seed)
    kept, filled = [], set()
    scales = {name for node in graph.node for name in _scales(node)}
    for node in graph.node:
        if node.op_type == "ConstantOfShape" and node.input[0] in shapes:
            shape = tuple(int(size) for size in shapes[node.input[0]])
            values = _drawn(shape, rng, is_scale=node.output[0] in scales)
            graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
            filled.add(node.input[0])
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    _drop_shapes(graph, filled)
    with replacing(target) as file:
        file.write(proto.SerializeToString())


def _scales(node: onnx.NodeProto) -> list[str]:
    """Scale and variance of a normalisation."""
    return [node.input[1], node.input[4]] if node.op_type == "BatchNormalization" else []


def _drawn(
    shape: tuple[int, ...], rng: np.random.Generator, *, is_scale: bool
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    if len(shape) < 2:
        return np.full(shape, 1.0 if is_scale else 0.0, np.float32)
    spread = np.float32(sqrt(2 / prod(shape[1:])))
    return rng.standard_normal(shape, np.float32) * spread


def _drop_shapes(graph: onnx.GraphProto, filled: set[str]) -> None:
    """The shape initializers that nothing reads any more, also where they are listed as inputs."""
    still_read = {name for node in graph.node for name in node.input}
    gone = filled - still_read
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name in gone:
            del graph.initializer[index]
    for index in reversed(range(len(graph.input))):
        if graph.input[index].name in gone:
            del graph.input[index]
