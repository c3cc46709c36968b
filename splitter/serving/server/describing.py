"""What a model is, in the protocol's messages: metadata and configuration."""

from __future__ import annotations

from typing import Any

from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.server.loading import Loaded
from splitter.serving.wire import TensorMetadata

PLATFORM, BACKEND = "onnxruntime_onnx", "onnxruntime"


def metadata(loaded: Loaded, versions: list[str]) -> pb.ModelMetadataResponse:
    """Inputs and outputs of the tail that a plain request gets."""
    inputs, outputs = loaded.default.metadata()
    message = pb.ModelMetadataResponse.TensorMetadata
    return pb.ModelMetadataResponse(
        name=loaded.name,
        versions=versions,
        platform=PLATFORM,
        inputs=[message(name=t.name, datatype=t.datatype, shape=t.shape) for t in inputs],
        outputs=[message(name=t.name, datatype=t.datatype, shape=t.shape) for t in outputs],
    )


def configuration(loaded: Loaded) -> pb.ModelConfig:
    """The same as Triton would have it, and how the tail's requests wait."""
    tail = loaded.default
    inputs, outputs = tail.metadata()
    is_batched = bool(tail.max_batch)
    config = pb.ModelConfig(
        name=loaded.name,
        platform=PLATFORM,
        backend=BACKEND,
        version_policy=pb.ModelVersionPolicy(all=pb.ModelVersionPolicy.All()),
        max_batch_size=tail.max_batch,
        input=[
            pb.ModelInput(name=t.name, data_type=_data_type(t), dims=_dims(t, is_batched))
            for t in inputs
        ],
        output=[
            pb.ModelOutput(name=t.name, data_type=_data_type(t), dims=_dims(t, is_batched))
            for t in outputs
        ],
        default_model_filename=tail.cut.tail or "",
    )
    for key, value in {"bundle": loaded.manifest.digest, "cut": tail.id}.items():
        config.parameters[key].string_value = value
    if is_batched:
        policy = tail.queue.policy
        batching = config.dynamic_batching
        batching.preferred_batch_size.extend(policy.preferred)
        batching.max_queue_delay_microseconds = round(policy.max_delay_s * 1e6)
        batching.default_queue_policy.allow_timeout_override = True
        batching.default_queue_policy.max_queue_size = policy.limit
    return config


def _dims(tensor: TensorMetadata, is_batched: bool) -> tuple[int, ...]:
    return tensor.shape[1:] if is_batched else tensor.shape


def _data_type(tensor: TensorMetadata) -> Any:
    return pb.DataType.Value(f"TYPE_{tensor.datatype}")
