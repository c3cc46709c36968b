"""The options that make a relay of ``splitter serve``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from splitter.serving.server.options import Onward

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--via", type=click.Path(), metavar="BUNDLE2",
        help="Be a relay: run the head of BUNDLE2, which divides the tail of BUNDLE, and have its tail "
        "run by the next server.",
    ),
    click.option("--next", "next_server", metavar="HOST:PORT", help="The next server."),
    click.option(
        "--next-tls", is_flag=True,
        help="Encrypt to the next server; believe public authorities, or --next-tls-ca.",
    ),
    click.option(
        "--next-tls-ca", type=click.Path(), metavar="PEM", help="Believe these authorities there.",
    ),
    click.option(
        "--next-tls-cert", type=click.Path(), metavar="PEM", help="The relay's certificate there.",
    ),
    click.option(
        "--next-tls-key", type=click.Path(), metavar="PEM", help="The certificate's key.",
    ),
    click.option(
        "--next-token-file", type=click.Path(), help="The bearer token that the next server asks for.",
    ),
)  # fmt: skip


def onward_options(command: F) -> F:
    """--via, --next and how to call the next server."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def take_onward(chosen: dict[str, Any], repository: str | None) -> Onward | None:
    """Take the options out of those chosen; None where there is no next server."""
    via, server = chosen.pop("via"), chosen.pop("next_server")
    tls, token_file = chosen.pop("next_tls"), chosen.pop("next_token_file")
    files = [chosen.pop(f"next_tls_{name}") for name in ("ca", "cert", "key")]
    if via is None and server is None:
        if tls or token_file or any(files):
            raise click.UsageError("How to call the next server needs --via and --next.")
        return None
    if via is None or server is None:
        raise click.UsageError("--via and --next go together.")
    if repository is not None:
        raise click.UsageError("A relay serves one BUNDLE, not a repository.")
    from splitter.serving.credentials import ClientTls, TokenFile
    from splitter.serving.device.options import SessionOptions
    from splitter.serving.server.options import Onward

    options = SessionOptions(
        tls=ClientTls(*files) if tls or any(files) else None,
        token=TokenFile(token_file) if token_file else None,
    )
    return Onward(via, server, options)
