"""A device that is one of several: its requests are parts, and carry the same id on all of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from splitter.errors import InputError, ServingError, nearest
from splitter.partition.manifest import Manifest
from splitter.serving.device.options import SessionOptions

MOST_ID = 128
"""Characters, as the server takes them."""


class Joint:
    """How a session's requests are joined with those of other devices, if they are; thread-safe."""

    def __init__(self, manifest: Manifest, options: SessionOptions) -> None:
        """Raise ServingError for an option that means nothing for a part of a request."""
        self.is_joint = manifest.join is not None
        self._group = options.group
        self._numbers = itertools.count()
        self._known = [spec.name for spec in manifest.outputs]
        self._asked = self._known
        if manifest.join is not None and manifest.join.part > 1:
            made_there = manifest.planned.tail_outputs
            self._asked = [name for name in self._known if name not in made_there]
        if not self.is_joint:
            return
        for name in ("hedge_s", "gate"):
            if getattr(options, name) is not None:
                raise ServingError(f"{name} is not for one device of several: leave it out")

    def names(self, asked: Sequence[str] | None) -> list[str]:
        """Outputs that are asked for, of the first device all unless they are named.

        Of another device those of the server only where they are named. Raises InputError.
        """
        for name in asked or ():
            if name not in self._known:
                raise InputError(f"no output is named {name!r}{nearest(name, self._known)}")
        return list(self._asked if asked is None else asked)

    def id(self, given: str | None) -> str:
        """What a request has in common with its other parts: what is given, else its number.

        Empty where there are no others. Raises InputError.
        """
        if not self.is_joint:
            if given is not None:
                raise InputError("join is for a bundle of one device of several; this one is whole")
            return ""
        if given is None:
            number = next(self._numbers)
            return f"{self._group}/{number}" if self._group else str(number)
        if not 0 < len(given) <= MOST_ID:
            raise InputError(f"join has {len(given)} characters; give 1 to {MOST_ID}")
        return given
