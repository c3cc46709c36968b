"""Refusals and the gRPC status that each of them is."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import NoReturn

import grpc

from splitter.errors import (
    BundleError,
    CodecError,
    InputError,
    ServingError,
    SplitterError,
    StaleBundleError,
)
from splitter.serving.protocol import one_line

_log = logging.getLogger(__name__)


class NotServedError(ServingError):
    """No model, version or method of that name."""


class NotReadyError(ServingError):
    """The model is not loaded, or the server is stopping."""


class BusyError(ServingError):
    """Too much waits already, or is in flight."""

    def __init__(self, message: str, retry_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_s = retry_s
        """When to come back."""


class LateError(ServingError):
    """The deadline passed while the request waited."""


class OnwardError(ServingError):
    """The next tier does not answer, or not with an answer."""


class GoneError(ServingError):
    """The caller hung up."""


class HalfError(ServingError):
    """Parts of the request did not come or one came again, or a step of a sequence is not the next."""


class LostError(ServingError):
    """No state is held of that sequence."""


class StrangerError(ServingError):
    """The call's metadata does not allow it."""


class NotOfferedError(ServingError):
    """A method of the protocol that this server does not have."""


STATUS_OF: tuple[tuple[type[SplitterError], grpc.StatusCode], ...] = (
    (NotServedError, grpc.StatusCode.NOT_FOUND),
    (LostError, grpc.StatusCode.NOT_FOUND),
    (NotReadyError, grpc.StatusCode.UNAVAILABLE),
    (OnwardError, grpc.StatusCode.UNAVAILABLE),
    (BusyError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (HalfError, grpc.StatusCode.ABORTED),
    (LateError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (GoneError, grpc.StatusCode.CANCELLED),
    (StrangerError, grpc.StatusCode.UNAUTHENTICATED),
    (NotOfferedError, grpc.StatusCode.UNIMPLEMENTED),
    (StaleBundleError, grpc.StatusCode.FAILED_PRECONDITION),
    (BundleError, grpc.StatusCode.FAILED_PRECONDITION),
    (InputError, grpc.StatusCode.INVALID_ARGUMENT),
    (CodecError, grpc.StatusCode.INVALID_ARGUMENT),
    (SplitterError, grpc.StatusCode.INTERNAL),
)
"""The first that fits counts."""

PUSHBACK = "grpc-retry-pushback-ms"
"""Trailing metadata that gRPC's own retries obey, and ours."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error as it goes over the wire."""

    code: grpc.StatusCode
    details: str
    retry_s: float | None = None

    @classmethod
    def of(cls, exc: Exception) -> Refusal:
        """Any error; one that is no SplitterError is a defect, and logged with its trace."""
        if not isinstance(exc, SplitterError):
            _log.error("a defect in the server", exc_info=exc)
            return cls(grpc.StatusCode.INTERNAL, "a defect in the server; please report it")
        code = next(code for kind, code in STATUS_OF if isinstance(exc, kind))
        retry_s = exc.retry_s if isinstance(exc, BusyError) else None
        return cls(code, one_line(exc), retry_s)

    def abort(self, context: grpc.ServicerContext) -> NoReturn:
        """End the call with it; raises, as gRPC wants it."""
        if self.retry_s is not None:
            milliseconds = max(1, round(self.retry_s * 1000))
            context.set_trailing_metadata(((PUSHBACK, str(milliseconds)),))
        context.abort(self.code, self.details)
        raise AssertionError("abort raises")
