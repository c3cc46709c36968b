from __future__ import annotations

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitter.catalog import Figure
from splitter.errors import ProfileError
from splitter.partition.probe import matrix_product
from splitter.profiling import rates as rates_module
from splitter.profiling.device import DeviceDescription, device_names, find_device
from splitter.profiling.estimate import estimate
from splitter.profiling.profile import Anchor, CodecSample, Kernel, Profile, Rates
from splitter.profiling.rates import measure_rates
from splitter.profiling.timing import Rounds
from splitter.runtime import Runner, Settings

RATES = Rates(flops_per_s=1e11, bytes_per_s=1e10, int8_ops_per_s=4e11)
OPERATORS = ["Conv", "Relu", "QLinearConv", "MatMulInteger", "DequantizeLinear+Conv+QuantizeLinear"]


def a_kernel(name: str, seconds: float, flops: int, moved: int, op_type: str = "Conv") -> Kernel:
    return Kernel(
        name=name, op_type=op_type, nodes=(name,), seconds=seconds, spread_s=seconds / 10,
        flops=flops, moved_bytes=moved,
    )  # fmt: skip


def a_profile(kernels: list[Kernel], **changes: object) -> Profile:
    whole_s = sum(kernel.seconds for kernel in kernels)
    anchors = tuple(
        Anchor(
            place=place,
            head_s=sum(kernel.seconds for kernel in kernels[:place]) * 1.05,
            tail_s=sum(kernel.seconds for kernel in kernels[place:]) * 1.05,
            head_spread_s=1e-6,
            tail_spread_s=1e-6,
        )
        for place in range(len(kernels) + 1)
    )
    profile = Profile(
        created="2026-01-01T00:00:00+00:00", tier="workstation", origin="measured",
        model_file="m.onnx", model_sha256="0" * 64, dims={}, shapes={}, settings=Settings(threads=2),
        fingerprint={"processor": "a processor", "threads": 2, "onnxruntime": "1.31.1"},
        nodes=tuple(kernel.name for kernel in kernels),
        warmup=1, runs=9, whole_s=whole_s, whole_spread_s=whole_s / 20, kernels=tuple(kernels),
        anchors=anchors, rates=RATES,
        codecs=(CodecSample(tensor="x", codec="zstd", wire_bytes=10, encode_s=1e-3, decode_s=5e-4),),
    )  # fmt: skip
    return msgspec.structs.replace(profile, **changes)


def a_device(
    flops: float = 1e11, moved: float = 1e10, int8: float = 4e11, overhead_s: float = 0.0
) -> DeviceDescription:
    figure = {"source": "test"}
    return msgspec.convert(
        {
            "schema": "splitter.device/1", "name": "there", "summary": "a test", "cores": 4, "threads": 4,
            "peak_flops_per_s": {
                "float32": {"value": flops, **figure}, "int8": {"value": int8, **figure},
            },
            "efficiency": {"value": 1.0, **figure},
            "memory_bytes_per_s": {
                "peak": {"value": 2 * moved, **figure}, "sustained": {"value": moved, **figure},
            },
            "memory_bytes": {"value": 1e9, **figure},
            "kernel_overhead_s": {"value": overhead_s, **figure},
            "unsupported_operators": {"names": ["Loop"], **figure},
        },
        DeviceDescription,
    )  # fmt: skip


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    seconds = st.one_of(st.just(0.0), st.floats(1e-6, 1.0))
    count = st.one_of(st.just(0), st.integers(1, 10**12))
    return a_profile(
        [
            a_kernel(
                f"n{i}", draw(seconds), draw(count), draw(count), draw(st.sampled_from(OPERATORS))
            )
            for i in range(draw(st.integers(1, 6)))
        ]
    )


rates = st.floats(1e7, 1e14)


def every_second(profile: Profile) -> np.ndarray:
    return np.array(
        [kernel.seconds for kernel in profile.kernels]
        + [kernel.spread_s for kernel in profile.kernels]
        + [part for anchor in profile.anchors for part in (anchor.head_s, anchor.tail_s)]
        + [part for sample in profile.codecs for part in (sample.encode_s, sample.decode_s)]
        + [profile.whole_s]
    )


@given(profiles())
def test_a_device_like_the_measured_machine_takes_the_same_seconds(profile):
    assert every_second(estimate(profile, a_device())) == pytest.approx(every_second(profile))


@given(profiles(), st.floats(0, 1e-3))
def test_the_overhead_is_added_once_to_each_kernel_that_runs(profile, overhead_s):
    estimated = estimate(profile, a_device(overhead_s=overhead_s))
    for before, after in zip(profile.kernels, estimated.kernels, strict=True):
        added = overhead_s if before.seconds else 0.0
        assert after.seconds == pytest.approx(before.seconds + added)


@given(
    profiles(), rates, rates, rates, st.floats(1, 100), st.sampled_from(["flops", "moved", "int8"])
)
def test_a_faster_device_is_never_slower(profile, flops, moved, int8, factor, which):
    slow = {"flops": flops, "moved": moved, "int8": int8}
    fast = {**slow, which: slow[which] * factor}
    before = every_second(estimate(profile, a_device(**slow)))
    after = every_second(estimate(profile, a_device(**fast)))
    assert (after <= before * (1 + 1e-9)).all()


