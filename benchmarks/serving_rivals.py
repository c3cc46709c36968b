"""Our server beside a bare server of the same protocol and four others, one cheap model on each.

The model is one Neg of N float32, run by onnxruntime on one thread; what is timed is everything else.
``floor`` answers with what it was sent, from a bare grpc.aio server; ``bare`` is that server running the
model in its handler. Each rival is installed with pip into an environment of its own, outside the
repository, runs as its own process with the settings that its documentation calls fast, and is timed
in turns with floor, bare and ours by one client in this process. JSON lines on standard output::

    python benchmarks/serving_rivals.py [--only kserve,ray-grpc] [--smoke]
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import onnx.parser
from _processes import NotReadyError, end_on_sigterm, free_port, running
from _rivals import RIVALS, SCRIPTS, Rival, environment

from splitter.graph.cut import cut_of
from splitter.graph.read import load_model
from splitter.partition.bundle import Deployment, Division, write_bundle
from splitter.runtime import Settings
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.protocol import SERVICE

SIZES = {"100 B": 25, "10 kB": 2_500, "1 MB": 250_000}
BLOCK = 10
"""Requests in a turn; the one before them, which finds caches cold, is not counted."""
CONCURRENCY = 4
MOST_P50, MOST_P99 = 1.25, 2.0
"""The bar: ours over the floor."""
KEEPING_MEMORY = {"MALLOC_TRIM_THRESHOLD_": "100000000", "MALLOC_MMAP_THRESHOLD_": "100000000"}
"""For every server but ours: else a bare one gives its memory back after each message of 1 MB and faults it
in again for the next, which makes it two to three times slower than one that does more."""
REQUEST_TIMEOUT_S = 20.0
CALL_FAILURES = (grpc.RpcError, OSError, http.client.HTTPException)
FAILURES = (*CALL_FAILURES, subprocess.SubprocessError, NotReadyError)
"""Of a rival's installation, start or answers: it is left out, with the reason, and the rest goes on."""

Array = np.ndarray
Infer = Callable[[], Array]


def report(subject: str, size: str, **figures: object) -> None:
    print(json.dumps({"benchmark": "serving_rivals", "subject": subject, "size": size, **figures}))
    sys.stdout.flush()


# --- clients


Metadata = tuple[tuple[str, str], ...]


