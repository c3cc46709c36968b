"""Certificates and keys, checked before gRPC gets them: it takes anything and fails at each handshake."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from splitter.errors import ServingError
from splitter.serving.watched import read_small, warn_if_public

_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_KEY = b"PRIVATE KEY-----"
_ENCRYPTED = b"ENCRYPTED"
_STEPS = 4  # of a handshake in memory; TLS 1.3 takes two


@dataclass(frozen=True)
class Pair:
    """A certificate with those between it and its authority, and its key; PEM."""

    cert: bytes
    key: bytes = field(repr=False)


def read_pair(cert: Path, key: Path, *, is_server: bool) -> Pair:
    """Read and check them as the given side's.

    Raises
    ------
    ServingError
        One cannot be read or is no PEM, they do not belong together, or the certificate has expired
        or is for another purpose.
    """
    pair = Pair(read_small(cert, "the certificate"), read_small(key, "the key"))
    if _CERTIFICATE not in pair.cert:
        raise ServingError(f"{cert}: no certificate in PEM format")
    if _KEY not in pair.key:
        raise ServingError(f"{key}: no private key in PEM format")
    if _ENCRYPTED in pair.key:
        raise ServingError(
            f"{key}: the key is encrypted; `openssl pkey` writes it without password"
        )
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
    try:
        ours.load_cert_chain(cert, key, password="")
    except (ssl.SSLError, ValueError, OSError) as exc:
        raise ServingError(_why_no_pair(cert, key, exc)) from exc
    try:
        _shake_hands(ours, cert, key, is_server)
    except ssl.SSLCertVerificationError as exc:
        raise ServingError(f"{cert}: no valid certificate ({exc.verify_message})") from exc
    except ssl.SSLError as exc:
        raise ServingError(f"{cert}: cannot be used ({exc.reason})") from exc
    warn_if_public(key, "this key")
    return pair


def demand_authorities(path: Path) -> bytes:
    """Read the certificates of authorities; ServingError where they cannot be read or are none."""
    data = read_small(path, "the authorities' certificates")
    _load_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), path)
    return data


def _load_authorities(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, OSError) as exc:
        raise ServingError(f"{path}: no certificates in PEM format") from exc


def _why_no_pair(cert: Path, key: Path, exc: Exception) -> str:
    if isinstance(exc, ssl.SSLError) and exc.reason == "KEY_VALUES_MISMATCH":
        return f"{key}: not the key of the certificate {cert}"
    try:
        _load_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), cert)
    except ServingError:
        return f"{cert}: the certificate is damaged"
    reason = exc.reason if isinstance(exc, ssl.SSLError) else None
    return f"{key}: the key is damaged or of an unknown kind" + (f" ({reason})" if reason else "")


def _shake_hands(ours: ssl.SSLContext, cert: Path, key: Path, is_server: bool) -> None:
    """Let a peer that trusts this very certificate judge it: its dates, its purpose, its key's size.

    The standard library reads a certificate's dates only in a handshake; this one is in memory.
    """
    peer = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if is_server else ssl.PROTOCOL_TLS_SERVER)
    peer.check_hostname = ours.check_hostname = False
    ours.verify_mode, peer.verify_mode = ssl.CERT_NONE, ssl.CERT_REQUIRED
    peer.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    _load_authorities(peer, cert)
    if is_server:
        _exchange(client=peer, server=ours)
    else:
        peer.load_cert_chain(cert, key)  # a server must show one; this client looks at none
        _exchange(client=ours, server=peer)


def _exchange(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (client.wrap_bio(down, up), server.wrap_bio(up, down, server_side=True))
    for _ in range(_STEPS):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
