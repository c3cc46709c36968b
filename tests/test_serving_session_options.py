from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import trustme

from splitter.errors import ProfileError, ServingError
from splitter.runtime import Settings
from splitter.serving.credentials import ClientTls, ServerTls, TokenFile
from splitter.serving.device.options import SessionKeywords, SessionOptions
from splitter.serving.device.report import AnsweredBy
from splitter.serving.device.session import Session
from splitter.serving.server.options import ServerOptions
from splitter.serving.server.serve import serve
from tests import models
from tests.certificates import write_authority, write_pair
from tests.contract import same_bits
from tests.serving import run_whole
from tests.sessions import cuts_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    return cuts_bundle(models.two_inputs(), folder, ["b"])


FEEDS = {"left": np.ones((1, 8), np.float32), "right": np.ones((1, 4), np.float32)}


def test_keywords_are_the_fields_of_the_options() -> None:
    fields = {field.name: field.type for field in dataclasses.fields(SessionOptions)}
    assert set(SessionKeywords.__annotations__) == set(fields)
    for name, kind in SessionKeywords.__annotations__.items():
        assert getattr(kind, "__forward_arg__", kind) == fields[name]


@pytest.mark.parametrize(
    "change",
    [
        {"deadline_s": 0}, {"deadline_s": float("nan")}, {"deadline_s": float("inf")},
        {"retries": -1}, {"hedge_s": -1.0}, {"confident": 1.1}, {"memory_limit_bytes": 0},
    ],
)  # fmt: skip
def test_options_that_mean_nothing_are_refused(change, bundle: Path) -> None:
    (name,) = change
    with pytest.raises(ServingError, match=f"{name} is .*; give "):
        Session(bundle, "127.0.0.1:1", **change)
    with pytest.raises(ProfileError, match="provider 'no' is not installed"):
        Session(bundle, "127.0.0.1:1", settings=Settings(provider="no"))


def test_keywords_change_the_options_that_are_given(bundle: Path) -> None:
    options = SessionOptions(deadline_s=1.0, retries=5)
    with Session(bundle, options=options, deadline_s=2.0) as session:
        assert session.options == SessionOptions(deadline_s=2.0, retries=5)


def test_a_session_takes_the_place_of_onnxruntimes(bundle: Path) -> None:
    theirs = onnxruntime.InferenceSession(bundle.parent / "model.onnx")
    with Session(bundle) as ours:
        for own, other in zip(
            (*ours.get_inputs(), *ours.get_outputs()),
            (*theirs.get_inputs(), *theirs.get_outputs()),
            strict=True,
        ):
            assert (own.name, own.type, list(own.shape)) == (other.name, other.type, other.shape)
        assert ours.get_providers() == ["CPUExecutionProvider"]
        assert ours.get_modelmeta().graph_name == "model"
        assert ours.get_modelmeta().custom_metadata_map["bundle"] == ours.manifest.digest
        names = [port.name for port in ours.get_outputs()]
        options = onnxruntime.RunOptions()
        (got,), (right,) = (each.run(names, FEEDS, options) for each in (ours, theirs))
        np.testing.assert_allclose(got, right, rtol=1e-6)


def test_a_session_speaks_tls_and_shows_its_token(bundle: Path, tmp_path: Path) -> None:
    ca = trustme.CA()
    cert, key = write_pair(ca, tmp_path, "server")
    authority = write_authority(ca, tmp_path / "ca.pem")
    tokens = tmp_path / "tokens"
    tokens.write_text("secret\n")
    tokens.chmod(0o600)
    options = ServerOptions(
        credentials=ServerTls(cert, key).credentials(),
        authenticate=TokenFile(tokens).authenticate,
    )
    with serve(bundle, options=options) as server:
        tls = ClientTls(authority)
        with Session(bundle, server.address, tls=tls, token=TokenFile(tokens)) as session:
            assert session.wait_for_server(15)
            assert same_bits(session.run(None, FEEDS)[0], run_whole(bundle, FEEDS)[0])
            assert session.last.answered_by is AnsweredBy.SERVER
        for tls_or_not, message in ((tls, "UNAUTHENTICATED.*switched off"), (None, "cannot be")):
            with (
                Session(
                    bundle, server.address, tls=tls_or_not, fallback=False, deadline_s=5
                ) as session,
                pytest.raises(ServingError, match=message),
            ):
                session.run(None, FEEDS)
    with pytest.raises(ServingError, match="would travel unencrypted"):
        Session(bundle, "10.0.0.1:80", token=TokenFile(tokens))
