"""Authorities, certificates and servers with TLS for the tests: real ones, made on the spot."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import trustme

METHOD = "/test.Echo/Echo"


def write_authority(ca: trustme.CA, path: Path) -> Path:
    ca.cert_pem.write_to_path(path)
    return path


def write_pair(
    ca: trustme.CA, folder: Path, name: str, *, days: int = 7, identity: str = "localhost"
) -> tuple[Path, Path]:
    """A certificate and its key in ``folder/name.pem`` and ``folder/name.key``, replaced whole."""
    ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    begins = min(ends, datetime.datetime.now(datetime.UTC)) - datetime.timedelta(days=1)
    issued = ca.issue_cert(identity, "127.0.0.1", not_before=begins, not_after=ends)
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    issued.private_key_pem.write_to_path(key)
    key.chmod(0o600)
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    return cert, key


@contextmanager
def echo_server(credentials: grpc.ServerCredentials | None) -> Iterator[str]:
    """A server that gives back what it gets; yields its address."""
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Echo", {"Echo": handler}),)
    )
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def echo(channel: grpc.Channel, timeout_s: float = 20.0) -> Any:
    """One call; raises grpc.RpcError where no connection comes about."""
    return channel.unary_unary(METHOD)(b"hello", timeout=timeout_s)
