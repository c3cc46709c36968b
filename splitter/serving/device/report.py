"""What a request gives back: the outputs, who made them, and where the time and the bytes went."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from splitter.planning.records import Latency
from splitter.runtime import Array


class AnsweredBy(enum.StrEnum):
    """Who made the answer."""

    SERVER = "server"
    """Head here, tail there."""
    DEVICE = "device"
    """The whole model here, or outputs that the head makes alone."""
    STAND_IN = "stand-in"
    """The smaller model of the bundle."""
    GATE = "gate"
    """The model of the cascade, which was sure."""


class Why(enum.StrEnum):
    """Why the server did not answer."""

    OFFLINE = "offline"
    """No connection yet, or it cannot be reached, or the connection broke."""
    BREAKER = "breaker open"
    """It failed for the requests before."""
    DEADLINE = "deadline"
    """No answer while there was still time for one from here."""
    BUSY = "server busy"
    STALE = "stale bundle"
    REFUSED = "refused"
    WRONG = "wrong answer"
    """It could not be read."""
    HEAD = "no head"
    """The head could not be loaded."""
    POLICY = "policy"
    """On this link the device is faster."""


class Timing(Latency, frozen=True, kw_only=True):
    """One measured request, in the terms of the prediction and in a few more.

    ``total_s`` is by the clock, and the sum of the terms. ``link_s`` is what no clock of device or server
    accounts for: the network, gRPC and the messages, either way. A model that runs here is ``head_s``.
    """

    gate_s: float = 0.0
    """The cascade's model, also where it was not sure."""
    wait_s: float = 0.0
    """All the rest: loading, attempts that failed, a server that did not answer, other requests."""
    receive_s: float = 0.0
    """The server, reading the message."""
    join_s: float = 0.0
    """Waiting at the server for the parts of other devices."""
    queue_s: float = 0.0
    """Waiting for a worker of the server."""
    server_encode_s: float = 0.0
    """The server, making the answer's message."""
    up_bytes: int = 0
    """Of the request's message, without gRPC's framing."""
    down_bytes: int = 0
    answered_by: AnsweredBy = AnsweredBy.DEVICE
    cut: str = ""
    """Its id; empty where no cut was followed."""
    cut_name: str = ""
    digest: str = ""
    """Of the bundle."""
    attempts: int = 0
    """Messages sent, hedges included."""
    hedged: bool = False
    why: Why | None = None
    """Why not the server; None where it answered, or was not to be asked."""


@dataclass(frozen=True)
class Result:
    """An answer and how it came about."""

    outputs: Mapping[str, Array]
    """By name, in the order asked for."""
    timing: Timing
    index: int = 0
    """Its place in the stream, from 0."""
