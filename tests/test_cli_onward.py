"""``splitter serve --via`` as an operator meets it: processes with certificates and tokens between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme

from splitter.feeds import write_npz
from tests import models
from tests.certificates import write_authority, write_pair
from tests.chains import make_chain
from tests.cli import run, succeed
from tests.contract import same_bits
from tests.serving import run_whole
from tests.test_cli_serve import serving


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    bundles = make_chain(models.convolutions(), tmp_path_factory.mktemp("onward"), [2, 4])
    return bundles[0].folder, bundles[1].folder


def test_three_processes_with_certificates_and_tokens_answer(
    places: tuple[Path, Path], tmp_path: Path, capfd: Any
) -> None:
    first, second = places
    ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
    authority = write_authority(ca, tmp_path / "ca.pem")
    cert, key = write_pair(ca, tmp_path, "server")
    mine = write_pair(ca, tmp_path, "relay")
    tokens = tmp_path / "tokens"
    tokens.write_text("a-secret-token\n")
    tokens.chmod(0o600)
    feeds = {"image": np.random.default_rng(2).standard_normal((1, 3, 16, 16)).astype(np.float32)}
    write_npz(tmp_path / "all.npz", feeds)
    with (
        serving(
            second, "--tls-cert", cert, "--tls-key", key, "--client-ca", authority,
            "--token-file", tokens,
        ) as server,
        serving(
            first, "--via", second, "--next", server.address, "--next-tls-ca", authority,
            "--next-tls-cert", mine[0], "--next-tls-key", mine[1], "--next-token-file", tokens,
        ) as middle,
    ):  # fmt: skip
        succeed(
            capfd, "run", first, "--server", middle.address, "--input", tmp_path / "all.npz",
            "-o", tmp_path / "answer.npz",
        )  # fmt: skip
    with np.load(tmp_path / "answer.npz") as answer:
        assert same_bits(run_whole(first.parent, feeds)[0], answer["scores"])


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        ("{1} --via {2}", 2, "--via and --next go together"),
        ("{1} --next 127.0.0.1:1", 2, "--via and --next go together"),
        ("{1} --next-tls", 2, "needs --via and --next"),
        ("--repository {1} --via {2} --next 127.0.0.1:1", 2, "one BUNDLE, not a repository"),
        ("{2} --via {1} --next 127.0.0.1:1", 1, "not of a tail of"),
        ("{1} --via {2} --next nowhere", 1, "nowhere"),
        ("{1} --via {1}/nothing --next 127.0.0.1:1", 1, "nothing"),
    ],
)
def test_what_makes_no_relay_is_said(
    options: str, status: int, said: str, places: tuple[Path, Path], capfd: Any
) -> None:
    outcome = run(capfd, "serve", *options.format("", *places).split())
    assert (outcome.status, outcome.out) == (status, "")
    assert outcome.err.count("\n") == 1 or status == 2
    assert said in " ".join(outcome.err.split())