def over_grpc(stack: ExitStack, port: int, array: Array, metadata: Metadata = ()) -> Infer:
    options = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}", options=options))
    call = channel.unary_unary(
        f"/{SERVICE}/ModelInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelInferResponse.FromString,
    )

    def infer() -> Array:
        request = pb.ModelInferRequest(model_name="echo")
        request.inputs.add(name="x", datatype="FP32", shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
        response = call(request, timeout=REQUEST_TIMEOUT_S, metadata=metadata)
        return np.frombuffer(response.raw_output_contents[0], np.float32)

    return infer


def over_http(stack: ExitStack, port: int, array: Array) -> Infer:
    """The tensor's bytes and nothing else, either way, on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REQUEST_TIMEOUT_S)
    stack.callback(connection.close)
    headers = {"Content-Type": "application/octet-stream"}

    def infer() -> Array:
        try:
            connection.request("POST", "/predict", array.tobytes(), headers)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()  # the next one connects anew
            raise
        if answer.status != http.HTTPStatus.OK:
            raise OSError(f"status {answer.status}: {body[:200]!r}")
        return np.frombuffer(body, np.float32)

    return infer


CLIENTS: Mapping[str, Callable[[ExitStack, int, Array], Infer]] = {
    "grpc": over_grpc,
    "ray": partial(over_grpc, metadata=(("application", "default"),)),  # Ray chooses by it
    "http": over_http,
}


@dataclass(frozen=True)
class Contender:
    """A server that runs, and how it is called."""

    name: str
    port_of: Mapping[str, int]
    """By size: one of ours serves one shape."""
    client: str = "grpc"
    settings: str = ""

    def connect(self, stack: ExitStack, size: str, array: Array) -> Infer:
        return CLIENTS[self.client](stack, self.port_of[size], array)


def answers(name: str, client: str, port: int, count: int) -> Callable[[], bool]:
    """Whether a server gives the right answer, once, on a new connection."""
    array = np.arange(1, count + 1, dtype=np.float32)
    expected = array if name == "floor" else -array

    def is_ready() -> bool:
        with ExitStack() as stack:
            try:
                return np.array_equal(CLIENTS[client](stack, port, array)(), expected)
            except (*CALL_FAILURES, IndexError):
                return False

    return is_ready


# --- servers


def write_models(folder: Path) -> Path:
    """Write the model for the rivals, of any length, and a bundle that sends the input for each size."""
    for name, length in {
        "any": "N",
        **{str(count): str(count) for count in SIZES.values()},
    }.items():
        text = f"""<ir_version: 8, opset_import: ["" : 17]>
            echo (float[{length}] x) => (float[{length}] y) {{ y = Neg(x) }}"""
        path = folder / name / "echo.onnx"
        path.parent.mkdir()
        path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
        if name != "any":
            model = load_model(path)
            division = Division(cut_of(model.graph, []))
            write_bundle(model, [division], folder / name / "b", Deployment(Settings(threads=1)))
    return folder / "any" / "echo.onnx"


def start_ours(stack: ExitStack, folder: Path) -> list[Contender]:
    """Floor, bare and ours, which all bouts share: while they are not called they do nothing."""
    contenders = []
    for name, arguments in {"floor": [], "bare": ["--run", str(folder / "any/echo.onnx")]}.items():
        port = free_port()
        command = [sys.executable, str(SCRIPTS / "floor.py"), "--port", str(port), *arguments]
        is_ready = answers(name, "grpc", port, 25)
        stack.enter_context(running(command, is_ready, env=KEEPING_MEMORY))
        contenders.append(Contender(name, dict.fromkeys(SIZES, port)))
    ports = {}
    for size, count in SIZES.items():
        ports[size] = port = free_port()
        command = [sys.executable, "-m", "splitter", "serve", str(folder / str(count) / "b")]
        command += ["--listen", f"127.0.0.1:{port}"]
        stack.enter_context(running(command, answers("ours", "grpc", port, count)))
    return [*contenders, Contender("ours", ports)]


@contextmanager
def serving(rival: Rival, python: Path, model: Path) -> Iterator[Contender]:
    port = free_port()
    script = str(SCRIPTS / rival.script)
    command = [str(python), script, "--model", str(model), "--port", str(port), *rival.arguments]
    is_ready = answers(rival.name, rival.client, port, 25)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        env = {**KEEPING_MEMORY, **rival.env, "TMPDIR": folder}
        with running(command, is_ready, timeout_s=120, env=env):
            yield Contender(rival.name, dict.fromkeys(SIZES, port), rival.client, rival.settings)


# --- timing


def latencies(infers: Mapping[str, Infer], budget_s: float) -> dict[str, Array]:
    """Seconds of single requests, in turns of a block each; the first turn is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in infers}
    names, order = list(infers), np.random.default_rng(0)
    ends = time.perf_counter() + budget_s
    turn = 0
    while turn < 3 or time.perf_counter() < ends:
        for name in order.permutation(names):  # none always follows the same one
            infers[name]()
            for _ in range(BLOCK):
                started = time.perf_counter()
                infers[name]()
                if turn:
                    seconds[name].append(time.perf_counter() - started)
        turn += 1
    return {name: np.array(values) for name, values in seconds.items()}


