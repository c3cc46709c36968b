"""Memory of a part: its weights, each once, and the peak of its live activations in execution order.

At a place p of the order live are the tensors made at or before p that somebody still reads at or after p. On
the device that counts readers on either side, as a crossing tensor is kept until it is sent when the head is
done; model inputs are there from the start, and model outputs are kept to the end. On the server a tensor
that crossed is there from the start, until the last node of the tail that reads it.

What the runtime takes on top (scratch space, copies of weights in another order, what it keeps between runs)
does not follow from the graph. Where a profile has measured parts it is added, ``TierCost.own_memory``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from itertools import accumulate
from math import ceil, prod

import numpy as np

from splitter.graph.values import ITEM_BYTES, Graph, Tensor
from splitter.planning.layout import Layout, two_tiers
from splitter.planning.records import Problem
from splitter.planning.work import born, made_in_order, needed_on_server, state_inputs

SMALL_BITS = {"int4": 4, "uint4": 4, "int2": 2, "uint2": 2, "float4e2m1": 4}
"""Of dtypes that weights have and that cannot travel; any other is taken to have a byte an element."""


def memory_of(
    problem: Problem, layout: Layout, where: Collection[str] | Mapping[str, int]
) -> tuple[int, ...]:
    """Bytes by tier of a layout, from a head or from the place of each node."""
    if isinstance(where, Mapping):
        places = where
    else:
        places = {name: int(name not in where) for name in problem.graph.node_of}
    return tuple(
        held_of(problem, layout, places, k) + max(live_of(problem, layout, places, k))
        for k in range(len(layout.tiers))
    )


def memory_along(problem: Problem) -> list[tuple[int, int]]:
    """Bytes on device and server for each place of the order: ``memory_of`` its cut, in one walk.

    From one place to the next only the lives of what one node reads and makes change.
    """
    graph, layout = problem.graph, two_tiers(problem)
    places, at = dict.fromkeys(graph.node_of, 1), order(graph)
    live = [np.array(live_of(problem, layout, places, k)) for k in (0, 1)]
    last_reader = {name: node.name for node in graph.nodes for name in node.weights}
    seen: set[str] = set()
    held = [0, held_of(problem, layout, places, 1)]
    found = [(held[0] + int(live[0].max()), held[1] + int(live[1].max()))]
    starts, ends = Counter[int](), Counter[int]()
    for some, nbytes in problem.device.own_memory:
        starts[min(at[name] for name in some)] += nbytes
    for some, nbytes in problem.server.own_memory:
        ends[max(at[name] for name in some)] += nbytes
    for place, node in enumerate(graph.nodes, start=1):
        held[0] += starts[place]
        held[1] -= ends[place]
        tensors = dict.fromkeys((*node.inputs, *node.outputs))
        for here, sign in ((1, -1), (0, 1)):
            places[node.name] = here
            for tensor in tensors:
                for k in (0, 1):
                    life = _life(problem, layout, (at, places, k), tensor)
                    if life is not None:
                        nbytes = graph.tensors[tensor].nbytes or 0
                        live[k][life[0] : life[1] + 1] += sign * nbytes
        for name in dict.fromkeys(node.weights):
            if name not in seen:
                held[0] += weight_bytes(graph, name)
                seen.add(name)
            if last_reader[name] == node.name:
                held[1] -= weight_bytes(graph, name)
        found.append((held[0] + int(live[0].max()), held[1] + int(live[1].max())))
    return found


def held_of(problem: Problem, layout: Layout, places: Mapping[str, int], place: int) -> int:
    """Bytes of the weights that a part reads, each once, and of the runtime's own."""
    nodes = {node.name for node in problem.graph.nodes if places[node.name] == place}
    names = {name for node in nodes for name in problem.graph.node_of[node].weights}
    own = layout.tiers[place].own_memory
    return sum(weight_bytes(problem.graph, name) for name in names) + sum(
        nbytes for those, nbytes in own if not nodes.isdisjoint(those)
    )


def live_of(problem: Problem, layout: Layout, places: Mapping[str, int], place: int) -> list[int]:
    """Bytes live at each place of the order, before its first node included."""
    graph = problem.graph
    changes = [0] * (len(graph.nodes) + 2)
    at = order(graph)
    for tensor in made_in_order(graph):
        nbytes = graph.tensors[tensor].nbytes or 0
        life = _life(problem, layout, (at, places, place), tensor)
        if life is not None and nbytes:
            changes[life[0]] += nbytes
            changes[life[1] + 1] -= nbytes
    return list(accumulate(changes))[:-1]


def _life(
    problem: Problem,
    layout: Layout,
    where: tuple[Mapping[str, int], Mapping[str, int], int],
    tensor: str,
) -> tuple[int, int] | None:
    """First and last place of the order at which a tier holds a tensor; None where it never does."""
    at, places, place = where
    graph, last, end = problem.graph, len(layout.tiers) - 1, len(problem.graph.nodes)
    producer = graph.producer_of.get(tensor)
    readers = [(places[node.name], at[node.name]) for node in graph.consumers_of[tensor]]
    if needed_on_server(problem, tensor):
        readers.append((last, end))
    if producer is not None:
        made, start = places[producer.name], at[producer.name]
    elif tensor in state_inputs(problem) and readers:
        made, start = readers[0][0], 0
    else:
        made, start = born(problem, tensor), 0
    here = [position for k, position in readers if k == place]
    onward = any(k > place for k, _ in readers)
    if made == place:
        return start, end if onward or tensor in graph.outputs else max([start, *here])
    if made > place or (layout.is_star and place < last) or not (here or onward):
        return None
    return 0, end if onward else max(here)  # a relay holds what it passes on


def order(graph: Graph) -> dict[str, int]:
    """The place of each node in the order, from 1."""
    return {node.name: i for i, node in enumerate(graph.nodes, start=1)}


def weight_bytes(graph: Graph, name: str) -> int:
    """Of a constant, by its shape; 0 where that is not known."""
    tensor = graph.weights.get(name)
    return 0 if tensor is None or tensor.shape is None else ceil(_bits(tensor) / 8)


def _bits(tensor: Tensor) -> int:
    assert tensor.shape is not None
    each = SMALL_BITS.get(tensor.dtype, 8 * ITEM_BYTES.get(tensor.dtype, 1))
    return prod(tensor.shape) * each
