"""Codecs that are fitted to a tensor's values, and those that need no fitting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from splitter.calibration.answers import dot
from splitter.codec import CODECS, Codec
from splitter.codec.affine import FLOATS, Affine
from splitter.codec.bits import Bits
from splitter.codec.cast import Cast
from splitter.codec.shuffle import Shuffle
from splitter.codec.zstd import Zstd
from splitter.runtime import Array

MAX_FITTED = 64
"""Samples; more hardly move a range."""

LEVELS = (256, 64, 32, 16, 8, 6, 4, 3, 2)
_ZSTD_LEVELS = (1, 3)
_MOST_VALUES = 1 << 15
_LEAST_STEP = 0.02
"""Of the step that covers the whole range: with few levels the best clips most of it away."""
_TRIED = 13


def lossless_codecs() -> tuple[Codec, ...]:
    """For any tensor."""
    return tuple(CODECS.values())


def fit_codecs(name: str, arrays: Sequence[Array]) -> tuple[Codec, ...]:
    """Lossy codecs for a float tensor, from the finest to the coarsest.

    Empty for another dtype, and where there is nothing to fit: no element, one value only, or a value
    that is NaN or infinite; ``why_not_fitted`` says which.

    Parameters
    ----------
    name
        The tensor's.
    arrays
        Its values, an array a sample.
    """
    if why_not_fitted(arrays) is not None:
        return ()
    values = _values(arrays)
    found = []
    if arrays[0].dtype.itemsize > 2 and max(np.abs(array).max() for array in arrays) < 3e4:
        found.append(Codec("float16", (Cast("float16"), Shuffle(), Zstd(1))))
    for levels in LEVELS:
        affine = fit_affine(values, levels)
        width = next(width for width in (1, 2, 4, 8) if levels <= 1 << width)
        pack = (Bits(width),) if width < 8 else ()  # type: ignore[arg-type]
        for level in _ZSTD_LEVELS:
            found.append(Codec(f"affine{levels}-zstd{level}", (affine, *pack, Zstd(level))))
    return tuple(found)


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
