"""A model as nodes and tensors, without weights: read, cut, contracted to kernels, counted."""

from splitter.graph.contract import contract, expand
from splitter.graph.cut import Cut, cut_at, cut_of, needed_for
from splitter.graph.frontier import Place, frontier, narrowest
from splitter.graph.model import Model
from splitter.graph.read import load_model
from splitter.graph.values import ITEM_BYTES, Graph, Node, Tensor

__all__ = [
    "ITEM_BYTES",
    "Cut",
    "Graph",
    "Model",
    "Node",
    "Place",
    "Tensor",
    "contract",
    "cut_at",
    "cut_of",
    "expand",
    "frontier",
    "load_model",
    "narrowest",
    "needed_for",
]
