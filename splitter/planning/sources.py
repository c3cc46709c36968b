"""What a plan says of where its numbers came from, and warns of."""

from __future__ import annotations

from splitter import runtime
from splitter.codec import CODECS
from splitter.planning.budget import CalibrationSource
from splitter.planning.choices import Calibrated, codec_factors
from splitter.planning.measured import Measured
from splitter.planning.records import Origin, Plan, TensorCodec, TierSource
from splitter.planning.terms import Limits
from splitter.profiling.measure import staleness
from splitter.profiling.profile import Profile


def fitted_codecs(plan: Plan, calibrated: Calibrated) -> tuple[TensorCodec, ...]:
    """Of every candidate and stage, each once."""
    found: dict[tuple[str, str], TensorCodec] = {}
    candidates = (plan.predicted, *plan.baselines, *plan.alternatives)
    if plan.tradeoff is not None:
        candidates += plan.tradeoff.candidates
    crossings = [candidate.crossing for candidate in candidates]
    crossings += [cut.cut.crossing for cut in plan.table.cuts] if plan.table else []
    crossings += [stage.sends for stage in plan.stages]
    for crossing in crossings:
        for item in crossing:
            result = calibrated.result_of(item.tensor, item.codec)
            if result is not None and item.codec not in CODECS:
                known = TensorCodec(tensor=item.tensor, codec=result.codec)
                found.setdefault((item.tensor, item.codec), known)
    return tuple(found.values())


def calibration_source(
    calibrated: Calibrated, profiles: tuple[Profile, Profile], found: Measured
) -> CalibrationSource:
    """What a calibrated plan's codecs rest on."""
    calibration = calibrated.calibration
    device_factor, server_factor = codec_factors(calibration, profiles)
    return CalibrationSource(
        budget=calibrated.budget,
        data=calibration.data,
        whole_accuracy=calibration.whole_accuracy,
        tier=calibration.tier,
        device_factor=device_factor,
        server_factor=server_factor,
        answer=found.answer,
        refused=found.refused,
    )


def codec_warnings(source: CalibrationSource) -> tuple[str, ...]:
    """Say which codec seconds are estimates."""
    factors = {"device": source.device_factor, "server": source.server_factor}
    return tuple(
        f"codec seconds of the {role} are estimated: {factor:.3g} times those measured on {source.tier}"
        for role, factor in factors.items()
        if factor != 1
    )


def tier_source(profile: Profile) -> TierSource:
    """Where a tier's seconds came from."""
    return TierSource(
        name=profile.tier,
        origin=Origin(profile.origin),
        whole_s=profile.whole_s,
        fingerprint=profile.fingerprint,
        note=profile.note,
    )


def codec_sample(device: Profile, is_calibrated: bool) -> str:
    """What the codecs' bytes were measured on."""
    if is_calibrated:
        return "calibration"
    return device.sample if device.codecs else "none"


def warnings(
    device: Profile, server: Profile, is_calibrated: bool, limits: Limits
) -> tuple[str, ...]:
    """Sentences about stale profiles, codecs measured on noise, and memory that was not measured."""
    found = [f"device: {text}" for text in staleness(device, runtime.version())]
    found += [f"server: {text}" for text in staleness(server, runtime.version())]
    if codec_sample(device, is_calibrated) == "random":
        found.append(
            "compressed bytes were measured on a random input; profile with --input for real ones"
        )
    for role, profile in (("device", device), ("server", server)):
        if getattr(limits, f"{role}_memory_bytes") is not None and not profile.parts_memory:
            found.append(
                f"{role} memory counts weights and activations alone: the profile holds no measured "
                "memory; profile again for what the runtime takes on top"
            )
    return tuple(found)
