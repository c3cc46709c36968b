"""Random graphs for property tests, without a model file."""

from __future__ import annotations

from hypothesis import strategies as st

from splitter.graph import Graph, Node, Tensor


@st.composite
def graphs(draw: st.DrawFn, max_nodes: int = 10) -> Graph:
    """Any directed acyclic graph: several inputs, outputs and tensors a node, dead ends, a dull tensor."""
    inputs = [f"in{i}" for i in range(draw(st.integers(1, 3)))]
    tensors = {name: _tensor(draw, name) for name in inputs}
    nodes = []
    for index in range(draw(st.integers(1, max_nodes))):
        read = draw(st.lists(st.sampled_from(sorted(tensors)), max_size=3, unique=True))
        made = [f"n{index}", f"n{index}b"][: draw(st.integers(1, 2))]
        nodes.append(Node(made[0], "Op", tuple(read), tuple(made), flops=index))
        tensors.update((name, _tensor(draw, name)) for name in made)
    made_names = [name for node in nodes for name in node.outputs]
    outputs = draw(st.lists(st.sampled_from(made_names), min_size=1, max_size=3, unique=True))
    return Graph(tuple(nodes), tensors, tuple(inputs), tuple(outputs), "0" * 64)


def _tensor(draw: st.DrawFn, name: str) -> Tensor:
    shape = draw(st.one_of(st.none(), st.tuples(st.integers(1, 50))))
    return Tensor(name, "float32", shape)
