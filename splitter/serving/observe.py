"""What a server tells of the requests that it served: the hook for metrics, logs and traces.

Observers are given in ``ServerOptions.observers``; gauges (``Server.queue_depths``, ``Server.in_flight``)
are read by whoever wants them, when he wants them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Served:
    """One inference request that ended, well or not. Terms that it did not reach are 0 or empty."""

    method: str
    """``ModelInfer`` or ``ModelStreamInfer`` (one a message)."""
    status: str
    """Name of the gRPC status, ``OK`` among them; of a message in a stream, the one it would have had."""
    peer: str
    """gRPC's name of the other end, such as ``ipv4:127.0.0.1:53210``."""
    model: str = ""
    """Empty where the request named none that is served: what a client sends is no label."""
    version: str = ""
    bundle: str = ""
    """The first twelve digits of the bundle's digest."""
    cut: str = ""
    """The id of the cut."""
    request_id: str = ""
    """As the client gave it."""
    traceparent: str = ""
    """W3C's header as the client gave it; not checked."""
    up_bytes: int = 0
    """Of the request's message."""
    down_bytes: int = 0
    """Of the answer's message."""
    raw_up_bytes: int = 0
    """Of the tensors, decoded."""
    raw_down_bytes: int = 0
    receive_s: float = 0.0
    """Parsing the message."""
    queue_s: float = 0.0
    decode_s: float = 0.0
    tail_s: float = 0.0
    """Running the tail: of the whole batch that this request was in."""
    encode_s: float = 0.0
    """From outputs to the answer's message."""
    batch_size: int = 0
    """Samples in the run that this request was in."""


class Observer(Protocol):
    """Told of every inference request when it has ended, on the thread that served it: be quick."""

    def request(self, served: Served) -> None:
        """Take note of a request; what this raises is logged, and changes no answer."""


def tell(observers: Sequence[Observer], served: Served) -> None:
    """Tell every observer, whatever the others do."""
    for observer in observers:
        try:
            observer.request(served)
        except Exception:  # noqa: BLE001
            _log.exception("observer %r failed", observer)
