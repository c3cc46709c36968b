"""``splitter demo``: the whole way, on a network that comes with the onnx package."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from splitter.cli.options import announce, debug_option, progress_bars, show
from splitter.errors import ServingError
from splitter.graph.model import Model
from splitter.planning.records import Plan
from splitter.profiling.profile import Profile

SECONDS = 12.0
VERIFY_SECONDS = 4.0
REPORT = "demo-report.html"


@click.command(
    "demo", epilog="\b\nExamples:\n  splitter demo\n  splitter demo --link lte --keep out"
)
@click.option("--device", default="raspberry-pi-4", show_default=True, help="A described device.")
@click.option("--link", default="wifi", show_default=True, help="A link, by name or 20Mbit/s,15ms.")
@click.option(
    "--keep", metavar="DIR", type=click.Path(file_okay=False), help="Keep the files here."
)
@debug_option
def command(device: str, link: str, keep: str | None) -> None:
    """Plan, split, serve and run a real network on this machine, and compare with the whole.

    The network is SqueezeNet's architecture with weights drawn from a seed: real shapes, real cost,
    no real answers. This machine is the server; the device is described, its seconds are estimates. A
    report of the plan, for a browser, is left behind.
    """
    with contextlib.ExitStack() as stack:
        if keep is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="splitter-demo-")))
        else:
            folder = Path(keep)
            folder.mkdir(parents=True, exist_ok=True)
        _demo(folder, device, link, folder / "report.html" if keep else Path(REPORT))
    if keep is not None:
        announce(f"\nThe model, profile, plan and bundle are in {folder}, and the report.")


def _demo(folder: Path, device: str, link: str, report: Path) -> None:
    from splitter import api
    from splitter.example import SEEDED, seeded_network
    from splitter.link_parse import find_link
    from splitter.planning.plan import PlanOptions
    from splitter.profiling.device import find_device
    from splitter.profiling.measure import Effort
    from splitter.reporting.profile import profile_text
    from splitter.reporting.report import Evidence, write_report
    from splitter.reporting.text import plan_text

    find_device(device)  # a wrong name is said before anything is measured
    find_link(link)
    _step(1, f"a real network: {SEEDED}, weights drawn from a seed")
    model = seeded_network(folder)
    announce(f"{len(model.graph.nodes)} nodes, {model.path.stat().st_size / 1e6:.1f} MB")

    _step(2, f"profile it on this machine (about {SECONDS:.0f} s)")
    with progress_bars() as progress:
        here = api.profile(model, effort=Effort(anchors_s=SECONDS, codecs_s=3.0), progress=progress)
    here.save(folder / "here.json")
    show(profile_text(here, count=3))

    _step(3, f"plan: {device} -> {link} -> this machine")
    options = PlanOptions(envelope=True, explain=True)
    plan = api.plan(model, device=device, server=here, link=link, options=options)
    plan.save(folder / "plan.json")
    show(plan_text(plan))

    chosen = _to_carry_out(plan)
    if chosen:
        _carry_out(model, plan, chosen, here, folder)
    else:
        announce("\nEverything is best on one side, and no split is left to show.")
    _step(8, "measure the plan beside its rivals, and write a report for a browser")
    measured = api.verify(model, plan, seconds=VERIFY_SECONDS)
    nbytes = write_report(plan, Evidence(measured=(measured,)), report)
    announce(f"wrote {report} ({nbytes / 1e6:.1f} MB): open it in a browser")
    announce(
        "\nNext, with a model of your own:\n"
        "  splitter profile model.onnx -o here.json\n"
        "  splitter plan model.onnx --device raspberry-pi-4 --server here.json --link lte -o plan.json\n"
        "  splitter report plan.json -o report.html"
    )


def _carry_out(model: Model, plan: Plan, chosen: list[str], here: Profile, folder: Path) -> None:
    """Split at the tensors, serve, run, and compare with the whole model."""
    from splitter import api
    from splitter.cli.demo_outage import outage_text, run_through_outage
    from splitter.partition.check import compare, random_feeds, run_one
    from splitter.partition.extract import Extractor
    from splitter.reporting.answer import answer_text
    from splitter.runtime import Runner

    _step(4, f"split at {', '.join(chosen)}")
    if plan.decision == "split":
        bundle = api.split(model, folder / "bundle", plan=plan, fallback="whole")
    else:
        announce("(the plan is not to split; this is the best true split, to show that it runs)")
        bundle = api.split(model, folder / "bundle", at=chosen, fallback="whole")
    for name, spec in sorted(bundle.manifest.files.items()):
        announce(f"{name}  {spec.nbytes / 1e6:.2f} MB")

    _step(5, "serve the tail in a second process, run the head in this one")
    feeds = random_feeds(model.graph, seed=1)
    whole = Runner(
        Extractor(model).whole().to_bytes(), here.settings, weights_dir=model.weights_dir
    )
    expected = run_one(whole, feeds)
    with _serving(bundle.folder) as address:
        with api.Session(bundle.folder, address, adapt=False) as session:
            timings = []
            for _ in range(5):
                outputs = session.run(None, feeds)
                timings.append(session.last)
        answer = dict(zip(model.graph.outputs, outputs, strict=True))
        show(answer_text(answer, timings))

        _step(6, "compare with the whole model")
        difference = compare(expected, answer)
        same = (
            "bit for bit equal" if difference.is_equal else f"{difference.max_relative:.1e} apart"
        )
        top = int(np.argmax(answer[model.graph.outputs[0]]))
        announce(f"head here + tail there: {same} to the whole model's answer (class {top})")

        _step(7, "cut the link and restore it while requests go on")
        outage = run_through_outage(bundle.folder, address, feeds, expected)
        announce(outage_text(outage))
    if outage.lost or outage.wrong:
        raise ServingError("requests were lost or answered wrongly; please report this")


def _step(number: int, title: str) -> None:
    click.secho(f"\n[{number}/8] {title}", bold=True)


def _to_carry_out(plan: Plan) -> list[str]:
    """The crossing tensors of the planned split, or of the best alternative that is one."""
    splits = [
        candidate
        for candidate in (plan.predicted, *plan.alternatives)
        if candidate.head_nodes and candidate.tail_nodes
    ]
    return [item.tensor for item in splits[0].crossing] if splits else []


@contextlib.contextmanager
def _serving(folder: Path) -> Iterator[str]:
    """Serve in a second process; yields the address."""
    command = [sys.executable, "-m", "splitter", "serve", str(folder), "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        if not line.startswith("serving"):
            raise ServingError("the second process did not start to serve")
        announce(f"a second process says: {line}")
        yield line.rpartition(" ")[2]
    finally:
        process.terminate()
        process.communicate()
