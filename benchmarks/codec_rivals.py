"""Codecs of others on real activations, at the same accuracy: bits per element and MB/s, a table out.

The lossless ones get the raw floats, and then, which is harder to beat, our own levels as bytes or packed
to their width (whichever they make smaller), with our quantising counted in their speed. zfp loses
information of its own: as much as we do, in mean squared error. gRPC's gzip is zlib at level 6.

All are timed in turn, on one thread, in seconds of its core. ``pip install 'splitter[bench]'`` brings them.
"""

from __future__ import annotations

import argparse
import importlib
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from types import ModuleType
from typing import NamedTuple

import numpy as np
from _activations import activations
from codec_speed import LEVELS, quantiser

from splitter.codec import Codec
from splitter.codec.affine import Affine
from splitter.codec.bits import Bits
from splitter.codec.zstd import Zstd
from splitter.profiling.timing import Rounds, interleaved
from splitter.runtime import Array

Pack = Callable[[Array], bytes]
Unpack = Callable[[bytes, Array], object]
BLOSC_CODECS = ("BLOSCLZ", "LZ4", "LZ4HC", "ZLIB", "ZSTD")
BLOSC_FILTERS = ("NOFILTER", "SHUFFLE", "BITSHUFFLE")
BLOSC_LEVELS = (1, 5, 9)
SLOW = (Zstd(19), Zstd(19, "long"), Zstd(22))


class Rival(NamedTuple):
    """``unpack`` is given the array too: formats that do not carry a shape are told it."""

    name: str
    pack: Pack
    unpack: Unpack


def plain(name: str, pack: Callable[[bytes], bytes], unpack: Callable[[bytes], object]) -> Rival:
    return Rival(name, lambda array: pack(array.tobytes()), lambda payload, _: unpack(payload))


def ours(name: str, *stages: Affine | Bits | Zstd) -> Rival:
    codec = Codec(name, stages)
    return Rival(
        f"ours, {name}",
        codec.encode,
        lambda payload, array: codec.decode(payload, "float32", array.shape),
    )


def blosc_best(blosc2: ModuleType, arrays: Sequence[Array]) -> Rival:
    """The smallest of all filters, codecs and levels on these arrays."""

    def make(codec: str, mode: str, level: int) -> Rival:
        settings = {
            "codec": blosc2.Codec[codec],
            "filters": [blosc2.Filter[mode]],
            "clevel": level,
            "typesize": arrays[0].itemsize,
            "nthreads": 1,
        }
        return plain(
            f"blosc2 {codec.lower()}{level} {mode.lower()}",
            lambda data: blosc2.compress2(data, **settings),
            lambda payload: blosc2.decompress2(payload, nthreads=1),
        )

    every = [make(*choice) for choice in product(BLOSC_CODECS, BLOSC_FILTERS, BLOSC_LEVELS)]
    return min(every, key=lambda rival: size_of(rival, arrays[:1]))


def lossless(arrays: Sequence[Array], found: dict[str, ModuleType]) -> Iterator[Rival]:
    yield plain("gzip (zlib 6)", partial(zlib.compress, level=6), zlib.decompress)
    if "lz4.block" in found:
        block = found["lz4.block"]
        yield plain("lz4", block.compress, block.decompress)
    if "blosc2" in found:
        yield blosc_best(found["blosc2"], arrays)


def on_levels(
    quantise: Affine, arrays: Sequence[Array], found: dict[str, ModuleType]
) -> Iterator[Rival]:
    width = LEVELS[quantise.levels]
    forms = [(), (Bits(width),)] if width else [()]
    candidates = []
    for stages in forms:
        codec = Codec("levels", (quantise, *stages))
        levels = [np.frombuffer(codec.encode(array), np.uint8) for array in arrays]
        candidates.append([(rival, codec, levels) for rival in lossless(levels, found)])
    for same in zip(*candidates, strict=True):
        rival, codec, _ = min(same, key=lambda one: size_of(one[0], one[2]))
        where = "our bits" if codec.stages[1:] else "our levels"
        yield Rival(f"{rival.name} on {where}", *_behind(codec, rival))


def _behind(codec: Codec, rival: Rival) -> tuple[Pack, Unpack]:
    def pack(array: Array) -> bytes:
        return rival.pack(np.frombuffer(codec.encode(array), np.uint8))

    def unpack(payload: bytes, array: Array) -> object:
        levels = rival.unpack(payload, array)
        assert isinstance(levels, bytes)
        return codec.decode(levels, "float32", array.shape)

    return pack, unpack


