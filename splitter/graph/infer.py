"""Shapes and dtypes of every tensor, and the values that follow from shapes alone.

Inference runs on the skeleton. Values that become known are put into it as initializers, an ``If`` whose
condition became known is replaced by its branch, and inference runs again, until nothing new appears.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference

from splitter.errors import ModelError
from splitter.graph.dims import Binding
from splitter.graph.fold import Array, constant_value, evaluate, is_evaluated, small_constant
from splitter.graph.kinds import tensor_of, weight_of
from splitter.graph.loops import assume_states, kept_states
from splitter.graph.operators import functions_of, key_of
from splitter.graph.scope import Site, reads_of
from splitter.graph.skeleton import inlined_branch, skeleton_of
from splitter.graph.values import Tensor

_MAX_ROUNDS = 32
"""Rounds of inference; each reaches past one layer of shape arithmetic, most models need two."""


@dataclass
class Facts:
    """What is known about the tensors of the main graph, and of decided branches."""

    skeleton: onnx.ModelProto
    """With inferred types, those inside bodies included."""
    opset: int
    opaque: set[str]
    """Made by operators of which shape inference knows nothing."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)
    """Small tensors whose value is known: constants and folded shape arithmetic."""
    owner_of: dict[str, str] = field(default_factory=dict)
    """The ``If`` from which the maker of a tensor was inlined, both by first output."""


def infer(proto: onnx.ModelProto, sites: Sequence[Site], binding: Binding) -> Facts:
    """Infer types and fold shape arithmetic until neither learns anything.

    Raises
    ------
    ModelError
        The model is so malformed that inference cannot start on it.
    """
    facts = Facts(
        skeleton=skeleton_of(proto, sites, binding),
        opset=next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 1),
        opaque=_opaque_outputs(proto, sites),
    )
    # What the file declares is all there is to know of such outputs; elsewhere inference knows better.
    stated = {value.name: value for value in proto.graph.value_info if value.name in facts.opaque}
    facts.skeleton.graph.value_info.extend(stated.values())
    made = [name for site in sites for name in site.makes]
    loops: set[str] = set()
    for _ in range(_MAX_ROUNDS):
        _infer_types(facts, binding)
        found = _fold(facts)
        if all(facts.tensors[name].shape is not None for name in made):
            break
        kept = kept_states(facts.skeleton.graph, facts.tensors)
        assumed = assume_states(facts.skeleton.graph, facts.tensors, loops)
        if not found and not assumed and stated.keys() >= {value.name for value in kept}:
            break
        stated.update((value.name, value) for value in kept)
        _rewrite(facts, found, stated.values())
    return facts


def _opaque_outputs(proto: onnx.ModelProto, sites: Sequence[Site]) -> set[str]:
    functions = functions_of(proto)
    return {
        name
        for site in sites
        if site.proto.domain not in ("", "ai.onnx")
        and key_of(site.proto) not in functions
        and not onnx.defs.has(site.proto.op_type, domain=site.proto.domain)
        for name in site.makes
    }


def _infer_types(facts: Facts, binding: Binding) -> None:
    try:
        facts.skeleton = shape_inference.infer_shapes(facts.skeleton, data_prop=True)
    except (shape_inference.InferenceError, ValueError, RuntimeError) as exc:
        raise ModelError(f"shapes cannot be inferred: {' '.join(str(exc).split())[:300]}") from exc
    graph = facts.skeleton.graph
    for value in (*graph.value_info, *graph.input, *graph.output):
        facts.tensors[value.name] = tensor_of(value.name, value.type, binding.dims)
    for tensor in graph.initializer:
        facts.tensors[tensor.name] = weight_of(tensor.name, tensor)
    for node in graph.node:
        for name in node.output:
            facts.tensors.setdefault(name, Tensor(name, "undefined", None))


def _fold(facts: Facts) -> dict[str, Array]:
    """Evaluate what became known in this round."""
    values = facts.values
    functions = functions_of(facts.skeleton)
    constants = {tensor.name: tensor for tensor in facts.skeleton.graph.initializer}
    doubtful = set(facts.opaque)  # their shapes, and shapes that follow from them, prove nothing
    found: dict[str, Array] = {}
    for node in facts.skeleton.graph.node:
        if not doubtful.isdisjoint(reads_of(node)):
            doubtful.update(node.output)
        if not node.output or node.output[0] in values or key_of(node) in functions:
            continue
        value = None
        if node.op_type in ("Shape", "Size"):
            if doubtful.isdisjoint(node.input):
                value = _measured(node, facts.tensors)
        elif node.op_type == "Constant":
            value = constant_value(node)
        elif is_evaluated(node) and all(
            not name or name in values or name in constants for name in node.input
        ):
            arrays = [_value(name, values, constants) for name in node.input]
            if all(a is not None for a, name in zip(arrays, node.input, strict=True) if name):
                value = evaluate(node, arrays, facts.opset)
        if value is not None:
            values[node.output[0]] = found[node.output[0]] = value
    return found


def _value(
    name: str, values: dict[str, Array], constants: Mapping[str, onnx.TensorProto]
) -> Array | None:
    if name and name not in values:
        value = small_constant(constants[name])
        if value is None:
            return None
        values[name] = value
    return values.get(name)


def _measured(node: onnx.NodeProto, tensors: Mapping[str, Tensor]) -> Array | None:
    tensor = tensors.get(next(iter(node.input), ""))
    if tensor is None or tensor.shape is None:
        return None
    if node.op_type == "Size":
        return np.array(np.prod(tensor.shape, dtype=np.int64))
    ends = {a.name: a.i for a in node.attribute}
    return np.array(tensor.shape[ends.get("start", 0) : ends.get("end")], np.int64)


def _rewrite(
    facts: Facts, found: Mapping[str, Array], stated: Iterable[onnx.ValueInfoProto]
) -> None:
    """Replace nodes by their value, where the model does not return it, and a decided If by its branch."""
    graph = facts.skeleton.graph
    replaced = found.keys() - {value.name for value in graph.output}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        branch = _taken_branch(node, facts.values)
        if branch is not None:
            inlined = inlined_branch(branch, node)
            owner = facts.owner_of.get(node.output[0], node.output[0])
            facts.owner_of.update((name, owner) for inner in inlined for name in inner.output)
            nodes.extend(inlined)
        elif replaced.isdisjoint(node.output):
            nodes.append(node)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.value_info.extend(stated)
    for name in sorted(replaced):
        graph.initializer.append(numpy_helper.from_array(found[name], name))


def _taken_branch(node: onnx.NodeProto, values: Mapping[str, Array]) -> onnx.GraphProto | None:
    condition = values.get(next(iter(node.input), ""))
    if node.op_type != "If" or node.domain or condition is None or not node.output[0]:
        return None
    taken = "then_branch" if condition.all() else "else_branch"
    return next((a.g for a in node.attribute if a.name == taken), None)
