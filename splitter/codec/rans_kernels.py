"""The inner loops of the entropy coder, compiled: the only user of numba.

An asymmetric numeral system with 12-bit frequencies, 32-bit states and 16-bit renormalisation (Duda 2013,
Asymmetric numeral systems; Giesen 2014, Interleaved entropy coders). Four channels are coded at once, each
on a state of its own, so that a processor works on four symbols at a time; the words of all four share
one stream. The four are written out: states in an array, or a function that returns two values, make the
loop half as fast. Coding runs backwards, so that decoding runs forwards.

A symbol's context is made of levels that are decoded before it: those to the left, above, above left and
above right in its own channel, and the one at the same place in its parent channel. Bounds are checked
where a hostile stream could lead out of them; tables are checked before they get here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import njit

Array = np.ndarray[Any, Any]

LANES = 4
BITS = 12
NEIGHBOURS = 10
PARENT_MOST = 3
CONTEXTS = NEIGHBOURS * (PARENT_MOST + 1)
"""Of one class of channels."""
_U = np.uint32
_FIRST = _U(1 << 16)
_WORD = _U(0xFFFF)
_WORD_BITS = _U(16)
_BITS = _U(BITS)
_SLOT = _U((1 << BITS) - 1)
_GUESSED = _U(BITS - 4)
_ROOM = _U(32 - BITS)
"""A state that is not below a symbol's frequency shifted by this gives up a word first."""
BY_SUM = np.array([*range(7), 7, 7, *[8] * 5, *[9] * (6 * 15 - 13)], np.uint8)
"""By 2 * (left + above) + above left + above right, of magnitudes up to 15."""


