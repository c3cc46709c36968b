"""From a model and its profiles to the picture of it that a plan carries."""

from __future__ import annotations

from collections.abc import Sequence

from splitter.graph.blocks import blocks_of
from splitter.graph.model import Model
from splitter.graph.values import Node
from splitter.planning.candidates import members_of
from splitter.planning.drawing import GraphPicture, NodePicture, TensorPicture
from splitter.planning.records import Problem
from splitter.planning.tiers import node_seconds
from splitter.profiling.profile import Profile


def draw(model: Model, problem: Problem, profiles: Sequence[Profile]) -> GraphPicture:
    """Picture a model with its seconds by tier; ``profiles`` are from the device to the server."""
    graph, blocks = model.graph, blocks_of(model)
    kernel_of = {
        name: node.name
        for node in problem.graph.nodes
        if len(node.members) > 1
        for name in node.members
    }
    seconds = [node_seconds(profile, graph) for profile in profiles]

    def picture(node: Node) -> NodePicture:
        return NodePicture(
            name=node.name,
            op_type=node.op_type,
            block=blocks[node.name],
            kernel=kernel_of.get(node.name, ""),
            reads=node.inputs,
            makes=node.outputs,
            seconds=tuple(tier[node.name] for tier in seconds),
        )

    return GraphPicture(
        nodes=tuple(
            picture(graph.node_of[name]) for name in members_of(problem, problem.graph.node_of)
        ),
        tensors={
            name: TensorPicture(dtype=tensor.dtype, shape=tensor.shape, nbytes=tensor.nbytes)
            for name, tensor in graph.tensors.items()
        },
        inputs=graph.inputs,
        outputs=graph.outputs,
    )
