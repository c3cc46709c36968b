"""A model that was read and bound: what every later stage starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from splitter.graph.values import Graph


@dataclass(frozen=True, eq=False)
class Model:
    """The graph, and the protobuf it was read from (not to be changed; ``partition`` copies it)."""

    path: Path
    proto: onnx.ModelProto
    """As in the file; external weights are not loaded, their references are kept."""
    graph: Graph
    folded: Mapping[str, np.ndarray]
    """Shape computations whose value is known once the dimensions are bound, by tensor name: small,
    and put into a part as initializers where it reads them."""
    shapes: Mapping[str, tuple[int, ...]]
    """The input shapes given by the caller."""

    @property
    def weights_dir(self) -> Path:
        """Where external weights lie."""
        return self.path.resolve().parent
