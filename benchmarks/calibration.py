"""Minutes to calibrate MobileNetV2: 30 tensors, every codec, 200 labelled photos; JSON lines out.

The bar is 10 minutes on two cores. Wall time counts what other programs take; processor time does not.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from _shared import SHARED, shared_model

from splitter import api
from splitter.calibration.records import Calibration
from splitter.graph.model import Model

BAR_S = 600.0


def measure(
    model: Model, data: Path, labels: Path | None, samples: int, tensors: int
) -> Calibration:
    """Calibrate, print the seconds of each stage as it ends, then those of all."""
    started, used = time.perf_counter(), time.process_time()
    seconds: dict[str, float] = {}

    def progress(stage: str, done: int, total: int) -> None:
        seconds[stage] = round(time.perf_counter() - started, 1)

    found = api.calibrate(
        model, data, labels=labels, samples=samples, tensors=tensors, progress=progress
    )
    wall = time.perf_counter() - started
    print(
        json.dumps(
            {
                "benchmark": "calibration",
                "model": found.model_file,
                "samples": found.data.samples,
                "tensors": len(found.tensors),
                "codecs": sum(len(result.results) for result in found.tensors),
                "given_up": sum(len(result.stopped) for result in found.tensors),
                "whole_model_s": seconds["whole model"],
                "wall_s": round(wall, 1),
                "processor_s": round(time.process_time() - used, 1),
                "bar_s": BAR_S,
                "within_bar": wall <= BAR_S,
            }
        ),
        flush=True,
    )
    return found


def noise(folder: Path, model: Model, count: int) -> Path:
    """Arrays for a smoke run: what they hold does not matter."""
    rng = np.random.default_rng(0)
    for number in range(count):
        feeds = {
            name: rng.standard_normal(model.graph.tensors[name].shape or ()).astype(np.float32)
            for name in model.graph.inputs
        }
        np.savez(folder / f"{number}.npz", **feeds)
    return folder


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--smoke", action="store_true", help="two tensors of a small model, on noise"
    )
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--tensors", type=int, default=30)
    parser.add_argument("-o", "--output", help="keep the calibration")
    options = parser.parse_args(arguments)
    if options.smoke:
        model = small_model()
        with tempfile.TemporaryDirectory() as folder:
            measure(model, noise(Path(folder), model, 4), None, 4, 2)
        return
    if not SHARED.is_dir():
        print("skipped: needs the shared models and photos beside the project (../shared)")
        return
    data = SHARED / "data" / "imagenet200"
    found = measure(
        shared_model("mobilenetv2_fp32"), data / "images", data / "labels.csv",
        options.samples, options.tensors,
    )  # fmt: skip
    if options.output:
        found.save(options.output)


def small_model() -> Model:
    """Two convolutions, written to a folder that is read at once."""
    import onnx
    from onnx import numpy_helper, parser

    proto = parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        small (float[1, 3, 16, 16] image) => (float[1, 5] scores) {
            c1 = Conv <pads = [1, 1, 1, 1]> (image, w1)
            r1 = Relu(c1)
            p1 = MaxPool <kernel_shape = [4, 4], strides = [4, 4]> (r1)
            g = GlobalAveragePool(p1)
            f = Flatten(g)
            scores = Gemm <transB = 1> (f, w2)
        }
        """
    )
    rng = np.random.default_rng(0)
    for name, shape in (("w1", (8, 3, 3, 3)), ("w2", (5, 8))):
        values = rng.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "small.onnx")
        onnx.save(proto, path)
        return api.load(path)


if __name__ == "__main__":
    main()
