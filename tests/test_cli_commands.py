"""The whole way on small models, command by command, as a user goes it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from splitter import __version__
from splitter.cli.app import COMMANDS, app
from splitter.graph.read import load_model
from splitter.planning.records import Plan
from splitter.profiling.profile import Profile
from splitter.runtime import Optimisation, Runner, Settings
from splitter.serving.server.serve import serve
from tests import models
from tests.cli import run, succeed

TERMS = ("head_s", "encode_s", "link_s", "decode_s", "tail_s", "total_s")

WAYS: dict[str, tuple[list[str], list[str]]] = {
    "convolutions": ([], ["--at", "p1"]),
    "if_with_captures": ([], ["--at", "a", "--at", "positive", "--at", "b"]),
    "two_inputs": ([], ["--at", "b", "--at", "right"]),
    "two_outputs": ([], ["--at", "early"]),
    "awkward_names": (["--dim", "batch=2"], ["--at", "../b"]),
    "dynamic_reshape": (["--shape", "x=2,3,4"], ["--at", "b"]),
}


@pytest.mark.parametrize("name", WAYS)
def test_profile_plan_split_verify_and_run_give_the_whole_model_s_answer(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    dims, at = WAYS[name]
    models.save(models.every_model()[name], "model.onnx")
    model = ["model.onnx", *dims]
    feeds = _feeds(model, capfd)
    np.savez("feeds.npz", **feeds)

    succeed(
        capfd, "profile", *model, "--seconds", "0.1", "--optimisation", "none", "--input",
        "feeds.npz", "-o", "here.json",
    )  # fmt: skip
    tiers = ["--device", "here.json", "--server", "here.json", "--link", "wifi"]
    succeed(capfd, "plan", *model, *tiers, *at, "-o", "plan.json")
    plan = Plan.load("plan.json")
    assert set(at[1::2]) == {item.tensor for item in plan.cut.crossing}

    out = succeed(capfd, "split", *model, "--plan", "plan.json", "--input", "feeds.npz", "-o", "b")
    assert sorted(path.name for path in Path("b").iterdir()) == [
        "head.onnx", "manifest.json", "tail.onnx",
    ]  # fmt: skip
    assert f"{len(plan.cut.head)} nodes on the device" in out

    out = succeed(capfd, "verify", *model, "--plan", "plan.json", "--seconds", "0", "-o", "v.json")
    assert "predicted" in out
    assert json.loads(Path("v.json").read_text())["rows"][0]["name"] == "split"

    with serve("b") as server:
        succeed(
            capfd, "run", "b", "--server", server.address, "--input", "feeds.npz", "-o", "a.npz"
        )
    whole = Runner("model.onnx", Settings(optimisation=Optimisation.NONE))
    with np.load("a.npz") as answer:
        for port, expected in zip(whole.outputs, whole.run(feeds), strict=True):
            np.testing.assert_array_equal(answer[port.name], expected)


def _feeds(model: list[str], capfd: Any) -> dict[str, Any]:
    summary = json.loads(succeed(capfd, "inspect", *model, "--json"))
    rng = np.random.default_rng(7)
    return {
        port["name"]: rng.standard_normal(port["shape"]).astype(port["dtype"])
        for port in summary["inputs"]
    }


def test_the_plan_s_json_has_the_fields_that_programs_rely_on(measured: Path, capfd: Any) -> None:
    plan = _plan(measured, capfd, "--at", "p1", "--json")
    assert plan["schema"] == "splitter.plan/4"
    assert re.fullmatch("[0-9a-f]{64}", plan["model"]["sha256"])
    assert plan["cut"]["head"] == ["c1", "r1", "p1"]
    (crossing,) = plan["cut"]["crossing"]
    assert crossing["tensor"] == "p1"
    assert (crossing["dtype"], crossing["shape"]) == ("float32", [1, 8, 4, 4])
    assert crossing["nbytes"] == 4 * 8 * 4 * 4
    assert crossing["codec"] in ("raw", "zstd")
    assert crossing["wire_bytes"] > 0

    plan = _plan(measured, capfd, "--json")
    assert plan["baselines"]
    assert plan["alternatives"]
    for priced in (plan["predicted"], *plan["baselines"], *plan["alternatives"]):
        assert priced["total_s"] == pytest.approx(sum(priced[term] for term in TERMS[:-1]))
    assert plan["solver"]["status"] == "optimal"
    assert plan["solver"]["gap"] == 0
    assert set(plan["validity"]) == {"up_bytes_per_s", "rtt_s", "server_slowdown"}


def test_what_is_printed_as_json_is_what_is_written(
    measured: Path, tmp_path: Path, capfd: Any
) -> None:
    printed = _plan(measured, capfd, "--json", "-o", tmp_path / "plan.json")
    assert json.loads((tmp_path / "plan.json").read_text()) == printed


@pytest.mark.parametrize("kind", [Plan, Profile])
def test_a_document_written_and_read_is_the_same(kind: Any, measured: Path, tmp_path: Path) -> None:
    found = kind.load(measured / ("plan.json" if kind is Plan else "here.json"))
    found.save(tmp_path / "again.json")
    assert kind.load(tmp_path / "again.json") == found


def test_a_cut_inside_a_fused_kernel_can_be_priced_and_carried_out(
    measured: Path, tmp_path: Path, capfd: Any
) -> None:
    profile = Profile.load(measured / "here.json")
    assert ("c1", "r1") in [kernel.nodes for kernel in profile.kernels]
    plan = _plan(measured, capfd, "--at", "c1", "--json", "-o", tmp_path / "plan.json")
    assert plan["cut"]["head"] == ["c1"]
    assert plan["solver"]["status"] == "priced"
    assert plan["validity"] is None
    succeed(
        capfd, "split", measured / "convolutions.onnx", "--plan", tmp_path / "plan.json", "-o",
        tmp_path / "bundle",
    )  # fmt: skip


def test_a_described_device_is_called_estimated_wherever_its_seconds_go(
    measured: Path, tmp_path: Path, capfd: Any
) -> None:
    model, here = measured / "convolutions.onnx", measured / "here.json"
    pi = tmp_path / "pi.json"
    out = succeed(capfd, "profile", model, "--device", "raspberry-pi-4", "--base", here, "-o", pi)
    assert "estimated" in out
    for device in ("raspberry-pi-4", pi):
        file = tmp_path / "plan.json"
        out = succeed(
            capfd, "plan", model, "--device", device, "--server", here, "--link", "lte", "-o", file
        )
        (row,) = [line for line in out.splitlines() if line.startswith("device ")]
        assert row.rstrip().endswith("estimated")
        plan = Plan.load(file)
        assert (plan.device.origin.value, plan.server.origin.value) == ("estimated", "measured")
        out = succeed(capfd, "verify", model, "--plan", file, "--seconds", "0")
        assert "the device's (estimated)" in " ".join(out.split())


@pytest.mark.parametrize(("key", "value"), [("onnxruntime", "1.0.0"), ("processor", "abacus")])
def test_a_stale_profile_warns_and_still_plans(
    key: str, value: str, measured: Path, tmp_path: Path, capfd: Any
) -> None:
    profile = Profile.load(measured / "here.json")
    stale = msgspec.structs.replace(profile, fingerprint={**profile.fingerprint, key: value})
    stale.save(tmp_path / "stale.json")
    arguments = [
        "plan", measured / "convolutions.onnx", "--device", tmp_path / "stale.json", "--server",
        measured / "here.json", "--link", "lte", "-o", tmp_path / "plan.json",
    ]  # fmt: skip
    out = " ".join(succeed(capfd, *arguments).split())
    assert "warning: device: the profile is stale" in out
    assert value in out
    assert "server: the profile is stale" not in out
    assert any("stale" in warning for warning in Plan.load(tmp_path / "plan.json").warnings)


def test_two_described_tiers_need_no_profile_at_all(
    measured: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from splitter import arguments

    monkeypatch.setattr(arguments, "measure", lambda *a, **k: Profile.load(measured / "here.json"))
    plan = json.loads(
        succeed(
            capfd,
            "plan",
            measured / "convolutions.onnx",
            "--device",
            "jetson-nano",
            "--server",
            "nvidia-a100",
            "--link",
            "20/100Mbit/s,15ms",
            "--json",
        )  # fmt: skip
    )
    assert (plan["device"]["origin"], plan["server"]["origin"]) == ("estimated", "estimated")
    assert plan["link"]["down_bytes_per_s"] == 5 * plan["link"]["up_bytes_per_s"]


def test_where_neither_side_can_run_it_alone_the_plan_splits_and_says_why(
    measured: Path, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[1] / "profiles/devices/raspberry-pi-4.yaml").read_text()
    for tier, operator in (("no-gemm", "Gemm"), ("no-pool", "MaxPool")):
        description = re.sub("^name: .*", f"name: {tier}", text, flags=re.M)
        assert "  names: []" in description
        description = description.replace("  names: []", f"  names: [{operator}]")
        (tmp_path / f"{tier}.yaml").write_text(description)
    tiers = ["--device", tmp_path / "no-gemm.yaml", "--server", tmp_path / "no-pool.yaml"]
    arguments = ["plan", measured / "convolutions.onnx", *tiers, "--link", "lte"]
    monkeypatch.setenv("COLUMNS", "200")
    out = succeed(capfd, *arguments, "--base", measured / "here.json")
    assert out.startswith("Split after ")
    assert "not possible: all on the device (operator Gemm" in out
    assert "not possible: input sent to the server (operator MaxPool" in out


def test_serve_answers_until_it_is_told_to_stop(measured: Path, tmp_path: Path, capfd: Any) -> None:
    image = np.random.default_rng(1).standard_normal((1, 3, 16, 16)).astype(np.float32)
    np.save(tmp_path / "image.npy", image)
    (tmp_path / "labels.txt").write_text("".join(f"{i}\tn{i}\tclass {i}\n" for i in range(5)))
    server = subprocess.Popen(
        [sys.executable, "-m", "splitter", "serve", measured / "bundle", "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line.startswith("serving convolutions (bundle ")
        out = succeed(
            capfd, "run", measured / "bundle", "--server", line.split()[-1], "--input",
            tmp_path / "image.npy", "--labels", tmp_path / "labels.txt", "--repeat", "3",
        )  # fmt: skip
        answered = json.loads(
            succeed(
                capfd,
                "run",
                measured / "bundle",
                "--server",
                line.split()[-1],
                "--input",
                f"image={tmp_path / 'image.npy'}",
                "--json",
            )  # fmt: skip
        )
    finally:
        server.send_signal(signal.SIGTERM)
        rest, err = server.communicate(timeout=20)
    assert (server.returncode, rest, err) == (0, "", "")
    assert "median of 3 runs" in out
    scores = Runner(measured / "convolutions.onnx").run({"image": image})[0]
    best = int(scores.argmax())
    assert re.search(rf"^ +{best}  class {best} ", out, flags=re.M)
    assert answered["outputs"]["scores"]["argmax"] == best
    (how,) = answered["runs"]
    assert set(TERMS) <= set(how)
    assert how["answered_by"] == "server"
    assert how["attempts"] == 1
    assert how["up_bytes"] > 0
    assert how["why"] is None
    assert "answered by the server; cut " in out


def test_a_bundle_that_runs_all_on_the_device_needs_no_server(
    measured: Path, tmp_path: Path, capfd: Any
) -> None:
    np.save(tmp_path / "image.npy", np.zeros((1, 3, 16, 16), np.float32))
    model = measured / "convolutions.onnx"
    succeed(capfd, "split", model, "--at", "scores", "-o", tmp_path / "whole")
    out = succeed(capfd, "run", tmp_path / "whole", "--input", tmp_path / "image.npy")
    assert "scores" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_that_parses(name: str, capfd: Any) -> None:
    out = succeed(capfd, name, "--help")
    assert f"Usage: splitter {name} " in out
    examples = [line.split() for line in out.partition("Examples:")[2].splitlines() if line.strip()]
    assert examples
    for program, command, *arguments in examples:
        assert (program, command) == ("splitter", name)
        parsed = app.get_command(None, name)  # type: ignore[arg-type]
        assert parsed is not None
        parsed.make_context(name, arguments)
    described = {opt for param in parsed.params for opt in param.opts if opt.startswith("--")}
    for option in described:
        assert option in out


def test_the_help_lists_every_command_and_loads_none(capfd: Any) -> None:
    out = succeed(capfd, "--help")
    for name, line in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(line)}$", out, flags=re.M)
    loaded = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "splitter", "--help"],
        capture_output=True, text=True, check=True,
    ).stderr  # fmt: skip
    for heavy in ("onnx", "onnxruntime", "numpy", "pulp", "grpc", "rich.table"):
        assert not re.search(rf"\| +{re.escape(heavy)}$", loaded, flags=re.M), heavy


def test_the_version_is_the_package_s(capfd: Any) -> None:
    assert succeed(capfd, "--version") == f"splitter, version {__version__}\n"


def test_a_command_without_arguments_shows_the_help(capfd: Any) -> None:
    outcome = run(capfd)
    assert "Commands:" in outcome.out + outcome.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_get_a_completion_script(shell: str) -> None:
    if shutil.which(shell) is None and shell == "bash":
        pytest.skip("needs bash, which click asks for its version")
    environment = {**os.environ, "_SPLITTER_COMPLETE": f"{shell}_source"}
    script = subprocess.run(
        [sys.executable, "-c", "from splitter.cli import main; main()"],
        env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "_SPLITTER_COMPLETE" in script


def test_completion_offers_commands_and_their_options() -> None:
    def complete(line: str) -> str:
        words = line.split(" ")
        environment = {
            **os.environ, "_SPLITTER_COMPLETE": "bash_complete", "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        }  # fmt: skip
        return subprocess.run(
            [sys.executable, "-c", "from splitter.cli import main; main()"],
            env=environment, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    assert {"plain,plan", "plain,profile"} == set(complete("splitter p").split())
    assert "plain,--bytes-weight" in complete("splitter plan --b").split()


def test_a_reader_that_leaves_early_is_not_told_of_in_a_traceback(measured: Path) -> None:
    command = f"'{sys.executable}' -m splitter inspect '{measured / 'convolutions.onnx'}' --json"
    ended = subprocess.run(
        f"{command} | true", shell=True, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in ended.stderr


def _plan(measured: Path, capfd: Any, *more: str | os.PathLike[str]) -> Any:
    here = measured / "here.json"
    return json.loads(
        succeed(
            capfd,
            "plan",
            measured / "convolutions.onnx",
            "--device",
            here,
            "--server",
            here,
            "--link",
            "wifi",
            *more,
        )  # fmt: skip
    )


def test_bindings_reach_the_model(measured: Path, capfd: Any) -> None:
    model = measured / "dynamic_reshape.onnx"
    for binding in (["--dim", "batch=3"], ["--shape", "x=3,3,4"]):
        summary = json.loads(succeed(capfd, "inspect", model, *binding, "--json"))
        assert summary["inputs"][0]["shape"] == [3, 3, 4]
        assert summary["dims"] == dict(load_model(model, dims={"batch": 3}).graph.dims)
