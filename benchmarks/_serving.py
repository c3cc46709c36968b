"""A network in a bundle, and the stages of its requests measured alone, in the layout that serves them.

As a program (``_serving.py BUNDLE``) it is a second process with the tail: it answers messages with bytes
made before, which is what the link alone takes, and runs decoder and tail on request.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from _shared import SHARED, shared_model

from splitter.codec import Codec
from splitter.graph.cut import cut_of
from splitter.graph.model import Model
from splitter.graph.read import load_model
from splitter.graph.values import Tensor
from splitter.partition.bundle import Bundle, Deployment, Division, write_bundle
from splitter.partition.seeded import light_model, write_seeded
from splitter.runtime import Runner, Settings
from splitter.serving import wire
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.device.messages import CutMessages

Array = np.ndarray[Any, Any]
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
LINK, TAIL = "/alone/Link", "/alone/Tail"


def network(folder: Path) -> Model:
    """MobileNetV2 where it lies beside the checkout, else SqueezeNet with drawn weights."""
    if (SHARED / "models" / "mobilenetv2_fp32.onnx").is_file():
        return shared_model("mobilenetv2_fp32")
    write_seeded(light_model("squeezenet"), folder / "squeezenet.onnx")
    return load_model(folder / "squeezenet.onnx")


def photo(model: Model, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    tensors = {name: model.graph.tensors[name] for name in model.graph.inputs}
    return {
        name: rng.standard_normal(tensor.shape or ()).astype(tensor.dtype)
        for name, tensor in tensors.items()
    }


def bundle_at(
    model: Model,
    share: float,
    folder: Path,
    *,
    codec: Codec | None = None,
    settings: Settings = Settings(),  # noqa: B008  (frozen)
    fallback: bool = False,
) -> Bundle:
    """Cut after about that share of the nodes, at the nearest place that one tensor crosses."""
    nodes = list(model.graph.node_of)
    at = sorted(range(1, len(nodes)), key=lambda count: abs(count / len(nodes) - share))
    cuts = (cut_of(model.graph, nodes[:count]) for count in at)
    cut = next(cut for cut in cuts if len(cut.crossing) == 1)
    divisions = [Division(cut, {} if codec is None else dict.fromkeys(cut.crossing, codec))]
    if fallback:
        divisions.append(Division(cut_of(model.graph, nodes)))
    return write_bundle(model, divisions, folder, Deployment(settings))


def report(benchmark: str, subject: str, **figures: object) -> None:
    print(json.dumps({"benchmark": benchmark, "subject": subject, **figures}), flush=True)


@contextmanager
def process(
    *arguments: str, command: Sequence[str] = ()
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A second process of Python, or of a command, that says its address last on its first line."""
    command = command or [sys.executable, *arguments]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert started.stdout is not None
        yield started, started.stdout.readline().split()[-1]
    finally:
        started.kill()
        started.communicate()


@contextmanager
def serving(bundle: Bundle, listen: str = "127.0.0.1:0") -> Iterator[str]:
    command = ("-m", "splitter", "serve", str(bundle.folder), "--listen", listen)
    with process(*command) as (_, address):
        yield address


class Alone:
    """The stages of one request, each run by itself; the tail and the link's far end in their process."""

    def __init__(self, stack: ExitStack, bundle: Bundle, feeds: dict[str, Array]) -> None:
        cut = bundle.manifest.planned
        self._head = Runner(bundle.head, bundle.manifest.settings) if bundle.head else None
        self._feeds, self._messages = feeds, CutMessages(bundle.manifest, cut)
        self._wanted = list(cut.tail_outputs)
        self._values = {**feeds, **self._made()}
        self.message = self._messages.request(self._values, self._wanted)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "message").write_bytes(self.message)
        command = (__file__, str(bundle.folder), str(folder / "message"))
        _, self.address = stack.enter_context(process(*command))
        self.link_through(stack, self.address)

    def link_through(self, stack: ExitStack, address: str) -> None:
        """Take this way to the second process, such as a relay."""
        options = [*UNLIMITED, ("grpc.use_local_subchannel_pool", 1)]
        channel = stack.enter_context(grpc.insecure_channel(address, options=options))
        self._link = channel.unary_unary(LINK, bytes, bytes)
        self._tail = channel.unary_unary(TAIL, bytes, bytes)
        self.link()

    def _made(self) -> dict[str, Array]:
        if self._head is None:
            return {}
        made = self._head.run({port.name: self._feeds[port.name] for port in self._head.inputs})
        return {port.name: value for port, value in zip(self._head.outputs, made, strict=True)}

    def head(self) -> float:
        started = time.perf_counter()
        self._made()
        return time.perf_counter() - started

    def encode(self) -> float:
        started = time.perf_counter()
        self._messages.request(self._values, self._wanted)
        return time.perf_counter() - started

    def link(self) -> float:
        started = time.perf_counter()
        self._link(self.message)
        return time.perf_counter() - started

    def decode_and_tail(self, times: int = 1) -> tuple[float, float]:
        """Mean seconds of each, by the clock of the process that has the tail."""
        decode_s, tail_s = json.loads(self._tail(str(times).encode()))
        return decode_s, tail_s


def _far_end(bundle_dir: str, message_file: str) -> None:
    bundle = Bundle.open(bundle_dir)
    cut = bundle.manifest.planned
    assert bundle.tail is not None
    tail = Runner(bundle.tail, bundle.manifest.tail_settings)
    message = Path(message_file).read_bytes()
    expected = [Tensor(spec.tensor, spec.dtype, spec.shape) for spec in cut.crossing]
    codecs = {spec.tensor: spec.codec for spec in cut.crossing}

    def decode() -> dict[str, Array]:
        request = pb.ModelInferRequest.FromString(message)
        return wire.unpack(wire.read_packets(request), expected, codecs)

    def run(arrays: dict[str, Array]) -> list[Array]:
        return tail.run({port.name: arrays[port.name] for port in tail.inputs})

    response = pb.ModelInferResponse(model_name=bundle.manifest.name)
    outputs = zip(tail.outputs, run(decode()), strict=True)
    packets = [wire.pack(port.name, value, Codec("raw")) for port, value in outputs]
    wire.write_packets(response, packets)
    reply = response.SerializeToString()

    def timed(request: bytes, context: grpc.ServicerContext) -> bytes:
        seconds = [0.0, 0.0]
        times = int(request)
        for _ in range(times):
            started = time.perf_counter()
            arrays = decode()
            decoded = time.perf_counter()
            run(arrays)
            seconds[0] += decoded - started
            seconds[1] += time.perf_counter() - decoded
        return json.dumps([total / times for total in seconds]).encode()

    handlers = {
        "Link": grpc.unary_unary_rpc_method_handler(lambda request, context: reply),
        "Tail": grpc.unary_unary_rpc_method_handler(timed),
    }
    server = grpc.server(ThreadPoolExecutor(16), options=UNLIMITED)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("alone", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    _far_end(sys.argv[1], sys.argv[2])
