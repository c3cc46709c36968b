"""Every call comes in here: who may call, on which threads, and how many at a time.

Calls are kept apart in *lanes*, each with threads of its own and a limit, so that waiting inferences and
open streams cannot keep health or metadata from answering. A call over the limit is refused before its
message is read. All handlers read their message themselves, as that of a stream (on the wire there is no
difference): so one that never comes whole holds its thread for a while only, and parsing is not done on
gRPC's one thread for all events.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from splitter.errors import InputError
from splitter.serving.server.options import Metadata
from splitter.serving.server.status import BusyError, NotOfferedError, Refusal, StrangerError

_log = logging.getLogger(__name__)

Context = grpc.ServicerContext
if TYPE_CHECKING:  # gRPC's own classes take no parameters, those of its stubs must have them
    Handler = grpc.RpcMethodHandler[Any, Any]
    GenericHandler = grpc.GenericRpcHandler[Any, Any]
else:
    Handler, GenericHandler = grpc.RpcMethodHandler, grpc.GenericRpcHandler

_SWEEP_S = 0.25
_RETRY_S = 0.1


Receive = Callable[[], bytes | None]
"""The next message of a call; None at the end. RpcError where the caller hung up."""


@dataclass(frozen=True)
class Patience:
    """How long a call's next message may take to come."""

    most_s: float = 30.0
    """In any case."""
    crowded_s: float = 1.0
    """While others wait for a thread: those that have been coming for longest give way."""


class Lane:
    """Threads for calls of one kind, and how many calls there may be."""

    def __init__(
        self,
        name: str,
        threads: int,
        limit: int | None = None,
        patience: Patience = Patience(),  # noqa: B008  (frozen)
    ) -> None:
        self.pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix=name)
        self.name = name
        self.threads = threads
        self.limit = threads if limit is None else limit
        self.turned_away = 0
        """Calls for which there was no room, since the start."""
        self._patience = patience
        self._calls = 0
        self._lock = threading.Lock()
        self._coming: dict[int, tuple[float, Context]] = {}

    def enter(self) -> bool:
        """Whether there is room for one more call, which then has it until ``leave``."""
        with self._lock:
            if self._calls >= self.limit:
                self.turned_away += 1
                return False
            self._calls += 1
            return True

    def leave(self) -> None:
        """A call has ended."""
        with self._lock:
            self._calls -= 1

    def unary(self, call: Callable[[Receive, Context], bytes | Refusal]) -> Handler:
        """Make a handler of a method that answers once; what it raises becomes the status."""

        def behaviour(messages: Iterator[bytes], context: Context) -> bytes:
            try:
                found = call(lambda: self._next(messages, context), context)
            except grpc.RpcError:  # the caller hung up before his message was here
                raise
            except Exception as exc:  # noqa: BLE001
                found = Refusal.of(exc)
            finally:
                self.leave()
            if isinstance(found, Refusal):
                found.abort(context)
            return found

        return grpc.stream_unary_rpc_method_handler(self._threaded(behaviour))

    def stream(self, call: Callable[[Receive, Context], Iterator[bytes]]) -> Handler:
        """Make a handler of a method that answers as often as it likes."""

        def behaviour(messages: Iterator[bytes], context: Context) -> Iterator[bytes]:
            try:
                yield from call(lambda: self._next(messages, context), context)
            except (grpc.RpcError, GeneratorExit):
                raise
            except Exception as exc:  # noqa: BLE001
                refusal = Refusal.of(exc)
            else:
                return
            finally:
                self.leave()
            refusal.abort(context)

        return grpc.stream_stream_rpc_method_handler(self._threaded(behaviour))

    def refusing(self, error: Exception) -> Handler:
        """Make a handler that reads nothing; for a lane that nobody enters."""
        refusal = Refusal.of(error)

        def behaviour(messages: Iterator[bytes], context: Context) -> bytes:
            return refusal.abort(context)

        return grpc.stream_unary_rpc_method_handler(self._threaded(behaviour))

    def sweep(self, now: float) -> None:
        """Cancel calls whose message does not come; more of them while there is a crowd."""
        coming = sorted(self._coming.copy().values(), key=lambda item: item[0])
        crowd = self._calls - self.threads + 1
        for number, (since, context) in enumerate(coming):
            patience_s = self._patience.crowded_s if number < crowd else self._patience.most_s
            if now - since > patience_s:
                context.cancel()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Let its threads end when their calls do."""
        self.pool.shutdown(wait=False)

    def _next(self, messages: Iterator[bytes], context: Context) -> bytes | None:
        key = id(context)
        self._coming[key] = (time.monotonic(), context)
        try:
            return next(messages, None)
        finally:
            del self._coming[key]

    def _threaded(self, behaviour: Any) -> Any:
        behaviour.experimental_thread_pool = self.pool  # gRPC's name for a method's own threads
        return behaviour


def only(receive: Receive) -> bytes:
    """The message of a call that has one; raises InputError where there is none."""
    message = receive()
    if message is None:
        raise InputError("the call brought no message")
    return message


class Front(GenericHandler):
    """Finds the handler of a call, or refuses it; runs on gRPC's one thread, so it must be quick."""

    def __init__(
        self,
        methods: Mapping[str, tuple[Lane, Handler]],
        absent: frozenset[str],
        authenticate: Callable[[Metadata], bool] | None,
        open_to_all: frozenset[str],
    ) -> None:
        """``methods`` and the others are by full path, such as ``/package.Service/Method``."""
        self._methods, self._absent = methods, absent
        self._authenticate, self._open_to_all = authenticate, open_to_all
        self._refusals = Lane("refuse", 1)
        self._stranger = self._refusals.refusing(
            StrangerError("the call is not authorised; send metadata `authorization: Bearer TOKEN`")
        )
        self._lanes = {lane for lane, _ in methods.values()} | {self._refusals}
        self._stopped = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep, name="sweeper", daemon=True)
        self._sweeper.start()

    def service(self, details: grpc.HandlerCallDetails) -> Handler | None:
        """Find the handler of a call."""
        path = details.method
        found = self._methods.get(path)
        if found is None and path not in self._absent:
            return None
        if self._authenticate is not None and path not in self._open_to_all:
            metadata = details.invocation_metadata or ()
            if not _allows(self._authenticate, metadata):
                return self._stranger
        if found is None:
            name = path.rpartition("/")[2]
            return self._refusals.refusing(NotOfferedError(f"{name} is not offered by this server"))
        lane, handler = found
        if lane.enter():
            return handler
        refusal = f"{lane.limit} calls of this kind ({lane.name}) are in flight; try again later"
        return self._refusals.refusing(BusyError(refusal, _RETRY_S))

    def turned_away(self) -> int:
        """Calls for which their lane had no room, since the start."""
        return sum(lane.turned_away for lane in self._lanes)

    def close(self) -> None:
        """End the threads of all lanes."""
        self._stopped.set()
        self._sweeper.join()
        for lane in self._lanes:
            lane.close()

    def _sweep(self) -> None:
        while not self._stopped.wait(_SWEEP_S):
            for lane in self._lanes:
                lane.sweep(time.monotonic())


def _allows(authenticate: Callable[[Metadata], bool], metadata: Metadata) -> bool:
    try:
        return bool(authenticate(metadata))
    except Exception:  # noqa: BLE001
        _log.exception("authentication failed")
        return False
