"""Peak memory of planning a model whose weights are external, in a process of its own: JSON lines out.

The model is a chain of large matrix products; its weights file is sparse on disk.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from onnx import TensorProto, helper

WIDTH = 4096


def write_model(path: Path, layers: int) -> int:
    """Write the model and its weights file; returns the bytes of the weights."""
    nbytes = WIDTH * WIDTH * 4
    weights, nodes, last = [], [], "x"
    for layer in range(layers):
        tensor = TensorProto(
            name=f"w{layer}", data_type=TensorProto.FLOAT, dims=[WIDTH, WIDTH],
            data_location=TensorProto.EXTERNAL,
        )  # fmt: skip
        place = {"location": f"{path.name}.data", "offset": layer * nbytes, "length": nbytes}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        weights.append(tensor)
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"]))
        nodes.append(helper.make_node("Relu", [f"m{layer}"], [f"r{layer}"]))
        last = f"r{layer}"
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, WIDTH]) for n in ("x", last)]
    graph = helper.make_graph(nodes, "chain", ports[:1], ports[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    with path.with_name(f"{path.name}.data").open("wb") as file:
        file.truncate(layers * nbytes)
    return layers * nbytes


def peak_bytes(arguments: list[str]) -> tuple[int, float]:
    """Run ``splitter`` and return its peak resident memory and its seconds."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "splitter", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"splitter {arguments[0]} failed")
    return usage.ru_maxrss * 1024, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=9, help="67 MB of weights each")
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model, profile = Path(folder) / "chain.onnx", str(Path(folder) / "here.json")
        weights_bytes = write_model(model, 1 if options.smoke else options.layers)
        commands = {
            "profile": ["profile", str(model), "--seconds", "1", "-o", profile],
            "inspect": ["inspect", str(model)],
            "plan": [
                "plan",
                str(model),
                "--device",
                "raspberry-pi-4",
                "--server",
                profile,
                "--link",
                "lte",
            ],
        }
        for name, arguments in commands.items():
            peak, seconds = peak_bytes(arguments)
            line = {"benchmark": "memory", "command": name, "weights_bytes": weights_bytes}
            print(
                json.dumps({**line, "peak_bytes": peak, "seconds": round(seconds, 2)}), flush=True
            )


if __name__ == "__main__":
    main()
