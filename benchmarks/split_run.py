"""What a session adds to its stages, and how soon a device without network gives its first answer.

``overhead``: ``run`` minus (head + encode + link + decode + tail), each measured alone in the same layout of
processes, in turns. ``start``: seconds from opening a bundle to the first answer, where nothing listens,
over loading the whole model alone; each in a process of its own.
``python benchmarks/split_run.py [--smoke]``
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from _serving import Alone, bundle_at, network, photo, report, serving

from splitter.codec import CODECS
from splitter.partition.bundle import Bundle
from splitter.serving.device.report import AnsweredBy
from splitter.serving.device.session import Session

CUTS = {"early": 0.2, "middle": 0.5, "late": 0.8}

STARTS = {
    "load": """
import sys, time
from splitter.runtime import Runner, Settings
import splitter.serving.device.session
started = time.perf_counter()
Runner(sys.argv[1], Settings())
print(time.perf_counter() - started)
""",
    "first answer": """
import sys, time
import numpy as np
from splitter.serving.device.session import Session
started = time.perf_counter()
with Session(sys.argv[1], "127.0.0.1:9") as session:
    feeds = {port.name: np.zeros(port.shape, port.dtype) for port in session.get_inputs()}
    session.run(None, feeds)
    print(time.perf_counter() - started)
""",
}
"""Programs that print seconds; importing is not counted in either."""


def overhead(name: str, bundle: Bundle, feeds: dict[str, np.ndarray], rounds: int) -> None:
    with ExitStack() as stack:
        address = stack.enter_context(serving(bundle))
        session = stack.enter_context(Session(bundle.folder, address))
        alone = Alone(stack, bundle, feeds)
        seconds: dict[str, list[float]] = {}
        for turn in range(rounds + 3):
            started = time.perf_counter()
            result = session.infer(feeds)
            found = {"run": time.perf_counter() - started}
            assert result.timing.answered_by is AnsweredBy.SERVER
            found |= {"head": alone.head(), "encode": alone.encode(), "link": alone.link()}
            found["decode"], found["tail"] = alone.decode_and_tail()
            if turn >= 3:
                for term, value in found.items():
                    seconds.setdefault(term, []).append(value)
    # of each turn, whose terms met the same disturbances: medians of skewed terms do not add up
    runs = np.array(seconds.pop("run"))
    parts = np.sum(list(seconds.values()), axis=0)
    run_s, parts_s = float(np.median(runs)), float(np.median(parts))
    added_s = float(np.median(runs - parts))
    terms = {term: float(np.median(values)) for term, values in seconds.items()}
    report(
        "split run", name,
        run_ms=round(run_s * 1e3, 3), parts_ms=round(parts_s * 1e3, 3),
        added_ms=round(added_s * 1e3, 3), added=round(added_s / parts_s, 4),
        added_quartile_ms=round(float(np.percentile(runs, 25) - np.percentile(parts, 25)) * 1e3, 3),
        up_bytes=result.timing.up_bytes,
        **{f"{term}_ms": round(value * 1e3, 3) for term, value in terms.items()},
    )  # fmt: skip


def start(bundle: Bundle, rounds: int) -> None:
    whole = bundle.manifest.on_device
    assert whole is not None
    given = {"load": bundle.path(whole.head), "first answer": bundle.folder}
    seconds: dict[str, list[float]] = {name: [] for name in STARTS}
    for _ in range(rounds):
        for name, program in STARTS.items():
            command = [sys.executable, "-c", program, str(given[name])]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds[name].append(float(done.stdout))
    load_s, answer_s = (float(np.median(values)) for values in seconds.values())
    report(
        "fallback start", bundle.manifest.name,
        load_ms=round(load_s * 1e3, 1), first_answer_ms=round(answer_s * 1e3, 1),
        over_load_ms=round((answer_s - load_s) * 1e3, 1),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few rounds; timings mean nothing")
    smoke = parser.parse_args().smoke
    with tempfile.TemporaryDirectory() as folder:
        model = network(Path(folder))
        feeds = photo(model)
        for name, share in list(CUTS.items())[: 1 if smoke else None]:
            for codec in ("raw", "zstd"):
                bundle = bundle_at(
                    model, share, Path(folder, "bundle"), codec=CODECS[codec], fallback=True
                )
                subject = f"{bundle.manifest.name}, {name} cut, {codec}"
                overhead(subject, bundle, feeds, 3 if smoke else 200)
        start(bundle, 1 if smoke else 15)


if __name__ == "__main__":
    main()
