"""Tables of the entropy coder, counted on samples.

Of ``rans``: the channels are ordered by how large their levels are, and divided into classes of like ones;
each is compared with the earlier channel that is most alike. Of ``rans-predicted``: every channel's weights
are those of least squares over some of the places, first for the levels, then for how wrong these were
predicted; contexts are divided at quantiles of both.

Counts of a context are pulled towards those of its like over all classes or spreads, as much as ``_PRIOR``
levels would, and no level is impossible. What a coder takes is measured on samples that another was not
fitted to; it is itself fitted to all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from splitter.codec.rans import CONTEXTS, TOTAL, Rans
from splitter.codec.rans_predicted import MOST_PARENTS, NEAR, Predicted
from splitter.runtime import Array

_CLASSES = 16
_PRIOR = 4.0
_LANES = 4
_MOST_PLACES = 1 << 12
_MEANS, _SPREADS = 48, 8
_RIDGE = 100.0
_BLOCK = 64
_MOST_VALUES, _LEAST_FITTED, _MOST_FITTED = 1 << 21, 1 << 12, 3 << 12
_MOST_COUNTED, _MOST_DIVIDED, _MOST_MEASURED = 3 << 20, 1 << 19, 1 << 22
"""Levels; predicted contexts are counted, divided and measured on images with so many in all."""
_MOST_WEIGHTS = 1 << 12
"""Parents of all channels: a configuration is in every plan and manifest."""
_LEAST_PLACES = 64
"""For each parent: with fewer, weights fit what is chance."""

Coder = TypeVar("Coder", Rans, Predicted)
_Fit = Callable[[Sequence[Array], int, int], Coder]


def fit_rans(samples: Sequence[Array], levels: int, zero: int) -> tuple[Rans | Predicted, float]:
    """The smaller of the coders for a tensor whose levels are sampled, and its bits an element."""
    fast, small = fit_modes(samples, levels, zero)
    return fast if fast[1] <= small[1] else small


def fit_modes(
    samples: Sequence[Array], levels: int, zero: int
) -> tuple[tuple[Rans, float], tuple[Predicted, float]]:
    """The fast coder and the one that predicts, each with the bits an element that it takes.

    A tensor whose second axis holds no channels is coded as one plane, where that is smaller.
    """
    planes = [_images(samples, channels) for channels in channel_counts(samples)]
    fast = [_measured(_fit, images, levels, zero) for images in planes]
    small = [_measured(_fit_predicted, images, levels, zero) for images in planes]
    return min(fast, key=lambda pair: pair[1]), min(small, key=lambda pair: pair[1])


def fit_fast(samples: Sequence[Array], levels: int, zero: int, channels: int) -> Rans:
    """The coder by class and neighbours alone; with one channel, the tensor is one plane."""
    return _fit(_images(samples, channels), levels, zero)


def fit_predicted(samples: Sequence[Array], levels: int, zero: int, channels: int) -> Predicted:
    """The coder that predicts. Takes seconds."""
    return _fit_predicted(_images(samples, channels), levels, zero)


def recounted(
    coder: Predicted, samples: Sequence[Array], levels: int, zero: int, ratio: float
) -> Predicted:
    """The same predictions for levels whose step is ``ratio`` times as large, with tables of their own.

    Predictions are linear, so that only what they add to the rest depends on the step.
    """
    images = _images(samples, coder.channels)
    weights = _with_constants(coder.weights, coder.channels, ratio)
    spreads = _with_constants(coder.spreads, coder.channels, ratio)
    fixed = (levels, zero, coder.channels, coder.parents, weights, spreads)
    return _tabled(fixed, images)


def bits_of(coder: Rans | Predicted, samples: Sequence[Array]) -> float:
    """Bits an element that a coder takes of levels, without the few bytes of its states."""
    cost = -np.log2(np.frombuffer(coder.frequencies, "<u2") / TOTAL)
    images = _some(_images(samples, coder.channel_count()), _MOST_MEASURED)
    return float(np.mean([cost[coder.entries(image)].mean() for image in images]))


def channel_counts(samples: Sequence[Array]) -> tuple[int, ...]:
    """How many channels a tensor may be taken to have: one, or as many as its second axis is long."""
    second = samples[0].shape[1] if samples[0].ndim >= 2 else 1
    return (1, second) if second > 1 else (1,)


def _with_constants(weights: bytes, channels: int, ratio: float) -> bytes:
    table = np.frombuffer(weights, "<i2").reshape(channels, -1).astype(np.float64)
    table[:, 0] /= ratio
    return np.clip(np.rint(table), -(1 << 15), (1 << 15) - 1).astype("<i2").tobytes()


def _measured(
    fit: _Fit[Coder], images: Sequence[Array], levels: int, zero: int
) -> tuple[Coder, float]:
    """The coder of all images, and what every fourth takes with one of the others."""
    others = [image for index, image in enumerate(images) if index % 4] or images
    trial = fit(others, levels, zero)
    cost = -np.log2(np.frombuffer(trial.frequencies, "<u2") / TOTAL)
    taken = [cost[trial.entries(image)].mean() for image in _some(images[::4], _MOST_MEASURED)]
    return fit(images, levels, zero), float(np.mean(taken))


def _fit(images: Sequence[Array], levels: int, zero: int) -> Rans:
    magnitude = np.abs(np.arange(256) - zero).astype(np.float32)
    classes = _classes(images, magnitude)
    parents = _parents(images, magnitude)
    size = (max(classes) + 1) * CONTEXTS * levels
    even = _even(size // levels, levels)
    trial = Rans(levels, zero, classes, parents, even)
    table = _counted(trial, images, CONTEXTS)
    return Rans(levels, zero, classes, parents, table)


def _fit_predicted(images: Sequence[Array], levels: int, zero: int) -> Predicted:
    channels = images[0].shape[0]
    signed = [image.astype(np.int16) - zero for image in images]
    same, near, around = _sampled(signed)
    parents = _alike(same)
    weights = _least_squares(same, near, parents, around)
    none = np.zeros((channels, NEAR + parents.shape[1]), np.int16)
    kept = parents.astype("<u2").tobytes()
    fixed = (levels, zero, channels, kept, weights.tobytes())
    trial = Predicted(*fixed, none.tobytes(), (), (), _even(1, levels))
    chosen = _some(images, _MOST_COUNTED)
    errors = [trial.predictions(image)[2] for image in chosen]
    same, near, _ = _sampled(errors)
    spreads = _least_squares(same, near, parents, None).tobytes()
    return _tabled((*fixed, spreads), images)


def _tabled(fixed: tuple[int, int, int, bytes, bytes, bytes], images: Sequence[Array]) -> Predicted:
    """With contexts at quantiles of the predictions, and their tables."""
    levels = fixed[0]
    trial = Predicted(*fixed, (), (), _even(1, levels))
    means, wides = zip(
        *(trial.predictions(image)[:2] for image in _some(images, _MOST_DIVIDED)), strict=True
    )
    edges = _edges(means, _MEANS), _edges(wides, _SPREADS)
    size = (len(edges[0]) + 1) * (len(edges[1]) + 1) * levels
    trial = Predicted(*fixed, *edges, _even(size // levels, levels))
    table = _counted(trial, _some(images, _MOST_COUNTED), len(edges[0]) + 1)
    return Predicted(*fixed, *edges, table)


def _images(samples: Sequence[Array], channels: int) -> list[Array]:
    if channels == 1:
        return [sample.reshape(1, -1, sample.shape[-1] if sample.ndim else 1) for sample in samples]
    return [
        image.reshape(channels, -1, sample.shape[-1] if sample.ndim > 2 else 1)
        for sample in samples
        for image in sample
    ]


def _some(images: Sequence[Array], most: int) -> Sequence[Array]:
    """Images from first to last with so many levels in all, but two where there are two."""
    many = max(2, most // max(1, images[0].size))
    return images[:: -(-len(images) // many)]


def _classes(images: Sequence[Array], magnitude: Array) -> bytes:
    mean = np.mean([magnitude[image].mean((1, 2)) for image in images], axis=0)
    rank = np.argsort(np.argsort(mean))
    return (rank * min(_CLASSES, rank.size) // rank.size).astype(np.uint8).tobytes()


def _parents(images: Sequence[Array], magnitude: Array) -> tuple[int, ...]:
    """By correlation of the roots of magnitudes, over some of the places."""
    channels = images[0].shape[0]
    own = np.arange(channels)
    stride = max(1, sum(image[0].size for image in images) // _MOST_PLACES) | 1
    places = np.concatenate([image.reshape(channels, -1)[:, ::stride] for image in images], axis=1)
    alike = _correlation(np.sqrt(magnitude[places]))
    best = alike.argmax(1)
    return tuple(np.where(alike[own, best] > 0, best, own).tolist())


def _alike(same: Array) -> Array:
    """Of each channel those that tell most about it, and itself where there are no more."""
    own = np.arange(len(same))
    alike = np.abs(_correlation(same))
    earlier = (own.size - 1) // _LANES * _LANES
    borne = min(_MOST_WEIGHTS // own.size, same.shape[1] // _LEAST_PLACES)
    many = min(MOST_PARENTS, earlier, borne)
    best = np.argsort(-alike, axis=1, kind="stable")[:, :many]
    return np.where(np.take_along_axis(alike, best, 1) > 0, best, own[:, np.newaxis])


def _correlation(values: Array) -> Array:
    """Of channels, 0 with those that are not decoded a group earlier."""
    values = values - values.mean(1, keepdims=True)
    values /= np.linalg.norm(values, axis=1, keepdims=True) + 1e-6
    alike: Array = values @ values.T
    own = np.arange(len(values))
    alike[own[np.newaxis] >= own[:, np.newaxis] // _LANES * _LANES] = 0
    return alike


def _sampled(images: Sequence[Array]) -> tuple[Array, Array, Array]:
    """Some places of all images: values, C x N; left, above, above left and right, 4 x C x N; around."""
    channels, height, width = images[0].shape
    wanted = min(_MOST_FITTED, max(_LEAST_FITTED, _MOST_VALUES // channels))
    stride = max(1, sum(image[0].size for image in images) // wanted)
    found = []
    for index, image in enumerate(images):
        padded = np.pad(image, ((0, 0), (1, 1), (1, 1)))
        i, j = np.divmod(np.arange(index % stride, image[0].size, stride), image.shape[2])
        at = [
            padded[:, i + 1 + down, j + 1 + right]
            for down, right in ((0, 0), (0, -1), (-1, 0), (-1, -1), (-1, 1), (0, 1), (1, 0))
        ]
        found.append(np.stack([*at[:5], at[1] + at[2] + at[5] + at[6]]))
    values = np.concatenate(found, axis=2).astype(np.float32)
    return values[0], values[1:5], values[5]


def _least_squares(same: Array, near: Array, parents: Array, around: Array | None) -> Array:
    """Weights in 1/4096: constant, near ones, parents, and what is around them where that is given."""
    channels, many = parents.shape
    planes = [same] if around is None else [same, around]
    each = len(planes)
    stacked = np.stack(planes, axis=1).reshape(each * channels, -1)
    known = np.concatenate([np.ones((1, same.shape[1]), np.float32), stacked])
    products = known @ known.T
    weights = np.zeros((channels, NEAR + each * many))
    for channel in range(channels):
        first = channel % _BLOCK
        if not first:  # no channel is predicted from later ones
            sides = near[:, channel : channel + _BLOCK] @ known[: 1 + each * (channel + _BLOCK)].T
        slots = np.flatnonzero(parents[channel] != channel)
        rows = [1 + each * parents[channel][slots] + plane for plane in range(each)]
        near_rows = near[:, channel]
        solved = _solved(
            near_rows @ near_rows.T,
            sides[:, first],
            products,
            np.concatenate([[0], *rows]),
            1 + each * channel,
        )
        weights[channel, 0] = solved[4]
        weights[channel, 1:NEAR] = solved[:4]
        columns = [NEAR + slots + plane * many for plane in range(each)]
        weights[channel, np.concatenate(columns)] = solved[5:]
    scaled: Array = np.clip(np.rint(weights * TOTAL), -(1 << 15), (1 << 15) - 1).astype("<i2")
    return scaled


def _solved(own: Array, sides: Array, products: Array, rows: Array, goal: int) -> Array:
    """Weights of the four near ones, and then of these rows, for what is in row ``goal``."""
    square = np.block([[own, sides[:, rows]], [sides[:, rows].T, products[np.ix_(rows, rows)]]])
    square = square.astype(np.float64) + _RIDGE * np.eye(len(square))
    solved: Array = np.linalg.solve(square, np.append(sides[:, goal], products[rows, goal]))
    return solved


def _edges(found: Sequence[Array], parts: int) -> tuple[int, ...]:
    """Quantiles of predictions, each of which begins a context."""
    values = np.concatenate([values.reshape(-1)[::7] for values in found])
    cuts = np.quantile(values, np.arange(1, parts) / parts, method="nearest")
    inside = np.clip(cuts, -(1 << 13), (1 << 13) - 1)
    return tuple(np.unique(inside[inside > values.min()]).tolist())


def _even(contexts: int, levels: int) -> bytes:
    return _frequencies(np.zeros(contexts * levels), 1, levels).astype("<u2").tobytes()


def _counted(trial: Rans | Predicted, images: Sequence[Array], contexts: int) -> bytes:
    """The table of these images; every so many contexts are of another class or spread."""
    size = len(trial.frequencies) // 2
    counts = np.zeros(size)
    for image in images:
        counts += np.bincount(trial.entries(image).reshape(-1), minlength=size)
    return _frequencies(counts, contexts, trial.levels).astype("<u2").tobytes()


def _frequencies(counts: Array, contexts: int, levels: int) -> Array:
    """Of each context 12-bit frequencies that add up to 4096, none of them 0; flat."""
    by_class = counts.reshape(-1, contexts, levels)
    common = by_class.sum(0) + 0.05
    common /= common.sum(1, keepdims=True)
    likely = (by_class + _PRIOR * common).reshape(-1, levels)
    likely /= likely.sum(1, keepdims=True)
    table = np.maximum(np.round(likely * TOTAL), 1).astype(np.int64)
    rows = np.arange(len(table))
    table[rows, table.argmax(1)] += TOTAL - table.sum(1)
    flat: Array = table.reshape(-1)
    return flat
