"""The server as a session sees it: connections, breaker, prober and attempts, made and closed together."""

from __future__ import annotations

from splitter.serving.device.attempts import Attempts
from splitter.serving.device.breaker import Breaker
from splitter.serving.device.client import Peer, TailClient
from splitter.serving.device.lines import Lines
from splitter.serving.device.prober import Prober


class Remote:
    """Begins to connect at once, and never waits for it."""

    def __init__(self, peer: Peer, retries: int, rtt_s: float = 0.0) -> None:
        """Raise ServingError where the peer's token would travel for all to read."""
        self.server = str(peer.address)
        self.breaker = Breaker()
        self._lines = Lines(lambda: TailClient(peer))
        self.prober = Prober(self._lines, self.breaker, rtt_s)
        self.attempts = Attempts(self._lines, self.breaker, self.prober, retries)

    def close(self) -> None:
        """Close the connections, then end the thread, which no longer waits for them."""
        self.attempts.close()
        self._lines.close()
        self.prober.close()
