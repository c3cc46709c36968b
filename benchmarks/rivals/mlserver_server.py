"""The model on MLServer, in its own environment: gRPC, in the server's process, no metrics, no log."""

from __future__ import annotations

import argparse
import asyncio
import os

import onnxruntime
import uvloop
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse


class Echo(MLModel):
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            self.settings.parameters.uri, options, providers=["CPUExecutionProvider"]
        )
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        array = NumpyCodec.decode_input(payload.inputs[0])
        (result,) = self._session.run(None, {"x": array})
        output = NumpyCodec.encode_output("y", result)
        return InferenceResponse(model_name=self.name, outputs=[output])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    settings = Settings(
        debug=False,
        host="127.0.0.1",
        http_port=0,
        grpc_port=options.port,
        grpc_max_message_length=64 << 20,
        parallel_workers=0,
        metrics_endpoint=None,
    )
    model = ModelSettings(
        name="echo",
        implementation=Echo,
        parameters=ModelParameters(uri=os.path.abspath(options.model)),
    )
    uvloop.install()

    async def serve() -> None:
        await MLServer(settings).start([model])

    asyncio.run(serve())


if __name__ == "__main__":
    main()
