"""Names for the nodes of a model, by which a trace of the runtime can be read."""

from __future__ import annotations

import os

import onnx

_PREFIX = "splitter/"


def labelled(path: str | os.PathLike[str]) -> bytes:
    """The model of a file, its top-level nodes named by their place; external weights stay references."""
    proto = onnx.load(os.fspath(path), load_external_data=False)
    for index, node in enumerate(proto.graph.node):
        node.name = f"{_PREFIX}{index}"
    return bytes(proto.SerializeToString())


def label_index(name: str) -> int | None:
    """The place that a name stands for; None for a node of a nested graph or the runtime's own."""
    number = name.removeprefix(_PREFIX)
    return int(number) if number != name and number.isdecimal() else None
