"""TLS and tokens as a network sees them: real authorities, real handshakes, files that change."""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import grpc
import pytest
import trustme

from splitter.errors import ServingError
from splitter.serving.credentials import ClientTls, ServerTls, TokenFile, open_channel
from splitter.serving.protocol import Address
from splitter.serving.watched import MAX_FILE_BYTES
from tests.certificates import echo, echo_server, write_authority, write_pair

LOCAL = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
"""A channel of its own connection, so that each makes a handshake."""


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@pytest.fixture(scope="module")
def other_ca() -> trustme.CA:
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@pytest.fixture
def authority(ca: trustme.CA, tmp_path: Path) -> Path:
    return write_authority(ca, tmp_path / "ca.pem")


@pytest.fixture
def pair(ca: trustme.CA, tmp_path: Path) -> tuple[Path, Path]:
    return write_pair(ca, tmp_path, "server")


def call(address: str, tls: ClientTls | None) -> bytes:
    with open_channel(Address.parse(address), LOCAL, tls) as channel:
        return bytes(echo(channel))


def refused(address: str, tls: ClientTls | None) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(address, tls)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]


def serial_of(address: str, authority: Path) -> int:
    """Of the certificate that a new connection is shown."""
    context = ssl.create_default_context(cafile=authority)
    context.set_alpn_protocols(["h2"])
    context.check_hostname = False
    host, port = address.split(":")
    with (
        socket.create_connection((host, int(port)), timeout=20) as plain,
        context.wrap_socket(plain) as connection,
    ):
        found = connection.getpeercert()
        assert found
        return int(str(found["serialNumber"]), 16)


def test_who_trusts_the_authority_is_served_and_nobody_else(
    pair: tuple[Path, Path], authority: Path, other_ca: trustme.CA, tmp_path: Path
) -> None:
    stranger = write_authority(other_ca, tmp_path / "other.pem")
    with echo_server(ServerTls(*pair).credentials()) as address:
        assert call(address, ClientTls(authority)) == b"hello"
        refused(address, None)
        refused(address, ClientTls(stranger))
        refused(address, ClientTls())


def test_the_name_must_be_the_certificate_s_unless_another_is_given(
    ca: trustme.CA, authority: Path, tmp_path: Path
) -> None:
    issued = ca.issue_cert("tail.example")
    cert, key = tmp_path / "named.pem", tmp_path / "named.key"
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    with echo_server(ServerTls(cert, key).credentials()) as address:
        refused(address, ClientTls(authority))
        assert call(address, ClientTls(authority, server_name="tail.example")) == b"hello"


def test_mutual_tls_takes_clients_of_its_authority_only(
    pair: tuple[Path, Path],
    authority: Path,
    ca: trustme.CA,
    other_ca: trustme.CA,
    tmp_path: Path,
) -> None:
    mine = write_pair(ca, tmp_path, "client")
    foreign = write_pair(other_ca, tmp_path, "foreign")
    with echo_server(ServerTls(*pair, authority).credentials()) as address:
        assert call(address, ClientTls(authority, *mine)) == b"hello"
        refused(address, ClientTls(authority))
        refused(address, ClientTls(authority, *foreign))
        refused(address, None)


def test_a_new_authority_of_clients_counts_from_the_next_connection_on(
    pair: tuple[Path, Path],
    authority: Path,
    ca: trustme.CA,
    other_ca: trustme.CA,
    tmp_path: Path,
) -> None:
    clients = write_authority(ca, tmp_path / "clients.pem")
    mine = ClientTls(authority, *write_pair(ca, tmp_path, "client"))
    foreign = ClientTls(authority, *write_pair(other_ca, tmp_path, "foreign"))
    with echo_server(ServerTls(*pair, clients).credentials()) as address:
        assert call(address, mine) == b"hello"
        write_authority(other_ca, clients)
        refused(address, mine)
        assert call(address, foreign) == b"hello"


def test_a_new_certificate_is_shown_to_the_next_connection_and_open_ones_go_on(
    pair: tuple[Path, Path], authority: Path, ca: trustme.CA, tmp_path: Path
) -> None:
    with (
        echo_server(ServerTls(*pair).credentials()) as address,
        open_channel(Address.parse(address), LOCAL, ClientTls(authority)) as channel,
    ):
        assert echo(channel) == b"hello"
        before = serial_of(address, authority)
        assert serial_of(address, authority) == before
        write_pair(ca, tmp_path, "server")
        after = serial_of(address, authority)
        assert after != before
        assert serial_of(address, authority) == after
        assert echo(channel) == b"hello"
        assert call(address, ClientTls(authority)) == b"hello"


