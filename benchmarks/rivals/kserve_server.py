"""The model on KServe's Python server, in its own environment: gRPC, one worker, no log a request."""

from __future__ import annotations

import argparse
import logging
import socket

import onnxruntime
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class Echo(Model):
    def __init__(self, path: str) -> None:
        super().__init__("echo")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self.ready = True

    async def predict(
        self, payload: InferRequest, headers: object = None, response_headers: object = None
    ) -> InferResponse:
        (result,) = self._session.run(None, {"x": payload.inputs[0].as_numpy()})
        output = InferOutput("y", list(result.shape), "FP32")
        output.set_data_from_numpy(result)
        return InferResponse(payload.id, self.name, [output])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    with socket.socket() as probe:  # its HTTP server cannot be left out
        probe.bind(("127.0.0.1", 0))
        http_port = probe.getsockname()[1]
    server = ModelServer(
        http_port=http_port, grpc_port=options.port, workers=1, enable_latency_logging=False
    )
    logging.getLogger("kserve").setLevel(logging.WARNING)
    server.start([Echo(options.model)])


if __name__ == "__main__":
    main()
