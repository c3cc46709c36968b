"""A cut before its parts are written: what travels in which form, and which of it the parts quantise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import msgspec

from splitter.codec import CODECS, Codec
from splitter.codec.affine import Affine
from splitter.errors import CutError
from splitter.graph.cut import Cut, cut_of
from splitter.graph.values import Graph
from splitter.partition.manifest import CrossingSpec, cut_id
from splitter.partition.quantised import inside_graph, rest_of

DEFAULT_CODEC = CODECS["zstd"]


@dataclass(frozen=True)
class Draft:
    """What the manifest will say of a cut."""

    cut: Cut
    nodes: tuple[str, ...]
    """Of the head, in the order of the model."""
    crossing: tuple[CrossingSpec, ...]
    quantisers: Mapping[str, Affine]
    """By crossing tensor, of those that the parts themselves quantise."""

    @property
    def id(self) -> str:
        """What a message calls the cut."""
        return cut_id(self.nodes, self.crossing)


def draft_of(graph: Graph, cut: Cut, codecs: Mapping[str, Codec], quantises: bool) -> Draft:
    """Check that a cut can be carried out, and its crossing tensors sent in these codecs.

    Raises
    ------
    CutError
        A tensor cannot travel, or a codec is given for one that does not cross.
    CodecError
        A codec is not one for its tensor.
    """
    cut = cut_of(graph, cut.head, cut.kept, cut.states)
    crossing = _crossing(graph, cut.crossing, codecs)
    makers = (graph.producer_of.get(name) for name in graph.outputs)
    if not cut.kept and all(maker is None or maker.name in cut.head for maker in makers):
        crossing = ()  # there is no tail
    quantisers = inside_graph(graph, crossing) if quantises else {}
    crossing = tuple(_quantised(s) if s.tensor in quantisers else s for s in crossing)
    nodes = tuple(node.name for node in graph.nodes if node.name in cut.head)
    return Draft(cut, nodes, crossing, quantisers)


def _crossing(
    graph: Graph, names: tuple[str, ...], codecs: Mapping[str, Codec]
) -> tuple[CrossingSpec, ...]:
    for name in codecs:
        if name not in names:
            raise CutError(f"a codec is given for {name!r}, which does not cross")
    specs = []
    for name in names:
        tensor = graph.tensors[name]
        if tensor.shape is None or tensor.nbytes is None:
            kind = f"a {tensor.dtype}" + ("" if tensor.shape else " of unknown shape")
            raise CutError(f"{name!r} is {kind} and cannot cross; cut before or after it")
        codec = codecs.get(name, DEFAULT_CODEC)
        codec.forms(tensor.dtype, tensor.shape)
        spec = CrossingSpec(
            tensor=name, dtype=tensor.dtype, shape=tensor.shape, nbytes=tensor.nbytes, codec=codec
        )
        specs.append(spec)
    return tuple(specs)


def _quantised(spec: CrossingSpec) -> CrossingSpec:
    """The levels of a tensor that the head itself quantises."""
    return msgspec.structs.replace(
        spec, dtype="uint8", nbytes=prod(spec.shape), codec=rest_of(spec.codec)
    )
