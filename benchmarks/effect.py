"""Where a true split beats both rivals: shared models x links x a device 4 and 10 times slower.

Rivals are all on the device, and the input sent in its cheapest encoding (JPEG, WebP, FLAC or any codec)
within the same budget: 1 % of the answers, or a relative error of 1 % where the answer is values. Each
model is profiled and calibrated once, on half of its data. What the plan predicts is then measured:
head, tail and codecs by the clock, in turn with the rivals; the device's seconds multiplied, the link by
arithmetic on the bytes really sent. ``held_out`` is what the plan's codecs lose on the other half.

    python benchmarks/effect.py [--models squeezenet_fp32 ...] [--keep DIR] [--smoke]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from _shared import SHARED, real_feeds, shared_model
from regret import LINKS, SLOWDOWNS

from splitter import api
from splitter.calibration.evaluate import evaluate
from splitter.calibration.records import Answer, Calibration
from splitter.dataset import Dataset, open_dataset
from splitter.graph.model import Model
from splitter.planning.budget import Budget
from splitter.planning.plan import cut_of_candidate
from splitter.planning.records import Plan
from splitter.profiling.measure import Effort
from splitter.profiling.profile import Profile
from splitter.runtime import Array, Settings

PHOTOS = "imagenet200/images"


@dataclass(frozen=True)
class Subject:
    """A shared model, its data, and what its answer is."""

    data: str
    preprocess: str | None = None
    has_labels: bool = False
    samples: int = 100
    max_error: float | None = None


SUBJECTS: Mapping[str, Subject] = {
    "squeezenet_fp32": Subject(PHOTOS, "caffe", has_labels=True),
    "mobilenetv2_fp32": Subject(PHOTOS, "imagenet", has_labels=True),
    "mobilenetv2_qdq_int8": Subject(PHOTOS, "imagenet", has_labels=True),
    "ultraface_rfb320": Subject(PHOTOS, "centred", samples=40, max_error=0.01),
    "yolox_nano": Subject(PHOTOS, "yolox", samples=40, max_error=0.01),
    "ppocr_v3_det_en": Subject(PHOTOS, "paddleocr", samples=12, max_error=0.01),
    "tbefn_240x320": Subject(PHOTOS, "unit", samples=12, max_error=0.01),
    "tinygpt": Subject("text", samples=60),
    "silero_vad_16k_op15": Subject("audio", samples=60, max_error=0.01),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--seconds", type=float, default=30.0, help="for heads and tails")
    parser.add_argument("--tensors", type=int, default=12, help="calibrated at most, a model")
    parser.add_argument("--keep", type=Path, help="keep profiles and calibrations here")
    parser.add_argument("--smoke", action="store_true", help="one model, little of everything")
    args = parser.parse_args()
    if not (SHARED / "data").is_dir():
        print("skipped: the models and their data are not beside this checkout")
        return
    wins: list[Mapping[str, object]] = []
    names = ["squeezenet_fp32"] if args.smoke else args.models
    with tempfile.TemporaryDirectory() as folder:
        keep = args.keep or Path(folder)
        keep.mkdir(parents=True, exist_ok=True)
        for name in names:
            subject = SUBJECTS[name]
            if args.smoke:
                subject = Subject(subject.data, subject.preprocess, True, samples=4)
            effort = (0.5, 1) if args.smoke else (args.seconds, args.tensors)
            for line in lines(name, subject, effort, keep):
                print(json.dumps(line), flush=True)
                if line["decision"] == "split":
                    wins.append(line)
    table(wins)


def lines(
    name: str, subject: Subject, effort: tuple[float, int], keep: Path
) -> Iterator[dict[str, object]]:
    model = shared_model(name)
    feeds = real_feeds(name, model)
    halves = [half_of(keep / name, subject, which) for which in (0, 1)]
    here = kept_profile(model, feeds, effort[0], keep / f"{name}.profile.json")
    calibration = kept_calibration(model, subject, halves[0], effort[1], keep)
    other = _dataset(model, subject, halves[1])
    answers: dict[str, Answer] = {}
    for factor in SLOWDOWNS:
        device = here.slowed(factor)
        for link in LINKS:
            budget = Budget(kind="error", limit=subject.max_error) if subject.max_error else None
            plan = api.plan(
                model, device=device, server=here, link=link, calibration=calibration, budget=budget
            )
            yield {
                "model": name,
                "slower": factor,
                "link": link,
                **_facts(plan),
                **_measured(model, plan, feeds),
                **_held_out(model, plan, calibration, other, answers),
            }


def kept_profile(model: Model, feeds: Mapping[str, Array], seconds: float, path: Path) -> Profile:
    if not path.is_file():
        api.profile(model, feeds=feeds, effort=Effort(anchors_s=seconds)).save(path)
    return Profile.load(path)


def kept_calibration(
    model: Model, subject: Subject, folder: Path, tensors: int, keep: Path
) -> Calibration:
    path = keep / f"{model.path.stem}.calibration.json"
    if not path.is_file():
        api.calibrate(
            model, folder, labels=_labels(subject, folder), preprocess=subject.preprocess,
            samples=subject.samples, tensors=tensors, output=path,
            answer="values" if subject.max_error else "top1",
        ).save(path)  # fmt: skip
    return Calibration.load(path)


def half_of(folder: Path, subject: Subject, which: int) -> Path:
    """Every other file of the data, as a folder of links; one file alone serves both."""
    files = sorted(path for path in (SHARED / "data" / subject.data).iterdir() if path.is_file())
    half = folder / ("fitted" if which == 0 else "held out")
    half.mkdir(parents=True, exist_ok=True)
    for path in files[which::2] or files:
        if not (half / path.name).exists():
            (half / path.name).symlink_to(path.resolve())
    return half


def _labels(subject: Subject, folder: Path) -> Path | None:
    """Those of the files in the folder; a label of no file is taken for a mistake."""
    if not subject.has_labels:
        return None
    header, *rows = (SHARED / "data" / "imagenet200" / "labels.csv").read_text().splitlines()
    here = {path.name for path in folder.iterdir()}
    labels = folder.with_suffix(".csv")
    labels.write_text("\n".join([header, *(r for r in rows if r.partition(",")[0] in here)]))
    return labels


def _dataset(model: Model, subject: Subject, folder: Path) -> Dataset:
    inputs = {port: model.graph.tensors[port] for port in model.graph.inputs}
    return open_dataset(
        folder, inputs, labels=_labels(subject, folder), preprocess=subject.preprocess,
        limit=subject.samples,
    )  # fmt: skip


def _facts(plan: Plan) -> dict[str, object]:
    rivals = [item for item in plan.baselines if item.feasible]
    best = min(rivals, key=lambda item: item.total_s)
    return {
        "decision": plan.decision,
        "sent": [f"{item.tensor} as {item.codec}" for item in plan.predicted.crossing],
        "up_bytes": plan.predicted.up_bytes,
        "predicted_ms": round(plan.predicted.total_s * 1e3, 3),
        "rival": best.name,
        "rival_sent": [item.codec for item in best.crossing],
        "rival_ms": round(best.total_s * 1e3, 3),
        "predicted_gain": round(best.total_s / plan.predicted.total_s, 3),
    }


def _measured(model: Model, plan: Plan, feeds: Mapping[str, Array]) -> dict[str, object]:
    """By the clock, where the plan is to split; its rivals in turn with it."""
    if plan.decision != "split":
        return {}
    alone = msgspec.structs.replace(plan, alternatives=())
    first, *rivals = api.verify(model, alone, feeds=feeds, seconds=4.0).rows
    best = min(rivals, key=lambda row: row.measured.total_s)
    return {
        "measured_ms": round(first.measured.total_s * 1e3, 3),
        "measured_rival": best.name,
        "measured_rival_ms": round(best.measured.total_s * 1e3, 3),
        "measured_gain": round(best.measured.total_s / first.measured.total_s, 3),
    }


def _held_out(
    model: Model,
    plan: Plan,
    calibration: Calibration,
    data: Dataset,
    known: dict[str, Answer],
) -> dict[str, object]:
    """What the plan's codecs lose on data that nothing was fitted or chosen on."""
    codecs = {item.tensor: plan.codec_of(item) for item in plan.predicted.crossing}
    lossy = {name: codec for name, codec in codecs.items() if not codec.is_lossless}
    if not lossy:
        return {"loss": 0.0, "held_out": 0.0}
    key = " ".join(f"{name}={codec.name}" for name, codec in sorted(lossy.items()))
    if key not in known:
        cut = cut_of_candidate(model.graph, plan, plan.predicted)
        known[key] = evaluate(model, cut, lossy, data, Settings(), calibration.answer)
    assert plan.calibration is not None
    assert plan.calibration.answer is not None
    found = known[key]
    line: dict[str, object] = {
        "loss": round(plan.calibration.budget.loss(plan.calibration.answer), 4),
        "held_out": round(plan.calibration.budget.loss(found), 4),
    }
    if found.accuracy is not None:
        whole = evaluate(model, cut_of_candidate(model.graph, plan, plan.predicted), {}, data,
                         Settings(), calibration.answer).accuracy  # fmt: skip
        assert whole is not None
        line["held_out_points"] = round(100 * (whole - found.accuracy), 2)
    return line


def table(wins: Sequence[Mapping[str, object]]) -> None:
    print(f"\n{len(wins)} plans are true splits; gain is over the better rival")
    print(f"{'model':22}{'slower':>7} {'link':9}{'sent':>8}{'predicted':>11}{'measured':>10}  as")
    for win in wins:
        sent = ", ".join(str(item) for item in win["sent"])  # type: ignore[attr-defined]
        print(
            f"{win['model']:22}{win['slower']:>6}x {win['link']:9}{win['up_bytes']:>8}"
            f"{win['predicted_gain']:>10}x{win['measured_gain']:>9}x  {sent}"
        )


if __name__ == "__main__":
    main()
