"""What a model holds, for ``splitter inspect`` and for whoever wants the same from the library."""

from __future__ import annotations

from collections import Counter
from math import prod

from splitter.document import Record
from splitter.graph.frontier import Place, frontier, narrowest
from splitter.graph.model import Model
from splitter.graph.values import Tensor

SCHEMA = "splitter.inspection/1"


class Port(Record, frozen=True, kw_only=True):
    """An input or output."""

    name: str
    dtype: str
    shape: tuple[int, ...] | None
    nbytes: int | None


class Gap(Record, frozen=True, kw_only=True):
    """A place along the node order where the model could be cut."""

    place: int
    """How many nodes are before it."""
    after: str
    operator: str
    flops_before: int
    crossing: tuple[Port, ...]
    nbytes: int | None
    """None where something crosses that cannot travel."""


class Summary(Record, frozen=True, kw_only=True):
    """``splitter.inspection/1``."""

    schema: str = SCHEMA
    file: str
    sha256: str
    dims: dict[str, int]
    nodes: int
    """That compute on an input; constants and folded shape computations are counted apart."""
    folded: int
    constants: int
    operators: dict[str, int]
    parameters: int
    """Elements of the initializers and of ``Constant`` nodes."""
    flops: int
    """Two for each multiply-add."""
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    narrowest: tuple[Gap, ...]
    frontier: tuple[Gap, ...]


def summarise(model: Model, count: int = 5) -> Summary:
    """Describe a model; ``count`` is how many of the narrowest places to name."""
    graph = model.graph
    before = [0]
    for node in graph.nodes:
        before.append(before[-1] + node.flops)

    def gap(place: Place) -> Gap:
        return Gap(
            place=place.index,
            after=place.after,
            operator=graph.node_of[place.after].op_type if place.after else "",
            flops_before=before[place.index],
            crossing=tuple(_port(graph.tensors[name]) for name in place.crossing),
            nbytes=place.nbytes,
        )

    operators = Counter(node.op_type for node in graph.nodes)
    return Summary(
        file=model.path.name,
        sha256=graph.sha256,
        dims=dict(graph.dims),
        nodes=len(graph.nodes),
        folded=len(model.folded),
        constants=len(model.proto.graph.node) - len(graph.nodes) - len(model.folded),
        operators=dict(operators.most_common()),
        parameters=_parameters(model),
        flops=before[-1],
        inputs=tuple(_port(graph.tensors[name]) for name in graph.inputs),
        outputs=tuple(
            _port(graph.tensors.get(name) or graph.weights[name]) for name in graph.outputs
        ),
        narrowest=tuple(gap(place) for place in narrowest(graph, count)),
        frontier=tuple(gap(place) for place in frontier(graph)),
    )


def _parameters(model: Model) -> int:
    graph = model.proto.graph
    dims = [tensor.dims for tensor in graph.initializer]
    dims += [tensor.dims for tensor in graph.sparse_initializer]
    for node in graph.node:
        if node.op_type == "Constant":
            dims += [attribute.t.dims for attribute in node.attribute if attribute.name == "value"]
    return sum(prod(sizes) for sizes in dims)


def _port(tensor: Tensor) -> Port:
    return Port(name=tensor.name, dtype=tensor.dtype, shape=tensor.shape, nbytes=tensor.nbytes)