def zfp_matched(zfpy: ModuleType, arrays: Sequence[Array], error: float) -> Rival:
    """zfp rounds a tolerance to a power of two; so the values are scaled, until the error is ours."""

    def make(scale: float) -> Rival:
        factor = np.float32(scale)
        return Rival(
            "zfp, our error",
            lambda array: zfpy.compress_numpy(array[0] * factor, tolerance=1.0),
            lambda payload, _: zfpy.decompress_numpy(payload) / factor,
        )

    low, high = 1e-6, 1e6  # a larger scale loses less
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if mean_error(make(middle), arrays) > error else (low, middle)
    return make(high)


def zfp_exact(zfpy: ModuleType) -> Rival:
    return Rival(
        "zfp, reversible",
        lambda array: zfpy.compress_numpy(array[0]),
        lambda payload, _: zfpy.decompress_numpy(payload),
    )


def size_of(rival: Rival, arrays: Sequence[Array]) -> int:
    return sum(len(rival.pack(array)) for array in arrays)


def mean_error(rival: Rival, arrays: Sequence[Array]) -> float:
    """Squared, over all elements."""
    total = 0.0
    for array in arrays:
        got = rival.unpack(rival.pack(array), array)
        values = got if isinstance(got, np.ndarray) else np.frombuffer(got, np.float32)  # type: ignore[call-overload]
        total += float(np.square(values.reshape(-1).astype(np.float64) - array.reshape(-1)).sum())
    return total / sum(array.size for array in arrays)


def rivals_at(
    levels: int, arrays: Sequence[Array], found: dict[str, ModuleType]
) -> Iterator[Rival]:
    quantise = quantiser(arrays, levels, per_channel=False)
    width = LEVELS[levels]
    pack = (Bits(width),) if width else ()
    fast = ours(f"{levels} levels, fast", quantise, *pack, Zstd(1, "long"))
    yield fast
    slow = [ours(f"{levels} levels, small", quantise, *pack, zstd) for zstd in SLOW]
    yield min(slow, key=lambda rival: size_of(rival, arrays[:1]))
    yield from on_levels(quantise, arrays, found)
    if "zfpy" in found:
        yield zfp_matched(found["zfpy"], arrays, mean_error(fast, arrays))


def measure(cut: str, rivals: Sequence[Rival], arrays: Sequence[Array], rounds: Rounds) -> None:
    """Print a line each."""
    calls: list[Callable[[], object]] = []
    for rival in rivals:
        payloads = [rival.pack(array) for array in arrays]
        calls.append(lambda rival=rival: [rival.pack(array) for array in arrays])
        calls.append(
            lambda rival=rival, payloads=payloads: [
                rival.unpack(payload, array)
                for payload, array in zip(payloads, arrays, strict=True)
            ]
        )
    total = sum(array.nbytes for array in arrays)
    speeds = [
        total / 1e6 / sample.median_s for sample in interleaved(calls, rounds, time.thread_time)
    ]
    for index, rival in enumerate(rivals):
        bits = 32 * size_of(rival, arrays) / total
        error = mean_error(rival, arrays) ** 0.5
        encode, decode = speeds[2 * index : 2 * index + 2]
        print(f"{cut:6} {rival.name:42} {bits:7.3f} {encode:7.0f} {decode:7.0f} {error:9.4f}")


def modules() -> dict[str, ModuleType]:
    found = {}
    for name in ("blosc2", "zfpy", "lz4.block"):
        try:
            found[name] = importlib.import_module(name)
        except ImportError:
            print(f"{name} left out: not installed; pip install 'splitter[bench]'")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=4)
    parser.add_argument("--smoke", action="store_true", help="one photo, a round each")
    options = parser.parse_args()
    found = modules()
    rounds = Rounds(1, 1, 0.0, 0) if options.smoke else Rounds(7, 7, 5.0, 1)
    print("cut    codec                                      bits/el.  encode  decode  rms error")
    for cut, arrays in activations(1 if options.smoke else options.photos).items():
        rivals = list(lossless(arrays, found))
        rivals += [zfp_exact(found["zfpy"])] if "zfpy" in found else []
        for levels in (256, 16):
            rivals += rivals_at(levels, arrays, found)
        measure(cut, rivals, arrays, rounds)


if __name__ == "__main__":
    main()
