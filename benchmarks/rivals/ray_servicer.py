"""The protocol's service as Ray's ingress wants it registered; imported by name in Ray's own processes.

Ray moves messages between its processes by their class's module, so the generated module is imported
by its top-level name: its folder is on the path.
"""

from __future__ import annotations

from typing import Any

import grpc
import open_inference_pb2 as pb


def add_servicer(servicer: Any, server: Any) -> None:
    """What protoc's plugin for gRPC would have generated for the one method that is timed."""
    handler = grpc.unary_unary_rpc_method_handler(
        servicer.ModelInfer,
        request_deserializer=pb.ModelInferRequest.FromString,
        response_serializer=pb.ModelInferResponse.SerializeToString,
    )
    service = "inference.GRPCInferenceService"
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {"ModelInfer": handler}),)
    )
