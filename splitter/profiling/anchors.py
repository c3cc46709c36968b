"""Heads and tails really extracted and run, at places along the node order.

Kernel times alone mispredict parts by 4 % in the median and by far more at the first and last cuts,
where the cut breaks a fusion, or where the runtime must reorder a blocked tensor. An anchor is the
truth at its place; between anchors the kernels interpolate. Small models get an anchor at every place,
and what time is left goes to measuring again those that lie out of line.
"""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from splitter.errors import ModelError
from splitter.graph.cut import Cut
from splitter.graph.frontier import frontier
from splitter.profiling.parts import Bench, load_cut
from splitter.profiling.profile import Anchor, Profile
from splitter.profiling.timing import Samples, interleaved, relative

LOOKS = 3
"""At most so many measurements of an anchor."""


@dataclass(frozen=True)
class Share:
    """One measurement of an anchor in parts of the whole model's seconds of the same rounds."""

    place: int
    head: Samples | None
    tail: Samples | None
    whole: Samples


def measure_cut(bench: Bench, cut: Cut, place: int) -> Share:
    """Time both parts of a cut in turn with the whole model; raises ModelError.

    Shares of the whole in the same round, and not seconds, so that a machine that is slower for a
    while does not bend the curve.
    """
    loaded = load_cut(bench, cut)
    calls = [call for call in (loaded.head, loaded.tail) if call is not None]
    whole, *parts = interleaved([bench.run_whole, *calls], bench.rounds, bench.clock)
    shares = [relative(part, whole) for part in parts]
    head = shares.pop(0) if loaded.head else None
    tail = shares.pop(0) if loaded.tail else None
    return Share(place, head, tail, whole)


@dataclass(frozen=True)
class Measured:
    """The anchors in parts of the whole model, and every sample of the whole taken beside them."""

    looks: tuple[tuple[Share, ...], ...]
    """By place, the measurements of each."""

    @property
    def whole_s(self) -> tuple[float, ...]:
        """The whole model's seconds, all along."""
        return tuple(s for looks in self.looks for share in looks for s in share.whole.seconds)

    def anchors(self, whole_s: float) -> tuple[Anchor, ...]:
        """In seconds, the whole model taking ``whole_s``; of several measurements the median."""
        found = []
        for shares in self.looks:
            heads, tails = [share.head for share in shares], [share.tail for share in shares]
            found.append(
                Anchor(
                    place=shares[0].place,
                    head_s=_middle(heads) * whole_s,
                    tail_s=_middle(tails) * whole_s,
                    head_spread_s=_spread(heads) * whole_s,
                    tail_spread_s=_spread(tails) * whole_s,
                )
            )
        return tuple(found)


def measure_anchors(
    bench: Bench,
    profile: Profile,
    budget_s: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Measured:
    """Measure anchors, the most informative first, then look again at those that seem out of line.

    Parameters
    ----------
    profile
        Its kernels say where the time goes. Places between kernels come first: there a cut may well be
        chosen. Inside a kernel it breaks a fusion, and one place tells of its like.
    budget_s
        Two thirds are for new places, the rest is for second and third looks: a machine that others
        disturb for a second or two bends a single measurement by a fifth, and hardly ever twice. At
        least the two ends and the middle are measured, however long that takes.
    progress
        Called with the places measured and the places there are; second looks change neither.
    """
    places = frontier(bench.model.graph)
    order = [node.name for node in bench.model.graph.nodes]
    open_places = [p for p in range(1, len(order)) if places[p].nbytes is not None]
    divisions = profile.divisions()
    cumulative = [0.0, *accumulate(profile.shared_s())]
    between = [p for p in open_places if divisions[p] is None]
    within = [p for p in open_places if divisions[p] is not None]
    started = bench.clock()
    found: dict[int, list[Share]] = {}

    def look(place: int) -> None:
        cut = Cut(frozenset(order[:place]), places[place].crossing)
        # Some parts that are valid ONNX exceed what the runtime loads (a float16 operator alone, say);
        # the neighbours' anchors cover the place.
        with contextlib.suppress(ModelError):
            share = measure_cut(bench, cut, place)
            found.setdefault(place, []).append(share)
        progress(len(found), len(open_places))

    for place in (*refinement(between, cumulative), *refinement(within, cumulative)):
        if len(found) >= 3 and bench.clock() - started > budget_s * 2 / 3:
            break
        look(place)
    known = [place for place in between if place in found]
    while bench.clock() - started < budget_s:
        values = {
            place: (
                _middle([s.head for s in shares]),
                _middle([s.tail for s in shares]),
                len(shares),
            )
            for place, shares in found.items()
        }
        doubtful = most_doubtful(values, known, cumulative)
        if doubtful is None:
            break
        look(doubtful)
    return Measured(tuple(tuple(found[place]) for place in sorted(found)))


def most_doubtful(
    values: Mapping[int, tuple[float, float, int]],
    between: Sequence[int],
    cumulative: Sequence[float],
) -> int | None:
    """The place to look at again; None when all have had three looks.

    That which lies farthest, relative to itself, from the line through its neighbours between kernels;
    each look makes a place less doubtful. ``values`` holds head, tail and looks by place.
    """
    doubt: dict[int, float] = {
        place: 0.0 for place, (_, _, looks) in values.items() if looks < LOOKS
    }
    for before, place, after in zip(between, between[1:], between[2:], strict=False):
        if place in doubt:
            step = cumulative[after] - cumulative[before]
            at = (cumulative[place] - cumulative[before]) / step if step > 0 else 0.5
            for part in (0, 1):
                low, here, high = (values[p][part] for p in (before, place, after))
                doubt[place] += abs(here - low - at * (high - low)) / here if here > 0 else 0.0
    return max(doubt, key=lambda place: (doubt[place] + 1e-3) / values[place][2] ** 2, default=None)


def _middle(samples: Sequence[Samples | None]) -> float:
    """The median of the measurements' medians; 0 for a part that is empty."""
    return float(np.median([s.median_s for s in samples if s is not None] or [0.0]))


def _spread(samples: Sequence[Samples | None]) -> float:
    return float(np.median([s.spread_s for s in samples if s is not None] or [0.0]))


def refinement(places: Sequence[int], cumulative: Sequence[float]) -> Iterator[int]:
    """Order places so that each prefix of the answer covers the curve well.

    The ends first, then always the middle of the interval that holds the most of the time and of the
    places. Every place comes once.
    """
    if not places:
        return
    yield places[0]
    if len(places) == 1:
        return
    yield places[-1]
    total = cumulative[-1] or 1.0

    def weight(low: int, high: int) -> float:
        time_share = (cumulative[places[high]] - cumulative[places[low]]) / total
        return -(time_share + (high - low) / len(places))

    heap = [(weight(0, len(places) - 1), 0, len(places) - 1)]
    while heap:
        _, low, high = heapq.heappop(heap)
        if high - low < 2:
            continue
        middle = (low + high) // 2
        yield places[middle]
        heapq.heappush(heap, (weight(low, middle), low, middle))
        heapq.heappush(heap, (weight(middle, high), middle, high))
