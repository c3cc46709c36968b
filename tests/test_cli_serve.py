"""``splitter serve`` as an operator meets it: a process with files, ports and signals."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme

from splitter.cli.app import app
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.credentials import ClientTls, TokenFile, open_channel
from splitter.serving.protocol import SERVICE, Address
from splitter.serving.server.options import ServerOptions
from tests import models
from tests.certificates import write_authority, write_pair
from tests.cli import run, succeed
from tests.serving import float_request, make_bundle

PATIENCE_S = 60.0


@dataclass
class Process:
    """A server that runs, and what it has logged so far."""

    popen: subprocess.Popen[str]
    address: str
    first_line: str
    logged: list[str] = field(default_factory=list)
    _more: threading.Condition = field(default_factory=threading.Condition)

    def read_log(self) -> None:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            with self._more:
                self.logged.append(line)
                self._more.notify_all()

    def wait_for(self, text: str) -> None:
        """Until this is logged."""
        with self._more:
            assert self._more.wait_for(
                lambda: any(text in line for line in self.logged), PATIENCE_S
            ), self.logged


@contextmanager
def serving(*arguments: Any) -> Iterator[Process]:
    """Start it on a free port and wait until it listens; it is gone afterwards in any case."""
    popen = subprocess.Popen(
        [sys.executable, "-m", "splitter", "serve", *map(str, arguments), "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert popen.stdout is not None
    try:
        line = popen.stdout.readline()
        if not line:
            raise AssertionError(popen.communicate()[1])
        process = Process(popen, line.split()[-1], line)
        reader = threading.Thread(target=process.read_log)
        reader.start()
        yield process
    finally:
        popen.kill()
        popen.wait()
        if "reader" in locals():
            reader.join()
        popen.stdout.close()
        popen.stderr.close()  # type: ignore[union-attr]


def stop(process: Process) -> int:
    process.popen.send_signal(signal.SIGTERM)
    return process.popen.wait(PATIENCE_S)


def counting() -> Any:
    """A tail that takes as many steps as its input says: none at the start, when it is warmed with zeros."""
    return models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        counting (float[1] x) => (float[1] y)
        {
          a = Abs(x)
          steps = Cast <to = 7> (a)
          zero = Constant <value_ints = [0]> ()
          scalar_shape = Constant <value = int64[0] {}> ()
          trip = Reshape(steps, scalar_shape)
          y = Loop(trip, , a) <body = count (int64 i, bool on, float[1] s) => (bool still, float[1] t) {
            still = Identity(on)
            t = Abs(s)
          }>
        }
        """
    )


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(counting(), tmp_path_factory.mktemp("slow"), ["a"])


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(
        models.every_model()["convolutions"], tmp_path_factory.mktemp("quick"), ["p1"]
    )


def infer(channel: grpc.Channel, request: pb.ModelInferRequest, metadata: Any = ()) -> Any:
    return channel.unary_unary(
        f"/{SERVICE}/ModelInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelInferResponse.FromString,
    )(request, timeout=PATIENCE_S, metadata=metadata)


def steps(number: float) -> pb.ModelInferRequest:
    return float_request("model", "a", np.array([number], np.float32))


class Client(threading.Thread):
    """Asks again as soon as it is answered, until it is refused."""

    def __init__(self, address: str, request: pb.ModelInferRequest) -> None:
        super().__init__()
        self.answered = 0
        self.refused: Any = None
        self.first = threading.Event()
        self._address, self._request = address, request

    def run(self) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        with grpc.insecure_channel(self._address, options=options) as channel:
            while self.refused is None:
                try:
                    infer(channel, self._request)
                except grpc.RpcError as exc:
                    self.refused = exc
                else:
                    self.answered += 1
                self.first.set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_no_request_that_was_accepted_fails(
    number: signal.Signals, slow: Path
) -> None:
    options = ["--workers", "2", "--log-level", "info", "--log-format", "json"]
    with serving(slow, *options) as process:
        clients = [Client(process.address, steps(5_000)) for _ in range(6)]
        for client in clients:
            client.start()
        for client in clients:
            assert client.first.wait(PATIENCE_S)
        process.popen.send_signal(number)
        for client in clients:
            client.join(PATIENCE_S)
        assert process.popen.wait(PATIENCE_S) == 0
        rest = process.popen.stdout.read()  # type: ignore[union-attr]
    assert rest == ""
    # gRPC's core cancels what it has not shown to the server yet
    codes = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert {client.refused.code() for client in clients} <= codes
    lines = [json.loads(line) for line in process.logged]
    served = [line for line in lines if line["logger"] == "splitter.access"]
    accepted = [line for line in served if line["model"]]
    assert {line["status"] for line in accepted} == {"OK"}
    assert len(accepted) == sum(client.answered for client in clients)
    messages = [line["message"] for line in lines if line["logger"] == "splitter.cli.serve"]
    assert messages == [f"{number.name}: draining, for at most 20 s", "stopped"]


