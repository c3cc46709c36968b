"""The floor: a bare grpc.aio server of the protocol; with ``--run`` it runs the model in its handler.

Protobuf, gRPC and, if wanted, onnxruntime: nothing is checked, measured or logged.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import onnxruntime

from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.protocol import SERVICE

OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def model(path: str) -> Callable[[bytes], bytes]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(raw: bytes) -> bytes:
        answer: bytes = session.run(None, {"x": np.frombuffer(raw, np.float32)})[0].tobytes()
        return answer

    return run


async def serve(port: int, run: Callable[[bytes], bytes]) -> None:
    async def infer(request: pb.ModelInferRequest, _: Any) -> pb.ModelInferResponse:
        response = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
        response.outputs.add(name="y", datatype="FP32", shape=request.inputs[0].shape)
        response.raw_output_contents.append(run(request.raw_input_contents[0]))
        return response

    server = grpc.aio.server(options=OPTIONS)
    handler = grpc.unary_unary_rpc_method_handler(
        infer,
        request_deserializer=pb.ModelInferRequest.FromString,
        response_serializer=pb.ModelInferResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": handler}),)
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", metavar="MODEL")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    asyncio.run(serve(options.port, model(options.run) if options.run else bytes))


if __name__ == "__main__":
    main()
