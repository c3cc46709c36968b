"""A bundle: the folder that is deployed, written whole and checked, or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from splitter.link import Link
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
    CutCost,
    CutSpec,
    FileSpec,
    Manifest,
    PortSpec,
    bundle_digest,
    cut_id,
)
from splitter.partition.quantised import inside_graph, quantise_parts, rest_of
from splitter.partition.weights import externalise, has_external, weight_bytes
from splitter.preprocess import Preprocess
from splitter.runtime import Optimisation, Runner, Settings

EXTERNAL_OVER_BYTES = 64 << 20
"""Weights of a model that together are larger are kept beside the parts, as those already external."""
DEFAULT_CODEC = CODECS["zstd"]
_EXACT = Settings(optimisation=Optimisation.NONE)


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose files are what its manifest says."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, role: str | None = None) -> Bundle:
        """Read and verify a bundle; a ``role`` (``device``, ``server``) needs its own files only.

        Raises
        ------
        BundleError
            The manifest is missing, of another schema, names a file outside the folder or contradicts
            itself; a file is missing, or its size or digest differs.
        """
        folder = Path(folder)
        manifest = Manifest.load(folder)
        for name in manifest.files:
            if PureWindowsPath(name).name != name or name in ("", "..", MANIFEST):
                raise BundleError(f"{folder / MANIFEST}: {name!r} is not a file of a bundle")
        _check_cuts(folder / MANIFEST, manifest)
        for name in sorted(manifest.files_of(role)):
            if name not in manifest.files:
                raise BundleError(f"{folder / MANIFEST}: {name!r} is not among its files")
            _verify(folder / name, manifest.files[name])
        if manifest.digest != bundle_digest(manifest.files, manifest.cuts):
            raise BundleError(
                f"{folder / MANIFEST}: its digest is not that of its files; split again"
            )
        return cls(folder, manifest)

    @property
    def head(self) -> Path | None:
        """The device's model of the planned cut; None where everything runs on the server."""
        return self.path(self.manifest.planned.head)

    @property
    def tail(self) -> Path | None:
        """The server's model of the planned cut; None where everything runs on the device."""
        return self.path(self.manifest.planned.tail)

    def path(self, file: str | None) -> Path | None:
        """A file of the bundle; None for None."""
        return None if file is None else self.folder / file


def _check_cuts(origin: Path, manifest: Manifest) -> None:
    """Refuse ids that do not name their cut: a session and a server would mean different things by them."""
    ids = [cut.id for cut in manifest.cuts]
    for cut in manifest.cuts:
        if ids.count(cut.id) > 1 or cut.id != cut_id(cut.head_nodes, cut.crossing):
            raise BundleError(
                f"{origin}: cut {cut.name!r} has the wrong id {cut.id!r}; split again"
            )
        if cut.head is None and cut.tail is None:
            raise BundleError(f"{origin}: cut {cut.name!r} has neither head nor tail; split again")


@dataclass(frozen=True)
class Division:
    """A cut to be written, with the codecs (by crossing tensor) that it is sent in."""

    cut: Cut
    codecs: Mapping[str, Codec] = field(default_factory=dict)
    name: str = "split"
    cost: CutCost | None = None


@dataclass(frozen=True)
class Deployment:
    """What else a bundle holds beside its parts."""

    settings: Settings = Settings()
    tail_settings: Settings | None = None
    """The server's, where they differ from the device's."""
    link: Link | None = None
    predicted_s: float | None = None
    preprocess: Preprocess | None = None
    """How a photo becomes the input."""


