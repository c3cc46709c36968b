"""Memory of a process that serves: kept from one message to the next.

By default glibc gives a large block back to the system when it is freed, and the next message faults
it in again page by page; and each thread allocates from an arena of its own, so that a buffer freed by
one is not there for another. At messages of 1 MB that is nearly half of the seconds of a small tail.
"""

from __future__ import annotations

import logging

from splitter.allocator import Setting, set_allocator

_log = logging.getLogger(__name__)

_KEPT_BYTES = 256 << 20
_MAPPED_FROM_BYTES = 32 << 20  # the most that glibc takes
_ARENAS = 2


def keep_memory() -> bool:
    """Set that for the whole process; False where the C library is another than glibc.

    At most 256 MiB that are free are kept.
    """
    taken = set_allocator({
        Setting.TRIM_THRESHOLD: _KEPT_BYTES, Setting.MMAP_THRESHOLD: _MAPPED_FROM_BYTES,
        Setting.ARENA_MAX: _ARENAS,
    })  # fmt: skip
    if not all(taken):
        _log.debug("the C library took %d of %d settings", sum(taken), len(taken))
    return bool(taken) and all(taken)
