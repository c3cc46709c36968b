"""What quantising inside the graph saves: head and codec, against a head that quantises and the rest.

Both run in turn on one thread; the codec is 16 levels, packed, zstd. The ratio is of the medians of head
and encoding together, and likewise of decoding and tail.

    python benchmarks/in_graph.py [--models squeezenet_fp32 ...] [--smoke]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from _shared import model_names, real_feeds, shared_model

from splitter.codec import Codec
from splitter.codec.affine import Affine
from splitter.codec.bits import Bits
from splitter.codec.zstd import Zstd
from splitter.graph.cut import Cut, cut_at
from splitter.graph.frontier import frontier
from splitter.graph.model import Model
from splitter.partition.bundle import Bundle, Division, write_bundle
from splitter.partition.extract import Extractor
from splitter.profiling.timing import Rounds, interleaved
from splitter.runtime import Array, Runner

MODELS = ("squeezenet_fp32", "mobilenetv2_fp32", "ultraface_rfb320", "yolox_nano")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--cuts", type=int, default=4)
    parser.add_argument("--smoke", action="store_true", help="one cut, a few rounds")
    args = parser.parse_args()
    if not model_names():
        print("skipped: the models are not beside this checkout")
        return
    rounds = Rounds(least=3 if args.smoke else 40, most=80, budget_s=0.1 if args.smoke else 4.0)
    print(f"{'model':20}{'tensor':>28}{'MB':>6}{'head+encode ms':>22}{'decode+tail ms':>22}")
    for name in args.models[: 1 if args.smoke else None]:
        model = shared_model(name)
        for tensor in tensors_of(model, 1 if args.smoke else args.cuts):
            print(row(name, model, tensor, real_feeds(name, model), rounds), flush=True)


def tensors_of(model: Model, count: int) -> list[str]:
    """Float tensors that separate the model alone, evenly along its nodes."""
    alone = [
        place.crossing[0]
        for place in frontier(model.graph)
        if len(place.crossing) == 1 and place.crossing[0] not in model.graph.inputs
    ]
    floats = [name for name in alone if model.graph.tensors[name].dtype == "float32"]
    floats = list(dict.fromkeys(floats))
    return [floats[int(i)] for i in np.linspace(0, len(floats) - 1, min(count, len(floats)))]


def row(name: str, model: Model, tensor: str, feeds: Mapping[str, Array], rounds: Rounds) -> str:
    cut = cut_at(model.graph, [tensor])
    values = Runner(Extractor(model).head(cut).to_bytes()).run(feeds)[0]
    codec = _codec(values)
    with tempfile.TemporaryDirectory() as folder:
        sides = [
            _sides(_bundle(model, cut, codec, Path(folder), at), feeds) for at in (False, True)
        ]
        calls = [call for pair in sides for call in pair]
        device, server, device_inside, server_inside = interleaved(calls, rounds)
    return (
        f"{name:20}{tensor[-28:]:>28}{values.nbytes / 1e6:6.2f}"
        f"{_ratio(device.median_s, device_inside.median_s):>22}"
        f"{_ratio(server.median_s, server_inside.median_s):>22}"
    )


def _codec(values: Array) -> Codec:
    step = float(np.sqrt(np.mean(np.square(values)))) or 1.0
    levels, zero = (15, 7) if values.min() < 0 else (16, 0)
    return Codec("levels", (Affine(levels, (step,), (step,), zero), Bits(4), Zstd(1, "long")))


def _bundle(model: Model, cut: Cut, codec: Codec, folder: Path, inside: bool) -> Bundle:
    (tensor,) = cut.crossing
    division = Division(cut, {tensor: codec})
    return write_bundle(model, [division], folder / str(inside), quantise_in_graph=inside)


def _sides(bundle: Bundle, feeds: Mapping[str, Array]) -> tuple[partial[object], partial[object]]:
    """What the device does, and what the server does."""
    (spec,) = bundle.manifest.planned.crossing
    assert bundle.head is not None
    assert bundle.tail is not None
    head, tail = Runner(bundle.head), Runner(bundle.tail)

    def device() -> bytes:
        return spec.codec.encode(head.run(feeds, [spec.tensor])[0])

    payload = device()

    def server() -> object:
        return tail.run({spec.tensor: spec.codec.decode(payload, spec.dtype, spec.shape)})

    return partial(device), partial(server)


def _ratio(before_s: float, after_s: float) -> str:
    return f"{before_s * 1e3:.2f} -> {after_s * 1e3:.2f} {after_s / before_s - 1:+.0%}"


if __name__ == "__main__":
    main()
