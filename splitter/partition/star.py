"""Bundles for several devices that feed one server: one for each device, and the server's.

The server's is an ordinary bundle of the cut between all devices together and the server; it says besides
which of its crossing tensors each device sends. That of a device holds its own head, and to which bundle
and cut of the server it sends which part of a request.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from splitter.document import write_document
from splitter.errors import CutError
from splitter.graph.model import Model
from splitter.graph.values import Graph
from splitter.partition.bundle import (
    Bundle,
    Deployment,
    Division,
    files_in,
    port_of,
    write_bundle,
)
from splitter.partition.check import Values
from splitter.partition.folder import replacing_parts
from splitter.partition.manifest import (
    HEAD,
    MANIFEST,
    CrossingSpec,
    CutSpec,
    FileSpec,
    Join,
    Manifest,
    Share,
    bundle_digest,
    cut_id,
)
from splitter.partition.parts import PartWriter
from splitter.partition.reference import Reference

SERVER = "server"
"""The folder of the server's bundle; those of devices are called after them."""


@dataclass(frozen=True)
class Ray:
    """One device of several."""

    name: str
    """Of the bundle's folder: ``device``, ``device2``."""
    inputs: tuple[str, ...]
    """Of the model, that are born there."""
    nodes: frozenset[str]
    """What it runs."""
    deployment: Deployment = Deployment()


def write_star(
    model: Model,
    division: Division,
    rays: Sequence[Ray],
    out_dir: str | os.PathLike[str],
    *,
    feeds: Values | None = None,
) -> tuple[Bundle, ...]:
    """Write the bundles below ``out_dir``, those of the devices first, and check that they are the whole.

    ``division`` is that of all devices together; the first device gets the answer. Where nothing is sent
    there is no server's bundle. Parts do not quantise here, whatever the codecs.

    Raises
    ------
    BundleError, CutError, CodecError
        As ``write_bundle``, or a device runs what reads another's inputs; then nothing changes at
        ``out_dir``.
    """
    out_dir = Path(out_dir).resolve()
    star = _Star(model, rays, _makers(model.graph, rays))
    with replacing_parts(out_dir) as folder:
        first = replace(rays[0].deployment, preprocess=None)
        reference = Reference(model, first.settings, feeds)
        server = write_bundle(
            model,
            [division],
            folder / SERVER,
            first,
            feeds=reference.feeds,
            quantise_in_graph=False,
        )
        if server.tail is not None:
            server = _with_shares(server, star.shares(server.manifest.planned))
        written = (star.write(number, server, folder) for number in range(len(rays)))
        bundles = [bundle for bundle in written if bundle is not None]
        reference.demand(*(bundle.head for bundle in bundles), server.tail)
        if server.tail is None:
            shutil.rmtree(server.folder)
        else:
            bundles.append(server)
    return tuple(Bundle(out_dir / one.folder.name, one.manifest) for one in bundles)


