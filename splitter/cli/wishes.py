"""What a plan is judged by and has to keep, as options of the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from splitter.cli.options import Finite
from splitter.cli.quantities import (
    ObjectiveText,
    OutputText,
    PinText,
    PowerText,
    Quantity,
    SourceText,
    StateText,
    TermsText,
)
from splitter.errors import PlanError

if TYPE_CHECKING:
    from splitter.graph.values import Graph
    from splitter.planning.problem import Wishes
    from splitter.planning.terms import State

F = TypeVar("F", bound=Callable[..., Any])

OBJECTIVE = (
    click.option(
        "--objective", type=ObjectiveText(), metavar="TERM[=WEIGHT],...",
        help="latency (the default), throughput, energy or money; or a sum: latency=1,energy=0.2, "
        "where a weight is what a second, a joule or a unit of money is worth.",
    ),
    click.option(
        "--pareto", type=TermsText(), metavar="TERM,TERM",
        help="Also list the plans that nothing beats in all of two or three terms.",
    ),
    click.option(
        "--bytes-weight", default=0.0, type=Finite(min=0), metavar="S/BYTE",
        help="What one byte sent is worth, in the objective's unit.",
    ),
    click.option(
        "--device-power", type=PowerText(), metavar="ACTIVE,IDLE[,RADIO]",
        help="Such as 6.4W,2.7W; a description's own unless it is given.",
    ),
    click.option("--server-price", type=Quantity("price"), metavar="0.5/h", help="While it works."),
)  # fmt: skip
LIMITS = (
    click.option("--device-memory", type=Quantity("bytes"), metavar="64MB", help="Of the head."),
    click.option("--server-memory", type=Quantity("bytes"), metavar="2GB", help="Of the tail."),
    click.option("--max-bytes", type=Quantity("bytes"), metavar="100kB", help="Sent, both ways."),
    click.option("--max-energy", type=Quantity("energy"), metavar="0.5J", help="Of the device."),
    click.option("--max-money", type=Quantity("amount"), metavar="0.001", help="Of a request."),
    click.option("--deadline", type=Quantity("time"), metavar="50ms", help="Of a request."),
    click.option(
        "--max-interval", type=Quantity("time"), metavar="40ms", help="Between answers of a stream."
    ),
    click.option(
        "--pin", "pins", multiple=True, type=PinText(), metavar="PATTERN=TIER",
        help="Nodes that have to be on a tier: 'backbone/*=device'.",
    ),
    click.option(
        "--output-on", "outputs", multiple=True, type=OutputText(), metavar="OUTPUT=TIER",
        help="Where an output is wanted; on the device unless said.",
    ),
    click.option(
        "--keep-state", "states", multiple=True, type=StateText(), metavar="auto|INPUT=OUTPUT",
        help="State that is fed back, and stays on the tier that makes it; auto goes by the names.",
    ),
)  # fmt: skip
RELAYS = (
    click.option(
        "--relay", "relays", multiple=True, metavar="PROFILE|NAME",
        help="A tier between device and server; --link then leads to the first.",
    ),
    click.option(
        "--relay-link", "relay_links", multiple=True, metavar="NAME|RATE,RTT",
        help="From a relay to the next tier, one for each --relay.",
    ),
)  # fmt: skip


SOURCES = (
    click.option(
        "--source", "sources", multiple=True, type=SourceText(), metavar="INPUTS=PROFILE|NAME",
        help="A further device, and the inputs that are born there: 'mic*=pi.json'; all others are born "
        "on --device.",
    ),
    click.option(
        "--source-link", "source_links", multiple=True, metavar="NAME|RATE,RTT",
        help="From a further device to the server, one for each --source.",
    ),
)  # fmt: skip


def wishes_options(command: F) -> F:
    """Objective, limits, relays and further devices, in that order in the help."""
    for option in reversed((*OBJECTIVE, *LIMITS, *RELAYS, *SOURCES)):
        command = option(command)
    return command


def with_states(wishes: Wishes, given: Sequence[State | None], graph: Graph) -> Wishes:
    """Add state that the model's names give away, where that was asked for; raises PlanError."""
    from splitter.planning.states import likely_states

    if None not in given:
        return wishes
    named = [state for state in given if state is not None]
    known = {state.input for state in named}
    found = [state for state in likely_states(graph) if state.input not in known]
    if not found and not named:
        raise PlanError(
            "no input and output look like one state by their names; name them: --keep-state IN=OUT"
        )
    limits = msgspec.structs.replace(wishes.limits, states=(*named, *found))
    return replace(wishes, limits=limits)


def read_wishes(given: dict[str, Any]) -> Wishes:
    """Take what the options of ``wishes_options`` hold, other tiers and ``auto`` apart."""
    from splitter.planning.problem import Wishes
    from splitter.planning.terms import LATENCY, Limits

    outputs = dict(given["outputs"])
    if len(outputs) < len(given["outputs"]):
        raise click.UsageError("--output-on names an output twice")
    return Wishes(
        objective=given["objective"] or LATENCY,
        limits=Limits(
            device_memory_bytes=_whole(given["device_memory"]),
            server_memory_bytes=_whole(given["server_memory"]),
            sent_bytes=_whole(given["max_bytes"]),
            energy_j=given["max_energy"],
            deadline_s=given["deadline"],
            interval_s=given["max_interval"],
            money=given["max_money"],
            pins=tuple(given["pins"]),
            outputs=outputs,
            states=tuple(state for state in given["states"] if state is not None),
        ),
        bytes_weight=given["bytes_weight"],
        power=given["device_power"],
        server_price_per_hour=given["server_price"] or 0.0,
    )


def read_relays(relays: Sequence[str], links: Sequence[str]) -> list[tuple[str, str]]:
    """Pair each relay with the link that leads on from it."""
    if len(relays) != len(links):
        raise click.UsageError(
            f"{len(relays)} --relay and {len(links)} --relay-link: each relay needs the link to the "
            "next tier"
        )
    return list(zip(relays, links, strict=True))


def read_sources(
    sources: Sequence[tuple[Sequence[str], str]], links: Sequence[str]
) -> list[tuple[str, str, Sequence[str]]]:
    """Pair each further device with its link."""
    if len(sources) != len(links):
        raise click.UsageError(
            f"{len(sources)} --source and {len(links)} --source-link: each source needs its link to "
            "the server"
        )
    return [(tier, link, inputs) for (inputs, tier), link in zip(sources, links, strict=True)]


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
