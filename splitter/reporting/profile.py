"""A profile as text."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from splitter.profiling.profile import Profile
from splitter.reporting.text import elided, plain_table
from splitter.reporting.units import seconds, size

NAME_WIDTH = 46


def profile_text(profile: Profile, count: int = 8) -> RenderableType:
    """Where it was measured, what the whole takes, and the ``count`` kernels that take longest."""
    fingerprint = profile.fingerprint
    total = sum(kernel.seconds for kernel in profile.kernels) or 1.0
    head = Text.assemble(
        (f"{profile.model_file} on {profile.tier}", "bold"),
        f" ({profile.origin})\n{fingerprint.get('processor', '?')}, "
        f"threads: {fingerprint.get('threads', '?')}\n"
        f"onnxruntime {fingerprint.get('onnxruntime')}, {fingerprint.get('provider')}, "
        f"optimisation {fingerprint.get('optimisation')}\n",
        "whole model ",
        (seconds(profile.whole_s), "bold"),
        f" (spread {seconds(profile.whole_spread_s)}), {len(profile.kernels)} kernels\n"
        f"heads and tails known at {len(profile.anchors)} of {max(0, len(profile.nodes) - 1)} places",
    )
    table = plain_table(
        "seconds", "share", "GFLOP/s", "nodes", "slowest kernels", numbers=(0, 1, 2, 3)
    )
    for kernel in sorted(profile.kernels, key=lambda kernel: -kernel.seconds)[:count]:
        speed = f"{kernel.flops / kernel.seconds / 1e9:.3g}" if kernel.seconds else ""
        table.add_row(
            seconds(kernel.seconds), f"{kernel.seconds / total:.0%}", speed, str(len(kernel.nodes)),
            f"{kernel.op_type}  {elided(kernel.name, NAME_WIDTH)}",
        )  # fmt: skip
    parts: list[RenderableType] = [head, Text(), table]
    if profile.rates is not None:
        rates = profile.rates
        parts += [
            Text(
                f"\nThis machine reaches {rates.flops_per_s / 1e9:.3g} GFLOP/s and moves "
                f"{size(rates.bytes_per_s)}/s with these threads."
            )
        ]
    if profile.parts_memory:
        parts.append(Text(_memory(profile)))
    if profile.note:
        parts.append(Text(f"\n{profile.note}"))
    return Group(*parts)


def _memory(profile: Profile) -> str:
    whole = next(
        (p.head_bytes for p in profile.parts_memory if p.place == len(profile.nodes)), None
    )
    places = f"memory known at {len(profile.parts_memory)} places"
    return f"{size(whole)} resident while the whole model runs; {places}" if whole else places