@pytest.mark.parametrize("spoil", ["cert", "key", "neither fits", "gone", "expired"])
def test_a_bad_new_certificate_leaves_the_old_one_and_a_warning(
    spoil: str,
    pair: tuple[Path, Path],
    authority: Path,
    ca: trustme.CA,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cert, key = pair
    good = cert.read_bytes(), key.read_bytes()
    with echo_server(ServerTls(cert, key).credentials()) as address:
        before = serial_of(address, authority)
        if spoil == "cert":
            cert.write_text("no certificate")
        elif spoil == "key":
            key.write_bytes(key.read_bytes()[:60])
        elif spoil == "gone":
            key.unlink()
        elif spoil == "expired":
            write_pair(ca, tmp_path, "server", days=-1)
        else:
            new, _ = write_pair(ca, tmp_path, "new")
            os.replace(new, cert)
        for _ in range(3):
            assert serial_of(address, authority) == before
        assert [r.levelno for r in caplog.records] == [logging.WARNING]
        assert "stays in use" in caplog.text
        assert str(tmp_path) in caplog.text
        key.write_bytes(good[1])
        cert.write_bytes(good[0])
        assert serial_of(address, authority) == before
        write_pair(ca, tmp_path, "server")
        assert serial_of(address, authority) != before


def test_a_client_tells_when_its_files_hold_something_new(
    ca: trustme.CA, other_ca: trustme.CA, authority: Path, tmp_path: Path, caplog: object
) -> None:
    mine = write_pair(ca, tmp_path, "client")
    tls = ClientTls(authority, *mine)
    assert not tls.changed()
    os.utime(authority)
    assert not tls.changed()  # only the date is new
    theirs = write_pair(other_ca, tmp_path, "server")
    with echo_server(ServerTls(*theirs).credentials()) as address:
        refused(address, tls)
        write_authority(other_ca, authority)
        assert tls.changed()
        assert not tls.changed()
        assert call(address, tls) == b"hello"
        authority.write_text("nonsense")
        assert not tls.changed()
        assert call(address, tls) == b"hello"


def make_encrypted(key: Path) -> None:
    plain = key.read_bytes()
    made = subprocess.run(
        ["openssl", "pkey", "-aes256", "-passout", "pass:secret"],
        input=plain, capture_output=True, check=True,
    )  # fmt: skip
    key.write_bytes(made.stdout)


BAD_FILES = {
    "no certificate": (lambda cert, key: cert.unlink(), "server.pem", "No such file"),
    "no key": (lambda cert, key: key.unlink(), "server.key", "No such file"),
    "the certificate is a folder": (
        lambda cert, key: (cert.unlink(), cert.mkdir()), "server.pem", "directory",
    ),
    "the certificate is a pipe": (
        lambda cert, key: (cert.unlink(), os.mkfifo(cert)), "server.pem", "plain file",
    ),
    "the certificate is empty": (lambda cert, key: cert.write_bytes(b"\n"), "server.pem", "empty"),
    "the certificate is endless": (
        lambda cert, key: cert.write_bytes(bytes(MAX_FILE_BYTES + 1)), "server.pem", "over",
    ),
    "the certificate is no PEM": (
        lambda cert, key: cert.write_text("hello"), "server.pem", "PEM",
    ),
    "the certificate is damaged": (
        lambda cert, key: cert.write_text(cert.read_text()[:99] + "\n-----END CERTIFICATE-----\n"),
        "server.pem", "damaged",
    ),
    "the key is no PEM": (lambda cert, key: key.write_text("hello"), "server.key", "PEM"),
    "the key is damaged": (
        lambda cert, key: key.write_text(key.read_text()[:70] + "\n-----END PRIVATE KEY-----\n"),
        "server.key", "damaged",
    ),
    "the key is encrypted": (lambda cert, key: make_encrypted(key), "server.key", "encrypted"),
    "the files are swapped": (
        lambda cert, key: (cert.rename("x"), key.rename(cert), Path("x").rename(key)),
        "server.pem", "certificate",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "named", "why"), BAD_FILES.values(), ids=BAD_FILES)
@pytest.mark.parametrize("side", ["server", "client"])
def test_a_bad_file_is_one_line_that_names_it(
    spoil: object, named: str, why: str, side: str, pair: tuple[Path, Path], monkeypatch, tmp_path
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    spoil(*pair)  # type: ignore[operator]
    with pytest.raises(ServingError) as caught:
        ServerTls(*pair) if side == "server" else ClientTls(None, *pair)
    assert named in str(caught.value)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("side", ["server", "client"])
def test_a_key_of_another_certificate_and_an_expired_one_are_refused(
    side: str, ca: trustme.CA, tmp_path: Path
) -> None:
    cert, key = write_pair(ca, tmp_path, "one")
    _, other = write_pair(ca, tmp_path, "two")
    make = (lambda *p: ServerTls(*p)) if side == "server" else (lambda *p: ClientTls(None, *p))
    make(cert, key)
    with pytest.raises(ServingError, match=r"two\.key: not the key of .*one\.pem"):
        make(cert, other)
    with pytest.raises(ServingError, match=r"old\.pem: .*expired"):
        make(*write_pair(ca, tmp_path, "old", days=-1))


def test_an_authority_file_must_hold_one(
    pair: tuple[Path, Path], tmp_path: Path, authority: Path
) -> None:
    bad = tmp_path / "bad.pem"
    for make in (lambda: ServerTls(*pair, bad), lambda: ClientTls(bad)):
        for content in (b"", b"hello", pair[1].read_bytes()):
            bad.write_bytes(content)
            with pytest.raises(ServingError, match=r"bad\.pem"):
                make()
    with pytest.raises(ServingError, match=r"server\.pem: .*give the key"):
        ClientTls(authority, pair[0])
    with pytest.raises(ServingError, match=r"server\.key: .*give the certificate"):
        ClientTls(authority, None, pair[1])


def commands_of(heading: str) -> str:
    """The page's commands below a heading, without our own."""
    page = (Path(__file__).parents[1] / "docs/serving.md").read_text()
    section = page.partition(f"\n### {heading}\n")[2].partition("\n### ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("splitter "))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_the_commands_of_the_page_make_certificates_and_tokens_that_work(tmp_path: Path) -> None:
    for heading in ("TLS", "Tokens"):
        subprocess.run(
            ["bash", "-ec", commands_of(heading)], cwd=tmp_path, check=True, capture_output=True
        )
    ca = tmp_path / "ca.pem"
    tls = ServerTls(tmp_path / "server.pem", tmp_path / "server.key", ca)
    with echo_server(tls.credentials()) as address:
        mine = ClientTls(ca, tmp_path / "device.pem", tmp_path / "device.key")
        assert call(address, mine) == b"hello"
        refused(address, ClientTls(ca))
    token = TokenFile(tmp_path / "tokens")
    assert token.authenticate(token.metadata())


def test_no_key_shows_in_a_representation(pair: tuple[Path, Path]) -> None:
    tls = ServerTls(*pair)
    secret = pair[1].read_text().splitlines()[1]
    assert secret not in repr(tls._files.value)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text("# of the lab\nfirst-token\n\n  second.token==  # of the roof\n")
    path.chmod(0o600)
    return path


def bearer(token: str | bytes, scheme: str = "Bearer") -> list[tuple[str, str | bytes]]:
    return [("user-agent", "x"), ("authorization", f"{scheme} {token!s}")]


def test_any_token_of_the_file_opens_and_nothing_else(tokens: Path) -> None:
    file = TokenFile(tokens)
    assert file.metadata() == (("authorization", "Bearer first-token"),)
    assert file.authenticate(file.metadata())
    assert file.authenticate(bearer("second.token=="))
    assert file.authenticate(bearer("first-token", "bearer"))
    for wrong in ("", "first-toke", "first-token2", "# of the lab", "of", "First-Token", "é\ud800"):
        assert not file.authenticate(bearer(wrong))
    assert not file.authenticate(bearer("first-token", "Basic"))
    assert not file.authenticate([("authorization", "first-token")])
    assert not file.authenticate([("authorization", b"\xff\xfe")])
    assert not file.authenticate([])


def test_tokens_are_read_again_when_the_file_changes(
    tokens: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = TokenFile(tokens)
    tokens.write_text("third-token\nfirst-token\n")
    assert file.metadata() == (("authorization", "Bearer third-token"),)
    assert not file.authenticate(bearer("second.token=="))
    tokens.write_text("")
    assert file.authenticate(bearer("third-token"))
    tokens.unlink()
    assert file.authenticate(bearer("third-token"))
    tokens.write_text("fourth-token")
    assert not file.authenticate(bearer("third-token"))
    assert file.authenticate(bearer("fourth-token"))
    assert "third-token" not in caplog.text


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "No such file"), ("", "empty"), ("# none\n", "no token"), ("ok\nmy secret", "2: ")],
)
def test_a_token_file_without_good_tokens_is_one_line_without_any(
    content: str | None, why: str, tmp_path: Path
) -> None:
    path = tmp_path / "tokens"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ServingError, match=why) as caught:
        TokenFile(path)
    assert str(path) in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_secrets_that_others_can_read_are_warned_about(
    tokens: Path, pair: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    TokenFile(tokens)
    ServerTls(*pair)
    assert not caplog.records
    tokens.chmod(0o644)
    TokenFile(tokens)
    pair[1].chmod(0o644)
    ServerTls(*pair)
    assert ["tokens" in caplog.messages[0], "server.key" in caplog.messages[1]] == [True, True]
    assert "first-token" not in caplog.text


def test_a_token_travels_encrypted_or_not_beyond_this_machine(
    tokens: Path, authority: Path
) -> None:
    token = TokenFile(tokens)
    with pytest.raises(ServingError, match=r"10\.0\.0\.2:1.*unencrypted") as caught:
        open_channel(Address("10.0.0.2", 1), (), token=token)
    assert "first-token" not in str(caught.value)
    open_channel(Address("127.0.0.1", 1), (), token=token).close()
    open_channel(Address("10.0.0.2", 1), (), ClientTls(authority), token).close()
    open_channel(Address("10.0.0.2", 1), ()).close()
