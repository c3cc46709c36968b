"""``splitter plan``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from splitter.cli.options import (
    Finite,
    Fraction,
    json_option,
    load,
    model_options,
    progress_bars,
    publish,
)
from splitter.cli.wishes import read_relays, read_sources, read_wishes, wishes_options, with_states

if TYPE_CHECKING:
    from splitter.planning.budget import Budget


@click.command(
    "plan",
    epilog="\b\nExamples:\n"
    "  splitter plan model.onnx --device pi.json --server cloud.json --link lte -o plan.json\n"
    "  splitter plan model.onnx --device raspberry-pi-4 --server here.json --link 20Mbit/s,15ms\n"
    "  splitter plan model.onnx --device pi.json --server cloud.json --link wifi --at pool5_1\n"
    "  splitter plan model.onnx --device pi.json --server cloud.json --link 3g --calibration c.json\n"
    "  splitter plan model.onnx --device pi.json --server cloud.json --link lte --envelope\n"
    "  splitter plan model.onnx --device pi.json --server cloud.json --link 5g --objective energy\n"
    "  splitter plan model.onnx --device pi.json --server cloud.json --link 5g --deadline 80ms\n"
    "  splitter plan model.onnx --device cam.json --server cloud.json --link 5g "
    "--source 'mic*=mic.json' --source-link wifi",
)
@model_options
@click.option(
    "--device", required=True, metavar="PROFILE|NAME", help="A profile, or a description."
)
@click.option(
    "--server", required=True, metavar="PROFILE|NAME", help="A profile, or a description."
)
@click.option("--link", required=True, metavar="NAME|RATE,RTT", help="lte, or 20Mbit/s,15ms.")
@click.option("--base", type=click.Path(), help="The measured profile that descriptions scale.")
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="Write the plan here.")
@click.option("--at", multiple=True, metavar="TENSOR", help="Price this cut instead of choosing.")
@wishes_options
@click.option(
    "--calibration", type=click.Path(), help="Choose codecs by what they do to the answer."
)
@click.option(
    "--accuracy-budget", type=Fraction(), metavar="1%",
    help="Answers that may be lost to codecs; 1% unless said.",
)  # fmt: skip
@click.option(
    "--min-agreement", type=Fraction(), metavar="99%", help="Answers that stay the whole model's."
)
@click.option("--max-error", type=Finite(min=0), metavar="0.01", help="Mean relative error.")
@click.option("--data", type=click.Path(), help="The calibration's data, where it has moved.")
@click.option("--alternatives", default=5, show_default=True, type=click.IntRange(0, 100))
@click.option("--solver", default="cbc", show_default=True, type=click.Choice(["cbc", "highs"]))
@click.option("--time-limit", type=Finite(min=0, min_open=True), metavar="S")
@click.option(
    "--envelope", is_flag=True, help="Find the best cut at every bandwidth and server slowdown too."
)
@click.option(
    "--explain",
    is_flag=True,
    help="Say what decides, what would have to change for another plan, what each limit costs.",
)
@json_option
def command(
    model: str, dims: Sequence[str], shapes: Sequence[str], device: str, server: str, link: str,
    base: str | None, output: str | None, at: Sequence[str], alternatives: int,
    calibration: str | None, accuracy_budget: float | None, min_agreement: float | None,
    max_error: float | None, data: str | None, solver: str, time_limit: float | None, envelope: bool,
    explain: bool, relays: Sequence[str], relay_links: Sequence[str],
    sources: Sequence[tuple[Sequence[str], str]], source_links: Sequence[str], as_json: bool,
    **wishes: Any,
) -> None:  # fmt: skip
    """Choose where to cut MODEL: the least latency, proven, beside the rivals of not splitting.

    A device or server is a profile's file, or the name of a description, which is then scaled from
    --base, from the other tier's measured profile, or from a quick measurement on this machine.
    Without --calibration tensors travel without loss.
    """
    from splitter import api
    from splitter.planning.plan import PlanOptions
    from splitter.reporting.plan import plan_report

    asked = {"--envelope": envelope, "--explain": explain, "--pareto": wishes["pareto"]}
    asked |= {"--relay": relays, "--source": sources}
    if at and any(asked.values()):
        option = next(name for name, is_asked in asked.items() if is_asked)
        raise click.UsageError(f"--at prices one cut of two tiers: leave {option} out")
    budget = _budget(accuracy_budget, min_agreement, max_error)
    options = PlanOptions(
        wishes=read_wishes(wishes), alternatives=alternatives, solver=solver,
        time_limit_s=time_limit, pareto=wishes["pareto"] or (), envelope=envelope, explain=explain,
    )  # fmt: skip
    between, beside = read_relays(relays, relay_links), read_sources(sources, source_links)
    loaded = load(model, dims, shapes)
    stated = with_states(options.wishes, wishes["states"], loaded.graph)
    options = replace(options, wishes=stated)
    with progress_bars() as progress:
        plan = api.plan(
            loaded, device=device, server=server, link=link, base=base, at=at, relays=between,
            sources=beside, calibration=calibration, budget=budget, data=data, options=options,
            progress=progress,
        )  # fmt: skip
    publish(plan, plan_report, output, as_json)


def _budget(accuracy: float | None, agreement: float | None, error: float | None) -> Budget | None:
    from splitter.planning.budget import Budget

    if sum(value is not None for value in (accuracy, agreement, error)) > 1:
        raise click.UsageError("give one of --accuracy-budget, --min-agreement and --max-error")
    if agreement is not None:
        return Budget(kind="agreement", limit=round(1 - agreement, 12))
    if error is not None:
        return Budget(kind="error", limit=error)
    return None if accuracy is None else Budget(kind="accuracy", limit=accuracy)
