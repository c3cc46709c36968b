"""Why a plan is as it is: what decides, what would have to change, and what the limits cost."""

from __future__ import annotations

from typing import Literal

from splitter.document import Record


class Rival(Record, frozen=True, kw_only=True):
    """Another plan, and by how much each of its terms is more than the plan's; negative is less."""

    name: str
    head_s: float
    encode_s: float
    link_s: float
    decode_s: float
    tail_s: float
    objective: float
    decides: str
    """The term that speaks most for the plan: ``tail``, ``link`` and so on."""


class Sensitivity(Record, frozen=True, kw_only=True):
    """How far one figure may move, all else equal, before another plan is better; None is unbounded."""

    name: str
    """``uplink``, ``round trip``, ``device seconds``, ``server seconds``, or ``bytes of`` a tensor."""
    unit: Literal["bytes_per_s", "s", "factor", "bytes"]
    at: float
    low: float | None
    high: float | None
    below: str
    """The plan that is better below ``low``; empty where there is none."""
    above: str
    """The same of ``high``."""


class Bound(Record, frozen=True, kw_only=True):
    """A limit that was set."""

    name: str
    """Of the field in ``limits``, or ``loss_limit``; a pin, an output or a state as it was given."""
    limit: float | None
    """None for what is no number."""
    used: float | None
    """By the plan."""
    binds: bool
    """A better plan breaks it, and no other limit."""
    cost: float
    """What the objective would be less without it; 0 where it does not bind."""
    without: str
    """The best plan without it; empty where that is this one."""
    needs: float | None
    """What that plan uses of it."""
    shadow_price: float | None
    """What the objective falls for each unit more of it, on the way to the next better plan."""
    reached_at: float | None
    """The least value at which that next plan can be carried out."""


class Reasons(Record, frozen=True, kw_only=True):
    """What ``--explain`` finds."""

    largest: str
    """The term that the plan spends most on."""
    share: float
    """Of its latency."""
    rivals: tuple[Rival, ...]
    sensitivities: tuple[Sensitivity, ...]
    """None where costs are no lines; ``note`` says why."""
    limits: tuple[Bound, ...]
    note: str = ""
