"""Cut a model into parts: each a valid model with the nodes asked for and only the weights they use."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from splitter.errors import CutError
from splitter.graph.cut import Cut
from splitter.graph.model import Model
from splitter.graph.scope import bodies, reads_of

MIN_IR_VERSION = 4
"""From this on an initializer need not be an input; ours never are."""

_ELEM_TYPES = {
    {"FLOAT": "float32", "DOUBLE": "float64"}.get(kind, kind.lower()): number
    for kind, number in TensorProto.DataType.items()
}


@dataclass(frozen=True, eq=False)
class Part:
    """A sub-model. External weights stay references, relative to the folder of the model it is from."""

    proto: ModelProto
    inputs: tuple[str, ...]
    """In the order of the model's inputs, then in the order in which the nodes make them."""
    outputs: tuple[str, ...]
    """None in a head or tail that nothing needs: such a part is not deployed."""

    def to_bytes(self) -> bytes:
        """The model file; over 2 GB protobuf refuses (a bundle then keeps the weights external)."""
        return bytes(self.proto.SerializeToString())


class Extractor:
    """Indexes a model once; a part then costs time linear in what the part holds."""

    def __init__(self, model: Model) -> None:
        graph = model.proto.graph
        self._model = model
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._sparse = {tensor.values.name: tensor for tensor in graph.sparse_initializer}
        self._producer_of = {name: node for node in graph.node for name in node.output if name}
        self._functions = {
            (function.domain, function.name): function for function in model.proto.functions
        }
        self._declared = {
            value.name: value for value in (*graph.value_info, *graph.input, *graph.output)
        }
        made = [name for node in model.graph.nodes for name in node.outputs]
        self._rank_of = {name: rank for rank, name in enumerate([*model.graph.inputs, *made])}

    def head(self, cut: Cut) -> Part:
        """The device's part: makes what crosses, and the model outputs that the tail does not make.

        A model output that no node makes (an input or a constant handed through) is the head's, so
        that it never travels.
        """
        tail_made = self._made(self._nodes_outside(cut.head))
        wanted = [name for name in cut.crossing if name not in self._model.graph.inputs]
        wanted += [name for name in self._model.graph.outputs if name not in tail_made]
        return self.part(cut.head, tuple(dict.fromkeys(wanted)))

    def tail(self, cut: Cut) -> Part:
        """The server's part: makes the model outputs that the head does not.

        Those that are wanted there and made in the head go in and out again.
        """
        nodes = self._nodes_outside(cut.head)
        made = self._made(nodes).union(cut.kept)
        return self.part(nodes, [name for name in self._model.graph.outputs if name in made])

    def whole(self, outputs: Sequence[str] = ()) -> Part:
        """All nodes, with dimensions bound and shape computations folded as in the parts.

        Its outputs are the model's, in the order asked for.
        """
        graph = self._model.graph
        return self.part(graph.node_of.keys(), outputs or graph.outputs)

    def part(self, nodes: Collection[str], outputs: Sequence[str]) -> Part:
        """Make the model of some nodes; its inputs are the activations read and not made in it.

        Raises
        ------
        CutError
            A name is not a node, or a value that crosses is not a plain tensor.
        """
        chosen = self._in_order(nodes)
        made = {name for node in chosen for name in node.output}
        reads = dict.fromkeys(name for node in chosen for name in reads_of(node))
        reads.update(dict.fromkeys(outputs))
        missing = [name for name in reads if name not in made]
        inputs = sorted((name for name in missing if self._is_activation(name)), key=self._rank)
        proto = self._shell()
        graph = proto.graph
        self._add_constants(graph, [name for name in missing if not self._is_activation(name)])
        graph.node.extend(chosen)
        graph.input.extend(self._declare(name) for name in inputs)
        graph.output.extend(self._declare(name) for name in outputs)
        inner = made.difference(outputs, [""])
        graph.value_info.extend(
            self._declare(name) for name in sorted(inner, key=self._rank) if self._is_shaped(name)
        )
        proto.functions.extend(self._functions_of(graph.node))
        return Part(proto, tuple(inputs), tuple(outputs))

    def _in_order(self, nodes: Collection[str]) -> list[NodeProto]:
        wanted = frozenset(nodes)
        for name in wanted:
            if name not in self._model.graph.node_of:
                raise CutError(f"no node is named {name!r}")
        return [self._producer_of[n.name] for n in self._model.graph.nodes if n.name in wanted]

    def _nodes_outside(self, head: Collection[str]) -> list[str]:
        return [node.name for node in self._model.graph.nodes if node.name not in head]

    def _made(self, nodes: Iterable[str]) -> set[str]:
        return {out for name in nodes for out in self._model.graph.node_of[name].outputs}

    def _is_activation(self, name: str) -> bool:
        return name in self._rank_of and name not in self._model.folded

    def _is_shaped(self, name: str) -> bool:
        tensor = self._model.graph.tensors.get(name)
        return tensor is not None and tensor.shape is not None and _elem_type(tensor.dtype) != 0

    def _rank(self, name: str) -> int:
        return self._rank_of.get(name, len(self._rank_of))

    def _shell(self) -> ModelProto:
        source = self._model.proto
        proto = ModelProto(
            ir_version=max(source.ir_version, MIN_IR_VERSION),
            opset_import=source.opset_import,
            producer_name=source.producer_name,
            producer_version=source.producer_version,
            domain=source.domain,
            model_version=source.model_version,
            doc_string=source.doc_string,
            metadata_props=source.metadata_props,
        )
        proto.graph.name = source.graph.name or "graph"
        proto.graph.doc_string = source.graph.doc_string
        return proto

    def _add_constants(self, graph: GraphProto, names: Iterable[str]) -> None:
        """Add weights, folded shape values and the nodes that make constants, each before its reader."""
        added: set[str] = set()
        pending = [(name, False) for name in reversed(list(names))]
        while pending:
            name, is_ready = pending.pop()
            if is_ready:
                graph.node.append(self._producer_of[name])
                continue
            if name in added:
                continue
            added.add(name)
            if name in self._initializers:
                graph.initializer.append(self._initializers[name])
            elif name in self._sparse:
                graph.sparse_initializer.append(self._sparse[name])
            elif name in self._model.folded:
                value = self._model.folded[name]
                graph.initializer.append(onnx.numpy_helper.from_array(value, name))
            elif name in self._producer_of:
                node = self._producer_of[name]
                added.update(node.output)
                pending.append((name, True))
                pending.extend((read, False) for read in reads_of(node))
            else:
                raise CutError(f"{name!r} is read by the part, but nothing in the model makes it")

    def _declare(self, name: str) -> onnx.ValueInfoProto:
        tensor = self._model.graph.tensors.get(name)
        elem_type = _elem_type(tensor.dtype) if tensor is not None else 0
        if tensor is not None and elem_type and tensor.shape is not None:
            return onnx.helper.make_tensor_value_info(name, elem_type, tensor.shape)
        if name in self._declared:
            return self._declared[name]
        if elem_type:
            return onnx.helper.make_tensor_value_info(name, elem_type, None)
        kind = "of unknown type" if tensor is None else f"a {tensor.dtype}"
        raise CutError(f"{name!r} is {kind}, which cannot cross; cut before or after it")

    def _functions_of(self, nodes: Iterable[NodeProto]) -> list[onnx.FunctionProto]:
        used: dict[tuple[str, str], onnx.FunctionProto] = {}
        pending = list(nodes)
        while pending:
            node = pending.pop()
            key = (node.domain, node.op_type)
            if key in self._functions and key not in used:
                used[key] = self._functions[key]
                pending.extend(self._functions[key].node)
            pending.extend(inner for body in bodies(node) for inner in body.node)
        return [function for key, function in self._functions.items() if key in used]


def _elem_type(dtype: str) -> int:
    """The ONNX element type of a numpy name; 0 for what is not a plain tensor."""
    return _ELEM_TYPES.get(dtype, TensorProto.UNDEFINED)
