"""A quick answer first, then the server's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from splitter.errors import ServingError
from splitter.serving.device.attempts import Cancellation
from splitter.serving.device.core import Core
from splitter.serving.device.job import Job
from splitter.serving.device.report import Result


def refined(core: Core, job: Job) -> Iterator[Result]:
    """Yield what there is of: an answer of the gate or the fallback, an answer of the server.

    Both are made at the same time, except that an early exit comes out of the head that both need.

    Raises
    ------
    ServingError
        Neither can be had.
    """
    job.cancellation = Cancellation()
    failed: Future[Result] = Future()
    with ThreadPoolExecutor(1, thread_name_prefix="splitter-refined") as executor:
        try:
            asked = failed
            try:
                if core.device.has_exit:
                    core.head_for_server(job)
                asked = executor.submit(core.ask_server, dataclasses.replace(job))
            except ServingError as exc:
                failed.set_exception(exc)
            quick = core.quick(dataclasses.replace(job))
            if quick is not None:
                yield quick
            try:
                result = asked.result()
            except ServingError:
                if quick is None:
                    raise
                return
            yield result
        finally:
            job.cancellation.cancel()
