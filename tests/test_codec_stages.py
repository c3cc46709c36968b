"""What each stage does of its own, beyond the contract of them all."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from splitter.codec import Codec, get_codec
from splitter.codec.affine import FLOATS, Affine
from splitter.codec.base import Array, Form
from splitter.codec.bitmap import Bitmap
from splitter.codec.bits import Bits
from splitter.codec.cast import Cast
from splitter.codec.lz4 import Lz4
from splitter.codec.shuffle import Shuffle
from splitter.codec.zstd import MAX_DICTIONARY_BYTES, Zstd
from splitter.errors import CodecError
from tests.contract import activations, check_hostile, few_levels, numpy_dtype, same_bits, sample

STEPS = st.floats(2.0**-20, 2.0**20, width=32)
floats = arrays.arrays(np.float32, st.integers(0, 40), elements=st.floats(-1e6, 1e6, width=32))


def affine(levels: int, *step: float, **more: Any) -> Affine:
    return Affine(levels=levels, step=step, size=step, **more)


def crossed(stage: Affine, array: Array) -> Array:
    return stage.decode(stage.encode(array), Form(array.dtype.name, array.shape))


# affine


@settings(deadline=None)
@given(array=floats, levels=st.integers(2, 256), step=STEPS, data=st.data())
def test_levels_lie_at_most_half_a_step_off_and_saturate(
    array: Array, levels: int, step: float, data: st.DataObject
) -> None:
    zero = data.draw(st.integers(0, levels - 1))
    got = crossed(affine(levels, step, zero=zero), array).astype(np.float64)
    low, high = -zero * step, (levels - 1 - zero) * step
    inside = np.clip(array.astype(np.float64), low, high)
    assert np.all(np.abs(got - inside) <= step * (0.5 + 1e-4))
    assert np.all((got >= low * (1 + 1e-6)) & (got <= high * (1 + 1e-6)))
    assert not got[array == 0].any()


@given(array=floats, step=STEPS, dead=st.floats(0, 0.49))
def test_levels_follow_the_formula(array: Array, step: float, dead: float) -> None:
    stage = affine(16, step, zero=5, dead=dead)
    exact = array.astype(np.float64) / step + 5 - dead + 0.5
    near = np.abs(exact - np.round(exact)) < 1e-3  # float32 may round to the neighbour there
    expected = np.clip(np.floor(exact), 0, 15)
    assert np.array_equal(stage.encode(array)[~near], expected[~near])


def test_a_dead_zone_takes_more_than_half_a_step_to_leave() -> None:
    array = np.array([0.6, 0.8, 1.6, 1.8], np.float32)
    assert affine(4, 1.0).encode(array).tolist() == [1, 1, 2, 2]
    assert affine(4, 1.0, dead=0.25).encode(array).tolist() == [0, 1, 1, 2]


def test_size_says_what_a_level_is_worth_and_step_where_it_begins() -> None:
    stage = Affine(levels=4, step=(1.0,), size=(1.25,))
    assert crossed(stage, np.array([0.4, 1.4, 2.0], np.float32)).tolist() == [0, 1.25, 2.5]


@pytest.mark.parametrize(
    "shape", [(2, 3, 4), (1, 3, 400, 400), (9, 3), (40, 3, 37, 41), (1, 3, 200_000)]
)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_channel_has_its_own_step_whatever_the_blocks(
    shape: tuple[int, ...], axis: int
) -> None:
    if axis >= len(shape):
        pytest.skip("no such axis")
    steps = tuple(0.01 * (1 + index) for index in range(min(shape[axis], 3)))
    array = activations("float32", shape)
    array = np.ascontiguousarray(array.take(range(len(steps)), axis))
    got = crossed(affine(200, *steps, axis=axis), array)
    for index, step in enumerate(steps):
        alone = np.ascontiguousarray(array.take(index, axis))
        assert same_bits(
            np.ascontiguousarray(got.take(index, axis)), crossed(affine(200, step), alone)
        )


def test_a_tensor_of_many_blocks_is_quantised_as_its_parts_are() -> None:
    array = activations("float32", (300_001,))
    stage = affine(16, 0.37, zero=3)
    parts = [stage.encode(array[first : first + 1000]) for first in range(0, array.size, 1000)]
    assert np.array_equal(stage.encode(array), np.concatenate(parts))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("place", [0, 199_999])
def test_what_no_level_stands_for_is_refused(dtype: str, bad: float, place: int) -> None:
    array = np.zeros(200_000, numpy_dtype(dtype))
    array[place] = bad
    with pytest.raises(CodecError, match="NaN, infinite or too large"):
        affine(16, 1.0).encode(array)


def test_values_too_large_for_a_small_step_are_refused_not_wrapped() -> None:
    with pytest.raises(CodecError, match="too large for its step"):
        affine(256, 2.0**-126).encode(np.array([1e38], np.float32))
    with pytest.raises(CodecError, match="too large"):
        affine(256, 1.0).encode(np.array([1e300]))


@pytest.mark.parametrize("step", [2.0**-126, 1e-30, 1e30, 2.0**119])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_tiny_and_huge_steps_decode_to_finite_levels(step: float, dtype: str) -> None:
    array = np.array([0.0, step, 100 * step, -step]).astype(numpy_dtype(dtype))
    got = crossed(affine(256, step, zero=128), array).astype(np.float64)
    assert got == pytest.approx(array.astype(np.float64), rel=0.01)


def test_a_level_beyond_float16_becomes_the_largest_one() -> None:
    stage = Affine(levels=16, step=(7000.0,), size=(8000.0,))
    assert crossed(stage, np.array([65504.0, 7000.0], np.float16)).tolist() == [65504.0, 8000.0]


def test_a_level_that_is_none_is_refused() -> None:
    with pytest.raises(CodecError, match="level 9, where there are 4"):
        affine(4, 1.0).decode(np.array([9], np.uint8), Form("float32", (1,)))


def test_a_tensor_without_those_channels_is_refused() -> None:
    stage = affine(4, 1.0, 2.0, 3.0)
    for shape in [(), (3,), (1, 2, 5), (3, 4)]:
        with pytest.raises(CodecError, match="does not have 3 channels on axis 1"):
            stage.encode(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"levels": 1}, ">= 2"),
        ({"levels": 257}, "<= 256"),
        ({"size": [1.0, 2.0]}, "1 steps and 2 sizes"),
        ({"zero": 4}, "level of zero is 4, of 4"),
        ({"zero": -1}, ">= 0"),
        ({"step": [], "size": []}, "length >= 1"),
        ({"step": [0.0]}, ">= "),
        ({"step": [-1.0]}, ">= "),
        ({"size": [1e39]}, "<= "),
        ({"dead": 0.5}, "< 0.5"),
        ({"axis": -1}, ">= 0"),
        ({"step": [None]}, "float"),
    ],
)
def test_fields_that_make_no_quantiser_are_refused(fields: dict[str, Any], match: str) -> None:
    stage = {"kind": "affine", "levels": 4, "step": [1.0], "size": [1.0]} | fields
    with pytest.raises(msgspec.ValidationError, match=match):
        msgspec.convert({"name": "a", "stages": [stage]}, type=Codec)


@pytest.mark.parametrize("step", [0.0, math.nan, math.inf, -1.0])
def test_a_fit_that_found_nothing_makes_no_quantiser(step: float) -> None:
    with pytest.raises(ValueError, match="a step or size of"):
        affine(4, step)


# bits


@given(width=st.sampled_from([1, 2, 4]), data=st.data())
def test_bits_are_those_of_the_definition(width: int, data: st.DataObject) -> None:
    levels = data.draw(st.lists(st.integers(0, (1 << width) - 1), max_size=70))
    whole = sum(level << place * width for place, level in enumerate(levels))
    expected = whole.to_bytes(-(-len(levels) * width // 8), "little")
    stage = Bits(width)  # type: ignore[arg-type]
    assert stage.encode(np.array(levels, np.uint8)).tobytes() == expected


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("count", [(1 << 17) - 1, 1 << 17, (1 << 17) + 1, 300_003])
def test_many_blocks_of_bits_come_back(width: Any, count: int) -> None:
    levels = np.random.default_rng(0).integers(0, 1 << width, count).astype(np.uint8)
    stage = Bits(width)
    assert np.array_equal(stage.decode(stage.encode(levels), Form("uint8", (count,))), levels)


def test_a_level_that_needs_more_bits_is_refused() -> None:
    with pytest.raises(CodecError, match="level 4 does not fit in 2 bits"):
        Bits(2).encode(np.array([0, 4], np.uint8))


def test_bits_after_the_last_level_are_zero() -> None:
    packed = np.array([0b1111_0001], np.uint8)
    with pytest.raises(CodecError, match="after the last level"):
        Bits(4).decode(packed, Form("uint8", (1,)))


# cast


@pytest.mark.parametrize("to", ["float16", "bfloat16"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_cast_rounds_to_nearest_and_keeps_what_is_not_finite(to: Any, dtype: str) -> None:
    array = np.array([0.0, -0.0, math.inf, -math.inf, math.nan, 1 / 3, 1e-30], dtype)
    got = Cast(to).decode(Cast(to).encode(array), Form(dtype, array.shape))
    bits = {"float16": 11, "bfloat16": 8}[to]
    assert np.signbit(got[:2]).tolist() == [False, True]
    assert same_bits(got[2:4], array[2:4])
    assert np.isnan(got[4])
    assert abs(got[5] - 1 / 3) <= 2.0 ** -(bits + 1) / 2


@pytest.mark.parametrize(("to", "value"), [("float16", 70000.0), ("bfloat16", 3.4e38)])
@pytest.mark.parametrize("other", [0.0, math.inf])
def test_a_finite_value_never_becomes_an_infinity(to: Any, value: float, other: float) -> None:
    with pytest.raises(CodecError, match=f"beyond the largest {to}"):
        Cast(to).encode(np.array([value, other], np.float32))


# shuffle, bitmap


@pytest.mark.parametrize("dtype", ["bool", "uint8", "float16", "float32", "int64"])
def test_a_shuffle_is_a_transposition_of_bytes(dtype: str) -> None:
    array = sample(dtype, (9001,))
    expected = array.view(np.uint8).reshape(array.size, -1).T.tobytes()
    assert Shuffle().encode(array).tobytes() == expected


def test_a_bitmap_carries_a_bit_an_element_and_the_elements_that_have_any() -> None:
    array = np.zeros((10, 10_000), np.float32)
    array[3, ::7] = np.arange(1, 1430)
    array[9, -1] = -0.0
    payload = Bitmap().encode(array)
    assert payload.size == array.size // 8 + 4 * 1430
    assert same_bits(Bitmap().decode(payload, Form("float32", array.shape)), array)


@pytest.mark.parametrize(
    ("payload", "match"),
    [
        (b"", "bitmap alone takes 2"),
        (bytes([0, 0b0010_0000]), "after the last element"),
        (bytes([0b1000_0000, 0]), "fewer values"),
        (bytes([0b1000_0000, 0, 1, 2]), "1 bytes more"),
    ],
)
def test_a_bitmap_and_its_values_agree(payload: bytes, match: str) -> None:
    with pytest.raises(CodecError, match=match):
        Bitmap().decode(np.frombuffer(payload, np.uint8), Form("uint8", (10,)))


# zstd, lz4


def test_a_zstd_frame_that_declares_more_than_the_tensor_is_refused_unopened() -> None:
    bomb = zstandard.ZstdCompressor(write_checksum=True).compress(bytes(100 << 20))
    assert len(bomb) < 20_000
    with pytest.raises(CodecError, match=r"declares 104857600 bytes, the tensor takes 4096"):
        get_codec("zstd").decode(bomb, "float32", (1024,))


def test_zstd_frames_must_declare_their_size_and_carry_a_checksum() -> None:
    data = bytes(400)
    unsized = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    with pytest.raises(CodecError, match="no content size"):
        get_codec("zstd").decode(unsized.compress(data) + unsized.flush(), "float32", (100,))
    with pytest.raises(CodecError, match="no checksum"):
        get_codec("zstd").decode(zstandard.compress(data), "float32", (100,))


def test_a_zstd_window_far_larger_than_the_tensor_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(
        window_log=27, write_checksum=True, write_content_size=True
    )
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=400)
    payload = bytearray(writer.compress(bytes(400)) + writer.flush())
    if payload[4] & 0x20:  # a single segment has no window field: write one that says 128 MiB
        payload[4] &= ~0x20
        payload[5:5] = bytes([(27 - 10) << 3])
    with pytest.raises(CodecError, match="window"):
        get_codec("zstd").decode(bytes(payload), "float32", (100,))


def test_a_second_zstd_frame_is_refused() -> None:
    payload = get_codec("zstd").encode(np.zeros(100, np.float32))
    with pytest.raises(CodecError, match="corrupted"):
        get_codec("zstd").decode(payload * 2, "float32", (100,))


def test_zstd_shrinks_sparse_activations() -> None:
    array = np.maximum(np.random.default_rng(0).normal(-1, 1, 10_000), 0).astype(np.float32)
    assert len(get_codec("zstd").encode(array)) < array.nbytes / 2


def test_long_matches_make_levels_smaller() -> None:
    values = np.maximum(np.random.default_rng(0).normal(-1, 1, 200_000), 0).astype(np.float32)
    levels = affine(16, 0.2).encode(values)
    assert Zstd(1, "long").encode(levels).size < min(
        Zstd(1).encode(levels).size, Zstd(3).encode(levels).size
    )


def test_any_zstd_stage_decodes_what_another_made_unless_they_share_a_dictionary() -> None:
    array = few_levels("uint8", (500,))
    form = Form("uint8", (500,))
    payload = Zstd(19, "long").encode(array)
    assert same_bits(Zstd().decode(payload, form), array)


def test_a_dictionary_pays_for_small_tensors_and_is_needed_to_decode() -> None:
    texts = [few_levels("uint8", (300,), seed % 20) for seed in range(200)]
    known = zstandard.train_dictionary(4096, [text.tobytes() for text in texts]).as_bytes()
    stage = Zstd(3, dictionary=known)
    payload = stage.encode(texts[5])
    assert payload.size < Zstd(3).encode(texts[5]).size
    with pytest.raises(CodecError, match="corrupted"):
        Zstd(3).decode(payload, Form("uint8", (300,)))


@pytest.mark.parametrize("dictionary", [b"x", b"\x37\xa4\x30\xec" + bytes(100), bytes(8)])
def test_a_broken_dictionary_is_a_codec_error_or_a_plain_prefix(dictionary: bytes) -> None:
    codec = Codec("broken", (Zstd(1, dictionary=dictionary),))
    array = few_levels("uint8", (300,))
    try:
        payload = codec.encode(array)
    except CodecError:
        payload = get_codec("zstd").encode(array)
    check_hostile(codec, payload, "uint8", (300,))


def test_a_dictionary_and_a_level_have_their_limits() -> None:
    for wrong in ({"dictionary": "A" * (MAX_DICTIONARY_BYTES * 2)}, {"level": 0}, {"level": 23}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"name": "z", "stages": [{"kind": "zstd"} | wrong]}, type=Codec)


def test_an_lz4_block_may_not_hold_more_than_the_tensor() -> None:
    payload = Lz4().encode(np.zeros(100_000, np.uint8))
    with pytest.raises(CodecError, match="corrupted"):
        Lz4().decode(payload, Form("uint8", (1000,)))
