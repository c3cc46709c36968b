"""``splitter run``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitter.cli.calling import calling_options, take_calling
from splitter.cli.options import (
    Finite,
    announce,
    debug_option,
    json_option,
    preprocess_option,
    show,
)
from splitter.cli.traces import traces_option, tracing
from splitter.preprocess import Preprocess

if TYPE_CHECKING:
    import numpy as np

    from splitter.serving.device.report import Result
    from splitter.serving.device.session import Session

CONNECTING_S = 2.0
"""For the first connection: who names a server wants its answer, while a session would answer at once."""


@click.command(
    "run",
    epilog="\b\nExamples:\n  splitter run bundle --server 10.0.0.2:8001 --input input=x.npy\n"
    "  splitter run bundle --server 127.0.0.1:8001 --input photo.jpg --labels classes.txt\n"
    "  splitter run bundle --server 127.0.0.1:8001 --input all.npz -o answer.npz\n"
    "  splitter run bundle --server edge:8001 --tls-ca ca.pem --token-file token --input x.npy\n"
    "  splitter run bundle --server edge:8001 --input x.npy --repeat 500 --in-flight 8",
)
@click.argument("bundle", type=click.Path())
@click.option(
    "--server", metavar="HOST:PORT", help="Where the tail is served; without it, work offline.",
)  # fmt: skip
@click.option(
    "--input", "inputs", multiple=True, required=True, metavar="NAME=FILE",
    help="npy, npz, or an image where the input is one; the name may be left out if there is one.",
)  # fmt: skip
@preprocess_option
@click.option("--repeat", default=1, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--in-flight", default=1, show_default=True, type=click.IntRange(1, 1024), metavar="N",
    help="Runs at a time, so that head, link and tail overlap.",
)  # fmt: skip
@click.option(
    "--deadline", default=30.0, show_default=True, metavar="S",
    type=Finite(min=0, min_open=True), help="Of a run, answer from the device included.",
)  # fmt: skip
@click.option(
    "--hedge", metavar="S", type=Finite(min=0),
    help="Send a second copy if there is no answer by then.",
)  # fmt: skip
@click.option(
    "--group", default="", metavar="NAME",
    help="Of one device of several: what all of them call themselves.",
)  # fmt: skip
@calling_options
@click.option(
    "--gate", metavar="MODEL|OUTPUT",
    help="A small model, or an early exit of the head, that answers where it is sure.",
)  # fmt: skip
@click.option(
    "--confident", default=0.9, show_default=True, metavar="P", type=Finite(0, 1),
    help="How sure the gate must be.",
)  # fmt: skip
@click.option(
    "--labels", type=click.Path(), help="A file with a class name a line; shows the top 5."
)
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="Write the outputs (npz).")
@traces_option
@json_option
@debug_option
def command(
    bundle: str, server: str | None, inputs: Sequence[str], preprocess: Preprocess | None,
    repeat: int, in_flight: int, labels: str | None, output: str | None, traces: bool,
    as_json: bool, **chosen: Any,
) -> None:  # fmt: skip
    """Run the head of BUNDLE here and its tail on a server; print the answer and where time went.

    Where the server does not answer, the bundle's fallback does, if it has one.
    """
    from splitter.feeds import load_feeds, read_labels, write_npz
    from splitter.reporting.answer import answer_json, answer_text
    from splitter.serving.device.session import Session

    classes = read_labels(Path(labels)) if labels else None
    with tracing(traces), Session(bundle, server, **_options(**chosen)) as session:
        recipe = preprocess or session.manifest.preprocess or "imagenet"
        feeds = load_feeds(inputs, session.inputs, recipe)
        session.wait_for_server(CONNECTING_S)
        results = _run(session, feeds, repeat, in_flight)
        predicted_s = session.manifest.plan_predicted_s
    answer, timings = results[-1].outputs, [result.timing for result in results]
    if output is not None:
        write_npz(Path(output), answer)
    if as_json:
        click.echo(answer_json(answer, timings))
    else:
        show(answer_text(answer, timings, predicted_s, classes))
        if output is not None:
            announce(f"wrote {output}")


def _run(
    session: Session, feeds: Mapping[str, np.ndarray[Any, Any]], repeat: int, in_flight: int
) -> list[Result]:
    if in_flight == 1:
        return [session.infer(feeds) for _ in range(repeat)]
    with session.run_stream([feeds] * repeat, in_flight=in_flight) as stream:
        return list(stream)


def _options(
    deadline: float,
    hedge: float | None,
    gate: str | None,
    confident: float,
    group: str,
    **calling: Any,
) -> dict[str, Any]:
    """Of the session."""
    tls, token = take_calling(calling)
    return {
        "deadline_s": deadline, "hedge_s": hedge, "tls": tls, "token": token, "gate": gate,
        "confident": confident,
        "group": group,
    }  # fmt: skip
