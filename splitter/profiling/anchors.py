"""Heads and tails really extracted and run, at places along the node order.

Kernel times alone mispredict parts by 4 % in the median and by far more at the first and last cuts,
where the cut breaks a fusion, or where the runtime must reorder a blocked tensor. An anchor is the
truth at its place; between anchors the kernels interpolate. Small models get an anchor at every place.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from splitter.errors import ModelError
from splitter.graph.cut import Cut
from splitter.graph.frontier import frontier
from splitter.profiling.parts import Bench, load_cut
from splitter.profiling.profile import Anchor, Profile
from splitter.profiling.timing import Samples, interleaved, relative


@dataclass(frozen=True)
class Share:
    """An anchor in parts of the whole model's seconds, with the whole's of the same rounds."""

    place: int
    head: Samples | None
    tail: Samples | None
    whole: Samples

    def anchor(self, whole_s: float) -> Anchor:
        """In seconds, the whole model taking ``whole_s``."""
        head, tail = self.head, self.tail
        return Anchor(
            place=self.place,
            head_s=head.median_s * whole_s if head else 0.0,
            tail_s=tail.median_s * whole_s if tail else 0.0,
            head_spread_s=head.spread_s * whole_s if head else 0.0,
            tail_spread_s=tail.spread_s * whole_s if tail else 0.0,
        )


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


def measure_anchors(
    bench: Bench,
    profile: Profile,
    budget_s: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Share, ...]:
    """Measure anchors, the most informative first, until every place has one or the time is spent.

    Parameters
    ----------
    profile
        Its kernels say where the time goes. Places between kernels come first: there a cut may well be
        chosen. Inside a kernel it breaks a fusion, and one place tells of its like.
    budget_s
        At least the two ends and the middle are measured, however long that takes.
    progress
        Called with the anchors measured and the places there are.
    """
    places = frontier(bench.model.graph)
    order = [node.name for node in bench.model.graph.nodes]
    open_places = [p for p in range(1, len(order)) if places[p].nbytes is not None]
    divisions = profile.divisions()
    cumulative = [0.0, *accumulate(profile.shared_s())]
    between = [p for p in open_places if divisions[p] is None]
    within = [p for p in open_places if divisions[p] is not None]
    started = bench.clock()
    found: list[Share] = []
    for place in (*refinement(between, cumulative), *refinement(within, cumulative)):
        if len(found) >= 3 and bench.clock() - started > budget_s:
            break
        cut = Cut(frozenset(order[:place]), places[place].crossing)
        try:
            found.append(measure_cut(bench, cut, place))
        except ModelError:
            # Some parts that are valid ONNX exceed what the runtime loads (a float16 operator alone,
            # say); the neighbours' anchors cover the place.
            continue
        progress(len(found), len(open_places))
    return tuple(sorted(found, key=lambda share: share.place))


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
