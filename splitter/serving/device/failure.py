"""What can go wrong with one message, told apart by what helps against it."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Any

import grpc

from splitter.errors import DeadlineError, ServingError, StaleBundleError
from splitter.serving.device.report import Why
from splitter.serving.protocol import one_line

_PUSHBACK = "grpc-retry-pushback-ms"  # of gRPC's own retries (gRFC A6)


class Kind(enum.Enum):
    """By remedy."""

    REFUSED_CONNECTION = enum.auto()
    """Nothing listens: no use in trying again at once."""
    UNREACHABLE = enum.auto()
    """The connection broke: another attempt makes a new one."""
    LATE = enum.auto()
    """No answer in the time it had."""
    BUSY = enum.auto()
    """Load is shed: later."""
    GIVEN_UP = enum.auto()
    """We closed the connection ourselves, since it was dead: at once, over the new one."""
    STALE = enum.auto()
    """Another bundle: nothing that the device can do."""
    REFUSED = enum.auto()
    """Nothing that would change by itself within a request."""
    WRONG = enum.auto()
    """The answer cannot be read."""
    CANCELLED = enum.auto()
    """The caller does not want the answer any more."""


WHY = {
    Kind.REFUSED_CONNECTION: Why.OFFLINE,
    Kind.UNREACHABLE: Why.OFFLINE,
    Kind.GIVEN_UP: Why.OFFLINE,
    Kind.LATE: Why.DEADLINE,
    Kind.BUSY: Why.BUSY,
    Kind.STALE: Why.STALE,
    Kind.REFUSED: Why.REFUSED,
    Kind.WRONG: Why.WRONG,
    Kind.CANCELLED: Why.REFUSED,
}


@dataclass(frozen=True)
class Failure:
    """One message without a usable answer."""

    kind: Kind
    error: ServingError
    """What the caller is told where nothing else answers."""
    pushback_s: float | None = None
    """When the server wants to be asked again; negative: not at all."""


def failure_of(exc: Any, server: str, waited_s: float) -> Failure:
    """Read the status of a call that failed."""
    code, details = exc.code(), one_line(exc.details())
    where = f"server {server}"
    if code is grpc.StatusCode.UNAVAILABLE:
        refused = "refused" in details or "failed to connect" in details.lower()
        kind = Kind.REFUSED_CONNECTION if refused else Kind.UNREACHABLE
        message = f"{where} cannot be reached ({details}); is `splitter serve` running?"
        return Failure(kind, ServingError(message))
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Failure(Kind.LATE, late(server, waited_s))
    if code is grpc.StatusCode.CANCELLED:
        return Failure(Kind.GIVEN_UP, ServingError(f"{where}: the connection was given up"))
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        return Failure(Kind.STALE, StaleBundleError(f"{where}: {details}"))
    refusal = ServingError(f"{where} refused the request ({code.name}): {details}")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" not in details:
        return Failure(Kind.BUSY, refusal, _pushback_s(exc))
    if code is grpc.StatusCode.UNIMPLEMENTED:
        refusal = ServingError(f"{where} does not speak the Open Inference Protocol ({details})")
    return Failure(Kind.REFUSED, refusal)


def late(server: str, waited_s: float) -> ServingError:
    """No answer in the time it had."""
    return DeadlineError(f"server {server} did not answer within {max(waited_s, 0):.3g} s")


def _pushback_s(exc: Any) -> float | None:
    for key, value in exc.trailing_metadata() or ():
        if key == _PUSHBACK:
            try:
                seconds = float(value) / 1000
            except ValueError:
                return None
            return seconds if math.isfinite(seconds) else None
    return None
