"""Bundles, servers and plain clients for the serving tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx

from splitter.codec import Codec, get_codec
from splitter.graph.cut import cut_at, cut_of
from splitter.graph.read import load_model
from splitter.partition.bundle import Deployment, Division, write_bundle
from splitter.runtime import Optimisation, Runner, Settings
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.protocol import METHODS, SERVICE
from tests.models import save

Array = np.ndarray[Any, Any]

EXACT = Settings(optimisation=Optimisation.NONE)


def make_bundle(
    model: onnx.ModelProto,
    folder: Path,
    at: list[str] | None = None,
    *,
    codec: str | Codec = "zstd",
    dims: dict[str, int] | None = None,
) -> Path:
    """Cut at the tensors; an empty list sends the input, None keeps everything on the device."""
    folder.mkdir(parents=True, exist_ok=True)
    read = load_model(save(model, folder / "model.onnx"), dims)
    if at is None:
        cut = cut_of(read.graph, list(read.graph.node_of))
    else:
        cut = cut_at(read.graph, at) if at else cut_of(read.graph, [])
    chosen = get_codec(codec) if isinstance(codec, str) else codec
    codecs = dict.fromkeys(cut.crossing, chosen) if at is not None else {}
    return write_bundle(read, [Division(cut, codecs)], folder / "bundle", Deployment(EXACT)).folder


def run_whole(bundle: Path, feeds: dict[str, Array]) -> list[Array]:
    """The uncut model that ``make_bundle`` put beside the bundle."""
    return Runner(bundle.parent / "model.onnx", EXACT).run(feeds)


@contextmanager
def plain_client(address: str) -> Iterator[Any]:
    """Call methods of the protocol by name: ``call("ModelInfer", request)``."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address, options=options) as channel:

        def call(method: str, request: Any) -> Any:
            kinds = METHODS[method]
            return channel.unary_unary(
                f"/{SERVICE}/{method}",
                request_serializer=kinds[0].SerializeToString,
                response_deserializer=kinds[1].FromString,
            )(request, timeout=10)

        yield call


def float_request(model: str, name: str, array: Array) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name=name, datatype="FP32", shape=array.shape)
    request.raw_input_contents.append(array.astype("<f4").tobytes())
    return request