@given(profiles(), rates, rates)
def test_seconds_stay_finite_and_kernels_keep_their_nodes(profile, flops, moved):
    estimated = estimate(profile, a_device(flops, moved))
    seconds = every_second(estimated)
    assert np.isfinite(seconds).all()
    assert (seconds >= 0).all()
    assert [(k.name, k.nodes) for k in estimated.kernels] == [
        (k.name, k.nodes) for k in profile.kernels
    ]


def test_a_compute_bound_kernel_scales_by_arithmetic_and_a_memory_bound_one_by_bandwidth():
    profile = a_profile([a_kernel("conv", 1e-2, 10**9, 10), a_kernel("relu", 1e-2, 10, 10**8)])
    conv, relu = estimate(profile, a_device(flops=1e10, moved=5e9)).kernels
    assert conv.seconds == pytest.approx(1e-1)
    assert relu.seconds == pytest.approx(2e-2)


def test_a_kernel_that_changes_sides_is_held_by_the_other_bound():
    profile = a_profile([a_kernel("conv", 1e-2, 10**9, 5 * 10**7)])
    (kernel,) = estimate(profile, a_device(flops=1e13, moved=1e10)).kernels
    assert kernel.seconds == pytest.approx(1e-2 * 5e-3 / 1e-2)


@pytest.mark.parametrize("op_type", OPERATORS[2:])
def test_int8_kernels_scale_by_int8_arithmetic(op_type):
    profile = a_profile([a_kernel("conv", 1e-2, 10**9, 10, op_type)])
    (kernel,) = estimate(profile, a_device(flops=1e9, int8=2e11)).kernels
    assert kernel.seconds == pytest.approx(2e-2)


def test_int8_kernels_of_a_profile_without_an_int8_rate_scale_as_float32():
    old = Rates(flops_per_s=1e11, bytes_per_s=1e10)
    profile = a_profile([a_kernel("conv", 1e-2, 10**9, 10, "QLinearConv")], rates=old)
    (kernel,) = estimate(profile, a_device(flops=5e10)).kernels
    assert kernel.seconds == pytest.approx(2e-2)


def test_codecs_scale_by_the_bandwidth_of_the_processor_that_runs_them():
    device = a_device(moved=1e12)
    device = msgspec.structs.replace(device, codec_bytes_per_s=Figure(5e9, "test"))
    profile = a_profile([a_kernel("conv", 1e-2, 10**9, 10)])
    (sample,) = estimate(profile, device).codecs
    assert (sample.encode_s, sample.decode_s) == pytest.approx((2e-3, 1e-3))
    assert sample.wire_bytes == 10


def test_an_estimate_says_that_it_is_one_and_of_what(tmp_path):
    estimated = estimate(a_profile([a_kernel("conv", 1e-2, 10**9, 10)]), a_device())
    assert estimated.origin == "estimated"
    assert estimated.tier == "there"
    assert "workstation" in estimated.note
    assert "there" in estimated.note
    assert estimated.unsupported == ("Loop",)
    assert estimated.memory_bytes == 10**9
    assert estimated.fingerprint["processor"] == "a test"
    estimated.save(tmp_path / "p.json")
    assert Profile.load(tmp_path / "p.json") == estimated


def test_an_estimate_of_an_estimate_is_refused():
    once = estimate(a_profile([a_kernel("conv", 1e-2, 10**9, 10)]), a_device())
    with pytest.raises(ProfileError, match="measured profiles only"):
        estimate(once, a_device())


def test_a_profile_without_rates_is_refused():
    with pytest.raises(ProfileError, match="measure it again"):
        estimate(a_profile([a_kernel("conv", 1e-2, 10**9, 10)], rates=None), a_device())


@pytest.mark.parametrize("name", device_names())
def test_every_described_device_can_be_estimated(name):
    profile = a_profile(
        [a_kernel("conv", 1e-2, 10**9, 10**6), a_kernel("relu", 1e-4, 10**6, 10**7)]
    )
    assert estimate(profile, find_device(name)).whole_s > 0


@pytest.mark.parametrize("integer", [False, True])
def test_the_probe_is_a_valid_model_that_multiplies(integer):
    model = matrix_product(8, integer=integer)
    onnx.checker.check_model(model, full_check=True)
    weight = onnx.numpy_helper.to_array(onnx.load_from_string(model).graph.initializer[0])
    x = np.arange(64).reshape(8, 8).astype(np.uint8 if integer else np.float32)
    (found,) = Runner(model).run({"x": x})
    np.testing.assert_allclose(found, x.astype(np.float64) @ weight, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_rates_of_this_machine_are_positive(monkeypatch, threads):
    monkeypatch.setattr(rates_module, "_SIZE", 32)
    monkeypatch.setattr(rates_module, "_COPIED_BYTES", 1 << 16)
    monkeypatch.setattr(rates_module, "_ROUNDS", Rounds(least=2, most=2, budget_s=0, warmup=1))
    found = measure_rates(Settings(threads=threads))
    assert found.flops_per_s > 0
    assert found.bytes_per_s > 0
    assert found.int8_ops_per_s is not None
