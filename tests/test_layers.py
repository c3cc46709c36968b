"""The layers of docs/design: imports go down the list only, and each heavy dependency has one owner."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(path for path in (ROOT / "splitter").rglob("*.py") if "_pb2" not in path.parts)
LAYERS = [
    "errors", "document", "catalog", "preprocess", "picture", "graph", "allocator", "runtime", "codec",
    "link", "partition", "link_parse", "feeds", "dataset", "example", "profiling", "calibration",
    "planning", "serving", "reporting", "arguments", "api", "cli", "__main__",
]  # fmt: skip
OWNERS = {
    "onnx": ("graph", "partition"),
    "onnxruntime": ("runtime",),
    "pulp": ("planning.solver",),
    "zstandard": ("codec.zstd",),
    "lz4": ("codec.lz4",),
    "PIL": ("picture",),
    "soundfile": ("codec.flac", "dataset"),
    "matplotlib": ("reporting.plots",),
    "numba": ("codec.rans_kernels",),
    "grpc": ("serving",),
    "opentelemetry": ("serving.tracing", "cli.traces"),
    "prometheus_client": ("serving.server.metrics", "serving.server.monitor", "serving.scrape"),
    "grpc_health": ("serving.server.health",),
    "grpc_reflection": ("serving.server.health",),
    "google": ("graph", "partition", "serving"),
    "yaml": ("catalog",),
    "rich": ("cli", "reporting"),
    "click": ("cli",),
}
LONGEST = 400


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT / "splitter").with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative imports hide the layer"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def inside(module: str, owners: tuple[str, ...]) -> bool:
    return any(module == owner or module.startswith(f"{owner}.") for owner in owners)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down_only(path):
    layer = name_of(path).partition(".")[0]
    if not layer:
        return  # the package itself gathers what users call, from all layers
    assert layer in LAYERS, f"{layer} has no place in the layers"
    for imported in imports_of(path):
        package, _, rest = imported.partition(".")
        other = rest.partition(".")[0]
        if package == "splitter" and other in LAYERS:
            assert LAYERS.index(other) <= LAYERS.index(layer), f"{layer} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_each_heavy_dependency_is_imported_by_its_owner_only(path):
    for imported in imports_of(path):
        owners = OWNERS.get(imported.partition(".")[0])
        assert owners is None or inside(name_of(path), owners), f"{imported} belongs to {owners}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_command_line_prints(path):
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    printing = [call for call in calls if ast.unparse(call.func) in {"print", "sys.stdout.write"}]
    assert not printing or inside(name_of(path), ("cli",))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_file_is_too_long_to_read_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= LONGEST
