"""Several devices as a user deploys them: a plan, a folder of bundles, and a process for each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splitter import api
from splitter.feeds import write_npz
from tests import models
from tests.chains import run_model
from tests.cli import run, succeed
from tests.models import save
from tests.pages import TINY
from tests.test_cli_serve import PATIENCE_S, serving

PLAN = (
    "plan model.onnx --device here.json --server here.json --link wifi --source right,lev*=here.json "
    "--source-link lte --pin lr=device --pin rc=device2 --pin rr=server -o plan.json"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sources")
    path = save(models.two_cameras(), made / "model.onnx")
    model = api.load(path)
    api.profile(model, effort=TINY).save(made / "here.json")
    feeds, _ = run_model(model)
    write_npz(made / "one.npz", {"left": feeds["left"]})
    write_npz(made / "two.npz", {name: feeds[name] for name in ("right", "level")})
    return made


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "80")


def deploy(capfd: Any) -> str:
    """Plan and split; what both print."""
    said = succeed(capfd, *PLAN.split())
    return said + succeed(capfd, "split", "model.onnx", "--plan", "plan.json", "-o", "bundles")


def test_two_devices_and_a_server_from_the_command_line(folder: Path, capfd: Any) -> None:
    said = deploy(capfd)
    assert "on the devices" in said
    assert "device2's lte:" in said
    assert "splitter serve bundles/server" in said
    assert "splitter run bundles/device2 --server HOST:PORT" in said
    _, expected = run_model(api.load(folder / "model.onnx"))
    options = ["--group", "rig", "--repeat", "3", "--deadline", str(PATIENCE_S), "--input"]
    with serving("bundles/server", "--join-wait", PATIENCE_S) as server:
        other = subprocess.Popen(
            [sys.executable, "-m", "splitter", "run", "bundles/device2", "--server",
             server.address, *options, "two.npz"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        succeed(
            capfd, "run", "bundles/device", "--server", server.address, *options, "one.npz",
            "-o", "answer.npz",
        )  # fmt: skip
        out, _ = other.communicate(timeout=PATIENCE_S)
    assert "The answer is for another device." in out
    assert other.returncode == 0
    with np.load(folder / "answer.npz") as answer:
        for name in ("seen", "scores"):
            np.testing.assert_allclose(answer[name], expected[name], rtol=1e-5, atol=1e-6)


def test_a_device_alone_is_told_who_is_missing(capfd: Any) -> None:
    deploy(capfd)
    with serving("bundles/server", "--join-wait", "0.2") as server:
        outcome = run(
            capfd, "run", "bundles/device", "--server", server.address, "--input", "one.npz"
        )
    assert outcome.status == 1
    assert "part 2 (device2) of 2 is missing" in outcome.err
    assert outcome.err.count("\n") == 1


def test_the_bundle_of_a_device_is_not_served(capfd: Any) -> None:
    deploy(capfd)
    outcome = run(capfd, "serve", "bundles/device", "--listen", "127.0.0.1:0")
    assert outcome.status == 1
    assert "serve the server's instead" in outcome.err
