"""Tables of the entropy coder, counted on samples.

The channels are ordered by how large their levels are, and divided into classes of like ones; each is
compared with the earlier channel that is most alike. Counts of a class's context are pulled towards the
counts of that context over all classes, as much as ``_PRIOR`` levels would, and no level is impossible.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from splitter.codec.rans import CONTEXTS, TOTAL, Rans
from splitter.runtime import Array

_CLASSES = 16
_PRIOR = 4.0
_LANES = 4
_MOST_PLACES = 1 << 12


def fit_rans(samples: Sequence[Array], levels: int, zero: int) -> tuple[Rans, float]:
    """The coder for a tensor whose levels are sampled, and the bits an element that it takes of them.

    A tensor whose second axis holds no channels is coded as one plane, where that is smaller.
    """
    found = [_fit(samples, levels, zero, 1)]
    if samples[0].ndim >= 2 and samples[0].shape[1] > 1:
        found.append(_fit(samples, levels, zero, samples[0].shape[1]))
    return min(found, key=lambda pair: pair[1])


def _fit(samples: Sequence[Array], levels: int, zero: int, channels: int) -> tuple[Rans, float]:
    images = _images(samples, channels)
    magnitude = np.abs(np.arange(256) - zero).astype(np.float32)
    classes = _classes(images, magnitude)
    parents = _parents(images, magnitude)
    size = (max(classes) + 1) * CONTEXTS * levels
    even = _frequencies(np.zeros(size), levels)
    trial = Rans(levels, zero, classes, parents, even.astype("<u2").tobytes())
    counts = np.zeros(size)
    for image in images:
        counts += np.bincount(trial.entries(image).reshape(-1), minlength=size)
    table = _frequencies(counts, levels)
    bits = float(-(counts @ np.log2(table / TOTAL))) / max(1.0, counts.sum())
    return Rans(levels, zero, classes, parents, table.astype("<u2").tobytes()), bits


def _images(samples: Sequence[Array], channels: int) -> list[Array]:
    if channels == 1:
        return [sample.reshape(1, -1, sample.shape[-1] if sample.ndim else 1) for sample in samples]
    return [
        image.reshape(channels, -1, sample.shape[-1] if sample.ndim > 2 else 1)
        for sample in samples
        for image in sample
    ]


def _classes(images: Sequence[Array], magnitude: Array) -> bytes:
    mean = np.mean([magnitude[image].mean((1, 2)) for image in images], axis=0)
    rank = np.argsort(np.argsort(mean))
    return (rank * min(_CLASSES, rank.size) // rank.size).astype(np.uint8).tobytes()


def _parents(images: Sequence[Array], magnitude: Array) -> tuple[int, ...]:
    """By correlation of the roots of magnitudes, over some of the places."""
    channels = images[0].shape[0]
    own = np.arange(channels)
    if channels <= _LANES:
        return tuple(own.tolist())
    stride = max(1, sum(image[0].size for image in images) // _MOST_PLACES) | 1
    places = np.concatenate([image.reshape(channels, -1)[:, ::stride] for image in images], axis=1)
    values = np.sqrt(magnitude[places])
    values -= values.mean(1, keepdims=True)
    values /= np.linalg.norm(values, axis=1, keepdims=True) + 1e-6
    alike = values @ values.T
    alike[own[np.newaxis] >= own[:, np.newaxis] // _LANES * _LANES] = -1
    best = alike.argmax(1)
    return tuple(np.where(alike[own, best] > 0, best, own).tolist())


def _frequencies(counts: Array, levels: int) -> Array:
    """Of each context 12-bit frequencies that add up to 4096, none of them 0; flat."""
    by_class = counts.reshape(-1, CONTEXTS, levels)
    common = by_class.sum(0) + 0.05
    common /= common.sum(1, keepdims=True)
    likely = (by_class + _PRIOR * common).reshape(-1, levels)
    likely /= likely.sum(1, keepdims=True)
    table = np.maximum(np.round(likely * TOTAL), 1).astype(np.int64)
    rows = np.arange(len(table))
    table[rows, table.argmax(1)] += TOTAL - table.sum(1)
    flat: Array = table.reshape(-1)
    return flat
