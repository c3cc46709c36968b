"""How few bits keep the answer: calibrated codecs beside a plain quantiser, on photos not fitted to.

Ranges, tables and steps are fitted on the photos with even number and measured on the odd ones, then the
other way round; what is shown is of all photos together. Of each kind the smallest is taken that keeps
the answer, once with at most 1 point of top-1 lost (net), once with at least 95 % the same answers.
Plain is a quantiser of the whole tensor with 3 to 16 levels, rounding to nearest, its range a percentile
of the fitting half; its bytes are packed levels in zstd level 3, its entropy that of single levels;
recoded are the same levels, and so the same answers, in our entropy coder. With 42 plain quantisers and
18 of ours, some pass or fail by luck: a photo is half a point.

    python benchmarks/codec_size.py [--photos 200] [--model mobilenetv2_fp32] [--smoke]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np
from _activations import MODELS, Cut, cuts_of
from _shared import SHARED

from splitter.calibration.answers import wilson
from splitter.calibration.fit import fit_codecs
from splitter.calibration.fit_rans import fit_rans
from splitter.calibration.trials import group
from splitter.codec import Codec
from splitter.codec.affine import Affine
from splitter.codec.bits import Bits
from splitter.codec.zstd import Zstd
from splitter.runtime import Array

PERCENTILES = (99.0, 99.9, 100.0)
LEVELS = range(3, 17)
MOST_LOST = 0.01
LEAST_AGREEMENT = 0.95
FOLDS = (slice(0, None, 2), slice(1, None, 2))


@dataclass(frozen=True)
class Found:
    """What a codec made of all photos."""

    codec: str
    bits: float
    entropy: float
    """Of single levels; NaN where it is not looked at."""
    lost: float
    """Part of the photos that are right no more, less those that have become right."""
    agreement: float
    quantisers: tuple[Affine, ...] = ()
    """Of a plain one, of either half."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--model", choices=sorted(MODELS), action="append")
    parser.add_argument("--smoke", action="store_true", help="a few photos and levels")
    args = parser.parse_args()
    if not (SHARED / "data" / "imagenet200").is_dir():
        print("skipped: the photos and networks are not beside this checkout")
        return
    levels = (4, 16) if args.smoke else LEVELS
    for name in args.model or (["squeezenet_fp32"] if args.smoke else MODELS):
        report(name, 6 if args.smoke else args.photos, levels)


def report(model: str, photos: int, levels: Sequence[int]) -> None:
    print(f"\n{model}: bits an element; in brackets the points lost, and the same answers")
    rows = []
    for cut in cuts_of(model, photos):
        found = (list(plain(cut, levels)), list(ours(cut)))
        for title, keeps in (("1 point lost", keeps_accuracy), ("95 % the same", keeps_answers)):
            rows.append((title, cut.name, *picks(cut, found, keeps)))
    right = float(np.mean(cut.whole == cut.labels))
    low, high = wilson(right, photos)
    print(f"{photos} photos, top-1 of the whole model {right:.1%} [{low:.1%}, {high:.1%}]")
    for title in dict.fromkeys(row[0] for row in rows):
        table(title, [row[1:] for row in rows if row[0] == title], photos)


def keeps_accuracy(found: Found) -> bool:
    return found.lost <= MOST_LOST + 1e-9


def keeps_answers(found: Found) -> bool:
    return found.agreement >= LEAST_AGREEMENT - 1e-9


Row = tuple[str, Found | None, Found | None, float, Found | None]


def picks(
    cut: Cut, found: tuple[list[Found], list[Found]], keeps: Callable[[Found], bool]
) -> tuple[Found | None, Found | None, float, Found | None]:
    """The smallest plain one by entropy and by bytes, the latter's levels recoded, and ours."""
    plain_found, our_found = ([item for item in items if keeps(item)] for items in found)
    by_entropy = min(plain_found, key=lambda item: item.entropy, default=None)
    by_bits = min(plain_found, key=lambda item: item.bits, default=None)
    again = recoded(cut, by_bits) if by_bits else float("nan")
    return by_entropy, by_bits, again, min(our_found, key=lambda item: item.bits, default=None)


def table(title: str, rows: Sequence[Row], photos: int) -> None:
    print(f"\n{title:14} plain, entropy   plain, zstd-3    recoded  ours")
    for name, by_entropy, by_bits, again, our in rows:
        entropy = f"{by_entropy.entropy:.2f} {by_entropy.codec}" if by_entropy else "none"
        size = f"{by_bits.bits:.2f} {by_bits.codec}" if by_bits else "none"
        text = "none"
        if our is not None:
            low, high = wilson(our.agreement, photos)
            text = (
                f"{our.bits:.2f} {our.codec:13} [{100 * our.lost:+.1f}, {our.agreement:.1%}"
                f" ({low:.0%} to {high:.0%})]"
            )
        print(f"{name:14} {entropy:16} {size:16} {again:<8.2f} {text}")
    complete = [row for row in rows if None not in row]
    if complete:
        means = [
            np.mean([row[1].entropy for row in complete]),  # type: ignore[union-attr]
            np.mean([row[2].bits for row in complete]),  # type: ignore[union-attr]
            np.mean([row[3] for row in complete]),
            np.mean([row[4].bits for row in complete]),  # type: ignore[union-attr]
        ]
        print(
            f"{'mean':14} {means[0]:<16.2f} {means[1]:<16.2f} {means[2]:<8.2f} {means[3]:.2f}"
            f"  (beside plain zstd-3: recoded {means[2] / means[1] - 1:+.0%}, "
            f"ours {means[3] / means[1] - 1:+.0%})"
        )