def rates(
    contenders: list[Contender], size: str, array: Array, budget_s: float
) -> dict[str, float]:
    """Requests per second of four clients with a connection each, as the median of turns."""
    found: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(CONCURRENCY))
        clients = {
            contender.name: [contender.connect(stack, size, array) for _ in range(CONCURRENCY)]
            for contender in contenders
        }
        for name, infers in [*clients.items()] * 3:
            started = time.perf_counter()
            ends = started + budget_s / (3 * len(clients))
            counts = list(pool.map(lambda infer, ends=ends: _until(ends, infer), infers))
            found[name].append(sum(counts) / (time.perf_counter() - started))
    return {name: float(np.median(values)) for name, values in found.items()}


def _until(ends: float, infer: Infer) -> int:
    count = 0
    while time.perf_counter() < ends:
        infer()
        count += 1
    return count


Samples = dict[tuple[str, str], list[Array]]


def bout(contenders: list[Contender], budget_s: float, samples: Samples) -> None:
    """Time the contenders against each other at each size, and add what was found to the samples."""
    for size, count in SIZES.items():
        array = np.random.default_rng(0).standard_normal(count).astype(np.float32)
        with ExitStack() as stack:
            infers = {c.name: c.connect(stack, size, array) for c in contenders}
            found = latencies(infers, budget_s)
        per_s = rates(contenders, size, array, budget_s / 2)
        p50, p99 = ({n: float(np.percentile(s, q)) for n, s in found.items()} for q in (50, 99))
        for contender in contenders:
            name = contender.name
            samples.setdefault((size, name), []).append(found[name])
            report(
                name,
                size,
                beside=contenders[-1].name,
                p50_ms=round(p50[name] * 1e3, 3),
                p99_ms=round(p99[name] * 1e3, 3),
                p50_over_floor=round(p50[name] / p50["floor"], 3),
                p99_over_floor=round(p99[name] / p99["floor"], 3),
                p50_over_ours=round(p50[name] / p50["ours"], 3),
                requests_per_s=round(per_s[name]),
                requests=len(found[name]),
                **({"settings": contender.settings} if contender.settings else {}),
            )


def bars(samples: Samples) -> None:
    """Ours against the floor over all bouts, and against each rival within its bout."""
    for size in SIZES:
        ours, floor, bare = (
            np.concatenate(samples[size, name]) for name in ("ours", "floor", "bare")
        )
        p50, p99 = (float(np.percentile(ours, q) / np.percentile(floor, q)) for q in (50, 99))
        report(
            "bar: ours over floor",
            size,
            p50=round(p50, 3),
            p50_bar=MOST_P50,
            p50_over_bare=round(float(np.median(ours) / np.median(bare)), 3),
            p99=round(p99, 3),
            p99_bar=MOST_P99,
            met=p50 <= MOST_P50 and p99 <= MOST_P99,
        )


# --- the command


def main() -> None:
    end_on_sigterm()
    names = [rival.name for rival in RIVALS]
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", metavar="RIVAL,...", help=f"of {', '.join(names)}; 'none': ours")
    parser.add_argument("--cache", type=Path, default=default / "splitter-benchmarks")
    parser.add_argument("--seconds", type=float, default=8, help="of timing, a size and a rival")
    parser.add_argument("--install", action="store_true", help="make the environments and stop")
    parser.add_argument("--smoke", action="store_true", help="floor and ours only; few rounds")
    options = parser.parse_args()
    wanted = [] if options.smoke else (options.only or ",".join(names)).split(",")
    unknown = set(wanted) - {*names, "none"}
    if unknown:
        parser.error(f"no rival is named {sorted(unknown)[0]!r}; there are {', '.join(names)}")
    samples: Samples = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = write_models(folder)
        shared = [] if options.install else start_ours(stack, folder)
        for rival in (rival for rival in RIVALS if rival.name in wanted):
            try:
                python = environment(rival, options.cache)
                if not options.install:
                    with serving(rival, python, model) as contender:
                        bout([*shared, contender], options.seconds, samples)
            except FAILURES as exc:
                report(rival.name, "", left_out=str(exc))
        if not options.install and not samples:
            bout(shared, 0 if options.smoke else options.seconds, samples)
    if samples and not options.smoke:
        bars(samples)


if __name__ == "__main__":
    main()
