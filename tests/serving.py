"""Bundles, servers and plain clients for the serving tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import msgspec
import numpy as np
import onnx
import pytest

from splitter.codec import Codec, get_codec
from splitter.document import write_document
from splitter.graph.cut import cut_at, cut_of
from splitter.graph.read import load_model
from splitter.partition.bundle import Deployment, Division, files_in, write_bundle
from splitter.partition.manifest import MANIFEST, Manifest, bundle_digest
from splitter.runtime import Optimisation, Runner, Settings
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.protocol import METHODS, SERVICE
from splitter.serving.server import loading
from tests import models
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


def sums() -> onnx.ModelProto:
    """Makes 4 numbers of 4 numbers, in two nodes: ``a = -x``, ``y = relu(a)``, and their sum."""
    return models.parse(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        sums (float[1, 4] x) => (float[1, 4] y, float[1, 1] s) {
            a = Neg(x)
            y = Relu(a)
            s = ReduceSum <keepdims = 1> (a, axes)
        }
        """
    )


def make_batching(folder: Path, name: str = "sums") -> Path:
    """A bundle of ``sums`` cut at ``a``, whose tail takes any number of samples."""
    model = sums()
    axes = onnx.numpy_helper.from_array(np.array([1], np.int64), "axes")
    model.graph.initializer.append(axes)
    bundle = make_bundle(model, folder, ["a"], codec="raw")
    tail = onnx.load(bundle / "tail.onnx")
    for value in (*tail.graph.input, *tail.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del tail.graph.value_info[:]
    onnx.save(tail, bundle / "tail.onnx")
    change_manifest(bundle, name=name, batches=True)
    return bundle


def change_manifest(bundle: Path, *, name: str, batches: bool = False) -> Manifest:
    """Write the manifest anew, to fit files that were changed."""
    manifest = Manifest.load(bundle)
    (bundle / MANIFEST).unlink()
    files = files_in(bundle)
    cuts = tuple(msgspec.structs.replace(cut, batches=batches) for cut in manifest.cuts)
    changed = msgspec.structs.replace(
        manifest, name=name, files=files, cuts=cuts, digest=bundle_digest(files, cuts)
    )
    write_document(bundle / MANIFEST, changed)
    return changed


@dataclass
class Gate:
    """Holds the runs of every tail while it is shut."""

    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    is_open: threading.Event = field(default_factory=threading.Event)
    sizes: list[int] = field(default_factory=list)
    """Samples of each run."""

    def shut(self) -> None:
        """Forget the runs so far, and hold those that come."""
        self.is_open.clear()
        self.sizes.clear()
        while self.begun.acquire(blocking=False):
            pass

    def wait_begun(self) -> None:
        """Wait until one more run has begun."""
        assert self.begun.acquire(timeout=30)


@contextmanager
def holding_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A gate for the tails of all servers that are started meanwhile; open at first."""
    gate = Gate()
    gate.is_open.set()

    class HeldRunner(Runner):
        def run(self, feeds: Any, outputs: Any = None) -> list[Array]:
            gate.sizes.append(next(iter(feeds.values())).shape[0])
            gate.begun.release()
            assert gate.is_open.wait(30)
            return super().run(feeds, outputs)

    monkeypatch.setattr(loading, "Runner", HeldRunner)
    yield gate
    gate.is_open.set()


def outputs_of(response: pb.ModelInferResponse) -> dict[str, Array]:
    """Plain float outputs."""
    return {
        header.name: np.frombuffer(raw, "<f4").reshape(tuple(header.shape))
        for header, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def wait_until(condition: Any, what: str = "it") -> None:
    """Poll a condition that another thread makes true."""
    done = threading.Event()
    for _ in range(3000):
        if condition():
            return
        done.wait(0.01)
    raise AssertionError(f"{what} never came")
