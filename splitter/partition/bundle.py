"""A bundle: the folder that is deployed, written whole and checked, or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path, PureWindowsPath

import msgspec
import onnx

from splitter.codec import CODECS, Codec
from splitter.document import write_document
from splitter.errors import BundleError, CutError
from splitter.graph.cut import Cut, cut_of
from splitter.graph.model import Model
from splitter.graph.values import Graph
from splitter.partition.check import (
    Values,
    accepted_feeds,
    chain,
    compare,
    compare_each,
    demand_equal,
    run_one,
    served_limit,
    tolerance,
)
from splitter.partition.extract import Extractor, Part
from splitter.partition.folder import replacing_bundle
from splitter.partition.manifest import (
    HEAD,
    MANIFEST,
    TAIL,
    CrossingSpec,
    FileSpec,
    Manifest,
    PortSpec,
)
from splitter.partition.quantised import inside_graph, quantise_parts, rest_of
from splitter.partition.weights import externalise, has_external, weight_bytes
from splitter.preprocess import Preprocess
from splitter.runtime import Optimisation, Runner, Settings

EXTERNAL_OVER_BYTES = 64 << 20
"""Weights of a model that together are larger are kept beside the parts, as those already external."""
DEFAULT_CODEC = CODECS["zstd"]
_WORD_OF = {HEAD: "head", TAIL: "tail"}
_EXACT = Settings(optimisation=Optimisation.NONE)


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose files are what its manifest says."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, part: str | None = None) -> Bundle:
        """Read and verify a bundle; with ``part`` (``head.onnx``) only that part's files are needed.

        Raises
        ------
        BundleError
            The manifest is missing, of another schema, or names a file outside the folder; a file is
            missing, or its size or digest differs.
        """
        folder = Path(folder)
        manifest = Manifest.load(folder)
        for name, spec in manifest.files.items():
            if PureWindowsPath(name).name != name or name in ("", "..", MANIFEST):
                raise BundleError(f"{folder / MANIFEST}: {name!r} is not a file of a bundle")
            if part is None or name.startswith(part):
                _verify(folder / name, spec)
        if manifest.digest != digest_of(manifest.files, manifest.crossing):
            raise BundleError(
                f"{folder / MANIFEST}: its digest is not that of its files; split again"
            )
        return cls(folder, manifest)

    @property
    def head(self) -> Path | None:
        """The device's model; None where everything runs on the server."""
        return self.folder / HEAD if HEAD in self.manifest.files else None

    @property
    def tail(self) -> Path | None:
        """The server's model; None where everything runs on the device."""
        return self.folder / TAIL if TAIL in self.manifest.files else None


def write_bundle(
    model: Model,
    cut: Cut,
    out_dir: str | os.PathLike[str],
    *,
    codecs: Mapping[str, Codec] | None = None,
    settings: Settings = Settings(),  # noqa: B008  (frozen)
    tail_settings: Settings | None = None,
    feeds: Values | None = None,
    predicted_s: float | None = None,
    preprocess: Preprocess | None = None,
    quantise_in_graph: bool = True,
    external_over_bytes: int = EXTERNAL_OVER_BYTES,
) -> Bundle:
    """Write head, tail and manifest, and check that together they do what the whole model does.

    ``codecs`` is by crossing tensor, ``tail_settings`` the server's where they differ from the device's.
    The check is on ``feeds``, or on random inputs: bit for bit with optimisation off, and within the
    tolerance of the model's dtype as the device will run it. A bundle that is already at ``out_dir`` is
    replaced at the end; on any failure nothing changes. Where a codec quantises, the parts do it, unless
    ``quantise_in_graph`` is off. ``preprocess`` says how a photo becomes the input.

    Raises
    ------
    BundleError
        The outputs differ, the checker refuses a part, or ``out_dir`` holds something else.
    CutError
        A crossing tensor cannot travel.
    CodecError
        A codec is not one for the tensor that it is given for.
    """
    out_dir = Path(out_dir).resolve()
    cut = cut_of(model.graph, cut.head)
    with replacing_bundle(out_dir) as folder:
        crossing = _crossing(model.graph, cut.crossing, codecs or {})
        written = write_parts(model, cut, folder, external_over_bytes)
        crossing = crossing if TAIL in written else ()
        head, tail = (folder / name if name in written else None for name in (HEAD, TAIL))
        feeds = _check_equal(model, (head, tail), settings, feeds)
        quantisers = inside_graph(model.graph, crossing) if quantise_in_graph else {}
        if quantisers and head is not None and tail is not None:
            quantise_parts(head, tail, quantisers, feeds)
            crossing = tuple(_quantised(s) if s.tensor in quantisers else s for s in crossing)
        files = _files(folder)
        manifest = Manifest(
            name=model.path.stem,
            model_sha256=model.graph.sha256,
            digest=digest_of(files, crossing),
            dims=dict(model.graph.dims),
            crossing=crossing,
            head_nodes=tuple(n.name for n in model.graph.nodes if n.name in cut.head),
            inputs=_inputs(model.graph, written),
            outputs=_outputs(model.graph, written),
            files=files,
            settings=settings,
            tail_settings=tail_settings or settings,
            plan_predicted_s=predicted_s,
            preprocess=preprocess,
        )
        write_document(folder / MANIFEST, manifest)
    return Bundle(out_dir, manifest)


def digest_of(files: Mapping[str, FileSpec], crossing: tuple[CrossingSpec, ...]) -> str:
    """sha256 over the files' names and digests, sorted, and the crossing tensors in order, as JSON."""
    digests = sorted((name, spec.sha256) for name, spec in files.items())
    return hashlib.sha256(msgspec.json.encode((digests, crossing))).hexdigest()


