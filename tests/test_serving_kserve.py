"""KServe's own client, unchanged, against our server: in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from splitter.serving.server.serve import Server, serve
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


CLIENT = """
import asyncio
import sys
import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest
array = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 64)
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
            found = {output.name: output.as_numpy() for output in response.outputs}
            assert np.array_equal(found["y"], -array), found
            assert np.array_equal(found["z"], np.maximum(array, 0)), found
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
    done = subprocess.run(
        [kserves_python, "-c", CLIENT, server.address],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
