"""``splitter.Monitor``: the server's metrics over the connection that it serves on.

What a second port would have to be opened, encrypted and guarded for comes here under the certificate and
the tokens of every other call. A server that was not told to count begins when it is first asked, so that
nobody pays who never looks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from google.protobuf.message import DecodeError
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from splitter.errors import InputError
from splitter.serving._pb2 import monitor_pb2 as pb
from splitter.serving.observe import Observer
from splitter.serving.server.calls import Receive, only
from splitter.serving.server.metrics import Gauges, Metrics

_PIECE_BYTES = 256 << 10


class Monitor:
    """Answers with everything that is counted."""

    def __init__(
        self,
        server: Gauges,
        observers: Sequence[Observer],
        observe: Callable[[Observer], None],
    ) -> None:
        """Use the counts that are among ``observers``; else ``observe`` is called with new ones, once."""
        self._server, self._observe = server, observe
        self._counts = next((one for one in observers if isinstance(one, Metrics)), None)
        self._registry: CollectorRegistry | None = None
        self._lock = threading.Lock()

    def answers(self, receive: Receive, context: Any) -> Iterator[bytes]:
        """Answer with the text in pieces; raises InputError for another message."""
        try:
            pb.MetricsRequest.FromString(only(receive))
        except DecodeError as exc:
            raise InputError("the bytes are no MetricsRequest") from exc
        text = generate_latest(self._counted())
        for start in range(0, len(text), _PIECE_BYTES):
            piece = pb.MetricsResponse(text=text[start : start + _PIECE_BYTES])
            yield piece.SerializeToString()

    def _counted(self) -> CollectorRegistry:
        with self._lock:
            if self._registry is None:
                if self._counts is None:
                    self._counts = Metrics()
                    self._observe(self._counts)
                self._counts.watch(self._server)
                self._registry = CollectorRegistry()
                self._registry.register(self._counts)
                ProcessCollector(registry=self._registry)
            return self._registry
