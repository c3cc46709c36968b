"""The inner loops of the entropy coder whose contexts are predicted; compiled.

From levels that are decoded before it every level gets a mean, and from how far these were from their own
means a spread. Both are sums of products of integers, and so the same on every machine. Means count 1/4096
of a level, and the size of an error, a byte, 1/32. Each sum is one of the parents,
many elements at a time, to which the four neighbours in the own channel are added as decoding goes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from splitter.codec.rans_kernels import LANES, Array, compiled

ONE_BITS = 12
"""Weights are in 1/4096."""
MEAN_SHIFT, MEAN_CELLS = 4, 1 << 14
"""A mean is looked up in 1/256 of a level, from -32 to 32."""
SPREAD_SHIFT, SPREAD_CELLS = 9, 1 << 11
"""A spread is looked up in 1/256 of a level, from 0 to 8."""
_SIZE_SHIFT, _HALF_SIZE = 7, 1 << 6
_MOST_SIZE = 255
NEAR = 5
"""The first weights of a channel: the constant's, left, above, above left, above right."""
_BAND = 1 << 12
"""Elements of a channel whose sums are made at once."""
_SLOT = np.uint64(4095)
_FIRST = np.uint64(1 << 16)
_BITS, _WORD_BITS = np.uint64(12), np.uint64(16)


@compiled
def _add(weight: Any, source: Array, sums: Array) -> None:
    for k in range(sums.size):
        sums[k] += weight * source[k]


@compiled
def _from_parents(
    levels: Array, arounds: Array, sizes: Array, parents: Array, means: Array, spreads: Array,
    first: int, mean: Array, spread: Array,
) -> None:  # fmt: skip
    """Start the sums of some elements of one channel, from ``first`` on."""
    size, many = min(mean.size, levels.shape[1] - first), parents.size
    last = first + size
    mean, spread = mean[:size], spread[:size]
    mean[:] = means[0]
    spread[:] = spreads[0]
    for k in range(many):
        parent = parents[k]
        if parent < 0:
            continue
        _add(means[NEAR + k], levels[parent, first:last], mean)
        _add(means[NEAR + many + k], arounds[parent, first:last], mean)
        _add(spreads[NEAR + k], sizes[parent, first:last], spread)


@compiled
def _near(weights: Array, row: Array, top: Array, j: int) -> Any:
    """The share of the neighbours in the own channel."""
    own = weights[1] * row[j] + weights[2] * top[j + 1]
    return own + weights[3] * top[j] + weights[4] * top[j + 2]


