"""Reading a model: from a file to a graph whose dimensions are bound and whose constants are set apart."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from splitter.errors import ModelError
from splitter.graph.dims import bind
from splitter.graph.flops import flops_by_node
from splitter.graph.fold import Array
from splitter.graph.infer import Facts, infer
from splitter.graph.model import Model
from splitter.graph.operators import check_operators, check_text, is_random, random_functions
from splitter.graph.scope import Site, initializer_names, sites_in_order
from splitter.graph.values import Graph, Node, Tensor

_MAX_PROTOBUF_BYTES = 2**31 - 1


def load_model(
    path: str | os.PathLike[str],
    dims: Mapping[str, int] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Model:
    """Read a model without its external weights and bind its dynamic dimensions.

    ``dims`` binds dimensions by the name that the file gives them, ``shapes`` whole inputs.

    Raises
    ------
    DimensionError
        A dynamic dimension is open, unknown, or bound to something it cannot be.
    ModelError
        The file is missing, not an ONNX model, or holds what cannot be handled.
    """
    path = Path(path)
    data = _bytes_of(path)
    sha256 = hashlib.sha256(data).hexdigest()
    proto = _parsed(path, data)
    del data
    try:
        check_text(proto)
        check_operators(proto)
        return _bound(path, proto, sha256, dims, shapes)
    except ModelError as exc:
        message = " ".join(str(exc).split())  # a hostile file may put line breaks into names
        raise type(exc)(f"{path}: {message}") from exc
    except UnicodeDecodeError as exc:
        raise ModelError(f"{path}: damaged, a name in it is not UTF-8") from exc


def rebound(model: Model, shapes: Mapping[str, Sequence[int]]) -> Model:
    """Bind the whole shapes of a model's inputs otherwise than it was; the file is not read again.

    Raises
    ------
    ModelError
        The file has other dimensions there, or the model cannot have these.
    """
    return _bound(model.path, model.proto, model.graph.sha256, None, shapes)


def _bound(
    path: Path,
    proto: onnx.ModelProto,
    sha256: str,
    dims: Mapping[str, int] | None,
    shapes: Mapping[str, Sequence[int]] | None,
) -> Model:
    sites = sites_in_order(proto.graph)
    binding = bind(proto.graph, dims, shapes)
    graph, folded = _assembled(proto, sites, infer(proto, sites, binding))
    graph = replace(graph, sha256=sha256, dims=binding.dims)
    given = {name: tuple(shape) for name, shape in (shapes or {}).items()}
    return Model(path, proto, graph, folded, given)


def _bytes_of(path: Path) -> bytes:
    try:
        if not path.is_file():
            found = "a folder" if path.is_dir() else "no such file"
            raise ModelError(f"{path}: cannot be read ({found}); give the path of an .onnx file")
        if path.stat().st_size > _MAX_PROTOBUF_BYTES:
            raise ModelError(
                f"{path}: over 2 GiB, more than a protobuf holds; keep weights external"
            )
        return path.read_bytes()
    except OSError as exc:
        raise ModelError(f"{path}: cannot be read ({exc.strerror})") from exc


def _parsed(path: Path, data: bytes) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as exc:
        raise ModelError(f"{path}: not an ONNX model, or truncated ({len(data)} bytes)") from exc
    if not proto.HasField("graph") or not proto.graph.output:
        raise ModelError(f"{path}: not an ONNX model, or truncated (it has no graph with outputs)")
    return proto


def _assembled(
    proto: onnx.ModelProto, sites: Sequence[Site], facts: Facts
) -> tuple[Graph, dict[str, Array]]:
    """Set constants and folded values apart from the nodes that depend on the input.

    A node that makes a model output stays a node, whatever it depends on: somebody must make the output.
    """
    outputs = tuple(dict.fromkeys(value.name for value in proto.graph.output))
    constant = initializer_names(proto.graph)
    inputs = tuple(value.name for value in proto.graph.input if value.name not in constant)
    folded: dict[str, Array] = {}
    nodes: list[Node] = []
    flops = flops_by_node(facts)
    random = random_functions(proto)
    for site in sites:
        fed = tuple(name for name in site.reads if name not in constant and name not in folded)
        from_dims = bool(fed) or not folded.keys().isdisjoint(site.reads)
        if not set(outputs).isdisjoint(site.makes):
            nodes.append(_node(site, fed, flops))
        elif site.name in facts.values and from_dims:
            folded[site.name] = facts.values[site.name]
        elif not fed and not is_random(site.proto, random):
            constant.update(site.makes)
        else:
            nodes.append(_node(site, fed, flops))
    made = [name for node in nodes for name in node.outputs]
    tensors = {name: facts.tensors[name] for name in (*inputs, *made)}
    weights = {name: facts.tensors[name] for name in sorted(constant) if name in facts.tensors}
    weights |= {name: _folded_tensor(name, value) for name, value in folded.items()}
    return Graph(tuple(nodes), tensors, inputs, outputs, "", {}, weights), folded


def _node(site: Site, fed: tuple[str, ...], flops: Mapping[str, int]) -> Node:
    return Node(
        name=site.name,
        op_type=site.proto.op_type,
        inputs=fed,
        outputs=site.makes,
        label=site.proto.name,
        domain=site.proto.domain,
        weights=tuple(name for name in site.reads if name not in fed),
        flops=flops.get(site.name, 0),
    )


def _folded_tensor(name: str, value: Array) -> Tensor:
    return Tensor(name, value.dtype.name, value.shape)
