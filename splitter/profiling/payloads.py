"""What each codec does to each tensor that may cross: bytes, and seconds at either end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from splitter.codec import CODECS
from splitter.graph.cut import needed_for
from splitter.graph.values import Graph
from splitter.profiling.parts import Bench
from splitter.profiling.profile import CodecSample
from splitter.profiling.timing import Rounds, interleaved
from splitter.runtime import Array

_AT_ONCE = 32
_ROUNDS = Rounds(least=3, most=15, budget_s=0.03, warmup=1)


def sample_codecs(
    bench: Bench,
    kernels: Sequence[Sequence[str]],
    budget_s: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[CodecSample, ...]:
    """Encode and decode every tensor that leaves a kernel, until the time is spent.

    Model inputs come first, then the smallest tensors: the likeliest to cross.
    """
    graph = bench.model.graph
    wanted = list(graph.inputs) + sorted(
        _leaving(graph, kernels), key=lambda name: graph.tensors[name].nbytes or 0
    )
    started = time.perf_counter()
    found: list[CodecSample] = []
    for done, (name, array) in enumerate(_values(bench, wanted)):
        if time.perf_counter() - started > budget_s:
            break
        found.extend(_samples(name, array))
        progress(done + 1, len(wanted))
    return tuple(found)


def _leaving(graph: Graph, kernels: Sequence[Sequence[str]]) -> Iterator[str]:
    """Tensors that may cross: read outside the kernel that makes them."""
    kernel_of = {name: index for index, nodes in enumerate(kernels) for name in nodes}
    for node in graph.nodes:
        for tensor in node.outputs:
            outside = any(
                kernel_of[reader.name] != kernel_of[node.name]
                for reader in graph.consumers_of[tensor]
            )
            if outside and graph.tensors[tensor].nbytes is not None:
                yield tensor


def _values(bench: Bench, wanted: Sequence[str]) -> Iterator[tuple[str, Array]]:
    """The tensors' values, a batch of them at a time to bound memory."""
    graph, feeds = bench.model.graph, bench.feeds
    inner = [name for name in wanted if name not in graph.inputs]
    yield from ((name, feeds[name]) for name in wanted if name in graph.inputs)
    for first in range(0, len(inner), _AT_ONCE):
        names = inner[first : first + _AT_ONCE]
        part = bench.extractor.part(needed_for(graph, names), names)
        runner = bench.runner(part)
        outputs = runner.run({name: feeds[name] for name in part.inputs}, names)
        yield from zip(names, outputs, strict=True)


def _samples(name: str, array: Array) -> Iterator[CodecSample]:
    for codec in CODECS.values():
        payload = codec.encode(array)
        encode, decode = interleaved(
            [
                partial(codec.encode, array),
                partial(codec.decode, payload, array.dtype.name, array.shape),
            ],
            _ROUNDS,
        )
        yield CodecSample(
            tensor=name,
            codec=codec.name,
            wire_bytes=len(payload),
            encode_s=encode.median_s,
            decode_s=decode.median_s,
        )
