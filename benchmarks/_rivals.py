"""The servers that ours is compared with: their versions, their settings, their environments."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from _processes import REPOSITORY

SCRIPTS = Path(__file__).parent / "rivals"
INSTALL_TIMEOUT_S = 1200.0


@dataclass(frozen=True)
class Rival:
    """How a server is installed, run and called."""

    name: str
    requirements: tuple[str, ...]
    script: str
    client: str = "grpc"
    arguments: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    settings: str = ""
    """What was chosen, in words, for the reader of the figures."""


_ONNXRUNTIME = "onnxruntime==1.31.1"
_RAY = ("ray[serve]==2.60.0", _ONNXRUNTIME)
# the messages that its ingress passes on are imported by their top-level name in every worker
_RAY_ENV = {
    "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "splitter/serving/_pb2"), str(SCRIPTS)]),
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
}
RIVALS = (
    Rival(
        "kserve", ("kserve==0.21.0", _ONNXRUNTIME), "kserve_server.py",
        settings="gRPC, one worker, raw contents",
    ),
    Rival(
        "mlserver", ("mlserver==1.7.1", "uvloop<0.22", _ONNXRUNTIME), "mlserver_server.py",
        settings="gRPC, parallel_workers=0, no metrics",
    ),
    Rival(
        "ray-grpc", _RAY, "ray_server.py", "ray", arguments=("--ingress", "grpc"), env=_RAY_ENV,
        settings="gRPC ingress, one replica, RAY_SERVE_THROUGHPUT_OPTIMIZED=1",
    ),
    Rival(
        "ray-http", _RAY, "ray_server.py", "http", arguments=("--ingress", "http"), env=_RAY_ENV,
        settings="HTTP ingress, raw bytes, one replica, RAY_SERVE_THROUGHPUT_OPTIMIZED=1",
    ),
    Rival(
        "litserve", ("litserve==0.2.19", _ONNXRUNTIME), "litserve_server.py", "http",
        settings="HTTP, raw bytes, one worker, fast_queue",
    ),
)  # fmt: skip


def environment(rival: Rival, cache: Path) -> Path:
    """The Python of the rival's environment, made if it is not there; raises CalledProcessError."""
    key = "\n".join([sys.version.split()[0], *rival.requirements])
    folder = cache / f"{rival.name.split('-')[0]}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        print(f"installing {', '.join(rival.requirements)} in {folder}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", *rival.requirements],
            check=True,
            timeout=INSTALL_TIMEOUT_S,
            stdout=sys.stderr,
        )
        done.touch()
    return python
