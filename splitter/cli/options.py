"""Options that several commands share, and what they mean."""

from __future__ import annotations

import contextlib
import functools
import math
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar, cast

import click
import numpy as np
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import TaskID
from rich.segment import Segment

from splitter.document import encode_document
from splitter.errors import InputError
from splitter.graph.model import Model
from splitter.preprocess import PREPROCESS, Preprocess, find_preprocess

Feeds = dict[str, "np.ndarray[Any, Any]"]
F = TypeVar("F", bound=Callable[..., Any])
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")  # all but the end of a line
_FOREIGN = re.compile(r"[^\x00-\x7f]+")
_DIMENSION = re.compile(r"-?[0-9]{1,18}")


class Finite(click.FloatRange):
    """A float in a range; NaN and the infinities are in none."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Refuse what is not finite, then as every range."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Fraction(click.FloatRange):
    """``1%`` or ``0.01``."""

    name = "fraction"

    def __init__(self) -> None:
        super().__init__(min=0, max=1)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Refuse what is no part of a whole."""
        text = str(value).strip()
        if text.endswith("%"):
            try:
                value = round(float(text[:-1]) / 100, 12)
            except ValueError:
                self.fail(f"{value!r} is not a percentage.", param, ctx)
        number: float = super().convert(value, param, ctx)
        return number


def debug_option(command: F) -> F:
    """--debug, which ``main`` looks for; a command that takes a model has it already."""
    return click.option(
        "--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."
    )(command)


def model_options(command: F) -> F:
    """MODEL, --dim, --shape and --debug."""
    command = debug_option(command)
    command = click.option(
        "--shape", "shapes", multiple=True, metavar="INPUT=1,3,224,224",
        help="Bind the whole shape of an input.",
    )(command)  # fmt: skip
    command = click.option(
        "--dim",
        "dims",
        multiple=True,
        metavar="NAME=N",
        help="Bind a dynamic dimension by its name.",
    )(command)
    return click.argument("model", type=click.Path())(command)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def read_inputs(
    texts: Sequence[str], model: Model, preprocess: Preprocess | None = None
) -> Feeds | None:
    """The feeds that were named, or None where none was."""
    if not texts:
        return None
    from splitter.feeds import load_feeds

    return load_feeds(
        texts, {n: model.graph.tensors[n] for n in model.graph.inputs}, preprocess or "imagenet"
    )


def load(path: str, dims: Sequence[str], shapes: Sequence[str]) -> Model:
    """Load a model with the bindings as they were typed."""
    from splitter.graph.read import load_model

    return load_model(path, dims=_dims(dims), shapes=_shapes(shapes))


def _dims(texts: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        if not equals or not name or not _DIMENSION.fullmatch(value):
            raise click.BadParameter(f"{text!r} is not NAME=N, such as batch=1", param_hint="--dim")
        found[name] = int(value)
    return found


def _shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        sizes = [size.strip() for size in value.split(",")] if value else []
        if not equals or not name or not all(map(_DIMENSION.fullmatch, sizes)):
            raise click.BadParameter(
                f"{text!r} is not INPUT=SHAPE, such as input=1,3,224,224", param_hint="--shape"
            )
        found[name] = tuple(int(size) for size in sizes)
    return found


def preprocess_option(command: F) -> F:
    """--preprocess; None where it is left out."""
    return click.option(
        "--preprocess", metavar="NAME|FILE.yaml", callback=_recipe,
        help=f"How a photo becomes an input: {', '.join(PREPROCESS)}, or a description.",
    )(command)  # fmt: skip


def _recipe(ctx: click.Context, param: click.Parameter, value: str | None) -> Preprocess | None:
    try:
        return None if value is None else find_preprocess(value)
    except InputError as exc:
        raise click.BadParameter(str(exc), ctx, param) from exc


def settings_options(command: F) -> F:
    """--provider, --threads, --optimisation and --no-arena: as it will be served, given as ``settings``."""

    @functools.wraps(command)
    def with_settings(
        *args: Any, provider: str, threads: int, optimisation: str, no_arena: bool, **options: Any
    ) -> Any:
        from splitter.runtime import Optimisation, Settings

        settings = Settings(
            provider=provider, threads=threads, optimisation=Optimisation(optimisation),
            arena=not no_arena,
        )  # fmt: skip
        return command(*args, settings=settings, **options)

    found = click.option(
        "--no-arena", is_flag=True,
        help="Give memory back after each run: less is resident, a run takes longer.",
    )(with_settings)  # fmt: skip
    found = click.option(
        "--optimisation", default="all", show_default=True,
        type=click.Choice(["none", "basic", "extended", "all"]), help="onnxruntime's level.",
    )(found)  # fmt: skip
    found = click.option(
        "--threads", default=1, show_default=True, type=click.IntRange(1, 1024),
        help="Of one inference.",
    )(found)  # fmt: skip
    found = click.option(
        "--provider", default="CPUExecutionProvider", show_default=True,
        help="An onnxruntime execution provider.",
    )(found)  # fmt: skip
    return cast("F", found)


@contextlib.contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Bars on standard error while something takes long; nothing where that is not a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, disable=not console.is_terminal, transient=True
    ) as bar:
        tasks: dict[str, TaskID] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield progress


def announce(text: str) -> None:
    """Say what was done."""
    click.echo(text)


class Document(Protocol):
    """What a command makes: a record that can be saved."""

    def save(self, path: str) -> None:
        """Write it whole or not at all."""


D = TypeVar("D", bound=Document)


def publish(
    document: D, render: Callable[[D], RenderableType], output: str | None, as_json: bool
) -> None:
    """Save a document where a file was named, and print it, as JSON or for a person."""
    if output is not None:
        document.save(output)
    if as_json:
        echo_record(document)
        return
    show(render(document))
    if output is not None:
        announce(f"wrote {output}")


def echo_record(record: object) -> None:
    """Print a document as indented JSON."""
    click.echo(encode_document(record), nl=False)


def show(renderable: RenderableType) -> None:
    """Print text and tables: as wide as the terminal, or as COLUMNS says, else 100 columns."""
    terminal(shutil.get_terminal_size((100, 24)).columns).print(renderable)


def terminal(width: int | None = None) -> Console:
    """Standard output, to which no name is anything but text."""
    return _Console(width=width)


class _Console(Console):
    """Leaves out what would steer the terminal, and puts ``?`` for what its encoding does not have.

    Either leaves as many cells as there were, so nothing moves.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Render as ever, and make the text plain."""
        for segment in super().render(renderable, options):
            if segment.control or (segment.text.isascii() and segment.text.isprintable()):
                yield segment
            else:
                yield Segment(_plain(segment.text, self.encoding), segment.style)


def _plain(text: str, encoding: str) -> str:
    text = _CONTROL.sub("", text)
    if encoding.startswith("utf"):
        return text
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return _FOREIGN.sub(lambda found: "?" * cell_len(found[0]), text)
    return text
