"""``splitter run``: who answered, from where, and over what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme

from splitter.serving.credentials import ServerTls, TokenFile
from splitter.serving.server.options import ServerOptions
from splitter.serving.server.serve import serve
from tests import models
from tests.certificates import write_authority, write_pair
from tests.cli import run, succeed
from tests.sessions import cuts_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    np.save(folder / "x.npy", np.ones((1, 3, 16, 16), np.float32))
    return cuts_bundle(models.convolutions(), folder, ["p1"])


def arguments(bundle: Path, *more: object) -> list[Any]:
    return ["run", bundle, "--input", bundle.parent / "x.npy", *map(str, more)]


def answered(capfd: Any, bundle: Path, *more: object) -> list[dict[str, Any]]:
    return json.loads(succeed(capfd, *arguments(bundle, *more, "--json")))["runs"]


def test_offline_the_fallback_answers_and_it_is_said(bundle: Path, capfd, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = succeed(capfd, *arguments(bundle))
    assert "answered by the device; not the server: offline; cut " in out
    assert max(map(len, out.splitlines())) <= 80
    (how,) = answered(capfd, bundle, "--server", "127.0.0.1:9")
    assert (how["answered_by"], how["why"], how["up_bytes"]) == ("device", "offline", 0)


def test_several_runs_may_be_in_flight(bundle: Path, capfd: Any) -> None:
    with serve(bundle) as server:
        more = ["--server", server.address, "--repeat", 20, "--in-flight", 4, "--hedge", 5]
        runs = answered(capfd, bundle, *more)
        assert [how["answered_by"] for how in runs] == ["server"] * 20
        assert "median of 20 runs" in succeed(capfd, *arguments(bundle, *more))


def test_a_gate_answers_where_it_is_sure(bundle: Path, tmp_path: Path, capfd: Any) -> None:
    gate = models.save(models.convolutions(), tmp_path / "gate.onnx")
    (how,) = answered(capfd, bundle, "--gate", gate, "--confident", 0)
    assert how["answered_by"] == "gate"
    (how,) = answered(capfd, bundle, "--gate", gate, "--confident", 1)
    assert how["answered_by"] == "device"


def test_tls_and_tokens_come_from_files(bundle: Path, tmp_path: Path, capfd: Any) -> None:
    ca = trustme.CA()
    cert, key = write_pair(ca, tmp_path, "server")
    own, own_key = write_pair(ca, tmp_path, "device")
    authority = write_authority(ca, tmp_path / "ca.pem")
    tokens = tmp_path / "tokens"
    tokens.write_text("secret\n")
    tokens.chmod(0o600)
    options = ServerOptions(
        credentials=ServerTls(cert, key, authority).credentials(),
        authenticate=TokenFile(tokens).authenticate,
    )
    with serve(bundle, options=options) as server:
        more = ["--server", server.address, "--tls-ca", authority, "--token-file", tokens]
        (how,) = answered(capfd, bundle, *more, "--tls-cert", own, "--tls-key", own_key)
        assert how["answered_by"] == "server"
        outcome = run(capfd, *arguments(bundle, *more))  # gRPC has a word to say on the handshake
        assert "answered by the device" in outcome.out, "the server wants a certificate"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--tls-ca", "no.pem"], "no.pem"),
        (["--tls-cert", "no.pem"], "give the key"),
        (["--token-file", "no"], "the token file cannot be read"),
        (["--gate", "no.onnx"], "gate 'no.onnx' is neither a file nor an output"),
    ],
)
def test_what_cannot_be_used_is_one_line(bundle: Path, capfd, more, message) -> None:
    outcome = run(capfd, *arguments(bundle, "--server", "127.0.0.1:9", *more))
    assert outcome.status == 1
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
