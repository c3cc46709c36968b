"""Bundles with a way out, servers that misbehave, and a look at what a session leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx

from splitter.graph.cut import cut_at, cut_of
from splitter.graph.read import load_model
from splitter.link import Link
from splitter.partition.bundle import Deployment, Division, write_bundle
from splitter.partition.manifest import CutCost
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.protocol import SERVICE
from tests.models import save
from tests.serving import EXACT

Array = np.ndarray[Any, Any]
Infer = Callable[[bytes, grpc.ServicerContext], bytes]


def cuts_bundle(
    model: onnx.ModelProto,
    folder: Path,
    *cuts: Sequence[str],
    whole: bool = True,
    stand_in: onnx.ModelProto | None = None,
    costs: Sequence[CutCost] = (),
    link: Link | None = None,
) -> Path:
    """A bundle cut at these tensors, the first being planned, and with the whole model as fallback."""
    folder.mkdir(parents=True, exist_ok=True)
    read = load_model(save(model, folder / "model.onnx"))
    chosen = [cut_at(read.graph, at) if at else cut_of(read.graph, []) for at in cuts]
    if whole:
        chosen.append(cut_of(read.graph, list(read.graph.node_of)))
    priced = [*costs, *[None] * (len(chosen) - len(costs))]
    divisions = [Division(cut, cost=cost) for cut, cost in zip(chosen, priced, strict=True)]
    small = None if stand_in is None else save(stand_in, folder / "small.onnx")
    deployment = Deployment(EXACT, link=link, stand_in=small)
    return write_bundle(read, divisions, folder / "bundle", deployment).folder


@contextmanager
def fake_server(infer: Infer, *, is_ready: bool = True) -> Iterator[str]:
    """A server of the protocol whose inference is ours; yields its address."""
    handlers = {
        "ModelInfer": grpc.unary_unary_rpc_method_handler(infer),
        "ServerReady": grpc.unary_unary_rpc_method_handler(
            lambda request, context: pb.ServerReadyResponse(ready=is_ready),
            request_deserializer=pb.ServerReadyRequest.FromString,
            response_serializer=pb.ServerReadyResponse.SerializeToString,
        ),
    }
    server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def passing_on(address: str) -> tuple[Infer, Callable[[], None]]:
    """Inference by a real server, for fakes that misbehave only now and then; and what ends it."""
    channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
    call = channel.unary_unary(f"/{SERVICE}/ModelInfer", bytes, bytes)
    return (lambda request, context: call(request, timeout=20)), channel.close


class ServerProcess:
    """``splitter serve`` in a process of its own, which can be killed and started again."""

    def __init__(self, bundle: Path) -> None:
        self._bundle, self.address = bundle, "127.0.0.1:0"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "splitter", "serve", str(self._bundle)]
        self._process = subprocess.Popen(
            [*command, "--listen", self.address], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("serving"), line
        self.address = line.split()[-1]

    def kill(self) -> None:
        """At once, as by a power cut."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __enter__(self) -> ServerProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def eventually(holds: Callable[[], object], within_s: float = 15.0) -> bool:
    """Ask again and again until it holds; False where it never did."""
    ends_s = time.monotonic() + within_s
    while time.monotonic() < ends_s:
        if holds():
            return True
        threading.Event().wait(0.01)
    return False


def our_threads() -> list[str]:
    """Threads of sessions that are alive."""
    return [t.name for t in threading.enumerate() if t.name.startswith("splitter-")]


def open_sockets() -> int:
    """Sockets that this process has open."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except OSError:  # that of the listing itself
            continue
    return count
