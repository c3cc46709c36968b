"""The breaker under a clock that is moved by hand."""

from __future__ import annotations

import pytest

from splitter.errors import ServingError
from splitter.serving.device.breaker import (
    BROKEN_IN_A_ROW,
    LONGEST_SLOW_HOLD_S,
    REFUSED_HOLD_S,
    SLOW_HOLD_S,
    Breaker,
)
from splitter.serving.device.failure import Failure, Kind
from splitter.serving.device.report import Why


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    """Closed, after a good answer."""
    made = Breaker(clock)
    made.answered()
    clock.now_s += 1
    return made


def failure(kind: Kind, pushback_s: float | None = None) -> Failure:
    return Failure(kind, ServingError("no"), pushback_s)


def test_nothing_is_known_at_first() -> None:
    breaker = Breaker()
    assert breaker.needs_probe
    assert breaker.why_not() is Why.OFFLINE
    breaker.settle(0)
    breaker.found_answering()
    assert not breaker.needs_probe
    assert breaker.why_not() is None


def test_a_refused_connection_opens_it_and_a_probe_closes_it(breaker: Breaker) -> None:
    assert breaker.failed(failure(Kind.REFUSED_CONNECTION))
    assert not breaker.failed(failure(Kind.REFUSED_CONNECTION)), "it is open already"
    assert breaker.why_not() is Why.BREAKER
    breaker.found_silent()
    assert breaker.why_not() is Why.BREAKER
    breaker.found_answering()
    assert breaker.why_not() is None


def test_one_broken_connection_does_not_open_it_and_a_row_does(breaker: Breaker) -> None:
    for _ in range(BROKEN_IN_A_ROW - 1):
        assert not breaker.failed(failure(Kind.UNREACHABLE))
    breaker.answered()
    for _ in range(BROKEN_IN_A_ROW - 1):
        assert not breaker.failed(failure(Kind.UNREACHABLE))
    assert breaker.failed(failure(Kind.UNREACHABLE))


@pytest.mark.parametrize("kind", [Kind.LATE, Kind.UNREACHABLE, Kind.GIVEN_UP])
def test_a_request_that_gave_up_opens_it_only_if_nothing_was_answered_meanwhile(
    kind: Kind, breaker: Breaker, clock: Clock
) -> None:
    began_s = clock.now_s
    clock.now_s += 1
    breaker.answered()
    assert not breaker.gave_up(failure(kind), began_s)
    assert not breaker.is_open
    assert breaker.gave_up(failure(kind), clock.now_s + 0.1)
    assert breaker.is_open


def test_a_server_that_answers_probes_but_no_requests_is_left_alone_longer_and_longer(
    breaker: Breaker, clock: Clock
) -> None:
    held = []
    for _ in range(8):
        breaker.gave_up(failure(Kind.LATE), clock.now_s)
        breaker.found_answering()
        began_s = clock.now_s
        while breaker.why_not() is Why.DEADLINE:
            clock.now_s += 0.01
        held.append(clock.now_s - began_s)
    assert held == sorted(held)
    assert held[0] == pytest.approx(SLOW_HOLD_S, abs=0.02)
    assert held[-1] == pytest.approx(LONGEST_SLOW_HOLD_S, abs=0.02)


def test_what_was_late_for_want_of_a_link_is_not_held_against_the_server(
    breaker: Breaker, clock: Clock
) -> None:
    for _ in range(5):
        breaker.gave_up(failure(Kind.LATE), clock.now_s)
    breaker.found_silent()
    breaker.found_answering()
    assert breaker.why_not() is None


def test_a_pushback_is_honoured_for_every_request(breaker: Breaker, clock: Clock) -> None:
    breaker.failed(failure(Kind.BUSY, 3.0))
    assert breaker.why_not() is Why.BUSY
    clock.now_s += 3.0
    assert breaker.why_not() is None
    breaker.failed(failure(Kind.BUSY))
    breaker.failed(failure(Kind.BUSY, -1.0))
    assert breaker.why_not() is None


@pytest.mark.parametrize(
    ("kind", "needed", "why"),
    [
        (Kind.STALE, 1, Why.STALE),
        (Kind.REFUSED, BROKEN_IN_A_ROW, Why.REFUSED),
        (Kind.WRONG, BROKEN_IN_A_ROW, Why.WRONG),
    ],
)
def test_what_the_next_request_would_get_too_is_waited_out(
    kind: Kind, needed: int, why: Why, breaker: Breaker, clock: Clock
) -> None:
    for _ in range(needed):
        assert breaker.why_not() is None
        breaker.answered()  # something came; it was not understood
        breaker.failed(failure(kind))
    assert breaker.why_not() is why
    clock.now_s += REFUSED_HOLD_S
    assert breaker.why_not() is None
    breaker.understood()
    if needed > 1:
        breaker.failed(failure(kind))
        assert breaker.why_not() is None
