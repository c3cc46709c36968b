"""TLS and bearer tokens from files, for both ends; read again when the files change."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from splitter.errors import ServingError
from splitter.serving.pem import Pair, demand_authorities, read_pair
from splitter.serving.protocol import Address
from splitter.serving.watched import Watched, read_small, warn_if_public

AUTHORIZATION = "authorization"
"""The metadata key of a token, in lower case as gRPC wants it."""

_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")  # b64token of RFC 6750
_FilePath = str | os.PathLike[str]
Options = Sequence[tuple[str, Any]]


@dataclass(frozen=True)
class _Material:
    """The bytes of one side's files; compared to see whether a change of the files matters."""

    pair: Pair | None
    authorities: bytes | None


class ServerTls:
    """A server's certificate, and whose clients it takes where it asks them for theirs (mutual TLS).

    Each new connection looks whether the files changed; connections that are open stay.
    """

    def __init__(self, cert: _FilePath, key: _FilePath, client_ca: _FilePath | None = None) -> None:
        """Read and check the files.

        Parameters
        ----------
        cert, key
            PEM; the certificate first, then those between it and its authority.
        client_ca
            PEM with the authorities whose clients may connect; None asks for no certificate.

        Raises
        ------
        ServingError
            A file cannot be read, is no PEM, the key is another certificate's, or that has expired.
        """
        cert, key = Path(cert), Path(key)
        ca = None if client_ca is None else Path(client_ca)
        self._has_authorities = ca is not None

        def read() -> _Material:
            return _Material(read_pair(cert, key, is_server=True), _authorities(ca))

        self._files = Watched(_paths(cert, key, ca), read)

    def credentials(self) -> grpc.ServerCredentials:
        """For ``add_secure_port``."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(), self._fetch, require_client_authentication=self._has_authorities
        )

    def _configuration(self) -> Any:
        material = self._files.value
        assert material.pair is not None
        return grpc.ssl_server_certificate_configuration(
            [(material.pair.key, material.pair.cert)], root_certificates=material.authorities
        )

    def _fetch(self) -> Any:
        """What gRPC asks for at each connection; None keeps what it has."""
        return self._configuration() if self._files.refresh() else None


class ClientTls:
    """Whom a device believes, and its own certificate where the server asks for one."""

    def __init__(
        self,
        ca: _FilePath | None = None,
        cert: _FilePath | None = None,
        key: _FilePath | None = None,
        *,
        server_name: str | None = None,
    ) -> None:
        """Read and check the files.

        Parameters
        ----------
        ca
            PEM with the authorities that the server's certificate may come from; None believes the
            public ones that gRPC knows.
        cert, key
            PEM; both or neither.
        server_name
            The name that the server's certificate must have, where the address has another.

        Raises
        ------
        ServingError
            A file cannot be read, is no PEM, the key is another certificate's, or that has expired.
        """
        if (cert is None) != (key is None):
            there, missing = (cert, "key") if key is None else (key, "certificate")
            raise ServingError(
                f"{there}: a client's certificate and key go together; give the {missing}"
            )
        paths = [None if path is None else Path(path) for path in (ca, cert, key)]
        ca_path, cert_path, key_path = paths
        self._server_name = server_name

        def read() -> _Material:
            pair = None
            if cert_path is not None and key_path is not None:
                pair = read_pair(cert_path, key_path, is_server=False)
            return _Material(pair, _authorities(ca_path))

        self._files = Watched(_paths(*paths), read)

    def changed(self) -> bool:
        """Whether the files hold something new and good: then make another channel."""
        return self._files.refresh()

    def credentials(self) -> grpc.ChannelCredentials:
        """For ``secure_channel``, as the files were last read."""
        material = self._files.value
        if material.pair is None:
            return grpc.ssl_channel_credentials(material.authorities)
        return grpc.ssl_channel_credentials(
            material.authorities, material.pair.key, material.pair.cert
        )

    @property
    def options(self) -> Options:
        """Channel options that belong to the credentials."""
        if self._server_name is None:
            return ()
        return (("grpc.ssl_target_name_override", self._server_name),)


class TokenFile:
    """Bearer tokens, one a line; ``#`` begins a comment. A device sends the first, a server takes any.

    So a token is replaced without a break: the new one goes first into the server's file, then into
    the devices', then the old one leaves the server's. No token is in a message or a log.
    """

    def __init__(self, path: _FilePath) -> None:
        """Raise ServingError where the file cannot be read, has no token, or a malformed one."""
        self.path = Path(path)
        self._tokens = Watched((self.path,), self._read)

    def authenticate(self, metadata: Iterable[tuple[str, str | bytes]]) -> bool:
        """Whether a request's metadata holds one of the tokens; compared in constant time."""
        self._tokens.refresh()
        given = _digest(_bearer(metadata))
        # all of them, so that the time does not tell which came close
        matches = [hmac.compare_digest(given, _digest(token)) for token in self._tokens.value]
        return any(matches)

    def metadata(self) -> tuple[tuple[str, str]]:
        """What a request carries. ``open_channel`` makes sure that nobody else can read it."""
        self._tokens.refresh()
        return ((AUTHORIZATION, f"Bearer {self._tokens.value[0].decode()}"),)

    def _read(self) -> tuple[bytes, ...]:
        lines = read_small(self.path, "the token file").splitlines()
        tokens = []
        for number, line in enumerate(lines, 1):
            token = line.partition(b"#")[0].strip()
            if token and not _TOKEN.fullmatch(token):
                raise ServingError(
                    f"{self.path}:{number}: no bearer token; one a line, of letters, digits and -._~+/"
                )
            if token:
                tokens.append(token)
        if not tokens:
            raise ServingError(f"{self.path}: the token file holds no token; write one a line")
        warn_if_public(self.path, "these tokens")
        return tuple(tokens)

    def __repr__(self) -> str:
        return f"TokenFile({str(self.path)!r})"


def open_channel(
    address: Address, options: Options, tls: ClientTls | None = None, token: TokenFile | None = None
) -> grpc.Channel:
    """Make a channel on which this token may travel; ServingError where others could read it."""
    if tls is not None:
        return grpc.secure_channel(
            str(address), tls.credentials(), options=[*options, *tls.options]
        )
    if token is not None and not address.is_loopback:
        raise ServingError(
            f"server {address}: the token of {token.path} would travel unencrypted; use TLS "
            "(--tls-ca), or a tunnel to 127.0.0.1"
        )
    return grpc.insecure_channel(str(address), options=list(options))


def _authorities(path: Path | None) -> bytes | None:
    return None if path is None else demand_authorities(path)


def _paths(*paths: Path | None) -> tuple[Path, ...]:
    return tuple(path for path in paths if path is not None)


def _bearer(metadata: Iterable[tuple[str, str | bytes]]) -> bytes:
    for key, value in metadata:
        if key == AUTHORIZATION:
            text = value.encode("utf-8", "replace") if isinstance(value, str) else value
            scheme, _, token = text.partition(b" ")
            return token.strip() if scheme.lower() == b"bearer" else b""
    return b""


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()  # of one length, so that not even that shows
