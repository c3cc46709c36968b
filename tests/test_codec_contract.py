from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from splitter.codec import CODECS, Codec, get_codec
from splitter.errors import CodecError
from splitter.graph.values import ITEM_BYTES
from tests.contract import (
    check_hostile,
    check_round_trip,
    check_size,
    same_bits,
    sample,
)

SHAPES = [(), (1,), (0,), (3, 0, 2), (2, 3, 5), (1, 64, 7, 7)]
every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)


@every_codec
@pytest.mark.parametrize("dtype", ITEM_BYTES)
def test_every_dtype_and_shape_comes_back_bit_for_bit(codec: Codec, dtype: str) -> None:
    for shape in SHAPES:
        check_round_trip(codec, sample(dtype, shape))


@every_codec
def test_arrays_in_any_memory_order_travel_as_row_major_little_endian(codec: Codec) -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for view in (array.T, array[:, ::-2], np.asfortranarray(array), array.astype(">f4")):
        expected = np.ascontiguousarray(view).astype("<f4")
        payload = codec.encode(view)
        assert same_bits(codec.decode(payload, "float32", view.shape), expected)
        assert payload == codec.encode(expected)


@every_codec
@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
def test_a_payload_is_refused_as_a_tensor_of_another_size(codec: Codec, dtype: str) -> None:
    check_size(codec, sample(dtype, (4, 5)))


@every_codec
def test_dtypes_that_cannot_travel_are_refused_both_ways(codec: Codec) -> None:
    for array in (np.array(["a"], dtype=object), np.zeros(2, np.complex64), np.array(["b"])):
        with pytest.raises(CodecError, match="cannot travel"):
            codec.encode(array)
    with pytest.raises(CodecError, match="cannot travel"):
        codec.decode(b"", "object", (1,))


@every_codec
def test_impossible_shapes_are_refused_before_anything_is_allocated(codec: Codec) -> None:
    payload = codec.encode(np.zeros(1, np.uint8))
    for shape in [(1 << 62, 1 << 62), (0, 1 << 62), (-1, -1), (1,) * 65]:
        with pytest.raises(CodecError):
            codec.decode(payload, "uint8", shape)


@every_codec
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_mutated_payloads_give_the_right_shape_or_a_codec_error(
    codec: Codec, data: st.DataObject
) -> None:
    dtype = data.draw(st.sampled_from(list(ITEM_BYTES)))
    shape = data.draw(st.sampled_from(SHAPES))
    array = sample(dtype, shape, seed=data.draw(st.integers(0, 3)))
    payload = bytearray(codec.encode(array))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(payload)))
        change = data.draw(st.sampled_from(["flip", "insert", "cut", "drop"]))
        if change == "insert":
            payload[place:place] = data.draw(st.binary(min_size=1, max_size=8))
        elif change == "cut":
            del payload[place:]
        elif change == "drop":
            del payload[place : place + 3]
        elif place < len(payload):
            payload[place] ^= 1 << data.draw(st.integers(0, 7))
    told = data.draw(st.sampled_from([shape, (2, 3, 5), (0,)]))
    got = check_hostile(codec, bytes(payload), dtype, told)
    if codec.name == "zstd" and got is not None and told == shape:
        assert same_bits(got, array), "a change got through the checksum"


@every_codec
@given(payload=st.binary(max_size=64))
def test_arbitrary_bytes_give_the_right_shape_or_a_codec_error(
    codec: Codec, payload: bytes
) -> None:
    check_hostile(codec, payload, "float32", (2, 2))
    check_hostile(codec, payload, "bool", (3,))


@every_codec
def test_a_bool_is_zero_or_one(codec: Codec) -> None:
    payload = codec.encode(np.array([0, 1, 2], np.uint8))
    with pytest.raises(CodecError, match="neither 0 nor 1"):
        codec.decode(payload, "bool", (3,))


def test_every_single_bit_flip_of_a_zstd_payload_is_found() -> None:
    codec = get_codec("zstd")
    array = np.repeat(np.arange(8, dtype=np.float32), 16)
    payload = codec.encode(array)
    for bit in range(8 * len(payload)):
        flipped = bytearray(payload)
        flipped[bit // 8] ^= 1 << bit % 8
        got = check_hostile(codec, bytes(flipped), "float32", array.shape)
        assert got is None or same_bits(got, array)


def test_every_truncation_of_a_zstd_payload_is_found() -> None:
    codec = get_codec("zstd")
    payload = codec.encode(np.arange(64, dtype=np.float32))
    for end in range(len(payload)):
        with pytest.raises(CodecError):
            codec.decode(payload[:end], "float32", (64,))


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


@every_codec
def test_one_codec_serves_many_threads(codec: Codec) -> None:
    arrays = [sample("float32", (64, 33), seed) for seed in range(8)]
    gate = threading.Barrier(4)

    def work(start: int) -> None:
        gate.wait()
        for array in arrays[start:] + arrays[:start]:
            check_round_trip(codec, array)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


def test_every_codec_is_registered_under_its_name() -> None:
    assert list(CODECS) == [codec.name for codec in CODECS.values()] == ["raw", "zstd"]
    with pytest.raises(CodecError, match="no codec is named 'gzip'; there are raw, zstd"):
        get_codec("gzip")
