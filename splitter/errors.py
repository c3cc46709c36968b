"""What a caller may be asked to handle.

Every message is one line that says what is wrong, with which thing, what was found, and what to do.
The command line prints it as it stands and exits with status 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], limit: int = 3) -> str:
    """The end of a message about a name that does not exist: those that it may have meant."""
    close = difflib.get_close_matches(name[:200], list(known), n=limit, cutoff=0.4)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


class SplitterError(Exception):
    """The base of every error that this package raises on purpose."""


class ModelError(SplitterError):
    """A model file cannot be read, or holds something that cannot be handled."""


class DimensionError(ModelError):
    """A dynamic dimension was left open, or bound to something it cannot be."""


class CutError(SplitterError):
    """A cut is not closed, names an unknown tensor, or crosses one that cannot travel."""


class ProfileError(SplitterError):
    """A profile or a device description cannot be used: malformed, or of another model."""


class CalibrationError(SplitterError):
    """A calibration cannot be made, read, or used: malformed, of another model, or without data."""


class LinkError(SplitterError):
    """A link cannot be understood or found."""


class PlanError(SplitterError):
    """A plan cannot be made, read, or used with this model."""


class SolverTimeError(PlanError):
    """The solver's time ran out before it had an answer that can be used."""


class InfeasibleError(PlanError):
    """No plan satisfies the limits; the message names the one that binds."""


class CodecError(SplitterError):
    """A payload cannot be decoded: truncated, oversized, corrupted or mismatched."""


class MissingExtraError(CodecError):
    """A codec needs a package that is not installed; the message says how to get it."""


class BundleError(SplitterError):
    """A bundle cannot be written, or is not what its manifest says."""


class InputError(SplitterError):
    """A feed has the wrong name, dtype or shape, or its file cannot be read."""


class ServingError(SplitterError):
    """The server cannot be reached, or refused the request."""


class DeadlineError(ServingError):
    """No answer came in the time there was."""


class StaleBundleError(ServingError):
    """Device and server hold different bundles (their digests differ)."""
