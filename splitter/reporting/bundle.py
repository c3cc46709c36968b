"""What was written into a bundle: its files, and its cuts in the order of the plan."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from splitter.partition.bundle import Bundle
from splitter.partition.manifest import CutSpec, Manifest
from splitter.reporting.text import listed, plain_table
from splitter.reporting.units import size


def bundle_text(manifest: Manifest, folder: Path, nodes: int) -> RenderableType:
    """Files and cuts of a bundle of a model with that many nodes, and what was checked of them."""
    files = [
        Text(f"{folder / name}  {size(spec.nbytes)}", no_wrap=True, overflow="ignore")
        for name, spec in sorted(manifest.files.items())
    ]
    table = plain_table(
        "device", "server", "sent", "batches", "head", "tail", "cut", numbers=(0, 1, 2),
        whole=(3, 4, 5),
    )  # fmt: skip
    for cut in manifest.cuts:
        on_device = len(cut.head_nodes)
        batches = ("any" if cut.batches else "1") if cut.tail else "-"
        table.add_row(
            str(on_device), str(nodes - on_device), _sent(cut), batches, cut.head or "-",
            cut.tail or "-", cut.name,
        )  # fmt: skip
    return Group(
        *files, Text(), table, Text(), *(Text(line) for line in _sentences(manifest, nodes))
    )


def parts_text(bundles: Sequence[Bundle], folder: Path, nodes: int) -> RenderableType:
    """What several bundles of one model are for, which were written together below a folder."""
    if any(bundle.folder.name.startswith("device") for bundle in bundles):
        return star_text(bundles, folder, nodes)
    return chain_text(bundles, folder, nodes)


def star_text(bundles: Sequence[Bundle], folder: Path, nodes: int) -> RenderableType:
    """What each of several devices runs and sends, and how to start them and the server."""
    table = plain_table("tier", "nodes", "sent", "bundle", numbers=(1, 2), whole=(0, 3))
    lines: list[tuple[str, str]] = []
    for bundle in bundles:
        place, name, cut = folder / bundle.folder.name, bundle.folder.name, bundle.manifest.planned
        if cut.shares:
            table.add_row(name, str(nodes - len(cut.head_nodes)), "", str(place))
            lines.insert(0, ("the server", f"splitter serve {place}"))
            continue
        table.add_row(name, str(len(cut.head_nodes)), _sent(cut), str(place))
        named = "the device" if name == "device" else name
        lines.append((named, f"splitter run {place} --server HOST:PORT"))
    checked = "checked: all heads, then the tail, give the whole model's outputs"
    commands = (
        Text(f"on {name}:\n  {line}", no_wrap=True, overflow="ignore") for name, line in lines
    )
    return Group(table, Text(), Text(checked), Text(), *commands)


def chain_text(bundles: Sequence[Bundle], folder: Path, nodes: int) -> RenderableType:
    """What each tier runs and sends, and how to serve it; the model has that many nodes."""
    table = plain_table("tier", "nodes", "sent", "bundle", numbers=(1, 2), whole=(0, 3))
    places = [folder / bundle.folder.name for bundle in bundles]
    for bundle, place in zip(bundles, places, strict=True):
        cut = bundle.manifest.planned
        table.add_row(_tier(place, 1), str(len(cut.head_nodes)), _sent(cut), str(place))
    rest = nodes - sum(len(bundle.manifest.planned.head_nodes) for bundle in bundles)
    table.add_row(_tier(places[-1], 2), str(rest), "", "")
    lines = [f"on the {_tier(places[-1], 2)}:", f"  splitter serve {places[-1]}"]
    for place, onward in reversed(list(itertools.pairwise(places))):
        lines += [
            f"on the {_tier(place, 2)}:",
            f"  splitter serve {place} --via {onward} --next HOST:PORT",
        ]
    lines += [f"on the {_tier(places[0], 1)}:", f"  splitter run {places[0]} --server HOST:PORT"]
    checked = "checked: one after the other they give the whole model's outputs"
    commands = (Text(line, no_wrap=True, overflow="ignore") for line in lines)
    return Group(table, Text(), Text(checked), Text(), *commands)


def _tier(folder: Path, place: int) -> str:
    """Either tier of a bundle of a chain, which its folder is named after."""
    return folder.name.split("-")[place]


def _sent(cut: CutSpec) -> str:
    """As the plan predicts, else uncompressed."""
    if cut.cost is not None or not cut.crossing:
        return size(cut.cost.up_bytes if cut.cost is not None else 0)
    return f"{size(sum(spec.nbytes for spec in cut.crossing))} raw"


def _sentences(manifest: Manifest, nodes: int) -> list[str]:
    on_device = len(manifest.planned.head_nodes)
    codecs = [spec.codec for cut in manifest.cuts for spec in cut.crossing]
    lossy = list(dict.fromkeys(codec.name for codec in codecs if not codec.is_lossless))
    but = f", but for what is lost to {listed(lossy)}" if lossy else ""
    each = "head then tail gives" if len(manifest.cuts) == 1 else "each head then its tail gives"
    sentences = [
        f"{on_device} nodes on the device, {nodes - on_device} on the server; "
        f"checked: {each} the whole model's outputs{but}"
    ]
    if manifest.stand_in is not None:
        sentences.append(f"without a server the device answers with {manifest.stand_in.source}")
    elif manifest.on_device is not None and len(manifest.cuts) > 1:
        sentences.append("without a server the device runs the whole model")
    return sentences
