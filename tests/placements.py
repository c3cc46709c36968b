"""Every placement of small graphs and what it costs, written out plainly: limits and tiers by definition."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from problems import allowed, random_problem, with_losses

from splitter.graph.values import Tensor
from splitter.link import Link
from splitter.planning.records import CodecCost, Problem, Relay, Source, TierCost
from splitter.planning.terms import LATENCY, Limits, Objective, Pin, PowerDraw, State, Term


@dataclass(frozen=True)
class Plain:
    """One placement with codecs."""

    tier_of: Mapping[str, int]
    codecs: tuple[str, ...]
    values: Mapping[str, float]
    """Terms, bytes and memory."""
    objective: float
    sent: Mapping[str, CodecCost]
    """In the lossiest codec of its hops."""
    loss: float


def plain_plans(problem: Problem) -> Iterator[Plain]:
    """All that keep every limit."""
    for plan in all_plans(problem):
        if keeps(problem, plan):
            yield plan


def all_plans(problem: Problem) -> Iterator[Plain]:
    """All placements in all codecs that tiers can run, whatever limits of numbers they break."""
    for tier_of in placements(problem):
        yield from priced(problem, tier_of)


def placements(problem: Problem) -> Iterator[dict[str, int]]:
    graph, last = problem.graph, 1 + len(problem.relays) + len(problem.sources)
    homes = plain_homes(problem) if problem.sources else None

    def grow(index: int, places: dict[str, int]) -> Iterator[dict[str, int]]:
        if index == len(graph.nodes):
            yield dict(places)
            return
        node = graph.nodes[index]
        made = [places[graph.producer_of[t].name] for t in node.inputs if t in graph.producer_of]
        if homes is None:
            choices = list(range(max(made, default=0), last + 1))
        else:
            home = homes[node.name]
            choices = [last]
            if home is not None and all(place == home for place in made):
                choices.append(home)
        for place in choices:
            places[node.name] = place
            yield from grow(index + 1, places)
            del places[node.name]

    for places in grow(0, {}):
        if fits(problem, places):
            yield places


def plain_homes(problem: Problem) -> dict[str, int | None]:
    graph = problem.graph
    states = {state.input for state in problem.limits.states}

    def fed(name: str) -> set[int]:
        if name in graph.inputs:
            if name in states:
                return set()
            return {next((k for k, s in enumerate(problem.sources, 1) if name in s.inputs), 0)}
        return set().union(*(fed(read) for read in graph.producer_of[name].inputs))

    homes: dict[str, int | None] = {}
    for node in reversed(graph.nodes):
        devices = fed(node.outputs[0])
        if not devices:
            devices = {homes[r.name] for t in node.outputs for r in graph.consumers_of[t]}
        homes[node.name] = next(iter(devices)) if len(devices) == 1 else None
    return homes


def fits(problem: Problem, places: Mapping[str, int]) -> bool:
    """Operators, pins and states."""
    tiers = [problem.device, *(r.tier for r in problem.relays), *(s.tier for s in problem.sources)]
    tiers.append(problem.server)
    if any(name in tiers[place].unsupported for name, place in places.items()):
        return False
    names = ["device", *(f"relay{i + 1}" for i in range(len(problem.relays)))]
    names += [f"device{i + 2}" for i in range(len(problem.sources))]
    names.append("server")
    for pin in problem.limits.pins:
        if places[pin.pattern] != names.index(pin.tier):
            return False
    for state in problem.limits.states:
        tied = [node.name for node in problem.graph.consumers_of[state.input]]
        if state.output in problem.graph.producer_of:
            tied.append(problem.graph.producer_of[state.output].name)
        if len({places[name] for name in tied}) > 1:
            return False
    return True


def _route(problem: Problem, a: int, b: int) -> list[Link]:
    """Fewest links; the first found of as few."""
    best: list[Link] | None = None
    middle = range(a + 1, b)
    for count in range(b - a):
        for stops in itertools.combinations(middle, count):
            path = [a, *stops, b]
            links: list[Link] = []
            for x, y in itertools.pairwise(path):
                if (x, y) in problem.shortcuts:
                    links.append(problem.shortcuts[x, y])
                elif y == x + 1:
                    links += [problem.link] if x == 0 else [problem.relays[x - 1].link]
                else:
                    break
            else:
                if best is None:
                    best = links
        if best is not None:
            return best
    raise AssertionError("neighbours have a link")


def _seconds(problem: Problem, tier: int, tensor: str, choice: CodecCost) -> tuple[float, float]:
    if 0 < tier <= len(problem.relays):
        for own in problem.relays[tier - 1].codecs.get(tensor, ()):
            if own.codec == choice.codec:
                return own.encode_s, own.decode_s
    return choice.encode_s, choice.decode_s


def priced(problem: Problem, tier_of: Mapping[str, int]) -> Iterator[Plain]:
    """Every choice of codecs."""
    graph, star = problem.graph, bool(problem.sources)
    tiers = [problem.device, *(r.tier for r in problem.relays), *(s.tier for s in problem.sources)]
    tiers.append(problem.server)
    last = len(tiers) - 1
    wanted = {name for name, tier in problem.limits.outputs.items() if tier == "server"}
    states = {state.input: state.output for state in problem.limits.states}
    hops = hops_of(problem, tier_of, wanted)
    routes = {
        pair: [problem.link if pair[0] == 0 else problem.sources[pair[0] - 1].link]
        if star else _route(problem, *pair)
        for pair in hops
    }  # fmt: skip
    crossing: list[tuple[str, list[tuple[int, int]]]] = []
    for tensor in graph.tensors:
        if tensor in states:
            continue
        made, readers = _ends(problem, tier_of, tensor, wanted)
        if readers and max(readers) > made:
            over = [p for p in hops if made <= p[0] and p[1] <= max(readers)]
            crossing.append((tensor, [p for p in over if p[0] == made] if star else over))
    ways = [
        list(itertools.product(problem.codecs.get(tensor, ()), repeat=len(over)))
        for tensor, over in crossing
    ]
    for chosen in itertools.product(*ways):
        part, encode, decode = [0.0] * (last + 1), [0.0] * (last + 1), [0.0] * (last + 1)
        for k in set(tier_of.values()):
            part[k] = tiers[k].base_s
        for name, k in tier_of.items():
            part[k] += tiers[k].node_s[name]
        up, down = dict.fromkeys(hops, 0), dict.fromkeys(hops, 0)
        loss, sent = 0.0, {}
        for (tensor, over), codecs in zip(crossing, chosen, strict=True):
            _, readers = _ends(problem, tier_of, tensor, wanted)
            for i, (hop, choice) in enumerate(zip(over, codecs, strict=True)):
                start, end = hop
                up[hop] += choice.wire_bytes
                came = i > 0 and codecs[i - 1].codec == choice.codec
                goes = i + 1 < len(over) and codecs[i + 1].codec == choice.codec
                if not came:
                    encode[start] += _seconds(problem, start, tensor, choice)[0]
                    loss += choice.loss
                    if start in tier_of.values():
                        part[start] += tiers[start].crossing_s.get(tensor, 0.0)
                if end in readers or not goes:
                    decode[end] += _seconds(problem, end, tensor, choice)[1]
                    if end in tier_of.values() and tensor not in wanted:
                        part[end] += tiers[end].crossing_s.get(tensor, 0.0)
                if tensor not in sent or sent[tensor].loss < choice.loss:
                    sent[tensor] = choice
        for name in graph.outputs:
            if name in graph.producer_of and name not in wanted and name not in states.values():
                place = tier_of[graph.producer_of[name].name]
                for hop in hops:
                    back = hop[0] == 0 and place == last if star else hop[1] <= place
                    if back:
                        down[hop] += graph.tensors[name].nbytes or 0
        busy = [sum(three) for three in zip(part, encode, decode, strict=True)]
        any_server = last in tier_of.values() or bool(crossing)
        moving = {}
        for hop in hops:
            used = any(h == hop for _, over in crossing for h in over)
            used = used or not star or (hop[0] == 0 and any_server)
            moving[hop] = (
                sum(up[hop] / x.up_bytes_per_s for x in routes[hop]),
                sum(down[hop] / x.down_bytes_per_s for x in routes[hop]),
                sum(x.rtt_s for x in routes[hop]) if used else 0.0,
            )
        if star:
            latency = max(
                busy[k] + sum(moving[k, last][i] for i in (0, 2)) for k in range(last)
            ) + busy[last] + moving[0, last][1]  # fmt: skip
        else:
            latency = sum(busy) + sum(sum(three) for three in moving.values())
        stages = list(busy)
        for hop in hops:
            stages.append(max(up[hop] / x.up_bytes_per_s for x in routes[hop]))
            stages.append(max(down[hop] / x.down_bytes_per_s for x in routes[hop]))
        energy: float | None = 0.0
        for k in range(last if star else 1):
            power = tiers[k].power
            if power is None or energy is None:
                energy = None
                break
            energy += power.active_w * busy[k] + power.idle_w * (latency - busy[k])
            for hop in hops:
                if hop[0] == k:
                    first = routes[hop][0]
                    seconds = up[hop] / first.up_bytes_per_s + down[hop] / first.down_bytes_per_s
                    energy += power.radio_w * seconds
                    energy += power.radio_j_per_byte * (up[hop] + down[hop])
        money = sum(t.price_per_hour / 3600 * s for t, s in zip(tiers, busy, strict=True))
        money += sum(
            (up[hop] + down[hop]) * x.price_per_gb / 1e9 for hop in hops for x in routes[hop]
        )
        total = sum((up[hop] + down[hop]) * len(routes[hop]) for hop in hops)
        values: dict[str, float] = {
            "deadline_s": latency, "interval_s": max(stages), "money": money, "sent_bytes": total,
            "device_memory_bytes": max(
                plain_memory(problem, tier_of, k, wanted) for k in range(last if star else 1)
            ),
            "server_memory_bytes": plain_memory(problem, tier_of, last, wanted),
        }  # fmt: skip
        if energy is not None:
            values["energy_j"] = energy
        objective = problem.bytes_weight * total
        named = {
            Term.LATENCY: latency, Term.THROUGHPUT: max(stages), Term.ENERGY: energy, Term.MONEY: money
        }  # fmt: skip
        for term, weight in problem.objective.weights.items():
            value = named[term]
            assert value is not None
            objective += weight * value
        names = tuple(choice.codec for way in chosen for choice in way)
        yield Plain(tier_of, names, values, objective, sent, loss)


def hops_of(
    problem: Problem, tier_of: Mapping[str, int], wanted: set[str]
) -> list[tuple[int, int]]:
    """Pairs of tiers that traffic goes between: those in use, and the device in any case."""
    last = 1 + len(problem.relays) + len(problem.sources)
    if problem.sources:
        return [(k, last) for k in range(last)]
    used = sorted({0, *tier_of.values(), *((last,) if wanted else ())})
    return list(itertools.pairwise(used))


def _ends(
    problem: Problem, tier_of: Mapping[str, int], tensor: str, wanted: set[str]
) -> tuple[int, list[int]]:
    graph = problem.graph
    readers = [tier_of[node.name] for node in graph.consumers_of[tensor]]
    if tensor in wanted:
        readers.append(1 + len(problem.relays) + len(problem.sources))
    if tensor in graph.producer_of:
        return tier_of[graph.producer_of[tensor].name], readers
    born = next((k for k, s in enumerate(problem.sources, 1) if tensor in s.inputs), 0)
    return born, readers


def plain_memory(problem: Problem, tier_of: Mapping[str, int], tier: int, wanted: set[str]) -> int:
    """Run the part in thought, holding what is still needed."""
    graph, last = problem.graph, 1 + len(problem.relays) + len(problem.sources)
    states = {state.input for state in problem.limits.states}
    mine = [node for node in graph.nodes if tier_of[node.name] == tier]
    weights = {name for node in mine for name in node.weights}
    total = sum(graph.weights[name].nbytes or 0 for name in weights)
    own = (
        (problem.server if tier == last else problem.device).own_memory if tier in (0, last) else ()
    )
    total += sum(nbytes for nodes, nbytes in own if any(node.name in nodes for node in mine))
    held: set[str] = set()
    for tensor in graph.tensors:
        made, readers = _ends(problem, tier_of, tensor, wanted)
        if tensor in states and readers:
            made = readers[0]
        if tensor in graph.inputs and made == tier:
            held.add(tensor)
        if made < tier and tier in readers and (tier == last or not problem.sources):
            held.add(tensor)

    def needed(tensor: str, left: list[str]) -> bool:
        made, readers = _ends(problem, tier_of, tensor, wanted)
        if tensor in states and readers:
            made = readers[0]
        if made == tier and (tensor in graph.outputs or any(r > tier for r in readers)):
            return True
        if tensor in wanted and tier == last:
            return True
        return any(reader.name in left for reader in graph.consumers_of[tensor])

    left = [node.name for node in mine]
    peak = sum(graph.tensors[name].nbytes or 0 for name in held)
    for node in mine:
        held = {name for name in held if needed(name, left)} | set(node.outputs)
        peak = max(peak, sum(graph.tensors[name].nbytes or 0 for name in held))
        left.remove(node.name)
    return total + peak


def keeps(problem: Problem, plan: Plain) -> bool:
    for name, value in plan.values.items():
        limit = getattr(problem.limits, name)
        if limit is not None and value > limit * (1 + 1e-9):
            return False
    if problem.loss_limit is not None and plan.loss > problem.loss_limit * (1 + 1e-9):
        return False
    return allowed(replace(problem, loss_limit=None), plan.sent)


def drawn(seed: int, size: int, *, positive: bool = True) -> Problem:
    """A problem with power, prices and weights, some of them shared."""
    draw = random.Random(seed)
    problem = random_problem(seed, size)
    if draw.random() < 0.3:
        problem = with_losses(problem, seed)
    graph = problem.graph
    weights = {f"w{i}": Tensor(f"w{i}", "uint8", (draw.randrange(400),)) for i in range(size)}
    nodes = tuple(
        replace(
            node, weights=tuple(draw.sample(list(weights), min(draw.choice([0, 1, 1, 2]), size)))
        )
        for node in graph.nodes
    )
    graph = replace(graph, nodes=nodes, weights=weights)
    power = PowerDraw(
        active_w=draw.uniform(2, 6), idle_w=draw.uniform(0, 2),
        radio_w=draw.choice([0.0, 1.5]), radio_j_per_byte=draw.choice([0.0, 1e-4]),
    )  # fmt: skip
    device, server = (_tier(t, draw, positive) for t in (problem.device, problem.server))
    link = replace_link(problem.link, price_per_gb=draw.choice([0.0, 1e4]))
    return replace(
        problem, graph=graph, link=link,
        device=replace(device, power=power),
        server=replace(server, price_per_hour=draw.choice([0.0, 2.0])),
    )  # fmt: skip


def _tier(tier: TierCost, draw: random.Random, positive: bool) -> TierCost:
    if not positive:
        return tier
    node_s = {name: abs(seconds) for name, seconds in tier.node_s.items()}
    return replace(tier, node_s=node_s, base_s=abs(tier.base_s))


def replace_link(link: Link, **changes: float) -> Link:
    fields = {name: getattr(link, name) for name in link.__struct_fields__}
    return Link(**(fields | changes))


def with_relays(problem: Problem, seed: int, count: int = 1) -> Problem:
    """Put tiers between device and server, with links, codecs and shortcuts."""
    draw = random.Random(seed)
    names = list(problem.graph.node_of)
    relays = tuple(
        Relay(
            TierCost(
                {name: draw.random() * 0.1 for name in names},
                base_s=draw.choice([0.0, 0.01]),
                crossing_s={name: draw.random() * 0.02 for name in names if draw.random() < 0.3},
                unsupported=frozenset(name for name in names if draw.random() < 0.04),
                price_per_hour=draw.choice([0.0, 1.0]),
            ),
            Link(
                name="", up_bytes_per_s=draw.choice([2000.0, 1e4]), down_bytes_per_s=5000.0,
                rtt_s=draw.choice([0.0, 0.005]), price_per_gb=draw.choice([0.0, 5e3]),
            ),
            {
                name: tuple(
                    CodecCost(
                        codec=c.codec, wire_bytes=c.wire_bytes, loss=c.loss,
                        encode_s=draw.random() * 0.01, decode_s=draw.random() * 0.01,
                    )
                    for c in choices
                )
                for name, choices in problem.codecs.items() if draw.random() < 0.7
            },
        )
        for _ in range(count)
    )  # fmt: skip
    last = count + 1
    shortcuts = {
        (a, b): Link(
            name="", up_bytes_per_s=draw.choice([400.0, 3000.0]), down_bytes_per_s=3000.0,
            rtt_s=draw.choice([0.0, 0.02]),
        )
        for a in range(last) for b in range(a + 2, last + 1) if draw.random() < 0.6
    }  # fmt: skip
    return replace(problem, relays=relays, shortcuts=shortcuts)


def with_sources(problem: Problem, seed: int) -> Problem:
    """Give the second of two inputs a device of its own."""
    draw = random.Random(seed)
    inputs = problem.graph.inputs
    names = list(problem.graph.node_of)
    source = Source(
        TierCost(
            {name: draw.random() * 0.2 for name in names},
            base_s=draw.choice([0.0, 0.05]),
            crossing_s={name: draw.random() * 0.02 for name in names if draw.random() < 0.3},
            power=PowerDraw(active_w=3.0, idle_w=0.5, radio_w=draw.choice([0.0, 1.0])),
        ),
        Link(
            name="", up_bytes_per_s=draw.choice([500.0, 3000.0]), down_bytes_per_s=1000.0,
            rtt_s=draw.choice([0.0, 0.03]),
        ),
        inputs[1:],
    )  # fmt: skip
    return replace(problem, sources=(source,))


def limited(problem: Problem, seed: int, names: tuple[str, ...]) -> Problem:
    """Set limits of numbers between the least and the most that any placement has, some of them exactly."""
    draw = random.Random(seed)
    plans = list(all_plans(problem))
    values = {}
    for name in names:
        if name == "loss_limit":
            continue
        had = sorted({plan.values[name] for plan in plans if name in plan.values})
        if had:
            value = draw.choice(had) if draw.random() < 0.5 else draw.uniform(had[0], had[-1])
            values[name] = int(value) if name.endswith("bytes") else value
    fields = {name: getattr(problem.limits, name) for name in problem.limits.__struct_fields__}
    found = replace(problem, limits=Limits(**(fields | values)))
    if "loss_limit" in names:
        found = replace(found, loss_limit=draw.choice([0.0, 0.02, 0.05]))
    return found


def structured(problem: Problem, seed: int, names: tuple[str, ...]) -> Problem:
    """Add pins, outputs that the server needs, or a state."""
    draw = random.Random(seed)
    graph = problem.graph
    limits = problem.limits
    if "pins" in names and graph.nodes:
        tiers = ["device", "server", *(["relay1"] if problem.relays else [])]
        picked = draw.sample([n.name for n in graph.nodes], min(2, len(graph.nodes)))
        pins = tuple(Pin(name, draw.choice(tiers)) for name in picked[: draw.choice([1, 2])])
        limits = _with(limits, pins=pins)
    if "outputs" in names:
        limits = _with(limits, outputs={draw.choice(graph.outputs): "server"})
    if "states" in names and graph.inputs:
        made = [name for name in graph.outputs if name in graph.producer_of]
        if made:
            limits = _with(limits, states=(State(draw.choice(graph.inputs), draw.choice(made)),))
    return replace(problem, limits=limits)


def with_own_memory(problem: Problem, seed: int) -> Problem:
    """Let the runtime take memory of its own on device and server, half of the time."""
    draw = random.Random(f"own{seed}")

    def steps() -> tuple[tuple[frozenset[str], int], ...]:
        names = draw.sample(list(problem.graph.node_of), len(problem.graph.nodes))
        starts = sorted(draw.sample(range(len(names)), min(len(names), draw.choice([0, 1, 3]))))
        return tuple((frozenset(names[at:]), draw.randrange(1, 300)) for at in starts)

    return replace(
        problem,
        device=replace(problem.device, own_memory=steps()),
        server=replace(problem.server, own_memory=steps()),
    )


def _with(limits: Limits, **changes: object) -> Limits:
    fields = {name: getattr(limits, name) for name in limits.__struct_fields__}
    return Limits(**(fields | changes))  # type: ignore[arg-type]


OBJECTIVES: dict[str, Objective] = {
    "latency": LATENCY,
    "throughput": Objective.of("throughput"),
    "energy": Objective.of("energy"),
    "money": Objective.of("money"),
    "weighted": Objective(latency=1.0, throughput=0.5, energy=0.1, money=20.0),
}

NUMBERS = (
    "device_memory_bytes", "server_memory_bytes", "sent_bytes", "energy_j", "deadline_s",
    "interval_s", "money", "loss_limit",
)  # fmt: skip
STRUCTURE = ("pins", "outputs", "states")


def question(seed: int, size: int, objective: str, limits: tuple[str, ...], kind: str) -> Problem:
    """Draw a problem of a kind (``two``, ``relay``, ``relays``, ``devices``) with some limits."""
    problem = with_own_memory(drawn(seed, size), seed)
    if kind.startswith("relay"):
        problem = with_relays(problem, seed, 2 if kind == "relays" else 1)
    if kind == "devices" and len(problem.graph.inputs) > 1:
        problem = with_sources(problem, seed)
    problem = replace(problem, objective=OBJECTIVES[objective])
    return limited(structured(problem, seed, limits), seed, limits)
