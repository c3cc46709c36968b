"""Bad input: one clear line on standard error, the right status, nothing half-written."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from splitter import api
from splitter.cli import main
from splitter.errors import SplitterError
from splitter.serving.server.serve import serve
from tests import models
from tests.cli import run, tree
from tests.serving import make_bundle

PLAN = "plan {m}/convolutions.onnx --device {m}/here.json --server {m}/here.json --link lte "
SPLIT = "split {m}/convolutions.onnx -o out "
RUN = "run {m}/bundle --server 127.0.0.1:1 --deadline 1 "

USAGE = {
    "no model": ("inspect", "MODEL"),
    "no output": ("profile {m}/chain.onnx", "--output"),
    "no link": ("plan {m}/chain.onnx --device a --server b", "--link"),
    "unknown command": ("slice model.onnx", "slice"),
    "unknown option": ("inspect {m}/chain.onnx --wide", "--wide"),
    "dim without a name": ("inspect {m}/chain.onnx --dim 1", "NAME=N"),
    "dim that is no number": ("inspect {m}/chain.onnx --dim batch=two", "NAME=N"),
    "dim that is a superscript": ("inspect {m}/chain.onnx --dim batch=²", "NAME=N"),
    "dim with two signs": ("inspect {m}/chain.onnx --dim batch=--2", "NAME=N"),
    "dim beyond any shape": ("inspect {m}/chain.onnx --dim batch=" + "9" * 5000, "NAME=N"),
    "shape that is no shape": ("inspect {m}/chain.onnx --shape x=1,a", "INPUT=SHAPE"),
    "shape without sizes": ("inspect {m}/chain.onnx --shape x=1,,2", "INPUT=SHAPE"),
    "neither plan nor at": (SPLIT, "--plan"),
    "both plan and at": (SPLIT + "--plan {m}/plan.json --at p1", "--plan"),
    "no threads": ("profile {m}/chain.onnx -o p.json --threads 0", "--threads"),
    "negative seconds": ("profile {m}/chain.onnx -o p.json --seconds -1", "--seconds"),
    "NaN seconds": ("profile {m}/chain.onnx -o p.json --seconds nan", "--seconds"),
    "endless seconds": ("verify {m}/chain.onnx --plan p.json --seconds inf", "--seconds"),
    "negative weight": (PLAN + "--bytes-weight -1", "--bytes-weight"),
    "NaN weight": (PLAN + "--bytes-weight nan", "--bytes-weight"),
    "infinite weight": (PLAN + "--bytes-weight inf", "--bytes-weight"),
    "NaN time limit": (PLAN + "--time-limit nan", "--time-limit"),
    "NaN deadline": (RUN + "--input x.npy --deadline nan", "--deadline"),
    "negative deadline": (RUN + "--input x.npy --deadline -1", "--deadline"),
    "negative count": ("inspect {m}/chain.onnx --narrowest -3", "--narrowest"),
    "unknown solver": (PLAN + "--solver gurobi", "gurobi"),
    "unknown preprocessing": (RUN + "--input x.npy --preprocess torch", "torch"),
    "output is a folder": ("profile {m}/chain.onnx -o {m}", "directory"),
    "no input to run": (RUN, "--input"),
    "a base without a device": (
        "profile {m}/convolutions.onnx --base {m}/here.json -o p.json",
        "--device",
    ),
}


@pytest.mark.parametrize(("command", "named"), USAGE.values(), ids=USAGE.keys())
def test_wrong_usage_ends_with_status_2_and_names_what_is_wrong(
    command: str, named: str, measured: Path, empty: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = run(capfd, *command.format(m=measured).split())
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.startswith("Usage: splitter")
    assert outcome.err.splitlines()[-1].startswith("Error: ")
    assert named in outcome.err
    assert tree(empty) == {}


BAD_FILES: dict[str, tuple[str, str]] = {
    "no such model": ("inspect absent.onnx", "absent.onnx"),
    "the model is a folder": ("inspect {m}", "{m}"),
    "the model is a file's child": ("inspect {m}/chain.onnx/x", "chain.onnx/x"),
    "no such profile": (PLAN + "--base absent.json", "absent.json"),
    "the profile is a folder": (PLAN + "--base {m}", "{m}"),
    "no such plan": (SPLIT + "--plan absent.json", "absent.json"),
    "no such plan to verify": ("verify {m}/convolutions.onnx --plan absent.json", "absent.json"),
    "the plan is a folder": (SPLIT + "--plan {m}", "{m}"),
    "the plan is a profile": (SPLIT + "--plan {m}/here.json", "splitter.plan/4"),
    "the plan is a model": (SPLIT + "--plan {m}/chain.onnx", "splitter.plan/4"),
    "the profile is a plan": (PLAN + "--base {m}/plan.json", "splitter.profile/1"),
    "no such bundle": ("serve absent --listen 127.0.0.1:0", "absent"),
    "the bundle is a file": ("serve {m}/chain.onnx --listen 127.0.0.1:0", "chain.onnx"),
    "the bundle is another folder": ("serve {m} --listen 127.0.0.1:0", "manifest.json"),
    "no such bundle to run": ("run absent --server 127.0.0.1:1 --input x.npy", "absent"),
    "a folder for the output that is not there": (
        "profile {m}/chain.onnx -o no/such/p.json",
        "no/such",
    ),
    "a folder for the bundle that is not there": (
        "split {m}/convolutions.onnx --at p1 -o no/out",
        "no/out",
    ),
    "a folder for the bundle that holds other things": (
        "split {m}/convolutions.onnx --at p1 -o {m}",
        "neither empty nor a bundle",
    ),
    "a file where the bundle should be": (
        "split {m}/convolutions.onnx --at p1 -o {m}/here.json",
        "is a file",
    ),
}

BAD_NAMES: dict[str, tuple[str, str]] = {
    "a tensor that does not exist": (SPLIT + "--at p2", "'p1'"),
    "a tensor to price that does not exist": (PLAN + "--at scoers", "'scores'"),
    "a cut that is not closed": ("split {m}/residual.onnx --at b -o out", "'a'"),
    "an unknown link": (PLAN.replace("lte", "lt"), "lte"),
    "a link without a round trip": (PLAN.replace("lte", "20Mbit/s"), "RATE,ROUNDTRIP"),
    "a link in no unit": (PLAN.replace("lte", "20parsec,15ms"), "parsec"),
    "a link of no rate": (PLAN.replace("lte", "0Mbit/s,15ms"), "over 0"),
    "a link of negative rate": (PLAN.replace("lte", "-1Mbit/s,15ms"), "-1Mbit/s"),
    "a link of NaN": (PLAN.replace("lte", "nan,15ms"), "nan"),
    "a link of endless rate": (PLAN.replace("lte", "9" * 400 + "Mbit/s,15ms"), "finite"),
    "an unknown device": (
        "plan {m}/convolutions.onnx --device raspbery-pi-4 --server {m}/here.json --link lte",
        "raspberry-pi-4",
    ),
    "an unknown device to estimate": (
        "profile {m}/convolutions.onnx --device toaster --base {m}/here.json -o p.json",
        "toaster",
    ),
    "an unknown provider": (
        "profile {m}/chain.onnx --provider CoalExecutionProvider -o p.json",
        "CoalExecutionProvider",
    ),
    "an open dimension": ("inspect {m}/dynamic_reshape.onnx", "--dim batch="),
    "an unknown dimension": ("inspect {m}/dynamic_reshape.onnx --dim btach=1", "batch"),
    "a dimension below one": ("inspect {m}/dynamic_reshape.onnx --dim batch=0", "batch"),
    "a shape of an unknown input": ("inspect {m}/chain.onnx --shape z=1,8", "'z'"),
    "a shape of the wrong rank": ("inspect {m}/chain.onnx --shape x=1,8,1", "x"),
    "a shape against the model": ("inspect {m}/chain.onnx --shape x=1,9", "x"),
    "a profile of another model": (
        "plan {m}/chain.onnx --device {m}/here.json --server {m}/here.json --link lte",
        "another model",
    ),
    "a base of another model": (
        "plan {m}/chain.onnx --device raspberry-pi-4 --server nvidia-t4 --base {m}/here.json "
        "--link lte",
        "another model",
    ),
    "a base of another model to estimate from": (
        "profile {m}/chain.onnx --device raspberry-pi-4 --base {m}/here.json -o p.json",
        "another model",
    ),
    "a plan of another model": (
        "split {m}/chain.onnx --plan {m}/plan.json -o out",
        "another model",
    ),
    "a plan of another model to verify": (
        "verify {m}/chain.onnx --plan {m}/plan.json",
        "another model",
    ),
    "an input of the wrong name": (RUN + "--input imag={m}/image.npy", "'image'"),
    "an input of the wrong dtype": (RUN + "--input image={m}/float64.npy", "float64"),
    "an input of the wrong shape": (RUN + "--input image={m}/small.npy", "1x3x8x8"),
    "an input that is not there": (RUN + "--input image=absent.npy", "absent.npy"),
    "an input that is a folder": (RUN + "--input image={m}/dir.npy", "dir.npy"),
    "an input of another kind": (RUN + "--input image={m}/chain.onnx", "chain.onnx"),
    "an input that is empty": (RUN + "--input image={m}/empty.npy", "empty.npy"),
    "an input that is cut short": (RUN + "--input image={m}/short.npy", "short.npy"),
    "an input that holds objects": (RUN + "--input image={m}/objects.npy", "objects.npy"),
    "an input that claims to be huge": (RUN + "--input image={m}/huge.npy", "huge.npy"),
    "an archive that is none": (RUN + "--input {m}/bad.npz", "bad.npz"),
    "an archive of other names": (RUN + "--input {m}/other.npz", "'imagee'"),
    "a photo that is none": (RUN + "--input image={m}/bad.jpg", "bad.jpg"),
    "labels that are not there": (RUN + "--input {m}/image.npy --labels absent.txt", "absent.txt"),
    "an input to profile of the wrong name": (
        "profile {m}/convolutions.onnx --input imag={m}/image.npy -o p.json",
        "'image'",
    ),
    "an input to split with of the wrong shape": (
        SPLIT + "--at p1 --input image={m}/small.npy",
        "1x3x16x16",
    ),
    "an unreachable server": (RUN + "--input {m}/image.npy", "127.0.0.1:1"),
    "no server": ("run {m}/bundle --input {m}/image.npy", "server"),
    "a malformed server": ("run {m}/bundle --server nowhere --input {m}/image.npy", "HOST:PORT"),
    "a malformed address": ("serve {m}/bundle --listen 127.0.0.1", "HOST:PORT"),
    "a port that is none": ("serve {m}/bundle --listen 127.0.0.1:99999", "99999"),
    "an address that others reach": ("serve {m}/bundle --listen 0.0.0.0:0", "--insecure"),
}


@pytest.mark.parametrize(
    ("command", "named"),
    [*BAD_FILES.values(), *BAD_NAMES.values()],
    ids=[*BAD_FILES, *BAD_NAMES],
)
def test_bad_input_is_one_line_that_names_it_and_nothing_is_written(
    command: str, named: str, hostile: Path, empty: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = tree(hostile)
    refused(capfd, named.format(m=hostile), *command.format(m=hostile).split())
    assert tree(empty) == {}
    assert tree(hostile) == before


def not_protobuf() -> bytes:
    return b"GIF89a" + bytes(range(256))


def truncated() -> bytes:
    return models.convolutions().SerializeToString()[:-100]


def unknown_domain() -> bytes:
    model = models.chain()
    model.graph.node[1].domain = "com.example"
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    return bytes(model.SerializeToString())


def cyclic() -> bytes:
    model = models.chain()
    model.graph.node[0].input[0] = "y"
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (bytes, "model.onnx"),
        (not_protobuf, "model.onnx"),
        (truncated, "model.onnx"),
        (unknown_domain, "com.example"),
        (cyclic, "cycle"),
    ],
)
@pytest.mark.parametrize(
    "command", ["inspect model.onnx", "profile model.onnx --seconds 0 -o here.json"]
)
def test_a_file_that_is_no_usable_model_is_refused_with_a_line(
    make: Callable[[], bytes], named: str, command: str, empty: Path, capfd: Any
) -> None:
    Path("model.onnx").write_bytes(make())
    refused(capfd, named, *command.split())
    assert list(tree(empty)) == ["model.onnx"]


def change(document: Any, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for key in parents:
        document = document[int(key) if key.isdigit() else key]
    document[last] = value


NAN, HUGE = float("nan"), 10**400


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("kernels.0.seconds", -1e-3),
        ("kernels.0.seconds", NAN),
        ("kernels.0.seconds", float("inf")),
        ("kernels.0.seconds", HUGE),
        ("kernels.0.seconds", "fast"),
        ("kernels.0.flops", -1),
        ("kernels.0.nodes", []),
        ("kernels.0.nodes", ["nowhere"]),
        ("kernels", []),
        ("anchors.0.head_s", -1.0),
        ("anchors.0.place", 10**6),
        ("codecs.0.wire_bytes", -1),
        ("codecs.0.codec", "lzma"),
        ("whole_s", -1.0),
        ("nodes", ["nowhere"]),
        ("settings.threads", "many"),
        ("schema", "splitter.profile/9"),
        ("schema", None),
        ("surprise", 1),
        ("origin", "guessed"),
        ("fingerprint", None),
    ],
)
def test_a_profile_with_a_wrong_field_is_refused_with_a_line(
    path: str, value: Any, measured: Path, empty: Path, capfd: Any
) -> None:
    document = json.loads((measured / "here.json").read_text())
    change(document, path, value)
    Path("bad.json").write_text(json.dumps(document))
    line = refused(
        capfd, "", "plan", measured / "convolutions.onnx", "--device", "bad.json",
        "--server", measured / "here.json", "--link", "lte", "-o", "plan.json",
    )  # fmt: skip
    assert "bad.json" in line or "profile of" in line
    assert list(tree(empty)) == ["bad.json"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("predicted.link_s", -1e-3),
        ("device.whole_s", -1e-3),
        ("predicted.total_s", NAN),
        ("device.whole_s", NAN),
        ("link.up_bytes_per_s", 0),
        ("link.up_bytes_per_s", NAN),
        ("link.rtt_s", -1),
        ("cut.head", ["nowhere"]),
        ("cut.head", ["scores"]),
        ("cut.tail_nodes", 99),
        ("predicted.crossing.0.codec", "lzma"),
        ("predicted.crossing", []),
        ("schema", "splitter.plan/1"),
        ("model", {}),
        ("surprise", 1),
    ],
)
@pytest.mark.parametrize("command", ["split", "verify"])
def test_a_plan_with_a_wrong_field_is_refused_with_a_line(
    path: str, value: Any, command: str, measured: Path, empty: Path, capfd: Any
) -> None:
    document = json.loads((measured / "plan.json").read_text())
    change(document, path, value)
    Path("bad.json").write_text(json.dumps(document))
    model = measured / "convolutions.onnx"
    more = ["-o", "out"] if command == "split" else ["--seconds", "0"]
    refused(capfd, "", command, model, "--plan", "bad.json", *more)
    assert list(tree(empty)) == ["bad.json"]


BAD_JSON = [b"", b"{", b"[1, 2]", b"null", b"\xff\xfe", b"[" * 10**5, b'{"schema": 1}', b"{}"]


@pytest.mark.parametrize("data", BAD_JSON)
@pytest.mark.parametrize("what", ["profile", "plan", "manifest"])
def test_malformed_json_is_refused_with_a_line_that_names_the_file(
    data: bytes, what: str, measured: Path, empty: Path, capfd: Any
) -> None:
    Path("manifest.json").write_bytes(data)
    commands = {
        "profile": PLAN.replace("lte", "lte --base manifest.json"),
        "plan": SPLIT + "--plan manifest.json",
        "manifest": "serve . --listen 127.0.0.1:0",
    }
    refused(capfd, "manifest.json", *commands[what].format(m=measured).split())
    assert list(tree(empty)) == ["manifest.json"]


LINK = """
schema: splitter.link/1
name: mine
summary: A link.
up_mbit_per_s: {value: 1, source: here}
down_mbit_per_s: {value: 1, source: here}
rtt_ms: {value: RTT, source: here}
"""


@pytest.mark.parametrize(
    "text",
    [
        *(LINK.replace("RTT", v) for v in (".nan", ".inf", "-1", "1e300", "fast", "9" * 400, "")),
        LINK.replace("link/1", "link/7"),
        LINK.replace("RTT", "1") + "surprise: 1\n",
        "", "a: [", "- 1", "&a [*a]", "!!python/object/apply:os.system [id]", "{" * 5000, "\x00",
    ],
)  # fmt: skip
def test_a_link_file_with_nonsense_is_refused_with_a_line(
    text: str, measured: Path, empty: Path, capfd: Any
) -> None:
    Path("mine.yaml").write_text(text)
    refused(capfd, "mine.yaml", *PLAN.replace("lte", "mine.yaml").format(m=measured).split())
    assert list(tree(empty)) == ["mine.yaml"]


@pytest.mark.parametrize(
    ("find", "put"),
    [
        ("value: 4", "value: .nan"),
        ("value: 4", "value: -4"),
        ("schema: splitter.device/1", "schema: splitter.device/2"),
        ("cores:", "coars:"),
    ],
)
def test_a_device_file_with_nonsense_is_refused_with_a_line(
    find: str, put: str, measured: Path, empty: Path, capfd: Any
) -> None:
    text = (Path(__file__).parents[1] / "profiles/devices/raspberry-pi-4.yaml").read_text()
    assert find in text
    Path("mine.yaml").write_text(text.replace(find, put))
    command = f"{PLAN} --base {{m}}/here.json".replace(
        "--server {m}/here.json", "--server mine.yaml"
    )
    refused(capfd, "mine.yaml", *command.format(m=measured).split())
    assert list(tree(empty)) == ["mine.yaml"]


def test_a_port_in_use_is_refused_with_a_line(
    measured: Path, empty: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        refused(capfd, address, "serve", measured / "bundle", "--listen", address)


def test_a_server_with_another_bundle_is_refused_with_a_line(
    measured: Path, empty: Path, tmp_path_factory: pytest.TempPathFactory, capfd: Any
) -> None:
    other = tmp_path_factory.mktemp("other") / "bundle"
    api.split(api.load(measured / "convolutions.onnx"), other, at=["r1"])
    np.save("image.npy", np.zeros((1, 3, 16, 16), np.float32))
    with serve(other) as server:
        refused(
            capfd, "bundle", "run", measured / "bundle", "--server", server.address,
            "--input", "image.npy", "-o", "answer.npz",
        )  # fmt: skip
    assert list(tree(empty)) == ["image.npy"]


def test_a_damaged_bundle_is_refused_with_a_line(
    measured: Path, empty: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(models.convolutions(), empty, ["p1"])
    head = bundle / "head.onnx"
    head.write_bytes(head.read_bytes()[:-1])
    np.save("image.npy", np.zeros((1, 3, 16, 16), np.float32))
    refused(capfd, "head.onnx", "run", bundle, "--server", "127.0.0.1:1", "--input", "image.npy")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_that_cannot_be_written_is_refused_with_a_line(
    measured: Path, empty: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    empty.chmod(0o500)
    refused(capfd, "plan.json", *PLAN.format(m=measured).split(), "-o", "plan.json")
    refused(capfd, "out", *SPLIT.format(m=measured).split(), "--at", "p1")
    empty.chmod(0o700)


@pytest.mark.parametrize("command", [PLAN + "-o full/plan.json", SPLIT + "--at p1"])
def test_an_output_that_fails_half_way_leaves_nothing_behind(
    command: str, measured: Path, empty: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("full").mkdir()

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    monkeypatch.setattr(Path, "rename", fail)
    refused(capfd, "No space left", *command.format(m=measured).split())
    assert tree(empty) == {"full": None}


def test_an_answer_is_not_lost_where_it_cannot_be_written(
    measured: Path, empty: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    np.save("image.npy", np.zeros((1, 3, 16, 16), np.float32))
    with serve(measured / "bundle") as server:
        refused(
            capfd, "no/answer.npz", "run", measured / "bundle", "--server", server.address,
            "--input", "image.npy", "-o", "no/answer.npz",
        )  # fmt: skip


@pytest.mark.parametrize(
    "arguments", [["--debug", "inspect", "absent.onnx"], ["inspect", "absent.onnx", "--debug"]]
)
def test_debug_lets_the_traceback_through(arguments: list[str], empty: Path) -> None:
    with pytest.raises(SplitterError, match=r"absent\.onnx"):
        main(arguments)


def test_a_fault_of_ours_is_not_dressed_up_as_the_user_s(
    empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("splitter.cli.inspect.load", fail)
    with pytest.raises(ZeroDivisionError):
        main(["inspect", "model.onnx"])


def test_the_installed_command_ends_with_one_line_and_no_traceback() -> None:
    command = Path(sys.executable).with_name("splitter")
    if not command.exists():
        pytest.skip("the package is not installed in this environment")
    ended = subprocess.run(
        [command, "inspect", "absent.onnx"], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert re.fullmatch(r"splitter: error: absent\.onnx.*\n", ended.stderr)


def refused(capfd: pytest.CaptureFixture[str], named: str, *arguments: Any) -> str:
    """Run, and demand status 1 and a single line that holds ``named``."""
    outcome = run(capfd, *arguments)
    assert (outcome.status, outcome.out) == (1, "")
    assert re.fullmatch(r"splitter: error: .+\n", outcome.err), outcome.err
    assert named in outcome.err
    assert len(outcome.err) < 600
    return outcome.err


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def hostile(measured: Path) -> Iterator[Path]:
    """The measured folder with feeds that are wrong each in its way."""
    made = _hostile_files(measured)
    yield measured
    for path in made:
        path.rmdir() if path.is_dir() else path.unlink()


def _hostile_files(folder: Path) -> list[Path]:
    before = set(folder.iterdir())
    good = np.zeros((1, 3, 16, 16), np.float32)
    np.save(folder / "image.npy", good)
    np.save(folder / "float64.npy", good.astype(np.float64))
    np.save(folder / "small.npy", good[:, :, :8, :8])
    np.save(folder / "objects.npy", np.array([{}], object), allow_pickle=True)
    (folder / "dir.npy").mkdir()
    (folder / "empty.npy").touch()
    data = (folder / "image.npy").read_bytes()
    (folder / "short.npy").write_bytes(data[:-8])
    (folder / "huge.npy").write_bytes(data.replace(b"(1, 3, 16, 16)", b"(99999999999,)"))
    (folder / "bad.npz").write_bytes(b"PK\x03\x04")
    np.savez(folder / "other.npz", imagee=good)
    (folder / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    return [path for path in folder.iterdir() if path not in before]
