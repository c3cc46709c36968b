"""MB of float32 a second that codecs encode and decode, of real activations: a table out.

Quantising is counted. All chains of one cut are timed in turn, on one thread; a row is the median. The
seconds are the thread's own, of its core: codecs wait for nothing, and other programs do not count.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
from _activations import activations, channel_peaks

from splitter.calibration.fit_rans import fit_modes
from splitter.codec import Codec
from splitter.codec.affine import Affine
from splitter.codec.bitmap import Bitmap
from splitter.codec.bits import Bits
from splitter.codec.codec import AnyStage
from splitter.codec.zstd import Zstd
from splitter.profiling.timing import Rounds, interleaved
from splitter.runtime import Array

LONG = Zstd(1, matches="long")
AFTER: Mapping[str, tuple[AnyStage, ...]] = {
    "zstd1-long": (LONG,),
    "zstd1": (Zstd(1),),
    "zstd3": (Zstd(3),),
    "bitmap-zstd1-long": (Bitmap(), LONG),
}
"""What may come after the levels, packed to their width; another chain is a line here."""

LEVELS: Mapping[int, Literal[1, 2, 4] | None] = {256: None, 16: 4, 8: 4, 4: 2, 2: 1}
ENTROPY = ("rans", "rans-predicted")
ENTROPY_BARS = (300.0, 400.0)
ENCODE_BARS = {256: 1000.0}
ENCODE_BAR, DECODE_BAR = 1500.0, 2000.0


class Row(NamedTuple):
    cut: str
    levels: int
    steps: str
    after: str
    bits: float
    encode: float
    decode: float

    @property
    def meets(self) -> bool:
        if self.after in ENTROPY:
            return self.encode >= ENTROPY_BARS[0] and self.decode >= ENTROPY_BARS[1]
        bar = ENCODE_BARS.get(self.levels, ENCODE_BAR)
        return self.encode >= bar and self.decode >= DECODE_BAR

    def __str__(self) -> str:
        head = f"{self.cut:6} {self.levels:6} {self.steps:8} {self.after:18} {self.bits:8.3f}"
        return f"{head} {self.encode:8.0f} {self.decode:8.0f}  {'yes' if self.meets else 'no'}"


def quantiser(arrays: Sequence[Array], levels: int, per_channel: bool) -> Affine:
    """Steps up to the largest value, or up to a high percentile where the levels are few."""
    share = 99.9 if levels > 16 else 99.5
    if per_channel:
        top = np.maximum(channel_peaks(arrays) * share / 100, 1e-3)
    else:
        top = np.array([np.percentile(np.stack(arrays), share)])
    step = tuple(float(value) / (levels - 1) for value in top)
    return Affine(levels=levels, step=step, size=step)


def chains(quantise: Affine) -> dict[str, Codec]:
    width = LEVELS[quantise.levels]
    pack = (Bits(width),) if width else ()
    return {
        name: Codec(name, (quantise, *(pack if Bitmap() not in after else ()), *after))
        for name, after in AFTER.items()
    }


def entropy(quantise: Affine, arrays: Sequence[Array]) -> dict[str, Codec]:
    """The two coders that know a level's neighbours, counted on the very arrays: of few levels only."""
    if quantise.levels > 16:
        return {}
    coders = fit_modes([quantise.encode(array) for array in arrays], quantise.levels, quantise.zero)
    return {
        name: Codec(name, (quantise, coder))
        for name, (coder, _) in zip(ENTROPY, coders, strict=True)
    }


def encode_all(codec: Codec, arrays: Sequence[Array]) -> list[bytes]:
    return [codec.encode(array) for array in arrays]


def decode_all(codec: Codec, payloads: Sequence[bytes], shape: tuple[int, ...]) -> list[Array]:
    return [codec.decode(payload, "float32", shape) for payload in payloads]


def measure(
    cut: str, arrays: Sequence[Array], levels: int, per_channel: bool, rounds: Rounds
) -> list[Row]:
    quantise = quantiser(arrays, levels, per_channel)
    codecs = chains(quantise) | (entropy(quantise, arrays) if not per_channel else {})
    shape, size = arrays[0].shape, sum(array.nbytes for array in arrays)
    calls: list[Callable[[], object]] = []
    bits = []
    for codec in codecs.values():
        payloads = encode_all(codec, arrays)
        bits.append(8 * sum(map(len, payloads)) / (size / 4))
        calls += [partial(encode_all, codec, arrays), partial(decode_all, codec, payloads, shape)]
    found = [
        size / 1e6 / sample.median_s for sample in interleaved(calls, rounds, time.thread_time)
    ]
    steps = "channel" if per_channel else "tensor"
    return [
        Row(cut, levels, steps, name, bits[index], *found[2 * index : 2 * index + 2])
        for index, name in enumerate(codecs)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=4)
    parser.add_argument("--smoke", action="store_true", help="one photo, a few rounds")
    options = parser.parse_args()
    rounds = Rounds(3, 3, 0.0, 1) if options.smoke else Rounds(11, 60, 2.0, 2)
    found = activations(1 if options.smoke else options.photos)
    print(f"bar: encode {ENCODE_BARS[256]:.0f} MB/s at 256 levels, {ENCODE_BAR:.0f} at fewer;")
    print(
        f"     decode {DECODE_BAR:.0f}; with an entropy coder {ENTROPY_BARS[0]:.0f} and {ENTROPY_BARS[1]:.0f}"
    )
    print("cut    levels steps    then               bits/el.   encode   decode  met")
    for cut, arrays in found.items():
        for levels in LEVELS:
            for per_channel in (False, True):
                for row in measure(cut, arrays, levels, per_channel, rounds):
                    print(row, flush=True)


if __name__ == "__main__":
    main()