def plain(cut: Cut, levels: Sequence[int]) -> Iterator[Found]:
    """Every percentile with every number of levels."""
    for percentile, count in product(PERCENTILES, levels):
        folds = []
        for fit in FOLDS:
            sample = np.concatenate([array.reshape(-1)[::7] for array in cut.arrays[fit]])
            high = float(np.percentile(sample, percentile))
            low = min(0.0, float(np.percentile(sample, 100 - percentile)))
            step = (high - low) / (count - 1)
            zero = min(count - 1, round(-low / step))
            affine = Affine(count, (step,), (step,), zero)
            folds.append(Codec("plain", (affine, Bits(2 if count <= 4 else 4), Zstd(3))))
        sizes, decoded = through(cut, folds)
        counted = [quantiser_of(folds[i % 2]).encode(array) for i, array in enumerate(cut.arrays)]
        entropy = float(np.mean([entropy_of(array) for array in counted]))
        found = judge(cut, f"{count} at {percentile:g}", (sizes, entropy), decoded)
        yield replace(found, quantisers=tuple(quantiser_of(codec) for codec in folds))


def quantiser_of(codec: Codec) -> Affine:
    (affine,) = [stage for stage in codec.stages if isinstance(stage, Affine)]
    return affine


def recoded(cut: Cut, plain_found: Found) -> float:
    """Bits of the very levels of a plain quantiser, so of its very answers, in our entropy coder."""
    total = 0
    for place, (fit, affine) in enumerate(zip(FOLDS, plain_found.quantisers, strict=True)):
        levels = [affine.encode(array) for array in cut.arrays[fit][::3]]
        coder, _ = fit_rans(levels, affine.levels, affine.zero)
        others = cut.arrays[FOLDS[1 - place]]
        total += sum(coder.encode(affine.encode(array)).size for array in others)
    return 8 * total / sum(array.size for array in cut.arrays)


def entropy_of(levels: Array) -> float:
    part = np.bincount(levels.reshape(-1)) / levels.size
    part = part[part > 0]
    return float(-(part * np.log2(part)).sum())


def ours(cut: Cut) -> Iterator[Found]:
    """Every codec that calibration would try."""
    fitted = [{codec.name: codec for codec in fit_codecs(cut.arrays[fit])} for fit in FOLDS]
    names = [name for name in fitted[0] if name in fitted[1]]
    for members in zip(*(group([fold[name] for name in names]) for fold in fitted), strict=True):
        decoded: list[Array | None] = [None] * len(cut.arrays)
        for place, codec in enumerate(members[0].codecs):
            pair = (codec, members[1].codecs[place])
            if decoded[0] is None:
                sizes, decoded = through(cut, pair)
                yield (first := judge(cut, codec.name, (sizes, float("nan")), decoded))
            else:
                sizes = [len(pair[1 - i % 2].encode(a)) for i, a in enumerate(cut.arrays)]
                bits = 8 * sum(sizes) / sum(array.size for array in cut.arrays)
                yield Found(codec.name, bits, float("nan"), first.lost, first.agreement)


def through(cut: Cut, folds: Sequence[Codec]) -> tuple[list[int], list[Array | None]]:
    """Encode and decode each photo in the codec that was fitted on the other half."""
    sizes, decoded = [], []
    for index, array in enumerate(cut.arrays):
        codec = folds[1 - index % 2]
        payload = codec.encode(array)
        sizes.append(len(payload))
        decoded.append(codec.decode(payload, array.dtype.name, array.shape))
    return sizes, decoded


def judge(
    cut: Cut, name: str, size: tuple[Sequence[int], float], decoded: Sequence[Array | None]
) -> Found:
    sizes, entropy = size
    with ThreadPoolExecutor(2) as pool:
        tops = np.array(list(pool.map(partial(top_1, cut), decoded)))
    before, after = np.mean(cut.whole == cut.labels), np.mean(tops == cut.labels)
    bits = 8 * sum(sizes) / sum(array.size for array in cut.arrays)
    return Found(name, bits, entropy, float(before - after), float(np.mean(tops == cut.whole)))


def top_1(cut: Cut, value: Array | None) -> int:
    assert value is not None
    return int(np.argmax(cut.tail.run({cut.tensor: value})[0]))


if __name__ == "__main__":
    main()
