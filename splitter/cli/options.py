"""Options that several commands share, and what they mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from splitter.graph.model import Model

F = TypeVar("F", bound=Callable[..., Any])


def model_options(command: F) -> F:
    """MODEL, --dim, --shape and --debug."""
    command = click.option(
        "--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."
    )(command)
    command = click.option(
        "--shape", "shapes", multiple=True, metavar="INPUT=1,3,224,224",
        help="Bind the whole shape of an input.",
    )(command)  # fmt: skip
    command = click.option(
        "--dim", "dims", multiple=True, metavar="NAME=N", help="Bind a dynamic dimension by its name."
    )(command)
    return click.argument("model", type=click.Path())(command)


def debug_option(command: F) -> F:
    """--debug alone, for commands that take no model."""
    return click.option(
        "--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."
    )(command)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def load(path: str, dims: Sequence[str], shapes: Sequence[str]) -> Model:
    """Load a model with the bindings as they were typed."""
    from splitter.graph.read import load_model

    return load_model(path, dims=_dims(dims), shapes=_shapes(shapes))


def _dims(texts: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        if not equals or not name or not value.lstrip("-").isdigit():
            raise click.BadParameter(f"{text!r} is not NAME=N, such as batch=1", param_hint="--dim")
        found[name] = int(value)
    return found


def _shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        sizes = value.split(",") if value else []
        if not equals or not name or not all(size.strip().lstrip("-").isdigit() for size in sizes):
            raise click.BadParameter(
                f"{text!r} is not INPUT=SHAPE, such as input=1,3,224,224", param_hint="--shape"
            )
        found[name] = tuple(int(size) for size in sizes)
    return found


def echo_json(value: object) -> None:
    """Print a value as indented JSON."""
    click.echo(json.dumps(value, indent=1, allow_nan=False))
