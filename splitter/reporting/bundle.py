"""What was written into a bundle: its files, and its cuts in the order of the plan."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

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
