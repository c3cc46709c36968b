"""What the C library does with memory that this process frees: settings of glibc, and nothing elsewhere."""

from __future__ import annotations

import ctypes
import enum
import functools
from collections.abc import Mapping


class Setting(enum.IntEnum):
    """Of ``mallopt``, as malloc.h has them."""

    TRIM_THRESHOLD = -1
    MMAP_THRESHOLD = -3
    ARENA_MAX = -8


def set_allocator(values: Mapping[Setting, int]) -> tuple[bool, ...]:
    """Set for the whole process; which were taken. None is where the C library is another than glibc."""
    library = _glibc()
    if library is None:
        return ()
    return tuple(bool(library.mallopt(name, value)) for name, value in values.items())


def give_back_memory() -> None:
    """Return to the system what this process has freed."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(None)
    except OSError:
        return None
    return library if hasattr(library, "malloc_trim") and hasattr(library, "mallopt") else None
