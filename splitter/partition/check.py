"""Whether head then tail gives what the whole model gives: feeds, the run, and the difference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from splitter.errors import BundleError, InputError
from splitter.graph.values import ITEM_BYTES, Graph, Tensor
from splitter.runtime import Array, Optimisation, Runner, Settings

Values = Mapping[str, Array]

HALF_EXACT = 4e-3
"""Float16 with optimisation off: the runtime keeps float32 between its casts, and a cut rounds."""
TOLERANCES = {"float32": 1e-5, "float16": 5e-3, "quantised": 2e-2}
"""Largest relative difference with optimisation on, where fusions differ on each side of a cut."""
_NEAR_ZERO = 0.02
"""Outputs below this are compared absolutely: a sigmoid near 0 is computed as a difference of halves."""

_INTEGER_HIGHS = (10, 2, 1)
_BYTE_HIGHS = {"uint8": 256, "int8": 128}


@dataclass(frozen=True)
class Difference:
    """How far the outputs of a split model lie from those of the whole."""

    output: str
    """The output that differs most; the other figures but the last are of this one."""
    is_equal: bool
    """Bit for bit; NaN is equal to NaN of the same bits."""
    is_same_type: bool
    """Same dtype and shape."""
    max_abs: float
    max_relative: float
    """max|a - b| / max|a|; infinite where NaN or infinity stand in different places."""
    same_answer: bool
    """The largest element is at the same place, in every output."""

    def is_within(self, limit: float) -> bool:
        """Whether it is no more than the limit allows; 0 means bit for bit."""
        if self.is_equal or limit == 0 or not self.is_same_type:
            return self.is_equal
        return self.max_relative <= limit or self.max_abs <= limit * _NEAR_ZERO

    def __str__(self) -> str:
        if not self.is_same_type:
            return f"output {self.output!r} has another dtype or shape"
        return f"output {self.output!r} differs by {self.max_relative:.2g} relative"


def compare_each(whole: Values, split: Values) -> tuple[Difference, ...]:
    """Compare each output of the whole model with that of head and tail."""
    return tuple(_difference(name, whole[name], split[name]) for name in whole)


def compare(whole: Values, split: Values) -> Difference:
    """The output that differs most, relative to its size; at least one output."""
    each = compare_each(whole, split)
    worst = max(each, key=lambda d: (not d.is_same_type, d.max_relative, not d.is_equal))
    return replace(worst, same_answer=all(d.same_answer for d in each))


def chain(head: Runner | None, tail: Runner | None, feeds: Values) -> dict[str, Array]:
    """Run head then tail; returns the feeds and all that either made, by name.

    Raises
    ------
    InputError
        A model input is missing from the feeds, or the runtime refuses one.
    """
    values = dict(feeds)
    for runner in (head, tail):
        if runner is not None:
            values.update(run_one(runner, values))
    return values


def run_one(runner: Runner, values: Values) -> dict[str, Array]:
    """Run a model on those of the values that it reads; returns its outputs by name."""
    missing = [port.name for port in runner.inputs if port.name not in values]
    if missing:
        raise InputError(f"no value was given for input {missing[0]!r}")
    made = runner.run({port.name: values[port.name] for port in runner.inputs})
    return {port.name: value for port, value in zip(runner.outputs, made, strict=True)}


def random_feeds(graph: Graph, seed: int = 0, *, integer_high: int = 10) -> dict[str, Array]:
    """Draw inputs: floats from a standard normal, bytes over their range, integers below a limit.

    Integers are small since most are token ids or indices, which must be valid.

    Raises
    ------
    InputError
        An input is not numeric, or has no shape.
    """
    rng = np.random.default_rng(seed)
    return {name: _draw(graph.tensors[name], rng, integer_high) for name in graph.inputs}


def accepted_feeds(runner: Runner, graph: Graph, seed: int = 0) -> tuple[dict[str, Array], Values]:
    """Draw inputs that the model runs on, integers smaller at each try; returns its outputs too."""
    for high in _INTEGER_HIGHS:
        feeds = random_feeds(graph, seed, integer_high=high)
        try:
            return feeds, run_one(runner, feeds)
        except InputError as exc:
            refusal = exc
    raise InputError(f"the model does not run on random inputs, give some: {refusal}")


def tolerance(graph: Graph, settings: Settings) -> float:
    """The largest relative difference that a right split can have; 0 means bit for bit."""
    dtypes = {tensor.dtype for tensor in (*graph.tensors.values(), *graph.weights.values())}
    is_half = bool(dtypes & {"float16", "bfloat16"})
    if settings.optimisation is Optimisation.NONE:
        return HALF_EXACT if is_half else 0.0
    if any(_is_quantised(node.op_type) for node in graph.nodes):
        return TOLERANCES["quantised"]
    return TOLERANCES["float16" if is_half else "float32"]


def served_limit(graph: Graph, settings: Settings, own: Difference) -> float:
    """The tolerance with optimisation on, given what optimisation itself changes in the whole model.

    Whole and split each lie about that far from the unoptimised result, so they may lie twice as far
    from each other: 0.34 relative in an int8 MobileNetV2 on a processor whose fast 8-bit products
    saturate, where a cut that breaks a fusion is the more exact for it.
    """
    own_relative = own.max_relative if np.isfinite(own.max_relative) else 0.0
    return max(tolerance(graph, settings), 2 * own_relative)


def demand_equal(difference: Difference, limit: float, settings: Settings) -> None:
    """Refuse a split whose outputs differ by more than the limit (0: at all).

    Raises
    ------
    BundleError
        With the output that differs most, and by how much.
    """
    if not difference.is_within(limit):
        allowed = f"at most {limit:g} is" if limit else "no difference is"
        raise BundleError(
            f"head and tail do not give what the whole model gives: {difference}, where {allowed} "
            f"allowed (optimisation {settings.optimisation.value}); cut elsewhere"
        )


def _draw(tensor: Tensor, rng: np.random.Generator, integer_high: int) -> Array:
    if tensor.shape is None:
        raise InputError(f"input {tensor.name!r} has no shape to draw a random value of")
    dtype = tensor.dtype
    drawn: Array
    if dtype in ("float16", "float32", "float64"):
        drawn = rng.standard_normal(tensor.shape)
    elif dtype == "bool":
        drawn = rng.integers(0, 2, tensor.shape)
    elif dtype in _BYTE_HIGHS and integer_high > 1:
        drawn = rng.integers(0, _BYTE_HIGHS[dtype], tensor.shape)
    elif dtype in ITEM_BYTES and "int" in dtype:
        drawn = rng.integers(0, integer_high, tensor.shape)
    else:
        raise InputError(
            f"input {tensor.name!r} is {dtype}: no random value can be drawn, give one"
        )
    return np.asarray(drawn).astype(dtype)


def _difference(name: str, whole: Any, split: Any) -> Difference:
    """Of one output; a sequence or map is compared leaf by leaf as one array."""
    left, right = list(_leaves(whole)), list(_leaves(split))
    is_same_type = len(left) == len(right) and all(
        a.dtype == b.dtype and a.shape == b.shape for a, b in zip(left, right, strict=True)
    )
    if not is_same_type:
        return Difference(name, False, False, np.inf, np.inf, False)
    pairs = list(zip(left, right, strict=True))
    is_equal = all(_has_same_bits(a, b) for a, b in pairs)
    gap = max((_gap(a, b) for a, b in pairs), default=0.0)
    size = max((_magnitude(a) for a in left), default=0.0)
    relative = 0.0 if gap == 0 else gap / size if size > 0 else np.inf
    same_answer = all(_answer(a) == _answer(b) for a, b in pairs)
    return Difference(name, is_equal, True, gap, float(relative), same_answer)


def _leaves(value: Any) -> Iterator[Array]:
    if isinstance(value, Mapping):
        value = [item for pair in value.items() for item in pair]
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for item in value:
            yield from _leaves(item)
    else:
        yield np.asarray(value)


def _has_same_bits(a: Array, b: Array) -> bool:
    if a.dtype.hasobject or a.dtype.kind in "US":
        return bool(np.array_equal(a, b))
    return a.tobytes() == b.tobytes()


def _gap(a: Array, b: Array) -> float:
    """max|a - b|, infinite where only one is NaN or the infinities differ."""
    if a.dtype.hasobject or a.dtype.kind in "US":
        return 0.0 if np.array_equal(a, b) else np.inf
    x, y = a.astype(np.float64), b.astype(np.float64)
    differs = ~((x == y) | (np.isnan(x) & np.isnan(y)))
    gaps = np.abs(x[differs] - y[differs])
    return float(np.max(np.nan_to_num(gaps, nan=np.inf, posinf=np.inf), initial=0.0))


def _magnitude(a: Array) -> float:
    if a.dtype.hasobject or a.dtype.kind in "US":
        return 1.0
    finite = a.astype(np.float64)
    return float(np.max(np.abs(finite[np.isfinite(finite)]), initial=0.0))


def _answer(a: Array) -> int:
    if a.size == 0 or a.dtype.hasobject or a.dtype.kind in "US":
        return 0
    return int(np.argmax(a))


def _is_quantised(op_type: str) -> bool:
    return "Quantize" in op_type or op_type.startswith("QLinear") or op_type.endswith("Integer")
