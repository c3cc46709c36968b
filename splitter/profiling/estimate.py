"""Estimate a profile of a machine that is not at hand, by scaling a measured one kernel by kernel.

The roofline of a machine says that a kernel of ``f`` operations that moves ``b`` bytes takes at least

    floor(f, b) = max(f / flops_per_s, b / bytes_per_s)

A kernel that took ``t`` on the measured machine is expected to miss the other roofline by as much:

    t' = t * floor_target(f, b) / floor_source(f, b) + kernel_overhead_s

so a compute-bound kernel scales by arithmetic, a memory-bound one by bandwidth, and one that changes
sides by as much of either as it needs. A kernel of neither (``f = b = 0``) scales by the worse of the
two. Kernels in int8 are compared by int8 rates where the measured machine's is known. Kernels that the
runtime optimised away stay at 0. The whole model and the anchors scale as the sums of their kernels
do. Codecs run on the processor and scale by its memory bandwidth.

What this leaves out: caches of another size, kernels that one machine's runtime implements and the
other's does not, heat. Say "estimated" wherever it is shown; the measured profile is always better.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from splitter.errors import ProfileError
from splitter.profiling.device import DeviceDescription
from splitter.profiling.profile import Anchor, CodecSample, Kernel, Profile, Rates, Watts

_INT8_PREFIXES = ("QLinear", "QGemm", "QAttention", "DynamicQuantize")
_INT8_FUSED = {"DequantizeLinear", "QuantizeLinear"}


def estimate(profile: Profile, target: DeviceDescription) -> Profile:
    """Scale a measured profile to a described device.

    The settings stay those of the measured profile: the kernels are as those settings fuse them.

    Raises
    ------
    ProfileError
        The profile is itself an estimate, or holds no rates to scale from.
    """
    rates = _rates_of(profile)
    ratio = _Scale(rates, target)
    kernels = tuple(ratio.kernel(kernel) for kernel in profile.kernels)
    scaled = msgspec.structs.replace(profile, kernels=kernels)
    before, after = profile.shared_s(), scaled.shared_s()
    whole = _ratio(sum(after), sum(before), ratio.worst)
    codec_ratio = rates.bytes_per_s / _codec_bytes_per_s(target)
    return msgspec.structs.replace(
        scaled,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        tier=target.name,
        origin="estimated",
        fingerprint=_fingerprint(profile, target),
        whole_s=profile.whole_s * whole,
        whole_spread_s=profile.whole_spread_s * whole,
        anchors=tuple(_anchor(anchor, before, after, ratio.worst) for anchor in profile.anchors),
        codecs=tuple(_codec(sample, codec_ratio) for sample in profile.codecs),
        rates=None,
        unsupported=target.unsupported_operators.names,
        memory_bytes=int(target.memory_bytes.value),
        power=_power(target),
        note=f"estimated from measurements on {_machine(profile)} "
        f"by the description {target.name} ({target.summary})",
    )


def _power(target: DeviceDescription) -> Watts | None:
    power = target.power
    if power is None:
        return None
    return Watts(active_w=power.active_w.value, idle_w=power.idle_w.value)


@dataclass(frozen=True)
class _Scale:
    source: Rates
    target: DeviceDescription

    @property
    def worst(self) -> float:
        """By which bound the target is slower, where nothing else is known."""
        return max(
            self.source.flops_per_s / self.target.flops_per_s,
            self.source.bytes_per_s / self.target.bytes_per_s,
        )

    def kernel(self, kernel: Kernel) -> Kernel:
        ratio = self._ratio(kernel)
        overhead_s = self.target.kernel_overhead_s.value if kernel.seconds else 0.0
        return msgspec.structs.replace(
            kernel, seconds=kernel.seconds * ratio + overhead_s, spread_s=kernel.spread_s * ratio
        )

    def _ratio(self, kernel: Kernel) -> float:
        source_rate, target_rate = self._arithmetic(kernel)
        before = max(kernel.flops / source_rate, kernel.moved_bytes / self.source.bytes_per_s)
        after = max(kernel.flops / target_rate, kernel.moved_bytes / self.target.bytes_per_s)
        return _ratio(after, before, self.worst)

    def _arithmetic(self, kernel: Kernel) -> tuple[float, float]:
        """Operations a second of source and target in the kernel's number format."""
        if self.source.int8_ops_per_s is not None and _is_int8(kernel):
            return self.source.int8_ops_per_s, self.target.int8_ops_per_s
        return self.source.flops_per_s, self.target.flops_per_s


def _is_int8(kernel: Kernel) -> bool:
    """By the operators in its name; the runtime fuses what stands between the two linear ones."""
    operators = set(re.split(r"\W+", kernel.op_type))
    return operators >= _INT8_FUSED or any(
        operator.startswith(_INT8_PREFIXES) or "Integer" in operator for operator in operators
    )


def _anchor(
    anchor: Anchor, before: Sequence[float], after: Sequence[float], default: float
) -> Anchor:
    """Head and tail scale as the nodes on their side of the place do."""
    place = anchor.place
    head = _ratio(sum(after[:place]), sum(before[:place]), default)
    tail = _ratio(sum(after[place:]), sum(before[place:]), default)
    return msgspec.structs.replace(
        anchor,
        head_s=anchor.head_s * head,
        tail_s=anchor.tail_s * tail,
        head_spread_s=anchor.head_spread_s * head,
        tail_spread_s=anchor.tail_spread_s * tail,
    )


def _codec(sample: CodecSample, ratio: float) -> CodecSample:
    return msgspec.structs.replace(
        sample, encode_s=sample.encode_s * ratio, decode_s=sample.decode_s * ratio
    )


def _codec_bytes_per_s(target: DeviceDescription) -> float:
    own = target.codec_bytes_per_s
    return own.value if own is not None else target.bytes_per_s


def _rates_of(profile: Profile) -> Rates:
    if profile.origin != "measured":
        raise ProfileError(
            f"the profile of {profile.tier} is {profile.origin}; estimates are made from measured "
            "profiles only: give the one it was estimated from"
        )
    if profile.rates is None:
        raise ProfileError(
            f"the profile of {profile.tier} does not hold what its machine reaches; "
            "measure it again with this version"
        )
    return profile.rates


def _machine(profile: Profile) -> str:
    processor = profile.fingerprint.get("processor", "an unknown processor")
    return f"{profile.tier} ({processor}, threads: {profile.settings.threads})"


def _fingerprint(profile: Profile, target: DeviceDescription) -> dict[str, str | int | float]:
    """The described machine under the measured runtime."""
    return {
        **profile.fingerprint,
        "processor": target.summary,
        "cores": target.cores,
        "threads": target.threads,
        "memory_bytes": int(target.memory_bytes.value),
        "system": "not measured",
    }


def _ratio(after: float, before: float, default: float) -> float:
    return after / before if before > 0 else default
