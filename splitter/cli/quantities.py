"""Quantities with units, and lists of them, as they are typed: the one place that knows the units."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from splitter.link_parse import SECONDS

if TYPE_CHECKING:
    from splitter.planning.terms import Objective, Pin, PowerDraw, State, Term

UNITS: Mapping[str, tuple[Mapping[str, float], str]] = {
    "bytes": (
        {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
        "64MB",
    ),
    "time": (SECONDS, "50ms"),
    "energy": ({"uJ": 1e-6, "mJ": 1e-3, "J": 1.0, "kJ": 1e3, "mWh": 3.6, "Wh": 3600.0}, "0.5J"),
    "power": ({"mW": 1e-3, "W": 1.0}, "6.4W"),
    "price": ({"/s": 3600.0, "/min": 60.0, "/h": 1.0}, "0.5/h"),
    "amount": ({"": 1.0}, "0.001"),
}
"""By kind: each unit in bytes, seconds, joules, watts or money per hour, and an example."""

_QUANTITY = re.compile(r"([+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)\s*([A-Za-z/]*)")


def quantity(text: str, kind: str) -> float:
    """Read a number and its unit; raises ValueError, whose text says what is wrong."""
    units, example = UNITS[kind]
    found = _QUANTITY.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a number and a unit, such as {example}")
    number, unit = float(found[1]), found[2]
    if unit not in units:
        known = ", ".join(units) or "none"
        said = f"is in {unit!r}, which is no unit" if unit else "has no unit"
        if kind == "amount":
            raise ValueError(f"{text!r} {said} of money: give a plain number, such as {example}")
        raise ValueError(f"{text!r} {said} of {kind} ({known}); write it as {example}")
    value = number * units[unit]
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{text!r} is not over 0 and finite; write it as {example}")
    return value


class Quantity(click.ParamType[float]):
    """A number with a unit of one kind."""

    def __init__(self, kind: str) -> None:
        self.name = kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Refuse another unit, and what is not over 0."""
        if isinstance(value, (int, float)):
            return float(value)
        try:
            return quantity(str(value), self.name)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


class _Text(click.ParamType[Any]):
    """A text that becomes one of the planner's records."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what does not read."""
        if not isinstance(value, str):
            return value
        try:
            return self.read(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)

    def read(self, text: str) -> Any:
        """Raises ValueError."""
        raise NotImplementedError


class ObjectiveText(_Text):
    """``latency``, or ``latency=1,energy=0.2``: what one unit of each term is worth."""

    name = "objective"

    def read(self, text: str) -> Objective:
        """Terms that are named once each, with weights over 0."""
        from splitter.planning.terms import Objective

        weights: dict[str, float] = {}
        for part in text.split(","):
            name, equals, weight = part.strip().partition("=")
            term = _term(name)
            if term.value in weights:
                raise ValueError(f"{text!r} names {name} twice")
            weights[term.value] = _weight(part, weight) if equals else 1.0
        return Objective(**weights)


class TermsText(_Text):
    """``latency,energy``: two or three terms."""

    name = "terms"

    def read(self, text: str) -> tuple[Term, ...]:
        """Two or three, each once."""
        terms = tuple(_term(name.strip()) for name in text.split(","))
        if not 2 <= len(set(terms)) == len(terms) <= 3:
            raise ValueError(f"{text!r} is not two or three terms, such as latency,energy")
        return terms


class PinText(_Text):
    """``backbone/*=device``."""

    name = "pin"

    def read(self, text: str) -> Pin:
        """A pattern of names and a tier."""
        from splitter.planning.terms import Pin

        return Pin(*_pair(text, "PATTERN=TIER, such as backbone/*=device"))


class OutputText(_Text):
    """``scores=device``."""

    name = "output"

    def read(self, text: str) -> tuple[str, str]:
        """A model output and a tier."""
        return _pair(text, "OUTPUT=TIER, such as scores=device")


class StateText(_Text):
    """``state=stateN``: a model input and the output that is fed back to it; or ``auto``."""

    name = "state"

    def read(self, text: str) -> State | None:
        """Both names; None for those that the names of the model give away."""
        from splitter.planning.terms import State

        if text == "auto":
            return None
        return State(*_pair(text, "INPUT=OUTPUT, such as state=stateN"))


class SourceText(_Text):
    """``mic,level=pi.json``: names or patterns of inputs, and the device that they are born on."""

    name = "source"

    def read(self, text: str) -> tuple[tuple[str, ...], str]:
        """The names, and a profile's file or a description's name."""
        names, tier = _pair(text, "INPUTS=PROFILE, such as mic*=pi.json")
        return tuple(name.strip() for name in names.split(",")), tier


class PowerText(_Text):
    """``6.4W,2.7W`` or ``6.4W,2.7W,1.2W``: active, idle, and the radio's on top of it."""

    name = "power"

    def read(self, text: str) -> PowerDraw:
        """Two or three powers."""
        from splitter.planning.terms import PowerDraw

        parts = text.split(",")
        if not 2 <= len(parts) <= 3:
            raise ValueError(f"{text!r} is not ACTIVE,IDLE or ACTIVE,IDLE,RADIO, such as 6.4W,2.7W")
        active, idle, *radio = (quantity(part, "power") for part in parts)
        return PowerDraw(active_w=active, idle_w=idle, radio_w=radio[0] if radio else 0.0)


def _term(name: str) -> Term:
    from splitter.planning.terms import Term

    try:
        return Term(name)
    except ValueError:
        raise ValueError(f"{name!r} is not one of the terms {', '.join(Term)}") from None


def _weight(part: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight > 0):
        raise ValueError(f"{part.strip()!r}: a weight is a plain number over 0")
    return weight


def _pair(text: str, form: str) -> tuple[str, str]:
    left, equals, right = text.rpartition("=")
    if not (equals and left and right):
        raise ValueError(f"{text!r} is not {form}")
    return left, right
