"""How a command calls a server: encrypted, and with which token."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from splitter.serving.credentials import ClientTls, TokenFile

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--tls", is_flag=True, help="Encrypt; believe public authorities, or --tls-ca."),
    click.option("--tls-ca", type=click.Path(), metavar="PEM", help="Believe these authorities."),
    click.option("--tls-cert", type=click.Path(), metavar="PEM", help="This device's certificate."),
    click.option("--tls-key", type=click.Path(), metavar="PEM", help="The certificate's key."),
    click.option(
        "--token-file", type=click.Path(), help="The bearer token that the server asks for."
    ),
)


def calling_options(command: F) -> F:
    """--tls, what it needs, and --token-file."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def take_calling(chosen: dict[str, Any]) -> tuple[ClientTls | None, TokenFile | None]:
    """Take the options out of those chosen."""
    from splitter.serving.credentials import ClientTls, TokenFile

    tls, token_file = chosen.pop("tls"), chosen.pop("token_file")
    files = [chosen.pop(f"tls_{name}") for name in ("ca", "cert", "key")]
    return (
        ClientTls(*files) if tls or any(files) else None,
        TokenFile(token_file) if token_file else None,
    )
