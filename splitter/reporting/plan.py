"""A plan with all that was asked for: its reasons, and its table."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from splitter.planning.records import Plan
from splitter.reporting.policy import policy_text
from splitter.reporting.reasons import reasons_text
from splitter.reporting.text import plan_text
from splitter.reporting.tradeoff import tradeoff_text


def plan_report(plan: Plan) -> RenderableType:
    """The plan, why it is that, and what is best elsewhere."""
    parts: list[RenderableType] = [plan_text(plan)]
    if plan.tradeoff is not None:
        parts += [Text(), tradeoff_text(plan.tradeoff)]
    if plan.reasons is not None:
        parts += [Text(), reasons_text(plan.reasons, plan.objective)]
    if plan.table is not None:
        parts += [Text(), policy_text(plan.table)]
    return Group(*parts)
