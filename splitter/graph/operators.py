"""What is known of operators by name: which can run, which are random."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter

import onnx

from splitter.errors import ModelError
from splitter.graph.scope import bodies

RUNTIME_DOMAINS = frozenset(
    {
        "", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training", "ai.onnx.preview",
        "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc", "com.microsoft.experimental",
        "org.pytorch.aten",
    }
)  # fmt: skip
"""Domains of which onnxruntime has operators."""

RANDOM = frozenset(
    {
        "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial",
        "Bernoulli", "BiasDropout", "BitmaskDropout", "BitmaskBiasDropout", "Sampling",
    }
)  # fmt: skip

_MAX_EXPANDED_NODES = 1_000_000
"""Nodes of a model whose functions are written out; more is a file made to exhaust memory."""

FunctionKey = tuple[str, str, str]


def every_node(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes and those in their bodies, at any depth."""
    for node in nodes:
        yield node
        for body in bodies(node):
            yield from every_node(body.node)


def key_of(node: onnx.NodeProto) -> FunctionKey:
    """What a node and the function that defines its operator have in common."""
    return (_domain(node.domain), node.op_type, node.overload)


def functions_of(proto: onnx.ModelProto) -> dict[FunctionKey, onnx.FunctionProto]:
    """Model-local functions by what their callers say."""
    return {(_domain(f.domain), f.name, f.overload): f for f in proto.functions}


def check_text(proto: onnx.ModelProto) -> None:
    """Refuse names that are not UTF-8, which protobuf hands out as bytes.

    Raises
    ------
    ModelError
        The file is damaged.
    """
    graph = proto.graph
    ports = (*graph.input, *graph.output)
    names: list[str | bytes] = [port.name for port in ports]
    names.extend(dim.dim_param for port in ports for dim in port.type.tensor_type.shape.dim)
    names.extend(tensor.name for tensor in graph.initializer)
    for nodes in (graph.node, *(function.node for function in proto.functions)):
        for node in every_node(nodes):
            names.extend((node.op_type, node.domain, node.name, *node.input, *node.output))
    damaged = next((name for name in names if isinstance(name, bytes)), None)
    if damaged is not None:
        raise ModelError(f"the file is damaged: the name {damaged!r} in it is not UTF-8")


def check_operators(proto: onnx.ModelProto) -> None:
    """Refuse operators that neither the model nor onnxruntime defines, and endless functions.

    Raises
    ------
    ModelError
        Names the operator and its domain, or the function that calls itself.
    """
    functions = functions_of(proto)
    imported = {_domain(entry.domain) for entry in proto.opset_import}
    if not imported:
        raise ModelError("no operator set is imported; the file is truncated or not an ONNX model")
    for node in every_node(proto.graph.node):
        _check_operator(node, functions, imported)
    for function in proto.functions:
        own = {_domain(entry.domain) for entry in function.opset_import} | imported
        for node in every_node(function.node):
            _check_operator(node, functions, own)
    _check_expansion(proto, functions)


def is_random(node: onnx.NodeProto, random_functions: frozenset[FunctionKey]) -> bool:
    """Whether two runs of the node, or of a node in its bodies, may differ."""
    return any(
        inner.op_type in RANDOM
        or (inner.op_type == "Dropout" and len(inner.input) > 2)
        or key_of(inner) in random_functions
        for inner in every_node([node])
    )


def random_functions(proto: onnx.ModelProto) -> frozenset[FunctionKey]:
    """Functions that are random, directly or through what they call."""
    functions = functions_of(proto)
    found: frozenset[FunctionKey] = frozenset()
    for _ in functions:
        more = frozenset(
            key for key, f in functions.items() if any(is_random(node, found) for node in f.node)
        )
        if more == found:
            break
        found = more
    return found


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _check_operator(
    node: onnx.NodeProto, functions: dict[FunctionKey, onnx.FunctionProto], imported: set[str]
) -> None:
    key = key_of(node)
    if key in functions:
        return
    domain = key[0]
    if domain not in RUNTIME_DOMAINS:
        raise ModelError(
            f"operator {node.op_type!r} is of the unknown domain {domain!r}: "
            "neither the model's functions nor onnxruntime define it"
        )
    if domain not in imported:
        raise ModelError(
            f"operator {node.op_type!r} is of domain {domain!r}, which the model does not import"
        )


def _check_expansion(
    proto: onnx.ModelProto, functions: dict[FunctionKey, onnx.FunctionProto]
) -> None:
    calls = {
        key: [key_of(node) for node in every_node(function.node)]
        for key, function in functions.items()
    }
    size_of: dict[FunctionKey, int] = {}
    try:
        for key in TopologicalSorter(calls).static_order():
            size_of[key] = sum(size_of[callee] for callee in calls[key]) if key in calls else 1
    except CycleError as exc:
        cycle = " -> ".join(key[1] for key in exc.args[1])
        raise ModelError(f"functions of the model call themselves: {cycle}") from exc
    total = sum(size_of.get(key_of(node), 1) for node in every_node(proto.graph.node))
    if total > _MAX_EXPANDED_NODES:
        raise ModelError(f"the model's functions write out to over {_MAX_EXPANDED_NODES} nodes")