def test_a_second_signal_ends_at_once(slow: Path) -> None:
    with serving(slow, "--metrics", "0", "--log-level", "info") as process:
        client = Client(process.address, steps(1e18))
        client.start()
        wait_until_in_flight(process)
        process.popen.send_signal(signal.SIGTERM)
        process.wait_for("draining")
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(PATIENCE_S) == -signal.SIGTERM
        client.join(PATIENCE_S)
    assert client.refused is not None


def test_what_has_not_ended_within_the_grace_is_given_up(slow: Path) -> None:
    with serving(slow, "--grace", "0.1", "--metrics", "0", "--log-level", "info") as process:
        client = Client(process.address, steps(1e18))
        client.start()
        wait_until_in_flight(process)
        assert stop(process) == 1
        client.join(PATIENCE_S)
    assert client.refused is not None
    assert "1 request" in "".join(process.logged)


def metrics_of(process: Process) -> str:
    process.wait_for("metrics on ")
    line = next(line for line in process.logged if "metrics on " in line)
    found = re.search(r"http://127\.0\.0\.1:\d+/metrics", line)
    assert found
    with urllib.request.urlopen(found[0], timeout=PATIENCE_S) as answer:
        return str(answer.read().decode())


def wait_until_in_flight(process: Process) -> None:
    until = time.monotonic() + PATIENCE_S
    while "splitter_in_flight 1.0" not in metrics_of(process):
        assert time.monotonic() < until


def test_certificates_tokens_metrics_and_logs_work_together(quick: Path, tmp_path: Path) -> None:
    ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
    authority = write_authority(ca, tmp_path / "ca.pem")
    cert, key = write_pair(ca, tmp_path, "server")
    mine = write_pair(ca, tmp_path, "device")
    tokens = tmp_path / "tokens"
    tokens.write_text("a-secret-token\n")
    tokens.chmod(0o600)
    request = float_request("model", "p1", np.zeros((1, 8, 4, 4), np.float32))
    with serving(
        quick, "--tls-cert", cert, "--tls-key", key, "--client-ca", authority, "--token-file", tokens,
        "--metrics", "0", "--log-format", "json", "--log-level", "info", "--max-batch", "4",
        "--preferred-batch", "2,4", "--max-delay", "0.5", "--per-peer", "10", "--queue", "5",
        "--streams", "2", "--workers", "1",
    ) as process:  # fmt: skip
        address, tls, token = (
            Address.parse(process.address), ClientTls(authority, *mine), TokenFile(tokens),
        )  # fmt: skip
        with open_channel(address, [], tls, token) as channel:
            assert infer(channel, request, token.metadata()).outputs
            with pytest.raises(grpc.RpcError) as caught:
                infer(channel, request)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]
        with (
            open_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel,
            pytest.raises(grpc.RpcError) as caught,
        ):
            infer(channel, request)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
        found = metrics_of(process)
        assert stop(process) == 0
    (counted,) = re.findall(r"^splitter_requests_total\{(.*)\} 1\.0$", found, re.MULTILINE)
    assert 'model="model"' in counted
    assert 'status="OK"' in counted
    assert "splitter_ready 1.0" in found
    lines = [json.loads(line) for line in process.logged]
    (served,) = [line for line in lines if line["logger"] == "splitter.access"]
    assert (served["status"], served["model"]) == ("OK", "model")
    assert not [line for line in lines if "a-secret-token" in str(line)]


def test_a_repository_of_several_models_is_served(quick: Path, slow: Path, tmp_path: Path) -> None:
    shutil.copytree(quick, tmp_path / "models" / "one")
    shutil.copytree(slow, tmp_path / "models" / "two" / "7")
    with serving("--repository", tmp_path / "models") as process:
        assert process.first_line.startswith("serving model (bundle ")
        assert stop(process) == 0
    assert process.logged == []


@dataclass(frozen=True)
class Bad:
    """Arguments that must be refused, and what the line says; ``{t}`` is the test's folder."""

    arguments: str
    named: str


