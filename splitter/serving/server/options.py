"""How a server serves: one frozen record for the command line, the tests and the library."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc

from splitter.errors import ServingError
from splitter.runtime import Settings
from splitter.serving.device.options import SessionOptions
from splitter.serving.observe import Observer
from splitter.serving.server.keeping import Keep

Metadata = Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True)
class Onward:
    """The next tier, as a relay sees it."""

    bundle: str | os.PathLike[str]
    """Of the tail that is served: its head runs here, its tail there."""
    server: str
    """``HOST:PORT`` of the next tier."""
    options: SessionOptions = SessionOptions()
    """Of the session with it; its deadline counts where a caller has none."""


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Limits, batching, and what guards the port. The defaults suit a server of one machine's devices."""

    workers: int | None = None
    """Tails that run at a time, over all models; None: as many as the cores have room for."""
    max_batch: int = 8
    """Samples in a run, where a tail takes more than one."""
    max_delay_s: float = 0.0
    """How long a request may wait for others to share a run with; 0 takes those that wait already."""
    preferred: tuple[int, ...] = ()
    """Batch sizes worth waiting for; none: ``max_batch``."""
    queue: int = 32
    """Requests that may wait for a tail; more are refused with a hint when to come back."""
    per_peer: int | None = 128
    """Requests at a time from one address; None: no limit but ``concurrent``."""
    concurrent: int = 256
    """Requests at a time, being received or waiting or run; each holds a thread."""
    streams: int = 16
    """Open streams."""
    memory_bytes: int = 1 << 30
    """Decoded tensors in flight; a single request may exceed it while it is alone."""
    joins: int = 64
    """Requests at a time that wait for the parts of other devices."""
    join_s: float = 5.0
    """How long such a request waits, from its first part on."""
    sequences: int = 256
    """Whose state is held at a time; what they hold counts in ``memory_bytes``."""
    sequence_idle_s: float = 600.0
    """How long one may rest before its state is dropped."""
    keep: Keep | None = None
    """Takes the outputs that are wanted on the server, on the request's thread and before it is answered;
    where it raises the request fails. None drops them."""
    insecure: bool = False
    """Allow an address that other machines can reach without credentials."""
    settings: Settings | None = None
    """How tails run, instead of what their manifests say."""
    credentials: grpc.ServerCredentials | None = None
    """TLS; None: not encrypted."""
    authenticate: Callable[[Metadata], bool] | None = None
    """Whether the metadata of a call allows it (``UNAUTHENTICATED`` otherwise). Health is exempt.

    Called on gRPC's own thread: it must neither block nor raise; what it raises is logged and refuses.
    """
    observers: tuple[Observer, ...] = ()
    onward: Onward | None = None
    """Make a relay of it: tails are not run here, but divided once more."""

    def __post_init__(self) -> None:
        """Raise ServingError for numbers that make no sense."""
        least = {
            "workers": 1, "max_batch": 1, "queue": 0, "per_peer": 1, "concurrent": 1, "streams": 0,
            "memory_bytes": 1, "max_delay_s": 0, "joins": 1, "sequences": 1,
        }  # fmt: skip
        for name in ("join_s", "sequence_idle_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ServingError(f"{name} is {getattr(self, name)}; give seconds above 0")
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and not value >= low:
                raise ServingError(f"{name} is {value}; it must be at least {low}")
        if any(not 1 <= size <= self.max_batch for size in self.preferred):
            raise ServingError(
                f"preferred batch sizes {list(self.preferred)} must lie between 1 and max_batch, "
                f"which is {self.max_batch}"
            )
