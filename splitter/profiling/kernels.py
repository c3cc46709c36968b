"""Seconds of each kernel of the optimised model, from the runtime's own profiler."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from splitter.errors import ProfileError
from splitter.graph.fusion import OptimisedKernel, read_optimised
from splitter.profiling.timing import Samples
from splitter.runtime import Array, Runner, Settings

MAX_TRACE_BYTES = 1 << 30
_EVENT_SUFFIX = "_kernel_time"


def trace_kernels(
    model: bytes, weights_dir: Path, settings: Settings, feeds: Mapping[str, Array], folder: Path, runs: int
) -> tuple[tuple[OptimisedKernel, ...], tuple[Samples, ...]]:  # fmt: skip
    """Run under the profiler; return the kernels in execution order and the samples of each.

    Both are empty where the provider compiles the model, for then there is nothing to name: the
    profile falls back on operations and anchors.
    """
    optimised = folder / "optimised.onnx"
    runner = Runner(
        model, settings, weights_dir=weights_dir, optimised_path=optimised,
        profile_prefix=str(folder / "trace"),
    )  # fmt: skip
    for _ in range(runs + 1):
        runner.run(feeds)
    trace = runner.end_profiling()
    if not optimised.is_file():
        return (), ()
    kernels = read_optimised(optimised)
    return kernels, kernel_samples(kernels, trace)


def kernel_samples(kernels: Sequence[OptimisedKernel], trace: Path) -> tuple[Samples, ...]:
    """Match the events of a trace to the kernels, run by run.

    The saved model lists its kernels in the order in which they run; events of nested graphs lie
    between and belong to the node that holds the graph, whose own event counts them. The first run is
    left out.
    """
    if trace.stat().st_size > MAX_TRACE_BYTES:
        raise ProfileError(
            f"the runtime's trace is larger than {MAX_TRACE_BYTES} bytes; use fewer runs"
        )
    events = [
        (event["name"], event["args"]["op_name"], event["dur"] / 1e6)
        for event in json.loads(trace.read_text())
        if event.get("cat") == "Node" and event["name"].endswith(_EVENT_SUFFIX)
    ]
    seconds: list[list[float]] = [[] for _ in kernels]
    expected = 0
    for name, op_type, duration in events:
        kernel = kernels[expected]
        named = name.removesuffix(_EVENT_SUFFIX)
        # A kernel without a name is reported as its operator and index.
        if op_type == kernel.op_type and named in (
            kernel.name,
            f"{op_type}_{named.rpartition('_')[2]}",
        ):
            seconds[expected].append(duration)
            expected = (expected + 1) % len(kernels)
    if expected or not seconds or not seconds[0]:
        return ()
    return tuple(Samples(tuple(series[1:] or series)) for series in seconds)