@dataclass(frozen=True)
class Ports:
    """What a part that was written reads and makes."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def write_parts(
    model: Model, cut: Cut, folder: Path, external_over_bytes: int = EXTERNAL_OVER_BYTES
) -> dict[str, Ports]:
    """Write and check the parts that make something; one at a time is in memory beside the model.

    Raises
    ------
    BundleError
        The checker refuses a part.
    """
    extractor = Extractor(model)
    is_external = has_external(model.proto) or weight_bytes(model.proto) > external_over_bytes
    weights_dir = model.weights_dir if is_external else None
    written = {
        HEAD: _write_part(extractor.head(cut), folder / HEAD, weights_dir),
        TAIL: _write_part(extractor.tail(cut), folder / TAIL, weights_dir),
    }
    return {name: ports for name, ports in written.items() if ports.outputs}


def _write_part(part: Part, path: Path, weights_dir: Path | None) -> Ports:
    """Write a part, its weights beside it if the folder of the model's is given, and check it."""
    ports = Ports(part.inputs, part.outputs)
    if not ports.outputs:
        return ports
    if weights_dir is not None:
        data = path.with_name(f"{path.name}.data")
        with data.open("wb") as file:
            externalise(part.proto, weights_dir, file, data.name)
        if data.stat().st_size == 0:
            data.unlink()
    path.write_bytes(part.to_bytes())
    try:
        onnx.checker.check_model(os.fspath(path))
    except (onnx.checker.ValidationError, ValueError) as exc:
        raise BundleError(f"{path.name}: the checker refuses it: {_first_line(exc)}") from exc
    return ports


def _crossing(
    graph: Graph, names: tuple[str, ...], codecs: Mapping[str, Codec]
) -> tuple[CrossingSpec, ...]:
    for name in codecs:
        if name not in names:
            raise CutError(f"a codec is given for {name!r}, which does not cross")
    specs = []
    for name in names:
        tensor = graph.tensors[name]
        if tensor.shape is None or tensor.nbytes is None:
            kind = f"a {tensor.dtype}" + ("" if tensor.shape else " of unknown shape")
            raise CutError(f"{name!r} is {kind} and cannot cross; cut before or after it")
        codec = codecs.get(name, DEFAULT_CODEC)
        codec.forms(tensor.dtype, tensor.shape)
        spec = CrossingSpec(
            tensor=name, dtype=tensor.dtype, shape=tensor.shape, nbytes=tensor.nbytes, codec=codec
        )
        specs.append(spec)
    return tuple(specs)


def _quantised(spec: CrossingSpec) -> CrossingSpec:
    """The levels of a tensor that the head itself quantises."""
    return msgspec.structs.replace(
        spec, dtype="uint8", nbytes=prod(spec.shape), codec=rest_of(spec.codec)
    )


def _inputs(graph: Graph, written: Mapping[str, Ports]) -> tuple[PortSpec, ...]:
    specs = []
    for name in graph.inputs:
        readers = [
            part for part in (HEAD, TAIL) if part in written and name in written[part].inputs
        ]
        part = {0: "none", 1: _WORD_OF[(readers or [HEAD])[0]], 2: "both"}[len(readers)]
        tensor = graph.tensors[name]
        specs.append(PortSpec(name=name, dtype=tensor.dtype, shape=tensor.shape, part=part))
    return tuple(specs)


def _outputs(graph: Graph, written: Mapping[str, Ports]) -> tuple[PortSpec, ...]:
    specs = []
    for name in graph.outputs:
        tensor = graph.tensors.get(name) or graph.weights[name]
        part = next(_WORD_OF[part] for part, ports in written.items() if name in ports.outputs)
        specs.append(PortSpec(name=name, dtype=tensor.dtype, shape=tensor.shape, part=part))
    return tuple(specs)


def _files(folder: Path) -> dict[str, FileSpec]:
    return {
        path.name: FileSpec(nbytes=path.stat().st_size, sha256=_sha256(path))
        for path in sorted(folder.iterdir())
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify(path: Path, spec: FileSpec) -> None:
    if not path.is_file():
        raise BundleError(f"{path}: missing from the bundle; split again")
    if path.stat().st_size != spec.nbytes:
        raise BundleError(
            f"{path}: has {path.stat().st_size} bytes, the manifest says {spec.nbytes}; split again"
        )
    if _sha256(path) != spec.sha256:
        raise BundleError(f"{path}: its digest is not the manifest's; split again")


def _check_equal(
    model: Model,
    parts: tuple[Path | None, Path | None],
    served: Settings,
    feeds: Values | None,
) -> Values:
    """Run the whole, then head and tail as written, with optimisation off and as they will serve.

    Returns the feeds that it was done on.
    """
    exact = _EXACT
    whole = Runner(model.path, exact)
    if feeds is None:
        feeds, plain = accepted_feeds(whole, model.graph)
    else:
        plain = run_one(whole, feeds)
    del whole  # two copies of the weights in memory at most
    for difference in compare_each(plain, _run(parts, exact, feeds)):
        demand_equal(difference, tolerance(model.graph, exact), exact)
    if served.optimisation is not exact.optimisation:
        expected = run_one(Runner(model.path, served), feeds)
        limit = served_limit(model.graph, served, compare(plain, expected))
        for difference in compare_each(expected, _run(parts, served, feeds)):
            demand_equal(difference, limit, served)
    return feeds


def _run(parts: tuple[Path | None, Path | None], settings: Settings, feeds: Values) -> Values:
    head, tail = (Runner(path, settings) if path else None for path in parts)
    return chain(head, tail, feeds)


def _first_line(exc: Exception) -> str:
    return str(exc).strip().splitlines()[0]
