"""Clients that others wrote, unchanged, against our server: each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from splitter.serving.server import Server, serve
from tests import models
from tests.serving import make_bundle

KSERVE = "kserve==0.21.0"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Its tail is ``y = Neg(a)``, ``z = Relu(a)``."""
    model = models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        one (float[1, 64] x) => (float[1, 64] y, float[1, 64] z) { a = Neg(x) y = Neg(a) z = Relu(a) }
        """
    )
    with serve(make_bundle(model, tmp_path_factory.mktemp("served"), ["a"])) as running:
        yield running


def run(python: Path, code: str, address: str) -> None:
    """Run a client; what it asserts, and what it waits for, is bounded."""
    done = subprocess.run(
        [python, "-c", code, address],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


ARRAY = """
import sys
import numpy as np
array = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 64)
def check(result):
    assert np.array_equal(result.as_numpy("y"), -array), result.as_numpy("y")
    assert np.array_equal(result.as_numpy("z"), np.maximum(array, 0)), result.as_numpy("z")
"""

TRITON = """
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException
client = triton.InferenceServerClient(sys.argv[1])
tensor = triton.InferInput("a", [1, 64], "FP32")
tensor.set_data_from_numpy(array)
def refused(status, call, *arguments, **keywords):
    try:
        call(*arguments, **keywords)
    except InferenceServerException as exc:
        assert exc.status() == f"StatusCode.{status}", exc
    else:
        raise SystemExit(f"not refused with {status}")
"""

SYNC = """
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("model")
assert "model_repository" in client.get_server_metadata(as_json=True)["extensions"]
found = client.get_model_metadata("model", as_json=True)
assert [t["name"] for t in found["inputs"] + found["outputs"]] == ["a", "y", "z"], found
result = client.infer("model", [tensor], request_id="7", priority=1, timeout=5_000_000,
                      client_timeout=10, headers={"x-anything": "1"})
check(result)
assert result.get_response().id == "7" and result.get_output("q") is None
outputs = [triton.InferRequestedOutput("z")]
assert client.infer("model", [tensor], outputs=outputs).as_numpy("y") is None
check(client.infer("model", [tensor], compression_algorithm="gzip"))
refused("NOT_FOUND", client.infer, "other", [tensor])
refused("NOT_FOUND", client.infer, "model", [tensor], model_version="99")
refused("INVALID_ARGUMENT", client.infer, "model", [triton.InferInput("a", [1, 64], "FP32")])
tensor.set_shape([64])
refused("INVALID_ARGUMENT", client.infer, "model", [tensor])
"""

ADMINISTRATION = """
index = client.get_model_repository_index(as_json=True)["models"]
assert [(m["name"], m["state"]) for m in index] == [("model", "READY")], index
config = client.get_model_config("model", as_json=True)["config"]
assert config["name"] == "model" and [t["name"] for t in config["input"]] == ["a"], config
check(client.infer("model", [tensor]))
(found,) = client.get_inference_statistics("model", as_json=True)["model_stats"]
assert found["name"] == "model" and int(found["inference_stats"]["success"]["count"]) >= 1, found
"""

CALLBACKS = """
import queue
answers = queue.Queue()
for number in range(20):
    client.async_infer("model", [tensor], lambda result, error: answers.put((result, error)))
for number in range(20):
    result, error = answers.get(timeout=20)
    assert error is None, error
    check(result)
client.start_stream(lambda result, error: answers.put((result, error)))
for number in range(20):
    name = "other" if number == 10 else "model"
    client.async_stream_infer(name, [tensor], request_id=str(number))
for number in range(20):
    result, error = answers.get(timeout=20)
    if number == 10:
        assert result is None and "other" in error.message(), error
    else:
        assert error is None, error
        check(result)
        assert result.get_response().id == str(number)
client.stop_stream()
"""

AIO = """
import asyncio
import tritonclient.grpc.aio as triton
async def requests():
    for number in range(20):
        yield {"model_name": "model", "inputs": [tensor], "request_id": str(number)}
async def main():
    async with triton.InferenceServerClient(sys.argv[1]) as client:
        assert await client.is_server_ready() and await client.is_model_ready("model")
        for result in await asyncio.gather(*(client.infer("model", [tensor]) for _ in range(20))):
            check(result)
        number = 0
        async for result, error in client.stream_infer(requests()):
            assert error is None, error
            check(result)
            assert result.get_response().id == str(number)
            number += 1
        assert number == 20
asyncio.run(asyncio.wait_for(main(), 40))
"""


@pytest.mark.parametrize("code", [SYNC, ADMINISTRATION, CALLBACKS, AIO], ids=[
    "calls", "administration", "callbacks and a stream", "asyncio",
])  # fmt: skip
def test_tritons_client_runs_unchanged(server: Server, code: str) -> None:
    pytest.importorskip("tritonclient")
    run(Path(sys.executable), ARRAY + TRITON + code, server.address)


KSERVE_CLIENT = """
import asyncio
import grpc
from kserve import InferenceGRPCClient, InferInput, InferRequest
class Result:
    def __init__(self, response):
        self.outputs = {output.name: output.as_numpy() for output in response.outputs}
    def as_numpy(self, name):
        return self.outputs[name]
def request(model, raw):
    tensor = InferInput("a", [1, 64], "FP32")
    tensor.set_data_from_numpy(array, binary_data=raw)
    return InferRequest(model, [tensor], request_id="7")
async def main():
    async with InferenceGRPCClient(sys.argv[1], timeout=20) as client:
        assert await client.is_server_live() and await client.is_server_ready()
        assert await client.is_model_ready("model")
        for raw in (True, False):
            response = await client.infer(request("model", raw))
            check(Result(response))
            assert response.id == "7"
        try:
            await client.infer(request("other", True))
        except grpc.RpcError as exc:
            assert exc.code() is grpc.StatusCode.NOT_FOUND, exc
        else:
            raise SystemExit("an unknown model was served")
asyncio.run(asyncio.wait_for(main(), 40))
"""


@pytest.fixture(scope="module")
def kserves_python(request: pytest.FixtureRequest) -> Path:
    """Of an environment that holds its package: it needs another protobuf than ours."""
    cache = request.config.cache
    folder = (cache.mkdir("kserve") if cache else Path()) / f"{KSERVE}-{sys.version_info.minor}"
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        venv.create(folder, clear=True, with_pip=True)
        try:
            subprocess.run(
                [python, "-m", "pip", "install", "--quiet", KSERVE],
                check=True, capture_output=True, text=True, timeout=900,
            )  # fmt: skip
        except subprocess.CalledProcessError as exc:
            pytest.skip(f"{KSERVE} cannot be installed: {exc.stderr.strip().splitlines()[-1:]}")
        except subprocess.TimeoutExpired as exc:
            pytest.skip(f"{KSERVE} cannot be installed: {exc}")
        done.touch()
    return python


@pytest.mark.slow
def test_kserves_client_runs_unchanged(server: Server, kserves_python: Path) -> None:
    run(kserves_python, ARRAY + KSERVE_CLIENT, server.address)
