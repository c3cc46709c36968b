"""``splitter run``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from splitter.cli.options import (
    Finite,
    announce,
    debug_option,
    json_option,
    preprocess_option,
    show,
)
from splitter.preprocess import Preprocess


@click.command(
    "run",
    epilog="\b\nExamples:\n  splitter run bundle --server 10.0.0.2:8001 --input input=x.npy\n"
    "  splitter run bundle --server 127.0.0.1:8001 --input photo.jpg --labels classes.txt\n"
    "  splitter run bundle --server 127.0.0.1:8001 --input all.npz -o answer.npz",
)
@click.argument("bundle", type=click.Path())
@click.option("--server", metavar="HOST:PORT", help="Where the tail is served.")
@click.option(
    "--input", "inputs", multiple=True, required=True, metavar="NAME=FILE",
    help="npy, npz, or an image where the input is one; the name may be left out if there is one.",
)  # fmt: skip
@preprocess_option
@click.option("--repeat", default=1, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--deadline", default=30.0, show_default=True, metavar="S",
    type=Finite(min=0, min_open=True), help="To wait for the server.",
)  # fmt: skip
@click.option(
    "--labels", type=click.Path(), help="A file with a class name a line; shows the top 5."
)
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="Write the outputs (npz).")
@json_option
@debug_option
def command(
    bundle: str, server: str | None, inputs: Sequence[str], preprocess: Preprocess | None,
    repeat: int, deadline: float, labels: str | None, output: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Run the head of BUNDLE here and its tail on a server; print the answer and where time went."""
    from splitter.feeds import load_feeds, read_labels, write_npz
    from splitter.reporting.answer import answer_json, answer_text
    from splitter.serving.session import Session

    classes = read_labels(Path(labels)) if labels else None
    with Session(bundle, server, deadline_s=deadline) as session:
        recipe = preprocess or session.manifest.preprocess or "imagenet"
        feeds = load_feeds(inputs, session.inputs, recipe)
        timings = []
        for _ in range(repeat):
            outputs = session.run(None, feeds)
            timings.append(session.last)
        names = [spec.name for spec in session.manifest.outputs]
        answer = dict(zip(names, outputs, strict=True))
        predicted_s = session.manifest.plan_predicted_s
    if output is not None:
        write_npz(Path(output), answer)
    if as_json:
        click.echo(answer_json(answer, timings))
    else:
        show(answer_text(answer, timings, predicted_s, classes))
        if output is not None:
            announce(f"wrote {output}")