F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compiled when first called with arguments of their types, and kept on disk."""
    made: Any = njit(cache=True, nogil=True, error_model="numpy")(function)
    return made  # type: ignore[no-any-return]


@compiled
def _coded(state: Any, frequency: Any, start: Any) -> Any:
    quotient = state // frequency
    return (quotient << _BITS) + (state - quotient * frequency) + start


@compiled
def symbol_at(
    slot: Any, frequencies: Array, starts: Array, guesses: Array, index: Any, context: Any
) -> Any:
    """The symbol that a slot of the table belongs to; the last one ends at the last slot."""
    symbol = np.int64(guesses[(index << 4) + np.int64(slot >> _GUESSED)])
    while slot >= starts[context + symbol] + frequencies[context + symbol]:
        symbol += 1
    return symbol


@compiled
def _context(
    row: Array, top: Array, side: Array, j: Any, base: Any, most: Any, by_sum: Array
) -> Any:
    near = by_sum[((row[j] + top[j + 1]) << 1) + top[j] + top[j + 2]]
    return base + (near << 2) + min(side[j + 1], most)


@compiled
def symbols(
    levels: Array,
    magnitude: Array,
    classes: Array,
    parents: Array,
    by_sum: Array,
    alphabet: int,
    padded: Array,
    entries: Array,
) -> None:
    """The table entry of every symbol of one image, C x H x W."""
    channels, height, width = levels.shape
    for channel in range(channels):
        base = _U(classes[channel] * CONTEXTS)
        most = PARENT_MOST if parents[channel] != channel else 0
        side = padded[parents[channel]]
        plane = padded[channel]
        for i in range(height):
            row, top, beside = plane[i + 1], plane[i], side[i + 1]
            given, made = levels[channel, i], entries[channel, i]
            for j in range(width):
                row[j + 1] = magnitude[given[j]]
            for j in range(width):
                near = _U(by_sum[((row[j] + top[j + 1]) << 1) + top[j] + top[j + 2]])
                context = base + (near << _U(2)) + _U(min(beside[j + 1], most))
                made[j] = context * alphabet + given[j]


@compiled
def encode(
    entries: Array, frequencies: Array, starts: Array, states: Array, place: int, out: Array
) -> int:
    """Code one image backwards into ``out`` before ``place``; returns the new place.

    A symbol writes one word at most, so that ``out`` needs no more words than there are symbols.
    """
    channels, height, width = entries.shape
    x0, x1 = np.uint64(states[0]), np.uint64(states[1])
    x2, x3 = np.uint64(states[2]), np.uint64(states[3])
    groups = channels // LANES
    for channel in range(channels - 1, groups * LANES - 1, -1):
        e0 = entries[channel]
        for i in range(height - 1, -1, -1):
            for j in range(width - 1, -1, -1):
                entry = e0[i, j]
                frequency = frequencies[entry]
                if x0 >= frequency << _ROOM:
                    place -= 1
                    out[place] = np.uint16(x0 & _WORD)
                    x0 >>= _WORD_BITS
                x0 = _coded(x0, frequency, starts[entry])
    for group in range(groups - 1, -1, -1):
        c = group * LANES
        e0, e1, e2, e3 = entries[c], entries[c + 1], entries[c + 2], entries[c + 3]
        for i in range(height - 1, -1, -1):
            for j in range(width - 1, -1, -1):
                entry = e3[i, j]
                frequency = frequencies[entry]
                if x3 >= frequency << _ROOM:
                    place -= 1
                    out[place] = np.uint16(x3 & _WORD)
                    x3 >>= _WORD_BITS
                x3 = _coded(x3, frequency, starts[entry])
                entry = e2[i, j]
                frequency = frequencies[entry]
                if x2 >= frequency << _ROOM:
                    place -= 1
                    out[place] = np.uint16(x2 & _WORD)
                    x2 >>= _WORD_BITS
                x2 = _coded(x2, frequency, starts[entry])
                entry = e1[i, j]
                frequency = frequencies[entry]
                if x1 >= frequency << _ROOM:
                    place -= 1
                    out[place] = np.uint16(x1 & _WORD)
                    x1 >>= _WORD_BITS
                x1 = _coded(x1, frequency, starts[entry])
                entry = e0[i, j]
                frequency = frequencies[entry]
                if x0 >= frequency << _ROOM:
                    place -= 1
                    out[place] = np.uint16(x0 & _WORD)
                    x0 >>= _WORD_BITS
                x0 = _coded(x0, frequency, starts[entry])
    states[0], states[1], states[2], states[3] = x0, x1, x2, x3
    return place


@compiled
def decode(
    words: Array,
    place: int,
    states: Array,
    frequencies: Array,
    starts: Array,
    guesses: Array,
    alphabet: int,
    magnitude: Array,
    classes: Array,
    parents: Array,
    by_sum: Array,
    levels: Array,
    padded: Array,
) -> int:
    """Decode one image, C x H x W; returns the place after it, beyond the words if they are too few."""
    channels, height, width = levels.shape
    x0, x1 = np.uint64(states[0]), np.uint64(states[1])
    x2, x3 = np.uint64(states[2]), np.uint64(states[3])
    groups = channels // LANES
    for group in range(groups):
        c = group * LANES
        b0, b1 = classes[c] * CONTEXTS, classes[c + 1] * CONTEXTS
        b2, b3 = classes[c + 2] * CONTEXTS, classes[c + 3] * CONTEXTS
        m0 = PARENT_MOST if parents[c] != c else 0
        m1 = PARENT_MOST if parents[c + 1] != c + 1 else 0
        m2 = PARENT_MOST if parents[c + 2] != c + 2 else 0
        m3 = PARENT_MOST if parents[c + 3] != c + 3 else 0
        for i in range(height):
            t0, t1, t2, t3 = padded[c, i], padded[c + 1, i], padded[c + 2, i], padded[c + 3, i]
            r0, r1 = padded[c, i + 1], padded[c + 1, i + 1]
            r2, r3 = padded[c + 2, i + 1], padded[c + 3, i + 1]
            p0, p1 = padded[parents[c], i + 1], padded[parents[c + 1], i + 1]
            p2, p3 = padded[parents[c + 2], i + 1], padded[parents[c + 3], i + 1]
            l0, l1, l2, l3 = levels[c, i], levels[c + 1, i], levels[c + 2, i], levels[c + 3, i]
            for j in range(width):
                index = _context(r0, t0, p0, j, b0, m0, by_sum)
                context = index * alphabet
                slot = x0 & _SLOT
                symbol = symbol_at(slot, frequencies, starts, guesses, index, context)
                entry = context + symbol
                x0 = frequencies[entry] * (x0 >> _BITS) + slot - starts[entry]
                if x0 < _FIRST:
                    if place < words.size:
                        x0 = (x0 << _WORD_BITS) | words[place]
                    place += 1
                l0[j] = symbol
                r0[j + 1] = magnitude[symbol]
                index = _context(r1, t1, p1, j, b1, m1, by_sum)
                context = index * alphabet
                slot = x1 & _SLOT
                symbol = symbol_at(slot, frequencies, starts, guesses, index, context)
                entry = context + symbol
                x1 = frequencies[entry] * (x1 >> _BITS) + slot - starts[entry]
                if x1 < _FIRST:
                    if place < words.size:
                        x1 = (x1 << _WORD_BITS) | words[place]
                    place += 1
                l1[j] = symbol
                r1[j + 1] = magnitude[symbol]
                index = _context(r2, t2, p2, j, b2, m2, by_sum)
                context = index * alphabet
                slot = x2 & _SLOT
                symbol = symbol_at(slot, frequencies, starts, guesses, index, context)
                entry = context + symbol
                x2 = frequencies[entry] * (x2 >> _BITS) + slot - starts[entry]
                if x2 < _FIRST:
                    if place < words.size:
                        x2 = (x2 << _WORD_BITS) | words[place]
                    place += 1
                l2[j] = symbol
                r2[j + 1] = magnitude[symbol]
                index = _context(r3, t3, p3, j, b3, m3, by_sum)
                context = index * alphabet
                slot = x3 & _SLOT
                symbol = symbol_at(slot, frequencies, starts, guesses, index, context)
                entry = context + symbol
                x3 = frequencies[entry] * (x3 >> _BITS) + slot - starts[entry]
                if x3 < _FIRST:
                    if place < words.size:
                        x3 = (x3 << _WORD_BITS) | words[place]
                    place += 1
                l3[j] = symbol
                r3[j + 1] = magnitude[symbol]
    for channel in range(groups * LANES, channels):
        b0 = classes[channel] * CONTEXTS
        m0 = PARENT_MOST if parents[channel] != channel else 0
        for i in range(height):
            t0, r0, p0 = padded[channel, i], padded[channel, i + 1], padded[parents[channel], i + 1]
            l0 = levels[channel, i]
            for j in range(width):
                index = _context(r0, t0, p0, j, b0, m0, by_sum)
                context = index * alphabet
                slot = x0 & _SLOT
                symbol = symbol_at(slot, frequencies, starts, guesses, index, context)
                entry = context + symbol
                x0 = frequencies[entry] * (x0 >> _BITS) + slot - starts[entry]
                if x0 < _FIRST:
                    if place < words.size:
                        x0 = (x0 << _WORD_BITS) | words[place]
                    place += 1
                l0[j] = symbol
                r0[j + 1] = magnitude[symbol]
    states[0], states[1], states[2], states[3] = x0, x1, x2, x3
    return place
