"""A bundle: the folder that is deployed, written whole and checked, or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath

from splitter.codec import Codec
from splitter.document import write_document
from splitter.errors import BundleError
from splitter.graph.cut import Cut
from splitter.graph.model import Model
from splitter.graph.values import Graph
from splitter.link import Link
from splitter.partition.batch_proof import is_proven
from splitter.partition.batches import Batching, free_tail
from splitter.partition.check import Values
from splitter.partition.draft import Draft, draft_of
from splitter.partition.folder import replacing_bundle
from splitter.partition.manifest import (
    MANIFEST,
    CutCost,
    CutSpec,
    FileSpec,
    Manifest,
    PortSpec,
    Role,
    StateSpec,
    bundle_digest,
    cut_id,
)
from splitter.partition.parts import EXTERNAL_OVER_BYTES, Parts, PartWriter
from splitter.partition.quantised import quantise_parts
from splitter.partition.reference import Reference
from splitter.partition.stand_in import write_stand_in
from splitter.preprocess import Preprocess
from splitter.runtime import Settings


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose files are what its manifest says."""

    folder: Path
    manifest: Manifest
    onward: tuple[Bundle, ...] = ()
    """Of the relays behind it, or of the other devices and the server, where they were written together."""

    @classmethod
    def open(
        cls, folder: str | os.PathLike[str], *, role: Role | None = None, lazy: bool = False
    ) -> Bundle:
        """Read and verify a bundle; a ``role`` (``device``, ``server``) needs its own files only.

        ``lazy`` leaves the digests of the files to ``verify``: for who loads few of them, and soon.

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
        for name in sorted(manifest.files_of(None)):
            if name not in manifest.files:
                raise BundleError(f"{folder / MANIFEST}: {name!r} is not among its files")
        for name in sorted(manifest.files_of(role)):
            _verify_size(folder / name, manifest.files[name])
        if manifest.digest != bundle_digest(manifest.files, manifest.cuts):
            raise BundleError(
                f"{folder / MANIFEST}: its digest is not that of its files; split again"
            )
        bundle = cls(folder, manifest)
        if not lazy:
            for name in sorted(manifest.files_of(role)):
                bundle.verify(name)
        return bundle

    def verify(self, name: str) -> None:
        """Compare a file with its digest; raises BundleError."""
        if _sha256(self.folder / name) != self.manifest.files[name].sha256:
            raise BundleError(
                f"{self.folder / name}: its digest is not the manifest's; split again"
            )

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
    seen: set[str] = set()
    made = {spec.name for spec in manifest.outputs}
    for cut in manifest.cuts:
        if cut.id in seen or cut.id != cut_id(cut.head_nodes, cut.crossing):
            raise BundleError(
                f"{origin}: cut {cut.name!r} has the wrong id {cut.id!r}; split again"
            )
        seen.add(cut.id)
        there = (*cut.tail_outputs, *cut.kept)
        if not made.issuperset(there) or (bool(there) != bool(cut.tail) and manifest.join is None):
            raise BundleError(f"{origin}: cut {cut.name!r} has wrong tail outputs; split again")
        if (manifest.join and cut.tail is None) or (cut.states and (manifest.join or cut.shares)):
            raise BundleError(
                f"{origin}: cut {cut.name!r} is no part of what several devices send; split again"
            )
        inputs = {spec.name: spec for spec in manifest.inputs}
        for state in cut.states:
            if state.input not in inputs or state.output not in cut.tail_outputs:
                raise BundleError(f"{origin}: cut {cut.name!r} has wrong states; split again")
            if inputs[state.input].shape is None:
                raise BundleError(f"{origin}: state {state.input!r} has no shape; split again")
        shared = [name for share in cut.shares for name in share.tensors]
        if cut.shares and sorted(shared) != sorted(spec.tensor for spec in cut.crossing):
            raise BundleError(f"{origin}: cut {cut.name!r} has wrong shares; split again")
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
    stand_in: str | os.PathLike[str] | None = None
    """The file of a smaller model, for when there is no server."""
    name: str | None = None
    """What the server calls the model; None: the file's stem."""
    tail_of: str | None = None
    """See ``Manifest.tail_of``."""
    batches: bool = True
    """Let a tail take any number of samples, where the model's file does and running it proves it."""


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

    The planned cut comes first; one that is given twice is written once. The check is on ``feeds``, or on
    random inputs: bit for bit with optimisation off, and within the tolerance of the model's dtype as the
    device will run it. A bundle that is already at ``out_dir`` is replaced at the end; on any failure
    nothing changes. Where a codec quantises, the parts do it, unless ``quantise_in_graph`` is off.

    Raises
    ------
    BundleError
        The outputs differ, the checker refuses a part, the stand-in is none, or ``out_dir`` holds
        something else.
    CutError
        A crossing tensor cannot travel.
    CodecError
        A codec is not one for the tensor that it is given for.
    """
    out_dir = Path(out_dir).resolve()
    if not divisions:
        raise BundleError("a bundle of no cut holds nothing; give at least one")
    drafts = _drafts(model.graph, divisions, quantise_in_graph)
    with replacing_bundle(out_dir) as folder:
        reference = Reference(model, deployment.settings, feeds)
        with PartWriter(
            model, folder, shares=len(drafts) > 1, external_over_bytes=external_over_bytes
        ) as writer:
            batching = Batching.of(model) if deployment.batches else None
            cuts = tuple(
                _write(number, division, draft, _Tools(writer, reference, batching))
                for number, (division, draft) in enumerate(drafts)
            )
        stand_in = (
            None if deployment.stand_in is None
            else write_stand_in(deployment.stand_in, model, reference, folder)
        )  # fmt: skip
        files = files_in(folder)
        graph = model.graph
        manifest = Manifest(
            name=deployment.name or model.path.stem,
            model_sha256=graph.sha256,
            digest=bundle_digest(files, cuts),
            tail_of=deployment.tail_of,
            dims=dict(graph.dims),
            cuts=cuts,
            inputs=tuple(port_of(graph, name) for name in graph.inputs),
            outputs=tuple(port_of(graph, name) for name in graph.outputs),
            stand_in=stand_in,
            files=files,
            settings=deployment.settings,
            tail_settings=deployment.tail_settings or deployment.settings,
            link=deployment.link,
            plan_predicted_s=deployment.predicted_s,
            preprocess=deployment.preprocess,
        )
        write_document(folder / MANIFEST, manifest)
    return Bundle(out_dir, manifest)


def _drafts(
    graph: Graph, divisions: Sequence[Division], quantises: bool
) -> list[tuple[Division, Draft]]:
    """Check what travels before anything is written; each cut once."""
    found: dict[str, tuple[Division, Draft]] = {}
    for division in divisions:
        draft = draft_of(graph, division.cut, division.codecs, quantises)
        found.setdefault(draft.id, (division, draft))
    return list(found.values())


@dataclass(frozen=True)
class _Tools:
    writer: PartWriter
    reference: Reference
    batching: Batching | None


def _write(number: int, division: Division, draft: Draft, tools: _Tools) -> CutSpec:
    try:
        parts = tools.writer.write(draft.cut, number)
        tools.reference.demand(parts.head, parts.tail)
        if draft.quantisers and parts.head is not None and parts.tail is not None:
            quantise_parts(parts.head, parts.tail, draft.quantisers, tools.reference.feeds)
    except BundleError as exc:
        raise BundleError(f"cut {division.name!r}: {exc}" if number else str(exc)) from exc
    batches = _set_free(draft, parts, tools)
    return CutSpec(
        id=draft.id,
        name=division.name,
        head=tools.writer.once(parts.head).name if parts.head else None,
        tail=tools.writer.once(parts.tail).name if parts.tail else None,
        crossing=draft.crossing,
        head_nodes=draft.nodes,
        tail_outputs=_made_in_tail(parts, draft),
        kept=draft.cut.kept if parts.tail else (),
        states=tuple(StateSpec(input=name, output=output) for name, output in draft.cut.states),
        batches=batches,
        cost=division.cost,
    )


def _made_in_tail(parts: Parts, draft: Draft) -> tuple[str, ...]:
    """Outputs of the tail, but for those that the head makes and sends."""
    sent = {spec.tensor for spec in draft.crossing}
    return tuple(name for name in parts.tail_outputs if name not in sent)


def _set_free(draft: Draft, parts: Parts, tools: _Tools) -> bool:
    """Replace a tail by one that takes any number of samples, if there is one that was proven."""
    if parts.tail is None or tools.batching is None:
        return False
    proto = free_tail(parts.tail, tools.batching)
    if proto is None:
        return False
    free = parts.tail.with_name(f"free-{parts.tail.name}")
    free.write_bytes(proto)
    reads = [*(spec.tensor for spec in draft.crossing), *(name for name, _ in draft.cut.states)]
    if is_proven(parts, free, reads, tools.reference):
        free.replace(parts.tail)
        return True
    free.unlink()
    return False


def port_of(graph: Graph, name: str) -> PortSpec:
    """What a manifest says of an input or output of the whole model."""
    tensor = graph.tensors.get(name) or graph.weights[name]
    return PortSpec(name=name, dtype=tensor.dtype, shape=tensor.shape)


def files_in(folder: Path) -> dict[str, FileSpec]:
    """What a manifest says of the files beside it, before it is there itself."""
    return {
        path.name: FileSpec(nbytes=path.stat().st_size, sha256=_sha256(path))
        for path in sorted(folder.iterdir())
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify_size(path: Path, spec: FileSpec) -> None:
    if not path.is_file():
        raise BundleError(f"{path}: missing from the bundle; split again")
    if path.stat().st_size != spec.nbytes:
        raise BundleError(
            f"{path}: has {path.stat().st_size} bytes, the manifest says {spec.nbytes}; split again"
        )
