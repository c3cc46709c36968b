"""The contract of a codec: array <-> bytes.

A codec's configuration is its name and travels beside the payload, never in it. ``decode`` is told
the dtype and shape to expect and never allocates more than they need.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np

Array = np.ndarray[Any, Any]


class Codec(ABC):
    """Stateless and thread-safe."""

    name: ClassVar[str]

    @abstractmethod
    def encode(self, array: Array) -> bytes:
        """Row-major, little-endian."""

    @abstractmethod
    def decode(self, payload: bytes, dtype: str, shape: tuple[int, ...]) -> Array:
        """Give back the array, bit for bit.

        Raises
        ------
        CodecError
            The payload is truncated, oversized, corrupted, or not of this dtype and shape.
        """
