"""Measure a model on this machine as it will be served: whole, kernel by kernel, and part by part."""

from __future__ import annotations

import datetime
import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import psutil

from splitter import runtime
from splitter.graph.contract import contract
from splitter.graph.fusion import FusionGroup, fusion_groups
from splitter.graph.model import Model
from splitter.graph.values import Graph
from splitter.partition.check import accepted_feeds
from splitter.partition.extract import Extractor
from splitter.profiling.anchors import measure_anchors
from splitter.profiling.kernels import trace_kernels
from splitter.profiling.parts import Bench
from splitter.profiling.payloads import sample_codecs
from splitter.profiling.profile import Kernel, Profile
from splitter.profiling.rates import measure_rates
from splitter.profiling.resident import measure_memory
from splitter.profiling.timing import Rounds, Samples, interleaved
from splitter.runtime import Array, Runner, Settings


@dataclass(frozen=True)
class Effort:
    """How much time to spend; more anchors make a truer profile."""

    anchors_s: float = 90.0
    """Seconds for heads and tails really measured."""
    codecs_s: float = 10.0
    """Seconds for encoding and decoding what may cross."""
    rounds: Rounds = field(default_factory=lambda: Rounds(least=5, most=60, budget_s=0.6, warmup=1))
    trace_runs: int = 15
    memory_s: float = 0.0
    """Seconds for the resident memory of the whole model, of heads and of tails; 0 measures none."""


Progress = Callable[[str, int, int], None]
"""Told the stage, what is done of it, and how much there is."""


def measure(
    model: Model,
    settings: Settings = Settings(),  # noqa: B008  (frozen)
    feeds: Mapping[str, Array] | None = None,
    effort: Effort = Effort(),  # noqa: B008  (frozen)
    progress: Progress = lambda stage, done, total: None,
) -> Profile:
    """Profile a model on this machine.

    Parameters
    ----------
    feeds
        What to run it on; random values where absent. Seconds hardly depend on it, compressed bytes do.

    Raises
    ------
    ProfileError
        The provider is not in this installation.
    ModelError
        The runtime cannot load the model.
    """
    graph = model.graph
    extractor = Extractor(model)
    whole_model = extractor.whole().to_bytes()
    whole = Runner(whole_model, settings, weights_dir=model.weights_dir)
    values = dict(feeds) if feeds is not None else accepted_feeds(whole, graph)[0]
    progress("whole model", 0, 1)
    (whole_times,) = interleaved(
        [lambda: whole.run(values)],
        Rounds(least=15, most=200, budget_s=max(1.0, effort.rounds.budget_s), warmup=5),
    )
    progress("whole model", 1, 1)
    progress("kernels", 0, 1)
    with tempfile.TemporaryDirectory(prefix="splitter-") as folder:
        traced, samples = trace_kernels(
            whole_model, model.weights_dir, settings, values, Path(folder), effort.trace_runs
        )
    progress("kernels", 1, 1)
    kernels = _kernels(graph, fusion_groups(graph, traced), samples)
    profile = Profile(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        tier=platform.node() or "this machine",
        origin="measured",
        model_file=model.path.name,
        model_sha256=graph.sha256,
        dims=dict(graph.dims),
        shapes=dict(model.shapes),
        settings=settings,
        fingerprint=fingerprint(settings),
        warmup=effort.rounds.warmup,
        runs=len(whole_times.seconds),
        whole_s=whole_times.median_s,
        whole_spread_s=whole_times.spread_s,
        nodes=tuple(node.name for node in graph.nodes),
        kernels=kernels,
        anchors=(),
        sample="given" if feeds is not None else "random",
        rates=measure_rates(settings),
        memory_bytes=psutil.virtual_memory().total,
    )
    bench = Bench(model, extractor, settings, values, whole, effort.rounds)
    measured = measure_anchors(
        bench,
        profile,
        effort.anchors_s,
        lambda done, total: progress("heads and tails", done, total),
    )
    codecs = sample_codecs(
        bench,
        [kernel.nodes for kernel in kernels],
        effort.codecs_s,
        lambda done, total: progress("codecs", done, total),
    )
    memory = measure_memory(
        bench, profile, effort.memory_s, lambda done, total: progress("memory", done, total)
    )
    # The whole model was run all along: its median over minutes is worth more than over a second.
    every = Samples(whole_times.seconds + measured.whole_s)
    return msgspec.structs.replace(
        profile,
        runs=len(every.seconds),
        whole_s=every.median_s,
        whole_spread_s=every.spread_s,
        anchors=measured.anchors(every.median_s),
        codecs=codecs,
        parts_memory=memory,
    )


MACHINE = ("processor", "cores", "system")
"""The keys of a fingerprint by which two machines are the same."""


def fingerprint(settings: Settings) -> dict[str, str | int | float]:
    """What must be the same for a profile to hold: the machine, the runtime, and how it is used."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "onnxruntime": runtime.version(),
        "provider": settings.provider,
        "threads": settings.threads,
        "optimisation": settings.optimisation.value,
    }


def staleness(profile: Profile, onnxruntime: str) -> tuple[str, ...]:
    """What has changed since a profile was measured, a sentence each; empty while it holds.

    Only a profile of this host is compared with this machine; any is with the runtime's version.
    """
    found = []
    measured_with = profile.fingerprint.get("onnxruntime")
    if measured_with != onnxruntime:
        found.append(
            f"the profile is stale: measured with onnxruntime {measured_with}, this is {onnxruntime}; "
            "profile again"
        )
    if profile.origin == "measured" and profile.tier == platform.node():
        now = fingerprint(profile.settings)
        for key in MACHINE:
            if profile.fingerprint.get(key) != now[key]:
                found.append(
                    f"the profile is stale: {key} was {profile.fingerprint.get(key)}, "
                    f"is {now[key]}; profile again"
                )
    return tuple(found)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _kernels(
    graph: Graph, groups: Sequence[FusionGroup], samples: Sequence[Samples]
) -> tuple[Kernel, ...]:
    """One kernel for each group, merged where a group could not be cut around without a cycle."""
    group_of = {name: group for group in groups for name in group.nodes}
    found = []
    for node in contract(graph, [group.nodes for group in groups]).nodes:
        indices = sorted({i for name in node.members for i in group_of[name].kernels})
        times = [samples[i] for i in indices] if samples else []
        found.append(
            Kernel(
                name=node.name,
                op_type=node.op_type,
                nodes=node.members,
                seconds=sum(time.median_s for time in times),
                spread_s=sum(time.spread_s for time in times),
                flops=node.flops,
                moved_bytes=_moved_bytes(graph, node.inputs + node.outputs, node.weights),
            )
        )
    return tuple(found)


def _moved_bytes(graph: Graph, activations: Sequence[str], weights: Sequence[str]) -> int:
    tensors = [graph.tensors[name] for name in activations]
    tensors += [graph.weights[name] for name in weights if name in graph.weights]
    return sum(tensor.nbytes or 0 for tensor in tensors)
