"""Codecs that are fitted to a tensor's values, and those that need no fitting."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence

import numpy as np

from splitter.calibration.answers import dot
from splitter.calibration.bench import evenly
from splitter.calibration.fit_rans import (
    bits_of,
    channel_counts,
    fit_fast,
    fit_predicted,
    recounted,
)
from splitter.codec import CODECS, Codec
from splitter.codec.affine import FLOATS, Affine
from splitter.codec.bits import Bits
from splitter.codec.cast import Cast
from splitter.codec.rans import Rans
from splitter.codec.rans_predicted import Predicted
from splitter.codec.shuffle import Shuffle
from splitter.codec.zstd import Zstd
from splitter.runtime import Array

MAX_FITTED = 64
"""Samples; more hardly move a range."""

STEPS = (0.3, 0.42, 0.6, 0.71, 0.85, 1.0, 1.2, 1.4, 1.7, 2.0, 2.8, 4.0)
"""Of the coarse quantisers, in parts of the root mean square of the values. What an entropy
coder makes of levels depends on the step and hardly on their number, which only has to hold the range."""
LEVELS = (8, 6, 4)
"""Of those that clip, where the error after decoding is least."""
_FINE = 1.0
"""Below this step 16 levels would clip too much, so there are twice as many."""
_MOST_VALUES = 1 << 15
_LEAST_STEP = 0.02
"""Of the step that covers the whole range: with few levels the best clips most of it away."""
_TRIED = 13
_COUNTED = 32
"""Samples whose levels are counted for the entropy coder."""
_WORTH_PREDICTING = 0.93
"""Of the bits of the fast coder; predicting takes some ten times its seconds."""

_Fit = Callable[[Affine, Sequence[Array]], Rans | Predicted]


def lossless_codecs() -> tuple[Codec, ...]:
    """For any tensor."""
    return tuple(CODECS.values())


def fit_codecs(arrays: Sequence[Array]) -> tuple[Codec, ...]:
    """Lossy codecs for a float tensor, from the finest to the coarsest.

    Empty for another dtype, and where there is nothing to fit: no element, one value only, or a value
    that is NaN or infinite; ``why_not_fitted`` says which.

    Parameters
    ----------
    arrays
        The tensor's values, an array a sample.
    """
    if why_not_fitted(arrays) is not None:
        return ()
    values = _values(arrays)
    found = []
    if arrays[0].dtype.itemsize > 2 and max(np.abs(array).max() for array in arrays) < 3e4:
        found.append(Codec("float16", (Cast("float16"), Shuffle(), Zstd(1))))
    fine = fit_affine(values, 256)
    # on fast links compressing takes longer than it saves
    found.append(Codec("affine256-plain", (fine,)))
    found.append(Codec("affine256", (fine, Zstd(1, "long"))))
    root = _root_mean_square(arrays)
    is_signed, largest = bool(values.min() < 0), float(np.abs(values).max())
    counted = evenly(arrays, _COUNTED)
    coders = _coders(counted, _stepped(root, is_signed)) if has_entropy_coder() else ()
    # with a larger step all would be zero, which some models do not mind: it is no codec
    scales = [scale for scale in STEPS if scale * root < 2 * largest]
    quantisers = {f"affine{levels}": fit_affine(values, levels) for levels in LEVELS} | {
        f"step{scale:g}": _stepped(scale * root, is_signed, is_fine=scale < _FINE)
        for scale in scales
    }
    for title, affine in quantisers.items():
        pack = (Bits(4),) if affine.levels <= 16 else ()
        found.append(Codec(title, (affine, *pack, Zstd(1, "long"))))
        levels = [affine.encode(array) for array in counted] if coders else []
        found += [Codec(f"{title}-{name}", (affine, fit(affine, levels))) for name, fit in coders]
    return tuple(found)


def has_entropy_coder() -> bool:
    """Whether the extra ``entropy`` is installed."""
    return importlib.util.find_spec("numba") is not None


def _coders(arrays: Sequence[Array], affine: Affine) -> tuple[tuple[str, _Fit], ...]:
    """Entropy coders by name, each as what fits it to a quantiser and its levels; ``affine`` is of step 1.

    The one that predicts is there where it saves enough to be worth its seconds. What it predicts from is
    found once, at step 1, as that takes long.
    """
    levels, root = [affine.encode(array) for array in arrays], affine.step[0]
    bits, channels = min(
        (bits_of(fit_fast(levels, affine.levels, affine.zero, count), levels), count)
        for count in channel_counts(levels)
    )
    predicted = fit_predicted(levels, affine.levels, affine.zero, channels)

    def fast(affine: Affine, levels: Sequence[Array]) -> Rans:
        return fit_fast(levels, affine.levels, affine.zero, channels)

    def small(affine: Affine, levels: Sequence[Array]) -> Predicted:
        return recounted(predicted, levels, affine.levels, affine.zero, affine.step[0] / root)

    is_worth_it = bits_of(predicted, levels) < _WORTH_PREDICTING * bits
    return (("rans", fast), ("predicted", small)) if is_worth_it else (("rans", fast),)


def _stepped(step: float, is_signed: bool, *, is_fine: bool = False) -> Affine:
    """A quantiser by its step; a level is worth a step.

    Least squares would make levels a little smaller, and the error too, but answers agree less: levels
    that are rounded to zero take from the sum what the others must not lose as well. Measured on
    SqueezeNet and MobileNetV2.
    """
    levels, zero = 32 if is_fine else 16, 0
    if is_signed:
        levels, zero = levels - 1, levels // 2 - 1
    return Affine(levels, (step,), (step,), zero)


def _root_mean_square(arrays: Sequence[Array]) -> float:
    flat = [array.reshape(-1).astype(np.float64) for array in arrays]
    return float(np.sqrt(sum(dot(row, row) for row in flat) / sum(row.size for row in flat)))


def why_not_fitted(arrays: Sequence[Array]) -> str | None:
    """Why a tensor has lossless codecs only; None where it can be fitted."""
    dtype = arrays[0].dtype.name
    if dtype not in FLOATS:
        return f"{dtype} is kept exact"
    if not any(array.size for array in arrays):
        return "no elements"
    if not all(np.isfinite(array).all() for array in arrays):
        return "some values are NaN or infinite"
    least = min(float(array.min()) for array in arrays if array.size)
    most = max(float(array.max()) for array in arrays if array.size)
    if least == most:
        return f"all values are {least:g}"
    return None


def fit_affine(values: Array, levels: int) -> Affine:
    """The quantiser of the whole tensor with the least squared error after decoding.

    Zero is level 0 where no value is negative, else where it lies in the range. Every step gets the
    size that is best for it, ``sum(x * q) / sum(q * q)`` with ``q = level - zero``.
    """
    least, most = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    zero = min(levels - 1, max(0, round((levels - 1) * -least / (most - least))))
    whole = (most - least) / (levels - 1)
    low, high = whole * _LEAST_STEP, whole
    for _ in range(2):  # then more finely on both sides of the best
        steps = [float(step) for step in np.geomspace(low, high, _TRIED)]
        fits = [_fit(values, levels, zero, step) for step in steps]
        best = fits.index(min(fits))
        low, high = steps[max(0, best - 1)], steps[min(_TRIED - 1, best + 1)]
    _, step, size = fits[best]
    return Affine(levels, (step,), (size,), zero)


def _fit(values: Array, levels: int, zero: int, step: float) -> tuple[float, float, float]:
    """Squared error, step and size."""
    q = np.clip(np.round(values / step), -zero, levels - 1 - zero)
    square = dot(q, q)
    size = max(dot(values, q) / square, step * 1e-3) if square else step
    gap = values - size * q
    return dot(gap, gap), step, size


def _values(arrays: Sequence[Array]) -> Array:
    """Some of the values of every array, and its extremes."""
    rng, total = np.random.default_rng(0), sum(array.size for array in arrays)
    found: list[Array] = []
    for array in arrays:
        flat = array.reshape(-1)
        if total > _MOST_VALUES and flat.size:
            drawn = rng.integers(0, flat.size, flat.size * _MOST_VALUES // total)
            flat = np.append(flat[drawn], [flat.min(), flat.max()])
        found.append(flat.astype(np.float64))
    return np.concatenate(found)
