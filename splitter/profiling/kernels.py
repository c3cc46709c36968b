"""Seconds of each kernel of the optimised model, from the runtime's own profiler.

A trace names kernels by their nodes' names, which can be empty or repeated, and lists them in the
order of execution, which is not the saved model's where the model has several sources. So the
optimised model is saved, its nodes are given names of ours, and it is run as it stands.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import msgspec

from splitter.errors import ProfileError
from splitter.graph.fusion import OptimisedKernel, read_optimised
from splitter.partition.label import label_index, labelled
from splitter.profiling.timing import Samples
from splitter.runtime import Array, Optimisation, Runner, Settings

MAX_TRACE_BYTES = 1 << 30
_EVENT_SUFFIX = "_kernel_time"


def trace_kernels(
    model: bytes, weights_dir: Path, settings: Settings, feeds: Mapping[str, Array], folder: Path, runs: int
) -> tuple[tuple[OptimisedKernel, ...], tuple[Samples, ...]]:  # fmt: skip
    """Run under the profiler; return the kernels, sorted topologically, and the samples of each.

    Both are empty where the provider compiles the model, for then there is nothing to name: the
    profile falls back on operations and anchors.
    """
    optimised = folder / "optimised.onnx"
    Runner(model, settings, weights_dir=weights_dir, optimised_path=optimised)
    if not optimised.is_file():
        return (), ()
    kernels = read_optimised(optimised)
    as_it_stands = msgspec.structs.replace(settings, optimisation=Optimisation.NONE)
    runner = Runner(
        labelled(optimised), as_it_stands, weights_dir=weights_dir,
        profile_prefix=str(folder / "trace"),
    )  # fmt: skip
    for _ in range(runs + 1):
        runner.run(feeds)
    return kernels, kernel_samples(len(kernels), runner.end_profiling())


def kernel_samples(count: int, trace: Path) -> tuple[Samples, ...]:
    """The samples of each of ``count`` labelled kernels, the first run left out.

    Events of nested graphs have no label; the event of the node that holds the graph counts them.
    Empty where a kernel did not run as often as the others.
    """
    if trace.stat().st_size > MAX_TRACE_BYTES:
        raise ProfileError(
            f"the runtime's trace is larger than {MAX_TRACE_BYTES} bytes; use fewer runs"
        )
    seconds: list[list[float]] = [[] for _ in range(count)]
    for event in json.loads(trace.read_text()):
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(_EVENT_SUFFIX):
            index = label_index(name.removesuffix(_EVENT_SUFFIX))
            if index is not None:
                seconds[index].append(event["dur"] / 1e6)
    if len({len(series) for series in seconds}) != 1 or not seconds[0]:
        return ()
    return tuple(Samples(tuple(series[1:] or series)) for series in seconds)
