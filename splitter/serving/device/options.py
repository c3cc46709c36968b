"""How a session behaves: one frozen record, whose fields are also keywords of ``Session``."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from splitter.errors import ServingError
from splitter.runtime import Array, Settings
from splitter.serving.credentials import ClientTls, TokenFile

Gate = (
    str
    | os.PathLike[str]
    | Callable[[Mapping[str, Array]], tuple[Mapping[str, Array] | Sequence[Array], float]]
)
"""A model's file, the name of an output that the head makes, or feeds -> (outputs, confidence)."""


@dataclass(frozen=True)
class SessionOptions:
    """Everything that can be set; the defaults suit a device that must answer."""

    settings: Settings | None = None
    """How models run here, instead of the manifest's."""
    deadline_s: float = 30.0
    """Of a request, from the call of ``run`` to its answer, attempts and fallback included."""
    retries: int = 2
    """After the first attempt, where the server cannot be reached or is busy."""
    hedge_s: float | None = None
    """Send a second copy over another connection where there is no answer by then."""
    tls: ClientTls | None = None
    """Whom to believe; None: not encrypted."""
    token: TokenFile | None = None
    """What the server knows this device by."""
    gate: Gate | None = None
    """The cascade's first model; see ``splitter.serving.device.cascade``."""
    confident: float = 0.9
    """The gate answers where its confidence is at least that."""
    memory_limit_bytes: int | None = None
    """What the models held here may take together."""
    adapt: bool = True
    """Follow the link to the other cuts of the bundle."""
    fallback: bool = True
    """Answer from here where the server does not and the bundle holds what that takes."""
    group: str = ""
    """Of a device that is one of several: what they call themselves, the same on all of them. Others that
    have the same server and bundle are called something else."""

    def __post_init__(self) -> None:
        """Raise ServingError for a value that means nothing."""
        _demand("deadline_s", self.deadline_s, 0 < self.deadline_s < math.inf, "seconds above 0")
        _demand("retries", self.retries, self.retries >= 0, "0 or more")
        hedge_s = self.hedge_s
        _demand("hedge_s", hedge_s, hedge_s is None or 0 <= hedge_s < math.inf, "seconds or None")
        _demand("confident", self.confident, 0 <= self.confident <= 1, "between 0 and 1")
        limit = self.memory_limit_bytes
        _demand("memory_limit_bytes", limit, limit is None or limit > 0, "above 0, or None")
        _demand("group", self.group, len(self.group) <= 100, "at most 100 characters")


class SessionKeywords(TypedDict, total=False):
    """The fields of ``SessionOptions``, for type checkers."""

    settings: Settings | None
    deadline_s: float
    retries: int
    hedge_s: float | None
    tls: ClientTls | None
    token: TokenFile | None
    gate: Gate | None
    confident: float
    memory_limit_bytes: int | None
    adapt: bool
    fallback: bool
    group: str


def _demand(name: str, value: object, is_valid: bool, right: str) -> None:
    if not is_valid:
        raise ServingError(f"{name} is {value}; give {right}")