@compiled
def _context(mean: Any, spread: Any, by_mean: Array, by_spread: Array) -> Any:
    left = min(max((mean >> MEAN_SHIFT) + MEAN_CELLS // 2, 0), MEAN_CELLS - 1)
    right = min(max(spread >> SPREAD_SHIFT, 0), SPREAD_CELLS - 1)
    return np.int64(by_spread[right]) + np.int64(by_mean[left])


@compiled
def _size(value: Any, mean: Any) -> Any:
    error = abs((value << ONE_BITS) - mean)
    return min((error + _HALF_SIZE) >> _SIZE_SHIFT, _MOST_SIZE)


@compiled
def _around(levels: Array, zero: int, sums: Array) -> None:
    """Of each level of a channel the sum of its four neighbours, as far as there are any."""
    height, width = levels.shape
    for i in range(height):
        for j in range(width):
            found = 0
            if i:
                found += levels[i - 1, j] - zero
            if i < height - 1:
                found += levels[i + 1, j] - zero
            if j:
                found += levels[i, j - 1] - zero
            if j < width - 1:
                found += levels[i, j + 1] - zero
            sums[i * width + j] = found


@compiled
def symbols(
    levels: Array, zero: int, alphabet: int, parents: Array, means: Array, spreads: Array,
    by_mean: Array, by_spread: Array, arounds: Array, sizes: Array,
    entries: Array, mean_plane: Array, spread_plane: Array,
) -> None:  # fmt: skip
    """The table entry of every symbol of one image, C x H x W.

    Where ``mean_plane`` and ``spread_plane``, C x H x W, are not empty, they get the sums.
    """
    channels, height, width = levels.shape
    flat = levels.reshape(channels, height * width)
    mean, spread = np.empty(_BAND, np.int32), np.empty(_BAND, np.int32)
    values, errors = np.zeros((2, width + 2), np.int8), np.zeros((2, width + 2), np.uint8)
    for c in range(channels):
        values[:] = 0
        errors[:] = 0
        for i in range(height):
            row, top = values[i & 1], values[1 - (i & 1)]
            wrong, wrong_top = errors[i & 1], errors[1 - (i & 1)]
            for j in range(width):
                k = (i * width + j) % _BAND
                if not k:
                    _from_parents(
                        flat, arounds, sizes, parents[c], means[c], spreads[c], i * width + j,
                        mean, spread,
                    )  # fmt: skip
                own = mean[k] + _near(means[c], row, top, j)
                wide = spread[k] + _near(spreads[c], wrong, wrong_top, j)
                symbol = levels[c, i, j]
                entries[c, i, j] = _context(own, wide, by_mean, by_spread) * alphabet + symbol
                row[j + 1] = np.int64(symbol) - zero
                wrong[j + 1] = _size(row[j + 1], own)
                sizes[c, i * width + j] = wrong[j + 1]
                if mean_plane.size:
                    mean_plane[c, i, j] = own
                    spread_plane[c, i, j] = wide
        _around(levels[c], zero, arounds[c])


@compiled
def decode(
    words: Array, place: int, states: Array, frequencies: Array, starts: Array, guesses: Array,
    zero: int, alphabet: int, parents: Array, means: Array, spreads: Array,
    by_mean: Array, by_spread: Array, arounds: Array, sizes: Array, levels: Array,
) -> int:  # fmt: skip
    """Decode one image, C x H x W; returns the place after it, beyond the words if they are too few."""
    channels = levels.shape[0]
    x = states.astype(np.uint64)
    grouped = channels // LANES * LANES
    c = 0
    while c < channels:
        lanes = LANES if c < grouped else 1
        place = _decode_group(
            words, place, x[:lanes], frequencies, starts, guesses, zero, alphabet, c, parents,
            means, spreads, by_mean, by_spread, arounds, sizes, levels,
        )  # fmt: skip
        c += lanes
    states[:] = x
    return place


@compiled
def _decode_group(
    words: Array, place: int, x: Array, frequencies: Array, starts: Array, guesses: Array,
    zero: int, alphabet: int, first: int, parents: Array, means: Array, spreads: Array,
    by_mean: Array, by_spread: Array, arounds: Array, sizes: Array, levels: Array,
) -> int:  # fmt: skip
    """Channels from ``first`` on, as many as there are states, interleaved."""
    channels, height, width = levels.shape
    lanes = x.size
    flat = levels.reshape(channels, height * width)
    mean = np.empty((lanes, _BAND), np.int32)
    spread = np.empty((lanes, _BAND), np.int32)
    values = np.zeros((lanes, 2, width + 2), np.int8)
    errors = np.zeros((lanes, 2, width + 2), np.uint8)
    for i in range(height):
        now, before = i & 1, 1 - (i & 1)
        for j in range(width):
            k = (i * width + j) % _BAND
            for lane in range(lanes):
                c = first + lane
                if not k:
                    _from_parents(
                        flat, arounds, sizes, parents[c], means[c], spreads[c], i * width + j,
                        mean[lane], spread[lane],
                    )  # fmt: skip
                own = mean[lane, k] + _near(means[c], values[lane, now], values[lane, before], j)
                wide = spread[lane, k] + _near(
                    spreads[c], errors[lane, now], errors[lane, before], j
                )
                context = _context(own, wide, by_mean, by_spread)
                slot = x[lane] & _SLOT
                symbol = np.int64(guesses[context * 16 + np.int64(slot >> np.uint64(8))])
                entry = context * alphabet + symbol
                while slot >= starts[entry] + frequencies[entry]:
                    entry += 1
                state = frequencies[entry] * (x[lane] >> _BITS) + slot - starts[entry]
                if state < _FIRST:
                    if place < words.size:
                        state = (state << _WORD_BITS) | words[place]
                    place += 1
                x[lane] = state
                symbol = entry - context * alphabet
                levels[c, i, j] = symbol
                values[lane, now, j + 1] = symbol - zero
                errors[lane, now, j + 1] = _size(symbol - zero, own)
                sizes[c, i * width + j] = errors[lane, now, j + 1]
    for c in range(first, first + lanes):
        _around(levels[c], zero, arounds[c])
    return place
