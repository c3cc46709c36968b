"""Where to cut an ONNX model between a device and a server, what that buys, and the runtime that does it.

>>> model = splitter.load("model.onnx")
>>> here = splitter.profile(model)
>>> plan = splitter.plan(model, device="raspberry-pi-4", server=here, link="lte")
>>> bundle = splitter.split(model, "bundle", plan=plan)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from splitter.api import (
        AsyncSession,
        ServerOptions,
        Session,
        SessionOptions,
        calibrate,
        load,
        plan,
        profile,
        serve,
        split,
        verify,
    )

_VERBS = (
    "AsyncSession", "ServerOptions", "Session", "SessionOptions", "calibrate", "load", "plan", "profile",
    "serve", "split", "verify",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import the library when a verb is first used: ``splitter --help`` needs none of it."""
    if name in _VERBS:
        from splitter import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "AsyncSession", "ServerOptions", "Session", "SessionOptions", "__version__", "calibrate", "load",
    "plan", "profile", "serve", "split", "verify",
]  # fmt: skip
