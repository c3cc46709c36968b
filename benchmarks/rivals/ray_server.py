"""The model on Ray Serve, in its own environment: one replica behind its gRPC or its HTTP ingress."""

from __future__ import annotations

import argparse
import signal
import tempfile
import threading
from typing import Any

import numpy as np
import onnxruntime
import open_inference_pb2 as pb
import ray
from ray import serve
from ray.serve.config import HTTPOptions, gRPCOptions
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(num_replicas=1, max_ongoing_requests=100, ray_actor_options={"num_cpus": 0})
class Echo:
    def __init__(self, path: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )

    def _run(self, raw: bytes) -> bytes:
        answer: bytes = self._session.run(None, {"x": np.frombuffer(raw, np.float32)})[0].tobytes()
        return answer

    async def ModelInfer(self, request: Any) -> Any:  # noqa: N802  (the protocol's name)
        response = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
        response.outputs.add(name="y", datatype="FP32", shape=request.inputs[0].shape)
        response.raw_output_contents.append(self._run(request.raw_input_contents[0]))
        return response

    async def __call__(self, request: Request) -> Response:
        answer = self._run(await request.body())
        return Response(answer, media_type="application/octet-stream")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ingress", choices=["grpc", "http"], required=True)
    options = parser.parse_args()
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=256 << 20,
        _temp_dir=tempfile.gettempdir(),
    )
    if options.ingress == "grpc":
        functions = ["ray_servicer.add_servicer"]
        grpc_options = gRPCOptions(port=options.port, grpc_servicer_functions=functions)
        serve.start(http_options=HTTPOptions(location="NoServer"), grpc_options=grpc_options)
    else:
        serve.start(http_options=HTTPOptions(host="127.0.0.1", port=options.port))
    serve.run(Echo.bind(options.model), route_prefix="/predict")
    done.wait()
    ray.shutdown()


if __name__ == "__main__":
    main()
