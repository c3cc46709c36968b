"""From a profile to the additive costs of a tier.

Along the node order the head's seconds are a curve H(p), p nodes in the head, known at the anchors and
between them interpolated in proportion to the kernels' seconds; inside a fused kernel by what breaking
the same fusion cost where that was measured. The tail's T(p) likewise. A curve is
taken apart into three things that also price closed sets which are no stretch of the node order:

- what any part costs, however small: the least that any measured part took;
- bumps: a place where less work takes longer costs extra because of what crosses there (a broken fusion,
  a reordered tensor), and that extra is charged to the tensor that crosses there and at all its places;
- the nodes' seconds: the increments of the rising curve nearest to what is left, in least squares. They
  are never negative, or the planner would pick nodes for the seconds they take away.

A cut along the node order costs what the curve says but for what the last step smooths, which is the
noise of single measurements. For any other closed set the sum is an approximation, which ``splitter
verify`` puts beside a clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from splitter.graph.values import Graph
from splitter.planning.records import Origin, TierCost
from splitter.profiling.profile import Profile

Curve = npt.NDArray[np.float64]


def head_cost(profile: Profile, graph: Graph) -> TierCost:
    """Costs of the nodes of ``graph`` on the tier that runs heads."""
    return _tier_cost(profile, graph, head_curve(profile, graph))


def tail_cost(profile: Profile, graph: Graph) -> TierCost:
    """Costs of the nodes of ``graph`` on the tier that runs tails."""
    # Read backwards, a tail's curve rises as a head's does.
    return _tier_cost(profile, graph, tail_curve(profile, graph), backwards=True)


def head_curve(profile: Profile, graph: Graph) -> Curve:
    """H(0..N): seconds of a head of the first p nodes; H(0) is 0 and H(N) the whole model."""
    known = {0: 0.0, len(graph.nodes): profile.whole_s}
    known.update({anchor.place: anchor.head_s for anchor in profile.anchors})
    return _curve(profile, graph, known)


def tail_curve(profile: Profile, graph: Graph) -> Curve:
    """T(0..N): seconds of a tail without the first p nodes; T(0) is the whole model and T(N) is 0."""
    known = {0: profile.whole_s, len(graph.nodes): 0.0}
    known.update({anchor.place: anchor.tail_s for anchor in profile.anchors})
    return _curve(profile, graph, known)


def _curve(profile: Profile, graph: Graph, known: Mapping[int, float]) -> Curve:
    """The known places as they are, the others by their neighbours between kernels.

    A place inside a kernel says nothing of its neighbours: cutting there breaks a fusion. Where none was
    measured there, it costs what breaking the same fusion cost elsewhere, in parts of the kernel.
    """
    divisions = profile.divisions()
    between = {place: s for place, s in known.items() if divisions[place] is None}
    curve = _interpolated(between, node_seconds(profile, graph), graph)
    scale = profile.whole_s / (sum(kernel.seconds for kernel in profile.kernels) or np.inf)
    extras: dict[tuple[str, int], list[float]] = {}
    for place, division in enumerate(divisions):
        if division is not None and place in known and division.kernel.seconds > 0:
            extra_s = known[place] - curve[place]
            extras.setdefault(division.kind, []).append(extra_s / (division.kernel.seconds * scale))
    for place, division in enumerate(divisions):
        if division is None:
            continue
        if place in known:
            curve[place] = known[place]
        elif division.kind in extras:
            extra_s = float(np.median(extras[division.kind])) * division.kernel.seconds * scale
            curve[place] = max(0.0, curve[place] + extra_s)
    return curve


def node_seconds(profile: Profile, graph: Graph) -> dict[str, float]:
    """Seconds of each node by the kernels alone, scaled so that they sum to the whole model's.

    A kernel's seconds belong to its node with the most operations; the others are fused into it and
    cost nothing more. Where the runtime gave no trace, operations stand for seconds.
    """
    total = sum(kernel.seconds for kernel in profile.kernels)
    if total == 0:
        flops = sum(node.flops for node in graph.nodes) or 1
        return {node.name: profile.whole_s * node.flops / flops for node in graph.nodes}
    seconds = dict.fromkeys(graph.node_of, 0.0)
    for kernel in profile.kernels:
        main = max(kernel.nodes, key=lambda name: graph.node_of[name].flops)
        seconds[main] += kernel.seconds * profile.whole_s / total
    return seconds


def _interpolated(known: Mapping[int, float], node_s: Mapping[str, float], graph: Graph) -> Curve:
    along = np.array([0.0, *accumulate(node_s[node.name] for node in graph.nodes)])
    # A sliver for each place, so that places between which no kernel ran keep their order.
    along += np.arange(len(along)) * (along[-1] or 1.0) * 1e-9
    places = sorted(known)
    curve: Curve = np.interp(along, along[places], [known[place] for place in places])
    return curve


def _tier_cost(
    profile: Profile, graph: Graph, curve: Curve, *, backwards: bool = False
) -> TierCost:
    base_s = _least_part(profile)
    rising = curve[::-1] if backwards else curve
    bumps = rising - _lower_rising(rising)
    crossing_s, charged = _charge_tensors(graph, bumps[::-1] if backwards else bumps)
    left = rising - (charged[::-1] if backwards else charged) - base_s
    left[0], left[-1] = 0.0, profile.whole_s - base_s
    steps = np.diff(_nearest_rising(left))
    return TierCost(
        node_s={
            node.name: float(step)
            for node, step in zip(graph.nodes, steps[::-1] if backwards else steps, strict=True)
        },
        base_s=base_s,
        crossing_s=crossing_s,
        unsupported=frozenset(n.name for n in graph.nodes if n.op_type in profile.unsupported),
        origin=Origin(profile.origin),
        name=profile.tier,
    )


def _least_part(profile: Profile) -> float:
    """What calling the runtime costs at least: no part that was measured took less."""
    parts = [s for anchor in profile.anchors for s in (anchor.head_s, anchor.tail_s) if s > 0]
    return min([*parts, profile.whole_s]) if parts else 0.0


def _lower_rising(curve: Curve) -> Curve:
    """The largest rising curve that is nowhere above the given one."""
    lowest: Curve = np.minimum.accumulate(curve[::-1])[::-1]
    return lowest


def _nearest_rising(curve: Curve) -> Curve:
    """The rising curve nearest in least squares that keeps both ends, by pooling adjacent violators.

    Ayer et al. (1955), An empirical distribution function for sampling with incomplete information.
    """
    inner = np.clip(curve[1:-1], curve[0], curve[-1])
    pools: list[tuple[float, int]] = []
    for value in inner.tolist():
        mean, size = value, 1
        while pools and pools[-1][0] > mean:
            before, count = pools.pop()
            mean, size = (before * count + mean * size) / (count + size), count + size
        pools.append((mean, size))
    middle = np.repeat([mean for mean, _ in pools], [size for _, size in pools])
    nearest: Curve = np.concatenate([curve[:1], middle, curve[-1:]])
    return nearest


def _charge_tensors(graph: Graph, bumps: Curve) -> tuple[dict[str, float], Curve]:
    """Charge each bump to the tensor that the node before it made; also return the charges by place.

    A tensor that crosses at several places is charged what it costs at all of them, the least bump.
    """
    left = bumps.copy()
    place_of = {node.name: place for place, node in enumerate(graph.nodes, start=1)}
    crossing_s: dict[str, float] = {}
    for place, node in enumerate(graph.nodes, start=1):
        for tensor in node.outputs:
            readers = graph.consumers_of[tensor]
            if not readers or graph.tensors[tensor].nbytes is None:
                continue
            end = max(place_of[reader.name] for reader in readers)
            charge = float(left[place:end].min())
            if charge > 0:
                crossing_s[tensor] = charge
                left[place:end] -= charge
    return crossing_s, bumps - left
