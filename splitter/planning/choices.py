"""The ways in which each tensor may travel, priced for both tiers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median

from splitter.calibration.records import Calibration, CodecResult, TensorResult
from splitter.codec import RAW
from splitter.errors import CodecError, PlanError
from splitter.graph.values import Graph
from splitter.planning.budget import Budget
from splitter.planning.records import CodecCost
from splitter.profiling.measure import MACHINE
from splitter.profiling.profile import Profile


@dataclass(frozen=True)
class Calibrated:
    """A calibration, and how much of the answer may be lost."""

    calibration: Calibration
    budget: Budget

    def result_of(self, tensor: str, name: str) -> CodecResult | None:
        """What was measured of a codec on a tensor."""
        for found in self.calibration.tensors:
            if found.tensor == tensor:
                return next((r for r in found.results if r.codec.name == name), None)
        return None


def choices(
    kernels: Graph, profiles: tuple[Profile, Profile], calibrated: Calibrated | None = None
) -> Mapping[str, tuple[CodecCost, ...]]:
    """Codecs by tensor: the calibrated ones, else what the profiles sampled, else raw and unpriced.

    The profiles are of the device, whose bytes and encoding count, and of the server, which decodes.

    Raises
    ------
    PlanError
        The calibration does not fit the model, or the budget not the calibration.
    """
    sampled = _sampled(profiles)
    found = {
        name: sampled.get(name)
        or (CodecCost(codec=RAW.name, wire_bytes=tensor.nbytes, encode_s=0.0, decode_s=0.0),)
        for name, tensor in kernels.tensors.items()
        if tensor.nbytes is not None
    }
    if calibrated is not None:
        factors = codec_factors(calibrated.calibration, profiles)
        for result in calibrated.calibration.tensors:
            if result.tensor in found:
                _demand_form(kernels, result)
                found[result.tensor] = _calibrated(result, calibrated.budget, factors)
    return found


def codec_factors(
    calibration: Calibration, profiles: tuple[Profile, Profile]
) -> tuple[float, float]:
    """By what the calibrating machine's codec seconds are multiplied for device and server."""
    device, server = profiles
    return _factor(calibration, device, "encode_s"), _factor(calibration, server, "decode_s")


def _factor(calibration: Calibration, profile: Profile, seconds: str) -> float:
    """1 on the machine that calibrated, else by zstd on the tensors that both have; raises PlanError."""
    here = calibration.fingerprint
    if profile.origin == "measured" and all(
        profile.fingerprint.get(key) == here.get(key) for key in MACHINE
    ):
        return 1.0
    there = {(sample.tensor, sample.codec): getattr(sample, seconds) for sample in profile.codecs}
    ratios = [
        there[tensor.tensor, result.codec.name] / getattr(result, seconds)
        for tensor in calibration.tensors
        for result in tensor.results
        if result.codec.name == "zstd" and (tensor.tensor, "zstd") in there
        if getattr(result, seconds) > 0
    ]
    if not ratios:
        raise PlanError(
            f"the profile of {profile.tier} holds no codec seconds of a calibrated tensor, so that "
            f"those of {calibration.tier} cannot be scaled to it; profile again with this version"
        )
    return max(float(median(ratios)), 1e-9)


def _sampled(profiles: tuple[Profile, Profile]) -> Mapping[str, tuple[CodecCost, ...]]:
    device, server = profiles
    decode_s = {(sample.tensor, sample.codec): sample.decode_s for sample in server.codecs}
    found: dict[str, tuple[CodecCost, ...]] = {}
    for sample in device.codecs:
        if (sample.tensor, sample.codec) in decode_s:
            choice = CodecCost(
                codec=sample.codec,
                wire_bytes=sample.wire_bytes,
                encode_s=sample.encode_s,
                decode_s=decode_s[sample.tensor, sample.codec],
            )
            found[sample.tensor] = (*found.get(sample.tensor, ()), choice)
    return found


def _calibrated(
    tensor: TensorResult, budget: Budget, factors: tuple[float, float]
) -> tuple[CodecCost, ...]:
    encode, decode = factors
    return tuple(
        CodecCost(
            codec=result.codec.name,
            wire_bytes=result.wire_bytes,
            encode_s=result.encode_s * encode,
            decode_s=result.decode_s * decode,
            loss=0.0 if result.codec.is_lossless else budget.loss(result.answer),
        )
        for result in tensor.results
    )


def _demand_form(graph: Graph, result: TensorResult) -> None:
    """Refuse a calibration that was edited, or made for other shapes."""
    tensor = graph.tensors[result.tensor]
    if (result.dtype, result.shape) != (tensor.dtype, tensor.shape):
        raise PlanError(
            f"the calibration has {result.tensor!r} as {result.dtype} {list(result.shape)}, the model "
            f"as {tensor.dtype} {list(tensor.shape or ())}; calibrate again"
        )
    names = [item.codec.name for item in result.results]
    if _repeated(names) or not any(item.codec.is_lossless for item in result.results):
        raise PlanError(
            f"the calibration of {result.tensor!r} names a codec twice or has no lossless one; "
            "calibrate again"
        )
    for item in result.results:
        try:
            item.codec.forms(result.dtype, result.shape)
        except CodecError as exc:
            raise PlanError(
                f"codec {item.codec.name!r} of the calibration does not fit {result.tensor!r}: {exc}"
            ) from exc


def _repeated(names: Iterable[str]) -> bool:
    names = list(names)
    return len(set(names)) < len(names)
