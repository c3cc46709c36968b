"""Tables for the terminal, as Rich renderables; correct in 80 columns, without colour and when piped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

from rich.console import Group, RenderableType
from rich.style import StyleType
from rich.table import Table
from rich.text import Text

from splitter.calibration.answers import wilson
from splitter.link import Link
from splitter.planning.budget import CalibrationSource
from splitter.planning.candidates import ON_SERVER
from splitter.planning.cuts import CrossingTensor
from splitter.planning.records import DeviceSource, Plan, Range, SolverStatus
from splitter.planning.terms import LATENCY
from splitter.reporting.cells import printable
from splitter.reporting.pictures import candidates_picture, order_picture, title
from splitter.reporting.units import rate, seconds, shape, size

TERMS = ("head", "encode", "link", "decode", "tail", "total")


class PlainTable(Table):
    """A table whose cells are shown as they stand: a tensor may be called ``[/b]`` or ``a:star:0``."""

    def add_row(
        self,
        *cells: RenderableType | None,
        style: StyleType | None = None,
        end_section: bool = False,
    ) -> None:
        """Add a row; strings are no markup."""
        plain = [Text(printable(cell)) if isinstance(cell, str) else cell for cell in cells]
        super().add_row(*plain, style=style, end_section=end_section)


def plain_table(
    *columns: str, title: str = "", numbers: Iterable[int] = (), whole: Iterable[int] = ()
) -> PlainTable:
    """A table without a frame; columns at ``numbers`` are aligned right, those and ``whole`` unwrapped.

    Names of tensors go last: there a long one folds into a column of its own.
    """
    right, unwrapped = set(numbers), {*numbers, *whole}
    table = PlainTable(
        title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False,
        header_style="dim",
    )  # fmt: skip
    for index, name in enumerate(columns):
        table.add_column(
            name, justify="right" if index in right else "left", no_wrap=index in unwrapped,
            overflow="fold",
        )  # fmt: skip
    return table


def plan_text(plan: Plan) -> RenderableType:
    """The decision, what it costs beside its rivals, how it was proven and how long it holds."""
    parts: list[RenderableType] = [_headline(plan), Text(), _sources(plan), _link(plan), Text()]
    parts += [_rivals(plan), *_encodings(plan), *_impossible(plan)]
    if plan.stages:
        parts += [Text(), _stages(plan)]
    elif plan.cut.crossing:
        parts += [Text(), crossing_table(plan.cut.crossing)]
    if plan.calibration is not None:
        parts += [Text(), answers_text(plan.calibration)]
    if plan.alternatives:
        parts += [Text(), _alternatives(plan)]
    parts += [Text(), candidates_picture(plan)]
    if plan.order:
        parts += [Text(), *order_picture(plan)]
    parts += [Text(), _proof(plan)]
    parts += [Text(f"warning: {warning}", style="yellow") for warning in plan.warnings]
    return Group(*parts)


def elided(name: str, width: int) -> str:
    """A name too long for a glance, without its middle."""
    if len(name) <= width:
        return name
    end = (width - 3) * 2 // 3  # most names begin alike
    return f"{name[: width - 3 - end]}...{name[-end:]}"


def listed(names: Sequence[str]) -> str:
    """Three names, or two and how many more there are."""
    if len(names) <= 3:
        return ", ".join(names) or "nothing"
    return f"{', '.join(names[:2])} and {len(names) - 2} more"


def _headline(plan: Plan) -> Text:
    best = plan.predicted
    here, alone, sent = "device", "run it all on the device", "the input"
    if plan.sources:
        here, alone, sent = "devices", "each device runs its own part", "the inputs"
    words = {
        "device": f"Do not split: {alone}",
        "server": f"Do not split: send {sent} to the server",
        "split": f"Split after {_names(best.crossing)}",
    }[plan.decision]
    if plan.solver.name == "none":
        words = f"Priced, not chosen: the cut at {_names(best.crossing)}"
    beyond = "beyond it" if plan.relays else "on the server"
    return Text.assemble(
        (words, "bold"),
        f"\n{best.head_nodes} nodes on the {here}, {best.tail_nodes} {beyond}; "
        f"{size(best.up_bytes)} up, {size(best.down_bytes)} down\n",
        (seconds(best.total_s), "bold"),
        " predicted",
        _other_terms(plan),
    )


def _other_terms(plan: Plan) -> str:
    """What else the plan is judged by or limited in, beside its latency."""
    terms, limits = plan.predicted.terms, plan.limits
    found = []
    if plan.objective.throughput or limits.interval_s is not None:
        found.append(f"{seconds(terms.bottleneck_s)} between answers of a stream")
    if terms.energy_j is not None and (plan.objective.energy or limits.energy_j is not None):
        found.append(f"{terms.energy_j:.3g} J on the device")
    if plan.objective.money or limits.money is not None:
        found.append(f"{terms.money:.3g} of money")
    memory = plan.predicted.memory_bytes
    if memory and (limits.device_memory_bytes or limits.server_memory_bytes):
        found.append(f"{size(memory[0])} of memory on the device, {size(memory[-1])} on the server")
    best = f"\nBest by {plan.objective}" if plan.objective != LATENCY else ""
    return "".join(f", {text}" for text in found) + best


def _sources(plan: Plan) -> Table:
    table = plain_table("", "profile", "whole model", "seconds are", numbers=(2,))
    others = [("relay", relay.tier) for relay in plan.relays]
    others += [(role, source.tier) for role, source in _further(plan)]
    for role, tier in (("device", plan.device), *others, ("server", plan.server)):
        table.add_row(role, tier.name, seconds(tier.whole_s), tier.origin.value)
    return table


def _link(plan: Plan) -> Text:
    links = [("link", plan.link), *(("onward", relay.link) for relay in plan.relays)]
    links += [(f"{role}'s", source.link) for role, source in _further(plan)]
    return Text("\n".join(f"{title:<7} {_link_text(link)}" for title, link in links))


def _further(plan: Plan) -> list[tuple[str, DeviceSource]]:
    """Further devices, by what they are called."""
    return [(f"device{number}", source) for number, source in enumerate(plan.sources, start=2)]


def _link_text(link: Link) -> str:
    speeds = f"{rate(link.up_bytes_per_s)} up, {rate(link.down_bytes_per_s)} down"
    name = "" if link.source == "given" else f"{link.name}: "
    return f"{name}{speeds}, {seconds(link.rtt_s)} round trip"


def _stages(plan: Plan) -> Table:
    """What each tier does of a plan over more than two."""
    table = plain_table("tier", "nodes", "takes", "bytes", "sends", numbers=(1, 2, 3), whole=(0,))
    idle = "nothing" if plan.sources else "the answer"
    for stage in plan.stages:
        sends = [f"{item.tensor} as {item.codec}" for item in stage.sends]
        nbytes = sum(item.wire_bytes for item in stage.sends)
        last = idle if stage.role != "server" else "the answer"
        table.add_row(
            stage.tier, str(len(stage.nodes)), seconds(stage.seconds),
            size(nbytes) if sends else "", listed(sends) if sends else last,
        )  # fmt: skip
    return table


def _rivals(plan: Plan) -> Table:
    table = plain_table("predicted", *TERMS, numbers=range(1, 7))
    names = {candidate.name for candidate in plan.baselines}
    if plan.predicted.name not in names:
        table.add_row(plan.predicted.name, *terms(plan.predicted), style="bold")
    for candidate in plan.baselines:
        if candidate.feasible:
            chosen = candidate.name == plan.predicted.name
            table.add_row(candidate.name, *terms(candidate), style="bold" if chosen else "")
    return table


def _encodings(plan: Plan) -> list[Text]:
    """In what a rival sends the input, where that is not the plan itself."""
    return [
        Text(
            f"the input is sent as {listed([item.codec for item in candidate.crossing])}: "
            f"{size(candidate.up_bytes)}"
        )
        for candidate in plan.baselines
        if candidate.feasible and candidate.name == ON_SERVER != plan.predicted.name
    ]


def answers_text(source: CalibrationSource) -> Text:
    """What the plan's codecs leave of the model's answers, by measurement."""
    where = f"measured on {source.data.samples} samples of {source.data.folder}"
    answer = source.answer
    if answer is None:
        left = "All answers are the whole model's: what crosses is lossless"
    elif answer.agreement is None or source.budget.kind == "error":
        left = f"Relative error {answer.error:.2g}, cosine {answer.cosine:.4f}, {where}"
    else:
        low, high = wilson(answer.agreement, answer.samples)
        left = (
            f"{answer.agreement:.1%} [{low:.1%}, {high:.1%}] of the answers are the whole model's"
        )
        if answer.lost is not None:
            left += f", {answer.lost:.1%} lost"
        left += f"; {where}"
    cut_off = f"; {source.refused} combinations broke it and were cut off" if source.refused else ""
    return Text(f"{left}\nBudget: {source.budget}{cut_off}")


def _impossible(plan: Plan) -> list[Text]:
    return [
        Text(f"not possible: {candidate.name} ({candidate.why_not})")
        for candidate in plan.baselines
        if not candidate.feasible
    ]


def terms(latency: object) -> list[str]:
    """The six terms of anything that has them."""
    return [seconds(getattr(latency, f"{term}_s")) for term in TERMS]


def crossing_table(crossing: Sequence[CrossingTensor]) -> Table:
    """What the head sends."""
    table = plain_table(
        "bytes", "sent", "bits", "as", "dtype", "shape", "crossing tensor", numbers=(0, 1, 2),
        whole=(3, 4),
    )  # fmt: skip
    for item in crossing:
        bits = 8 * item.wire_bytes / max(1, prod(item.shape))
        table.add_row(
            size(item.nbytes), size(item.wire_bytes), f"{bits:.3g}", item.codec, item.dtype,
            shape(item.shape), item.tensor,
        )  # fmt: skip
    return table


def _alternatives(plan: Plan) -> Table:
    table = plain_table("sent", "total", "worse by", "next best cut", numbers=(0, 1, 2))
    best = plan.predicted.objective
    for candidate in plan.alternatives:
        worse = (candidate.objective - best) / best if best > 0 else 0.0
        figures = size(candidate.up_bytes), seconds(candidate.total_s), f"{worse:.1%}"
        table.add_row(*figures, title(candidate))
    return table


def _proof(plan: Plan) -> RenderableType:
    solver, validity = plan.solver, plan.validity
    if solver.status is SolverStatus.PRICED:
        return Text("The cut was given, so nothing was proven of it.")
    proven = (
        "proven best" if solver.gap <= 1e-9 else f"within {solver.gap:.2%} of the best possible"
    )
    lines = [
        f"{proven.capitalize()} by {solver.name}: {solver.status.value}, gap {solver.gap:.2g}, "
        f"{solver.variables} variables, {seconds(solver.seconds)}",
    ]
    if validity is None:
        return Text(lines[0])
    lines += [
        "Stays best while, all else equal:",
        f"  uplink         {_range(validity.up_bytes_per_s, rate)}",
        f"  round trip     {_range(validity.rtt_s, seconds)}",
        f"  server slowed  {_range(validity.server_slowdown, lambda factor: f'{factor:.3g}x')}",
    ]
    return Text("\n".join(lines))


def _range(found: Range, unit: object) -> str:
    show = unit if callable(unit) else str
    now = f" (now {show(found.at)})"
    if found.low is None and found.high is None:
        return f"any{now}"
    if found.low is None:
        return f"up to {show(found.high)}{now}"
    if found.high is None:
        return f"from {show(found.low)}{now}"
    return f"{show(found.low)} to {show(found.high)}{now}"


def _names(crossing: Sequence[CrossingTensor]) -> str:
    return listed([item.tensor for item in crossing])