def write_bundle(
    model: Model,
    divisions: Sequence[Division],
    out_dir: str | os.PathLike[str],
    deployment: Deployment = Deployment(),  # noqa: B008  (frozen)
    *,
    feeds: Values | None = None,
    quantise_in_graph: bool = True,
    external_over_bytes: int = EXTERNAL_OVER_BYTES,
) -> Bundle:
    """Write heads, tails and manifest, and check that they do together what the whole model does.

    The planned cut comes first. The check is on ``feeds``, or on random inputs: bit for bit with
    optimisation off, and within the tolerance of the model's dtype as the device will run it. A bundle that
    is already at ``out_dir`` is replaced at the end; on any failure nothing changes. Where a codec
    quantises, the parts do it, unless ``quantise_in_graph`` is off.

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
    with replacing_bundle(out_dir) as folder:
        writer = _Writer(model, folder, deployment.settings, external_over_bytes, quantise_in_graph)
        writer.feeds = feeds
        cuts: dict[str, CutSpec] = {}
        for division in divisions:
            spec = writer.write(division, len(cuts))
            cuts.setdefault(spec.id, spec)
        files = _files(folder)
        graph = model.graph
        manifest = Manifest(
            name=model.path.stem,
            model_sha256=graph.sha256,
            digest=bundle_digest(files, tuple(cuts.values())),
            dims=dict(graph.dims),
            cuts=tuple(cuts.values()),
            inputs=tuple(_port(graph, name) for name in graph.inputs),
            outputs=tuple(_port(graph, name) for name in graph.outputs),
            files=files,
            settings=deployment.settings,
            tail_settings=deployment.tail_settings or deployment.settings,
            link=deployment.link,
            plan_predicted_s=deployment.predicted_s,
            preprocess=deployment.preprocess,
        )
        write_document(folder / MANIFEST, manifest)
    return Bundle(out_dir, manifest)


class _Writer:
    """Writes the parts of one cut after the other into a folder, and checks each."""

    def __init__(
        self,
        model: Model,
        folder: Path,
        settings: Settings,
        external_over_bytes: int,
        quantises: bool,
    ) -> None:
        self.feeds: Values | None = None
        """Those of the check: given, or drawn by the first."""
        self._model, self._folder, self._settings = model, folder, settings
        self._external_over_bytes, self._quantises = external_over_bytes, quantises

    def write(self, division: Division, number: int) -> CutSpec:
        """Write the parts of a cut, under the names that its number gives them."""
        graph = self._model.graph
        cut = cut_of(graph, division.cut.head)
        crossing = _crossing(graph, cut.crossing, division.codecs)
        written = write_parts(
            self._model, cut, self._folder, self._external_over_bytes, number=number
        )
        crossing = crossing if TAIL in written else ()
        head, tail = (
            self._folder / numbered(kind, number) if kind in written else None
            for kind in (HEAD, TAIL)
        )
        self.feeds = _check_equal(self._model, (head, tail), self._settings, self.feeds)
        quantisers = inside_graph(graph, crossing) if self._quantises else {}
        if quantisers and head is not None and tail is not None:
            quantise_parts(head, tail, quantisers, self.feeds)
            crossing = tuple(_quantised(s) if s.tensor in quantisers else s for s in crossing)
        nodes = tuple(node.name for node in graph.nodes if node.name in cut.head)
        return CutSpec(
            id=cut_id(nodes, crossing),
            name=division.name,
            head=head.name if head else None,
            tail=tail.name if tail else None,
            crossing=crossing,
            head_nodes=nodes,
            tail_outputs=written[TAIL].outputs if TAIL in written else (),
            cost=division.cost,
        )


def numbered(kind: str, number: int) -> str:
    """``head.onnx`` of the planned cut, ``head-1.onnx`` of the next."""
    return kind if number == 0 else f"{Path(kind).stem}-{number}.onnx"


@dataclass(frozen=True)
class Ports:
    """What a part that was written reads and makes."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def write_parts(
    model: Model,
    cut: Cut,
    folder: Path,
    external_over_bytes: int = EXTERNAL_OVER_BYTES,
    *,
    number: int = 0,
) -> dict[str, Ports]:
    """Write and check the parts that make something; one at a time is in memory beside the model.

    They are called ``numbered``; the answer is by ``HEAD`` and ``TAIL``.

    Raises
    ------
    BundleError
        The checker refuses a part.
    """
    extractor = Extractor(model)
    is_external = has_external(model.proto) or weight_bytes(model.proto) > external_over_bytes
    weights_dir = model.weights_dir if is_external else None
    written = {
        HEAD: _write_part(extractor.head(cut), folder / numbered(HEAD, number), weights_dir),
        TAIL: _write_part(extractor.tail(cut), folder / numbered(TAIL, number), weights_dir),
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


def _port(graph: Graph, name: str) -> PortSpec:
    tensor = graph.tensors.get(name) or graph.weights[name]
    return PortSpec(name=name, dtype=tensor.dtype, shape=tensor.shape)


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
