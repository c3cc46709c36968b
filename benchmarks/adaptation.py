"""Following a link: mean latency beside an oracle, over every bandwidth trace, in virtual time.

The session's own estimator and policy run requests one after the other over a simulated link that carries as
many bytes as the trace allows, outages included. Their cuts and costs are those of real plans: shared models
profiled and calibrated here, on a device 4, 10 and 25 times slower than this machine. The oracle takes at
each request the best cut for the mean true bandwidth of the last second. A crossing is a change of that
choice, seen at the session's requests. Round trips are measured ones where the traces have them, else the
planned one. One JSON line a trace, over the tables whose breakpoints the trace crosses; what was tuned on
(every other trace) is summed up apart from the rest.

    python benchmarks/adaptation.py [--keep DIR] [--period 0.5] [--traces hsdpa_bus_1 ...] [--smoke]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path as File

import msgspec
import numpy as np
from _shared import SHARED, real_feeds, shared_model
from effect import SUBJECTS, half_of, kept_calibration, kept_profile

from splitter import api
from splitter.link_parse import find_link
from splitter.partition.manifest import CutCost, CutSpec
from splitter.planning.plan import PlanOptions
from splitter.planning.records import Plan
from splitter.serving.device.simulation import Comparison, SimulatedLink, Table, priced_cuts
from splitter.serving.relay.trace import Trace

TRACES = SHARED / "traces"
MODELS = ("squeezenet_fp32", "mobilenetv2_fp32")
SLOWDOWNS = (4.0, 10.0, 25.0)
PLANNED_FOR = ("3g", "lte", "broadband", "5g", "wifi")
DEADLINE_S = 1.0
COLUMNS = {"ratio": "session", "fixed": "fixed", "device": "device", "server": "server"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", type=File, help="keep profiles, calibrations and tables here")
    parser.add_argument("--traces", nargs="+", help="these only")
    parser.add_argument("--period", type=float, default=0.0, help="seconds from request to request")
    parser.add_argument("--seconds", type=float, default=300.0, help="of each trace at most")
    parser.add_argument("--smoke", action="store_true", help="a made-up trace and table")
    args = parser.parse_args()
    if args.smoke:
        path = SimulatedLink(made_up_trace(), [0.02], DEADLINE_S, args.period, 30.0)
        print(json.dumps(line("made-up", [Comparison(made_up_table(), path)], 30.0)))
        return
    if not TRACES.is_dir():
        print("skipped: the traces are not beside this checkout")
        return
    with tempfile.TemporaryDirectory() as folder:
        keep = args.keep or File(folder)
        keep.mkdir(parents=True, exist_ok=True)
        found = [list(cuts_of(name, keep).items()) for name in MODELS]
    tables = [table for of_model in found for table in of_model]
    names = sorted(path.stem for path in TRACES.glob("*.txt") if not path.stem.startswith("rtt_"))
    lines = []
    for number, name in enumerate(names):
        if args.traces and name not in args.traces:
            continue
        runs = []
        trace = Trace.load(TRACES / f"{name}.txt")
        for title, cuts in tables:
            path, table = placed(name, trace, title, cuts, args)
            runs.append(Comparison(table, path))
        lines.append(line(name, runs, min(args.seconds, trace.length_s)))
        lines[-1]["tuned_on"] = number % 2 == 0
        print(json.dumps(lines[-1]), flush=True)
    for tuned_on in (True, False):
        print(json.dumps(summary([each for each in lines if each["tuned_on"] == tuned_on])))


def cuts_of(model_name: str, keep: File) -> dict[str, tuple[CutSpec, ...]]:
    """Every cut that some plan for some link chose, compared with or offered, by slowness of the device."""
    kept = keep / f"{model_name}.tables.json"
    if kept.is_file():
        return msgspec.json.decode(kept.read_bytes(), type=dict[str, tuple[CutSpec, ...]])
    graph = shared_model(model_name).graph
    tables = {
        f"{model_name} {factor:g}x": priced_cuts(graph, plans_of(model_name, keep, factor))
        for factor in SLOWDOWNS
    }
    kept.write_bytes(msgspec.json.encode(tables))
    return tables


def plans_of(model_name: str, keep: File, factor: float) -> Iterator[Plan]:
    """One for each link, for a device that much slower than this machine."""
    model, subject = shared_model(model_name), SUBJECTS[model_name]
    profile = keep / f"{model_name}.profile.json"
    here = kept_profile(model, real_feeds(model_name, model), 20.0, profile)
    half = half_of(keep / model_name, subject, 0)
    calibration = kept_calibration(model, subject, half, 8, keep)
    device = here.slowed(factor)
    for link in PLANNED_FOR:
        yield api.plan(
            model, device=device, server=here, link=link, calibration=calibration,
            options=PlanOptions(alternatives=5),
        )  # fmt: skip


def placed(
    name: str, trace: Trace, title: str, cuts: tuple[CutSpec, ...], args: argparse.Namespace
) -> tuple[SimulatedLink, Table]:
    """A trace with its round trips, and the table with the link that one would plan for there."""
    kinds = {"hsdpa": "3g", "fcc": "broadband"}
    kind = kinds.get(name.partition("_")[0], "lte" if "lte" in name else "5g")
    planned = find_link(kind)
    round_trips_s = [planned.rtt_s]
    if name.startswith("uplink"):
        how = "driving" if "driving" in name else "walking"
        round_trips_s = (np.loadtxt(TRACES / f"rtt_{kind}_{how}.txt") / 1e3).tolist()
    link = msgspec.structs.replace(
        planned,
        down_bytes_per_s=planned.up_bytes_per_s,  # the trace carries both ways
        rtt_s=float(np.median(round_trips_s)),
    )
    path = SimulatedLink(trace, round_trips_s, DEADLINE_S, args.period, args.seconds)
    return path, Table(title, cuts, link)


def line(name: str, runs: Sequence[Comparison], seconds: float) -> dict[str, object]:
    """Ratios are means over the tables that the trace crosses breakpoints of."""
    crossed = [run for run in runs if run.session.crossings]
    others = [run for run in runs if not run.session.crossings]
    found: dict[str, object] = {"benchmark": "adaptation", "trace": name, "tables": len(crossed)}
    if others:
        found["uncrossed"] = len(others)
        found["uncrossed_ratio"] = round(
            float(np.mean([run.over_oracle()["session"] for run in others])), 3
        )
        found["uncrossed_switches"] = sum(run.session.switches for run in others)
    if not crossed:
        return found | {"crossings": 0}
    switches = sum(run.session.switches for run in crossed)
    crossings = sum(run.session.crossings for run in crossed)
    rows = [run.over_oracle() for run in crossed]
    for name, key in COLUMNS.items():
        found[name] = round(float(np.mean([row[key] for row in rows])), 3)
    worst = max(crossed, key=lambda run: run.over_oracle()["session"])
    return found | {
        "worst": round(worst.over_oracle()["session"], 3), "worst_table": worst.table.name,
        "requests": sum(len(run.session.cuts) for run in crossed),
        "switches": switches, "crossings": crossings,
        "oracle_switches": sum(run.oracle.switches for run in crossed),
        "per_crossing": round(switches / crossings, 2),
        "late": sum(run.session.late for run in crossed),
        "oracle_late": sum(run.oracle.late for run in crossed),
        "trials": sum(run.session.trials for run in crossed),
        "trial_bytes_per_s": round(
            float(np.mean([run.session.trial_bytes / seconds for run in crossed]))
        ),
    }  # fmt: skip


def summary(lines: Sequence[dict[str, object]]) -> dict[str, object]:
    with_crossings = [each for each in lines if each["crossings"]]
    if not with_crossings:
        return {"benchmark": "adaptation", "traces": len(lines), "crossed": 0}
    ratios = np.array([each["ratio"] for each in with_crossings], float)
    per_crossing = np.array([each["per_crossing"] for each in with_crossings], float)
    switches, crossings = (
        sum(int(str(each[key])) for each in with_crossings) for key in ("switches", "crossings")
    )
    return {
        "benchmark": "adaptation", "tuned_on": lines[0]["tuned_on"], "traces": len(lines),
        "crossed": len(with_crossings), "mean_ratio": round(float(ratios.mean()), 4),
        "largest_ratio": float(ratios.max()), "above_1.05": int((ratios > 1.05).sum()),
        "switches_per_crossing": round(switches / crossings, 3),
        "largest_per_crossing": float(per_crossing.max()),
        "mean_fixed": round(float(np.mean([each["fixed"] for each in with_crossings])), 3),  # type: ignore[arg-type]
    }  # fmt: skip


def made_up_trace() -> Trace:
    """From 40 kB/s to 4 MB/s and back, with an outage."""
    rates = [4e6, 4e5, 4e4, 0.0, 4e5, 4e6]
    return Trace([5.0 * place for place in range(len(rates))], rates, 5.0 * len(rates))


def made_up_table() -> Table:
    def cut(name: str, seconds: tuple[float, float], up: int | None) -> CutSpec:
        cost = CutCost(
            head_s=seconds[0], encode_s=0.0, decode_s=0.0, tail_s=seconds[1],
            up_bytes=up or 0, down_bytes=4000 if up else 0,
        )  # fmt: skip
        return CutSpec(
            id=name, name=name, head="head.onnx" if seconds[0] else None,
            tail="tail.onnx" if up else None, crossing=(), head_nodes=(), tail_outputs=(), cost=cost,
        )  # fmt: skip

    cuts = (
        cut("split", (0.06, 0.02), 30_000),
        cut("device", (0.3, 0.0), None),
        cut("input", (0.0, 0.03), 150_000),
        cut("late", (0.15, 0.01), 6_000),
    )
    link = msgspec.structs.replace(find_link("lte"), rtt_s=0.02)
    return Table("made-up", cuts, link)


if __name__ == "__main__":
    main()
