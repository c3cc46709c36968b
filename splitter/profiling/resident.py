"""Resident memory of parts, each run in a process of its own as it is served.

What a part takes while it runs is more than its weights and live activations: the runtime packs weights
anew, reorders activations into blocked layouts, needs scratch space, and its arena keeps what one run needed
for the next. None of that follows from the graph, so it is measured. From the resident memory of the process
is taken off what it had with the runtime loaded and a session of one small product run: the runtime's base.

Run as a program (``python -m splitter.profiling.resident``) this module is that process.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from splitter.allocator import give_back_memory
from splitter.document import Record
from splitter.graph.cut import Cut
from splitter.graph.frontier import Place, frontier
from splitter.partition.extract import Part
from splitter.partition.probe import matrix_product
from splitter.partition.weights import WeightsFile, externalise
from splitter.profiling.anchors import refinement
from splitter.profiling.parts import Bench
from splitter.profiling.profile import PartMemory, Profile
from splitter.runtime import Array, Runner, Settings

RUNS = 6
"""The first learns what later ones allocate at once."""
_PROBE = 8
_TIMEOUT_S = 300.0
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class Resident(Record, frozen=True, kw_only=True):
    """Bytes of a part over the runtime's base."""

    running_bytes: int
    """The most while it ran, once loaded."""
    loading_bytes: int
    """The most while it was loaded."""


def measure_memory(
    bench: Bench,
    profile: Profile,
    budget_s: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[PartMemory, ...]:
    """Measure the whole model, then heads and tails at places between kernels, most informative first.

    Nothing where the system does not tell a process its peak (Linux does), or where ``budget_s`` is 0.
    """
    if budget_s <= 0 or not _CLEAR.exists():
        return ()
    started = bench.clock()
    order = [node.name for node in bench.model.graph.nodes]
    found: dict[int, PartMemory] = {}
    open_places = frontier(bench.model.graph)
    places = list(_places(profile, open_places))
    for place in places:
        if len(found) > 1 and bench.clock() - started > budget_s:
            break
        cut = Cut(frozenset(order[:place]), open_places[place].crossing)
        known = dict(bench.feeds)
        head = _of_part(bench, bench.extractor.head(cut), known, bench.settings, makes=True)
        tail = _of_part(bench, bench.extractor.tail(cut), known, bench.tail_settings)
        found[place] = PartMemory(
            place=place,
            head_bytes=head.running_bytes if head else None,
            tail_bytes=tail.running_bytes if tail else None,
        )
        progress(len(found), len(places))
    return tuple(found[place] for place in sorted(found))


def _places(profile: Profile, open_places: Sequence[Place]) -> Iterator[int]:
    """Both ends, where a part is the whole model, then those between kernels."""
    last = len(profile.nodes)
    yield last
    yield 0
    divisions = profile.divisions()
    between = [
        place
        for place in range(1, last)
        if divisions[place] is None and open_places[place].nbytes is not None
    ]
    yield from refinement(between, [0.0, *accumulate(profile.shared_s())])


def _of_part(
    bench: Bench,
    part: Part,
    known: dict[str, Array],
    settings: Settings | None,
    *,
    makes: bool = False,
) -> Resident | None:
    """A part written as a bundle has it; what it ``makes`` for another is added to what is known."""
    if not part.outputs or not part.proto.graph.node:
        return None
    how = settings or bench.settings
    with tempfile.TemporaryDirectory(prefix="splitter-") as folder:
        path = Path(folder) / "part.onnx"
        source = bench.model.weights_dir or Path(folder)
        with WeightsFile(path.with_name("weights.data")) as weights:
            externalise(part.proto, Path(source), weights)
        path.write_bytes(part.to_bytes())
        feeds = {name: known[name] for name in part.inputs}
        if makes:
            known.update(zip(part.outputs, Runner(path, how).run(feeds), strict=True))
        return resident(path, feeds, how)


def resident(
    path: str | Path,
    feeds: Mapping[str, Array],
    settings: Settings = Settings(),  # noqa: B008
) -> Resident | None:
    """Of a model file, run on these feeds in a process of its own; None where it cannot be measured."""
    if any(value.dtype.kind not in "fiub" for value in feeds.values()):
        return None
    with tempfile.TemporaryDirectory(prefix="splitter-") as folder:
        values, answer = Path(folder) / "feeds.npz", Path(folder) / "answer.json"
        named: dict[str, Any] = {str(index): value for index, value in enumerate(feeds.values())}
        np.savez(values, **named)
        job = {
            "model": str(path), "feeds": str(values), "names": list(feeds), "answer": str(answer),
            "settings": msgspec.to_builtins(settings),
        }  # fmt: skip
        command = [sys.executable, "-m", "splitter.profiling.resident", json.dumps(job)]
        try:
            subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=True)
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
            return None
        return msgspec.json.decode(answer.read_bytes(), type=Resident)


def _measure(job: Mapping[str, object]) -> Resident:
    """In the process itself."""
    settings = msgspec.convert(job["settings"], Settings)
    with np.load(str(job["feeds"]), allow_pickle=False) as stored:
        names = msgspec.convert(job["names"], list[str])
        feeds = {name: stored[str(index)] for index, name in enumerate(names)}
    probe = Runner(matrix_product(_PROBE), settings)
    probe.run({"x": np.ones((_PROBE, _PROBE), np.float32)})
    gc.collect()
    give_back_memory()
    base = _status("VmRSS")
    _reset_peak()
    runner = Runner(str(job["model"]), settings)
    loading = _status("VmHWM")
    _reset_peak()
    for _ in range(RUNS):
        runner.run(feeds)
    return Resident(
        running_bytes=max(0, _status("VmHWM") - base), loading_bytes=max(0, loading - base)
    )


def _status(key: str) -> int:
    """Bytes that the system counts for this process under a name of its status."""
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    raise OSError(f"{_STATUS} has no {key}")


def _reset_peak() -> None:
    """From here on VmHWM is the peak since now."""
    _CLEAR.write_text("5")


def _main(job: dict[str, object]) -> None:
    Path(str(job["answer"])).write_bytes(msgspec.json.encode(_measure(job)))


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
