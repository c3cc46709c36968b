"""The integer program of a layout with every load in it: limits, largest terms, tiers in a row, devices.

Where ``program`` has one objective in mind and each tensor in its cheapest codec, here the loads of tiers and
hops (``layout``) are sums over variables, and whatever is made of them can be minimised or limited::

    x_vh  node v runs on tier h or before; of devices side by side: on its own device
    m_th  all readers of tensor t run on tier h or before; t crosses hop h where x_producer,h - m_th = 1
    L_thk m_th = L_0 <= .. <= L_n = x_producer,h:  t is sent over hop h in codec k where L_k+1 - L_k = 1
    f, g  a middle tier passes t on in the codec that it came in; and untouched, as no node there reads it
    d     a device runs anything;  u  a further device sends anything
    z     not less than each of the sums whose largest is a term of the objective

The arcs are those of ``program``, one set a hop, and x_vh <= x_v,h+1. Rows hold the limits, z, f <= both of
its codecs' differences, g <= f and g <= 1 - (x_reader,h - x_reader,h-1), and what is added later: memory,
tiers that must not be empty, placements excluded. f, g, d, u, m and z are what the others make them, and
so need no integrality.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf

from splitter.errors import InfeasibleError
from splitter.planning.homes import homes
from splitter.planning.knapsack import Allowance
from splitter.planning.layout import Form, Layout
from splitter.planning.limits import stuck, tied
from splitter.planning.pins import pinned
from splitter.planning.program import Row
from splitter.planning.records import CodecCost, Problem
from splitter.planning.sums import ONE, ZERO, Difference, Sum
from splitter.planning.work import (
    decode_s,
    encode_s,
    made_in_order,
    needed_on_server,
    returned_bytes,
    state_inputs,
)


class Tiered:
    """Variables, arcs and loads, as they are gathered."""

    def __init__(self, problem: Problem, layout: Layout, size: float) -> None:
        self.problem, self.layout, self.size = problem, layout, size
        self.graph, self.last = problem.graph, len(layout.tiers) - 1
        self.count = 0
        self.arcs: dict[tuple[int, int], None] = {}
        self.fixed: dict[int, int] = {}
        self.rows: list[Row] = []
        self.continuous: set[int] = set()
        self.unbounded: list[int] = []
        self.states, self.stuck = state_inputs(problem), stuck(problem)
        self.home_of = homes(problem) if layout.is_star else {}
        hops = range(len(layout.hops))
        self.busy = [Sum() for _ in layout.tiers]
        self.up, self.down, self.used = ([Sum() for _ in hops] for _ in range(3))
        self.loss = Sum()
        self.levels: dict[tuple[str, int], list[int]] = {}
        self._options: dict[str, tuple[CodecCost, ...]] = {}
        self.allowance = Allowance.of(problem)
        self._nodes()
        self._parts()
        for tensor in made_in_order(self.graph):
            if tensor not in self.states:
                self._tensor(tensor)
        self._fix()
        self._budget()

    # What a node's or a tensor's place is

    def before(self, node: str, hop: int) -> int:
        """The variable that a node runs on the sender's side of a hop."""
        if hop < 0 or (self.layout.is_star and self.home_of[node] not in (hop, None)):
            return ZERO
        if self.layout.is_star and self.home_of[node] is None:
            return ZERO
        return (
            ONE if hop == len(self.layout.hops) else self.x[node, 0 if self.layout.is_star else hop]
        )

    def on(self, node: str, place: int) -> Difference:
        """Where a node runs on a tier."""
        if not self.layout.is_star:
            return self.before(node, place), self.before(node, place - 1)
        if place < self.last:
            return self.before(node, place), ZERO
        home = self.home_of[node]
        return ONE, ZERO if home is None else self.x[node, 0]

    def options(self, tensor: str) -> tuple[CodecCost, ...]:
        """Codecs worth sending it in; none where it may not be sent."""
        if tensor not in self._options:
            choices = () if tensor in self.stuck else self.problem.codecs.get(tensor, ())
            admitted = [c for c in choices if self.allowance.admits(tensor, c.loss)]
            self._options[tensor] = self._worth_having(tensor, admitted)
        return self._options[tensor]

    def _worth_having(self, tensor: str, choices: Sequence[CodecCost]) -> tuple[CodecCost, ...]:
        """Leave out what another choice is as good as in everything."""
        kept: list[tuple[tuple[float, ...], CodecCost]] = []
        places = range(len(self.layout.tiers))
        for choice in sorted(choices, key=lambda c: (c.wire_bytes, c.loss, c.encode_s, c.decode_s)):
            costs = tuple(
                seconds(self.problem, self.layout, place, tensor, choice)
                for place in places
                for seconds in (encode_s, decode_s)
            )
            mine = (choice.wire_bytes, choice.loss, *costs)
            if not any(all(a <= b for a, b in zip(o, mine, strict=True)) for o, _ in kept):
                kept.append((mine, choice))
        return tuple(choice for _, choice in kept)

    def expression(self, form: Form) -> Sum:
        """A form of the loads."""
        found = Sum()
        sums = (*self.busy, *self.up, *self.down, *self.used)
        for weight, load in zip(form.weights, sums, strict=True):
            if weight:
                found.plus(load, weight)
        return found

    def any_of(self, pairs: Iterable[Difference]) -> int:
        """A variable that is 1 where one of some differences is."""
        found = self._new()
        for upper, lower in pairs:
            if lower == ZERO:
                self._require(found, upper)
            else:
                self._row({found: 1.0}, [(upper, -1.0), (lower, 1.0)], 0.0)
        return found

    def all_of(self, variables: Iterable[int]) -> int:
        """A variable that is 0 where one of some variables is."""
        found = self._new()
        for variable in variables:
            self._require(variable, found)
        return found

    def largest(self) -> int:
        """A variable that rows keep above whatever they name, in parts of ``size``."""
        self.unbounded.append(self.count)
        self.count += 1
        return self.count - 1

    # Gathering

    def _new(self, continuous: bool = True) -> int:
        if continuous:
            self.continuous.add(self.count)
        self.count += 1
        return self.count - 1

    def _require(self, upper: int, lower: int) -> None:
        if upper in (ONE, lower) or lower == ZERO:
            return
        if lower == ONE:
            self._decide(upper, 1)
        elif upper == ZERO:
            self._decide(lower, 0)
        else:
            self.arcs[upper, lower] = None

    def _decide(self, variable: int, value: int) -> None:
        known = {ZERO: 0, ONE: 1}.get(variable, self.fixed.get(variable, value))
        if known != value:
            raise InfeasibleError("no plan satisfies every limit: a node is forced both ways")
        if variable >= 0:
            self.fixed[variable] = value

    def _equal(self, one: int, other: int) -> None:
        self._require(one, other)
        self._require(other, one)

    def _nodes(self) -> None:
        self.x: dict[tuple[str, int], int] = {}
        hops = range(1 if self.layout.is_star else len(self.layout.hops))
        for node in self.graph.nodes:
            for hop in hops:
                if not self.layout.is_star or self.home_of[node.name] is not None:
                    self.x[node.name, hop] = self._new(continuous=False)
            for hop in hops[1:]:
                self._require(self.x[node.name, hop], self.x[node.name, hop - 1])
            for tensor in node.inputs:
                producer = self.graph.producer_of.get(tensor)
                if producer is not None:
                    for hop in range(len(self.layout.hops)):
                        self._require(self.before(producer.name, hop), self.before(node.name, hop))
            for place, tier in enumerate(self.layout.tiers):
                if self.layout.is_star and place < self.last and self.home_of[node.name] != place:
                    continue
                pair = self.on(node.name, place)
                self.busy[place].differ(pair, tier.node_s[node.name])
                if node.name in tier.unsupported:
                    self._require(pair[1], pair[0])
            self._returned(node.name)

    def _returned(self, name: str) -> None:
        nbytes = returned_bytes(self.problem, self.graph.node_of[name])
        if nbytes and self.layout.is_star:
            self.down[0].differ(self.on(name, self.last), nbytes)
        elif nbytes:
            for hop in range(len(self.layout.hops)):
                self.down[hop].differ((ONE, self.before(name, hop)), nbytes)

    def _parts(self) -> None:
        """What a tier costs where it runs anything: those that are no device always do."""
        self.running = {}
        for place in self.layout.devices:
            first = [
                node.name
                for node in self.graph.nodes
                if not any(name in self.graph.producer_of for name in node.inputs)
            ]
            starts = [self.before(name, place) for name in first]
            base_s = self.layout.tiers[place].base_s
            self.running[place] = self._new()
            for start in starts:
                self._require(self.running[place], start)
            if base_s < 0:
                self._row({self.running[place]: -1.0}, [(start, 1.0) for start in starts], 0.0)
            self.busy[place].add(self.running[place], base_s)
        wanted = any(needed_on_server(self.problem, name) for name in self.graph.outputs)
        for place in range(len(self.layout.devices), len(self.layout.tiers)):
            base_s = self.layout.tiers[place].base_s
            self.busy[place].constant += base_s
            if place == self.last and wanted and base_s:
                self._idle_server(base_s)
        for hop, used in enumerate(self.used):
            used.constant = float(not (self.layout.is_star and hop))

    def _idle_server(self, base_s: float) -> None:
        """Give the base back where all the server does is to take what a device made."""
        nothing = self._new()
        ends = [self.on(node.name, self.last) for node in self.graph.nodes]
        for end in ends:
            self._row({nothing: -1.0}, [(end[0], -1.0), (end[1], 1.0)], -1.0)
        if base_s < 0:
            terms = [(v, sign) for end in ends for v, sign in zip(end, (1.0, -1.0), strict=True)]
            self._row({nothing: 1.0}, terms, 1.0)
        self.busy[self.last].add(nothing, -base_s)

    def _row(
        self, terms: Mapping[int, float], more: Iterable[tuple[int, float]], at_least: float
    ) -> None:
        found = Sum()
        for variable, weight in (*terms.items(), *more):
            found.add(variable, weight)
        self.rows.append(
            Row({v: w for v, w in found.terms.items() if w}, at_least - found.constant)
        )

    def _tensor(self, tensor: str) -> None:
        producer = self.graph.producer_of.get(tensor)
        readers = [node.name for node in self.graph.consumers_of[tensor]]
        wanted = needed_on_server(self.problem, tensor)
        if not readers and not wanted:
            return
        options = self.options(tensor)
        hops = self._hops(tensor)
        for hop in hops:
            made = ONE if producer is None else self.before(producer.name, hop)
            if made == ZERO:
                continue
            if not options:
                for reader in readers:
                    self._require(self.before(reader, hop), made)
                if wanted:
                    self._decide(made, 0)
                continue
            self.levels[tensor, hop] = self._levels(hop, (made, readers, wanted), len(options))
            self._send(tensor, hop, options)
        for place in hops[1:]:
            if (tensor, place) in self.levels and (tensor, place - 1) in self.levels:
                self._pass_on(tensor, place, options)

    def _hops(self, tensor: str) -> Sequence[int]:
        if not self.layout.is_star:
            return range(len(self.layout.hops))
        home = self.home_of.get(tensor)
        return () if home is None else (home,)

    def _levels(self, hop: int, ends: tuple[int, Sequence[str], bool], count: int) -> list[int]:
        made, readers, wanted = ends
        befores = {self.before(reader, hop) for reader in readers}
        if wanted or ZERO in befores:
            read = ZERO
        elif len(befores) == 1:
            read = next(iter(befores))
        else:
            read = self._new()
            for before in befores:
                self._require(before, read)
        levels = [read]
        for _ in range(count - 1):
            levels.append(self._new(continuous=False))
            self._require(levels[-1], levels[-2])
        self._require(made, levels[-1])
        return [*levels, made]

    def sent(self, tensor: str, hop: int, option: int) -> Difference:
        """Where a tensor is sent over a hop in one of its options."""
        levels = self.levels[tensor, hop]
        return levels[option + 1], levels[option]

    def _send(self, tensor: str, hop: int, options: Sequence[CodecCost]) -> None:
        sender, receiver = hop, self.last if self.layout.is_star else hop + 1
        levels = self.levels[tensor, hop]
        for option, choice in enumerate(options):
            pair = self.sent(tensor, hop, option)
            problem, layout = self.problem, self.layout
            self.up[hop].differ(pair, choice.wire_bytes)
            self.busy[sender].differ(pair, encode_s(problem, layout, sender, tensor, choice))
            self.busy[receiver].differ(pair, decode_s(problem, layout, receiver, tensor, choice))
            self.loss.differ(pair, choice.loss)
        sender_s = self.layout.tiers[sender].crossing_s.get(tensor, 0.0)
        there = self.running.get(sender, ONE)
        made = levels[-1] if tensor in self.graph.producer_of else there
        self.busy[sender].differ((made, levels[0]), sender_s)
        if not needed_on_server(self.problem, tensor):
            receiver_s = self.layout.tiers[receiver].crossing_s.get(tensor, 0.0)
            self.busy[receiver].differ((levels[-1], levels[0]), receiver_s)
        if self.layout.is_star and hop:
            self._use(hop, (levels[-1], levels[0]))

    def _use(self, hop: int, pair: Difference) -> None:
        if not self.used[hop].terms:
            self.used[hop].add(self._new(), 1.0)
        (variable,) = self.used[hop].terms
        self._row({variable: 1.0}, [(pair[0], -1.0), (pair[1], 1.0)], 0.0)

    def _pass_on(self, tensor: str, place: int, options: Sequence[CodecCost]) -> None:
        """What a middle tier saves where it passes a tensor on as it came, or untouched."""
        tier, busy = self.layout.tiers[place], self.busy[place]
        for option, choice in enumerate(options):
            crossing_s = tier.crossing_s.get(tensor, 0.0)
            sending_s = encode_s(self.problem, self.layout, place, tensor, choice) + crossing_s
            opening_s = decode_s(self.problem, self.layout, place, tensor, choice)
            if not needed_on_server(self.problem, tensor):
                opening_s += crossing_s
            if not (sending_s or opening_s or choice.loss):
                continue
            passed = self._new()
            for hop in (place - 1, place):
                pair = self.sent(tensor, hop, option)
                self._row({passed: -1.0}, [(pair[0], 1.0), (pair[1], -1.0)], 0.0)
            busy.add(passed, -sending_s)
            self.loss.add(passed, -choice.loss)
            if opening_s:
                untouched = self._new()
                self._row({untouched: -1.0, passed: 1.0}, (), 0.0)
                for node in self.graph.consumers_of[tensor]:
                    pair = self.on(node.name, place)
                    self._row({untouched: -1.0}, [(pair[0], -1.0), (pair[1], 1.0)], -1.0)
                busy.add(untouched, -opening_s)

    def _fix(self) -> None:
        for name, (number, pin) in pinned(self.problem).items():
            if number not in self.layout.numbers:
                raise InfeasibleError(f"no plan without that tier keeps {pin}")
            place = self.layout.numbers.index(number)
            upper, lower = self.on(name, place)
            self._require(upper, ONE)
            self._require(ZERO, lower)
        for one, other in tied(self.problem):
            for place in range(len(self.layout.tiers)):
                (a, b), (c, d) = self.on(one, place), self.on(other, place)
                self._equal(a, c)
                self._equal(b, d)

    def _budget(self) -> None:
        if self.allowance.limit < inf:
            self.rows.append(self.loss.at_most(self.allowance.limit))
        for least in self.allowance.combinations:
            together = Sum()
            for tensor, threshold in least.items():
                lossy = self._new()
                together.add(lossy, 1.0)
                for hop in range(len(self.layout.hops)):
                    if (tensor, hop) in self.levels:
                        pairs = [
                            self.sent(tensor, hop, option)
                            for option, choice in enumerate(self.options(tensor))
                            if choice.loss >= threshold
                        ]
                        terms = [(v, w) for p in pairs for v, w in zip(p, (-1.0, 1.0), strict=True)]
                        self._row({lossy: 1.0}, terms, 0.0)
            self.rows.append(together.at_most(len(least) - 1, 1.0))
