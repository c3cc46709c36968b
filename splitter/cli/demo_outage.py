"""The demo's last step: the link is cut and restored while requests go on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from splitter.partition.check import compare
from splitter.serving.device.report import AnsweredBy
from splitter.serving.device.session import Session
from splitter.serving.relay.relay import Relay

Values = Mapping[str, "np.ndarray[Any, Any]"]

CUT_AT_S, RESTORED_AT_S, LONGEST_S = 1.5, 3.0, 15.0
AFTERWARDS_S = 1.0
"""From the server's return to the end."""
STRETCH_S = 0.5
DEADLINE_S = 2.0
SAME = 1e-5
"""Relative: fusions differ on either side of a cut."""


@dataclass
class Outage:
    """What happened, in the order in which it did."""

    events: list[tuple[float, str]] = field(default_factory=list)
    """Seconds from the start; what was done to the link, or who answered how many."""
    requests: int = 0
    wrong: int = 0
    lost: list[str] = field(default_factory=list)
    """Errors, of which there should be none."""
    slowest_s: float = 0.0
    back_s: float | None = None
    """From the link's return to the server's first answer; None where it did not come back."""


def run_through_outage(bundle: Path, server: str, feeds: Values, expected: Values) -> Outage:
    """Keep requests going while the link goes and comes back; needs a bundle with a fallback."""
    found = Outage()
    with Relay(server) as relay, Session(
        bundle, relay.address, deadline_s=DEADLINE_S, adapt=False
    ) as session:  # fmt: skip
        session.run(None, feeds)
        _go_on(session, relay, (feeds, expected), found)
    return found


def _go_on(session: Session, relay: Relay, values: tuple[Values, Values], found: Outage) -> None:
    feeds, expected = values
    started = time.perf_counter()
    ends_s = LONGEST_S
    cut_s = restored_s = 0.0
    tally: Counter[AnsweredBy] = Counter()
    reported_s = 0.0

    def elapsed_s() -> float:
        return time.perf_counter() - started

    def feed() -> Iterator[Values]:
        while elapsed_s() < ends_s:
            yield feeds

    results = session.run_stream(feed(), in_flight=4)
    while True:
        try:
            result = next(results)
        except StopIteration:
            break
        except Exception as exc:  # noqa: BLE001  (whatever it is, the demo has to say so)
            found.lost.append(str(exc))
            continue
        now_s = elapsed_s()
        by = result.timing.answered_by
        found.requests += 1
        found.slowest_s = max(found.slowest_s, result.timing.total_s)
        found.wrong += compare(expected, result.outputs).max_relative > SAME
        if now_s - reported_s > STRETCH_S or (tally and by not in tally):
            found.events += [(reported_s, _said(who, count)) for who, count in tally.items()]
            tally.clear()
            reported_s = now_s
        tally[by] += 1
        if not cut_s and now_s > CUT_AT_S:
            relay.cut()
            cut_s = now_s
            found.events.append((now_s, "the link is cut"))
        elif cut_s and not restored_s and now_s > RESTORED_AT_S:
            relay.restore()
            restored_s = now_s
            found.events.append((now_s, "the link is restored"))
        elif restored_s and found.back_s is None and by is AnsweredBy.SERVER:
            found.back_s = now_s - restored_s
            ends_s = min(now_s + AFTERWARDS_S, LONGEST_S)
    found.events += [(reported_s, _said(who, count)) for who, count in tally.items()]
    found.events.sort(key=lambda event: event[0])


def _said(who: AnsweredBy, count: int) -> str:
    return f"{count:4} answers from the {who.value}"


def outage_text(found: Outage) -> str:
    """A line an event, then the sum."""
    lines = [f"{at_s:5.1f} s  {what}" for at_s, what in found.events]
    lines.append(
        f"\n{found.requests} requests, {len(found.lost)} lost, {found.wrong} wrong; "
        f"the slowest took {found.slowest_s * 1e3:.0f} ms"
    )
    if found.back_s is None:
        lines.append(f"the server was not back {LONGEST_S - RESTORED_AT_S:.0f} s after the link")
    else:
        lines.append(f"back on the server {found.back_s:.1f} s after the link's return")
    return "\n".join(lines + found.lost[:3])