BAD = {
    "no certificate": Bad("{t}/b --tls-cert {t}/absent.pem --tls-key {t}/s.key", "absent.pem"),
    "no key": Bad("{t}/b --tls-cert {t}/s.pem --tls-key {t}/absent.key", "absent.key"),
    "a foreign key": Bad("{t}/b --tls-cert {t}/s.pem --tls-key {t}/o.key", "o.key: not the key"),
    "an expired certificate": Bad("{t}/b --tls-cert {t}/e.pem --tls-key {t}/e.key", "e.pem"),
    "a certificate that is none": Bad("{t}/b --tls-cert {t}/text --tls-key {t}/s.key", "text"),
    "an authority that is none": Bad(
        "{t}/b --tls-cert {t}/s.pem --tls-key {t}/s.key --client-ca {t}/text", "text"
    ),
    "no token file": Bad("{t}/b --token-file {t}/absent", "absent"),
    "a token file without tokens": Bad("{t}/b --token-file {t}/blank", "blank"),
    "no bundle": Bad("{t}/absent", "absent"),
    "an unreadable bundle": Bad("{t}/broken", "broken"),
    "a damaged bundle": Bad("{t}/damaged", "tail"),
    "an empty repository": Bad("--repository {t}/empty", "empty"),
    "no repository": Bad("--repository {t}/absent", "absent"),
    "a port in use": Bad("{t}/b --listen {taken}", "{taken}"),
    "a port for metrics in use": Bad("{t}/b --metrics {taken}", "{taken}"),
    "metrics nowhere": Bad("{t}/b --metrics nowhere:x", "nowhere:x"),
    "no address": Bad("{t}/b --listen nowhere", "nowhere"),
    "a batch beyond the largest": Bad("{t}/b --max-batch 4 --preferred-batch 8", "preferred"),
    "a port that others reach": Bad("{t}/b --listen 0.0.0.0:0", "--insecure"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_what_stops_the_start_is_one_line(
    bad: Bad, troubled: Path, taken: str, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = bad.arguments.format(t=troubled, taken=taken).split()
    if "--listen" not in arguments:
        arguments += ["--listen", "127.0.0.1:0"]
    outcome = run(capfd, "serve", *arguments)
    assert (outcome.status, outcome.out) == (1, "")
    assert re.fullmatch(r"splitter: error: .+\n", outcome.err), outcome.err
    assert bad.named.format(taken=taken) in outcome.err


def test_a_port_that_others_reach_is_refused_with_both_ways_out(
    quick: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    err = run(capfd, "serve", quick, "--listen", "0.0.0.0:0").err
    assert "127.0.0.1" in err
    assert "--tls-cert" in err
    assert "--insecure" in err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("", "--repository"),
        ("b --repository c", "--repository"),
        ("b --tls-cert c", "--tls-key"),
        ("b --tls-key c", "--tls-cert"),
        ("b --client-ca c", "--tls-cert"),
        ("b --preferred-batch 4;8", "4;8"),
        ("b --max-delay nan", "--max-delay"),
        ("b --workers 0", "--workers"),
        ("b --log-format xml", "--log-format"),
    ],
)
def test_wrong_usage_has_status_2(
    arguments: str, named: str, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = run(capfd, "serve", *arguments.split())
    assert (outcome.status, outcome.out) == (2, "")
    assert named in outcome.err


def test_the_options_have_the_library_s_defaults() -> None:
    command = app.get_command(None, "serve")  # type: ignore[arg-type]
    assert command is not None
    defaults = {param.name: param.default for param in command.params}
    library = ServerOptions()
    for name in ("max_batch", "queue", "per_peer", "streams"):
        assert defaults[name] == getattr(library, name), name
    assert defaults["max_delay"] == library.max_delay_s * 1000


def test_the_help_fits_80_columns(capfd: pytest.CaptureFixture[str]) -> None:
    out = succeed(capfd, "serve", "--help")
    assert max(map(len, out.splitlines())) <= 80


@pytest.fixture(scope="module")
def troubled(quick: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good bundle ``b``, and with files and bundles that are bad each in its way."""
    folder = tmp_path_factory.mktemp("troubled")
    shutil.copytree(quick, folder / "b")
    ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
    write_pair(ca, folder, "s")
    write_pair(ca, folder, "o")
    write_pair(ca, folder, "e", days=-1)
    (folder / "text").write_text("hello")
    (folder / "blank").write_text("# nothing\n")
    (folder / "empty").mkdir()
    shutil.copytree(quick, folder / "broken")
    (folder / "broken" / "manifest.json").write_text("{")
    shutil.copytree(quick, folder / "damaged")
    for tail in (folder / "damaged").glob("*tail*.onnx"):
        tail.write_bytes(tail.read_bytes()[:-1])
    return folder


@pytest.fixture(scope="module")
def taken() -> Iterator[str]:
    """An address at which somebody listens already."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
