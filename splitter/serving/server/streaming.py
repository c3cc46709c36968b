"""``ModelStreamInfer``: requests in, answers out in their order, several in flight.

One thread reads a stream's messages and lets them run; gRPC's own waits for the oldest and answers it. What
is wrong with a message is said in its answer, as Triton does, and the stream goes on.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc

from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.server.calls import Receive
from splitter.serving.server.inference import Call, Inference, Request
from splitter.serving.server.status import NotReadyError, Refusal

Pending = Request | tuple[Request, Refusal]


class Streams:
    """The open streams of a server."""

    def __init__(self, inference: Inference, most: int, window: int) -> None:
        self._inference, self._window = inference, window
        self._readers = ThreadPoolExecutor(max(1, most), thread_name_prefix="stream-reader")
        self._open: set[_Stream] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    def answers(self, receive: Receive, call: Call) -> Iterator[bytes]:
        """Answer the messages that ``receive`` gives, until it gives None."""
        stream = _Stream(self._inference, receive, call, self._window)
        with self._lock:
            if self._is_closed:
                raise NotReadyError("the server is stopping")
            self._open.add(stream)
        if call.on_end is not None:
            call.on_end(stream.hang_up)
        self._readers.submit(stream.read)
        try:
            yield from stream.answers()
        finally:
            with self._lock:
                self._open.discard(stream)
            stream.hang_up()
            stream.abandon()

    def close(self) -> None:
        """Answer what was read already, and end every stream."""
        with self._lock:
            self._is_closed = True
            streams = list(self._open)
        for stream in streams:
            stream.end(NotReadyError("the server is stopping"))
        self._readers.shutdown(wait=False)


class _Stream:
    def __init__(
        self,
        inference: Inference,
        receive: Receive,
        call: Call,
        window: int,
    ) -> None:
        self._inference, self._receive, self._call = inference, receive, call
        self._window = window
        self._changed = threading.Condition()
        self._pending: deque[Pending] = deque()
        self._taken: Pending | None = None  # answered next, no longer in the deque
        self._has_ended = False
        self._error: Exception | None = None

    def read(self) -> None:
        """Let messages run as they come; on a thread of its own."""
        try:
            while self._wait_for_room():
                message = self._receive()
                if message is None:
                    break
                self._put(self._inference.begin(message, self._call))
        except grpc.RpcError:
            pass  # cut off
        finally:
            self.end(None)

    def answers(self) -> Iterator[bytes]:
        """Answer in order, until all is answered and no more will come."""
        while True:
            with self._changed:
                while not self._pending and not self._has_ended:
                    self._changed.wait()
                if not self._pending:
                    break
                pending = self._taken = self._pending.popleft()
            yield self._answer(pending)
            with self._changed:
                self._taken = None
                self._changed.notify_all()
        if self._error is not None:
            raise self._error

    def end(self, error: Exception | None) -> None:
        """Take no further message."""
        with self._changed:
            self._error = self._error or error
            self._has_ended = True
            self._changed.notify_all()

    def hang_up(self) -> None:
        """The caller has gone: nobody waits for what does not run yet."""
        with self._changed:
            pending = [*self._pending, *([self._taken] if self._taken else [])]
        self.end(None)
        for one in pending:
            if isinstance(one, Request):
                self._inference.drop(one)

    def abandon(self) -> None:
        """See off what is left of a stream that is no longer answered."""
        with self._changed:
            pending, self._pending = list(self._pending), deque()
        for one in pending:
            if isinstance(one, Request):
                self._inference.abandon(one)

    def _wait_for_room(self) -> bool:
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._has_ended or len(self._pending) + (self._taken is not None) < self._window
                )
            )
            return not self._has_ended

    def _put(self, pending: Pending) -> None:
        with self._changed:
            if not self._has_ended:
                self._pending.append(pending)
                self._changed.notify_all()
                return
        if isinstance(pending, Request):  # it was read while the stream ended
            self._inference.abandon(pending)

    def _answer(self, pending: Pending) -> bytes:
        if isinstance(pending, Request):
            request, found = pending, self._inference.finish(pending)
        else:
            request, found = pending
        if isinstance(found, bytes):
            return found
        return pb.ModelStreamInferResponse(
            error_message=f"{found.code.name}: {found.details}",
            infer_response=pb.ModelInferResponse(id=request.id),
        ).SerializeToString()