@dataclass(frozen=True)
class _Star:
    """The devices, and which of them has which tensor."""

    model: Model
    rays: Sequence[Ray]
    made_by: Mapping[str, int]

    def shares(self, cut: CutSpec) -> tuple[Share, ...]:
        """What each device sends; the first takes part in any case, as it gets the answer."""
        sent = {number: self._sent(cut, number) for number in range(len(self.rays))}
        return tuple(
            Share(device=self.rays[number].name, tensors=tuple(spec.tensor for spec in specs))
            for number, specs in sent.items()
            if specs or number == 0
        )

    def write(self, number: int, server: Bundle, folder: Path) -> Bundle | None:
        """Write a device's head and manifest; nothing for one that has nothing to do."""
        ray, cut, graph = self.rays[number], server.manifest.planned, self.model.graph
        join = _join(server, ray.name)
        sent = self._sent(cut, number) if join is not None else ()
        own = [
            name for name in graph.outputs
            if name not in cut.tail_outputs and self.made_by.get(name, 0) == number
        ]  # fmt: skip
        wanted = [spec.tensor for spec in sent if spec.tensor not in graph.inputs] + own
        if join is None and not wanted:
            return None
        place = folder / ray.name
        place.mkdir()
        with PartWriter(self.model, place) as writer:
            head = writer.write_part(ray.nodes, tuple(dict.fromkeys(wanted)), HEAD)
        nodes = tuple(node.name for node in graph.nodes if node.name in ray.nodes)
        spec = CutSpec(
            id=cut_id(nodes, sent),
            name=cut.name,
            head=head.name if head else None,
            tail=cut.tail if join else None,
            crossing=sent,
            head_nodes=nodes,
            tail_outputs=cut.tail_outputs if join else (),
            kept=tuple(name for name in cut.kept if name in (*own, *cut.tail_outputs)),
        )
        answers = [name for name in graph.outputs if name in own or name in spec.tail_outputs]
        return Bundle(place, self._manifest(ray, server, (spec, join, answers), files_in(place)))

    def _sent(self, cut: CutSpec, number: int) -> tuple[CrossingSpec, ...]:
        return tuple(spec for spec in cut.crossing if self.made_by.get(spec.tensor, 0) == number)

    def _manifest(
        self, ray: Ray, server: Bundle, own: tuple[CutSpec, Join | None, Sequence[str]],
        files: dict[str, FileSpec],
    ) -> Manifest:  # fmt: skip
        cut, join, outputs = own
        graph, deployment = self.model.graph, ray.deployment
        manifest = msgspec.structs.replace(
            server.manifest,
            digest=bundle_digest(files, (cut,)),
            inputs=tuple(port_of(graph, name) for name in ray.inputs),
            outputs=tuple(port_of(graph, name) for name in outputs),
            cuts=(cut,),
            files=files,
            join=join,
            settings=deployment.settings,
            tail_settings=deployment.tail_settings or deployment.settings,
            link=deployment.link,
            preprocess=deployment.preprocess,
        )
        write_document(server.folder.parent / ray.name / MANIFEST, manifest)
        return manifest


def _makers(graph: Graph, rays: Sequence[Ray]) -> dict[str, int]:
    """Tensor -> number of the device that has it, of those that devices make or are born with."""
    made_by = {name: number for number, ray in enumerate(rays) for name in ray.inputs}
    of_node = {name: number for number, ray in enumerate(rays) for name in ray.nodes}
    for node in graph.nodes:
        number = of_node.get(node.name)
        if number is None:
            continue
        for name in node.inputs:
            if made_by.get(name, number) != number or _is_of_the_rest(graph, name, of_node):
                raise CutError(
                    f"node {node.name!r} on {rays[number].name} reads {name!r}, which is not made there; "
                    "plan again"
                )
        made_by |= dict.fromkeys(node.outputs, number)
    return made_by


def _is_of_the_rest(graph: Graph, name: str, of_node: Mapping[str, int]) -> bool:
    return name in graph.producer_of and graph.producer_of[name].name not in of_node


def _with_shares(bundle: Bundle, shares: tuple[Share, ...]) -> Bundle:
    manifest = bundle.manifest
    cuts = (msgspec.structs.replace(manifest.planned, shares=shares),)
    manifest = msgspec.structs.replace(
        manifest, cuts=cuts, digest=bundle_digest(manifest.files, cuts)
    )
    write_document(bundle.folder / MANIFEST, manifest)
    return Bundle(bundle.folder, manifest)


def _join(server: Bundle, device: str) -> Join | None:
    """A device's part of a request to the server's bundle; None for one that sends nothing."""
    cut = server.manifest.planned
    for number, share in enumerate(cut.shares, start=1):
        if share.device == device:
            return Join(
                bundle=server.manifest.digest, cut=cut.id, part=number, parts=len(cut.shares)
            )
    return None
