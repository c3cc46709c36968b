from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitter.codec import CODECS, Codec, get_codec
from splitter.codec.base import MAX_TENSOR_BYTES, Stage
from splitter.codec.codec import AnyStage
from splitter.errors import CodecError
from splitter.graph.values import ITEM_BYTES
from tests.contract import (
    CASES,
    Array,
    Case,
    activations,
    check_forms,
    check_hostile,
    check_round_trip,
    check_size,
    numpy_dtype,
    same_bits,
    sample,
)
from tests.test_codec_inputs import OF_IMAGES, OF_SOUND

every_case = pytest.mark.parametrize("case", CASES, ids=str)


def arrays_of(case: Case) -> Iterator[Array]:
    for dtype in case.dtypes:
        for shape in case.shapes:
            yield case.make(dtype, shape, 0)


def subclasses(kind: type[Stage]) -> Iterator[type[Stage]]:
    for found in kind.__subclasses__():
        yield found
        yield from subclasses(found)


def test_every_stage_can_be_configured_and_is_held_to_this_contract() -> None:
    stages = set(get_args(AnyStage))
    # a class that others derive from need not be a stage itself
    assert {kind for kind in subclasses(Stage) if not kind.__subclasses__()} <= stages
    # those of inputs take photos and sound only, and have tests of their own
    held = [case.codec for case in CASES] + [*OF_IMAGES, *OF_SOUND]
    assert {type(stage) for codec in held for stage in codec.stages} == stages


def test_no_two_cases_have_one_name() -> None:
    assert len({case.codec.name for case in CASES}) == len(CASES)


@every_case
def test_every_dtype_and_shape_crosses(case: Case) -> None:
    for array in arrays_of(case):
        check_round_trip(case, array)


@every_case
def test_a_stage_never_makes_more_than_it_says(case: Case) -> None:
    for array in arrays_of(case):
        check_forms(case, array)
        check_forms(case, np.zeros_like(array))


@every_case
def test_constant_tensors_cross(case: Case) -> None:
    for dtype in case.dtypes:
        for value in (0, 1):
            array = np.full(case.shapes[-1], value).astype(numpy_dtype(dtype))
            check_round_trip(case, array)


@every_case
def test_arrays_in_any_memory_order_travel_as_row_major_little_endian(case: Case) -> None:
    array = case.make(case.dtypes[-1], case.shapes[-1], 0)
    mirrored = array[..., ::-1]
    for view in (mirrored, np.asfortranarray(array), mirrored.astype(array.dtype.newbyteorder())):
        plain = np.ascontiguousarray(view).astype(array.dtype)
        assert case.codec.encode(view) == case.codec.encode(plain)


@every_case
def test_impossible_and_oversized_tensors_are_refused(case: Case) -> None:
    check_size(case, case.make(case.dtypes[0], case.shapes[-1], 0))


@every_case
def test_a_payload_is_no_tensor_of_another_size(case: Case) -> None:
    array = case.make(case.dtypes[0], case.shapes[-1], 0)
    payload = case.codec.encode(array)
    for shape in ((*array.shape, 16), (16 * array.shape[0], *array.shape[1:])):
        with pytest.raises(CodecError):
            case.codec.decode(payload, array.dtype.name, shape)


@every_case
def test_dtypes_that_it_does_not_take_are_refused_both_ways(case: Case) -> None:
    shape = case.shapes[-1]
    for dtype in set(ITEM_BYTES) - set(case.dtypes):
        with pytest.raises(CodecError):
            case.codec.encode(np.zeros(shape, numpy_dtype(dtype)))
        with pytest.raises(CodecError):
            case.codec.decode(b"", dtype, shape)


@every_case
def test_dtypes_that_cannot_travel_are_refused_both_ways(case: Case) -> None:
    for array in (np.array(["a"], dtype=object), np.zeros(2, np.complex64), np.array(["b"])):
        with pytest.raises(CodecError, match="cannot travel"):
            case.codec.encode(array)
    with pytest.raises(CodecError, match="cannot travel"):
        case.codec.decode(b"", "object", (1,))


@every_case
def test_over_two_gigabytes_are_refused_before_anything_is_allocated(case: Case) -> None:
    dtype, shape = case.dtypes[0], (1 << 31, *case.shapes[-1][1:])
    array = np.broadcast_to(np.zeros((), numpy_dtype(dtype)), shape)
    tracemalloc.start()
    try:
        with pytest.raises(CodecError, match=f"over {MAX_TENSOR_BYTES} bytes"):
            case.codec.encode(array)
        with pytest.raises(CodecError, match=f"over {MAX_TENSOR_BYTES} bytes"):
            case.codec.decode(b"", dtype, shape)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@every_case
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_mutated_payloads_give_the_right_form_or_a_codec_error(
    case: Case, data: st.DataObject
) -> None:
    dtype = data.draw(st.sampled_from(case.dtypes))
    shape = data.draw(st.sampled_from(case.shapes))
    payload = bytearray(case.codec.encode(case.make(dtype, shape, data.draw(st.integers(0, 3)))))
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
    check_hostile(case.codec, bytes(payload), dtype, data.draw(st.sampled_from(case.shapes)))


@every_case
@settings(deadline=None)
@given(payload=st.binary(max_size=64))
def test_arbitrary_bytes_give_the_right_form_or_a_codec_error(case: Case, payload: bytes) -> None:
    for shape in case.shapes:
        check_hostile(case.codec, payload, case.dtypes[0], shape)


@every_case
def test_every_truncation_is_found(case: Case) -> None:
    array = case.make(case.dtypes[0], case.shapes[-1], 0)
    payload = case.codec.encode(array)
    for end in range(0, len(payload), 1 + len(payload) // 100):
        with pytest.raises(CodecError):
            case.codec.decode(payload[:end], array.dtype.name, array.shape)


@every_case
def test_the_configuration_comes_back_from_json(case: Case) -> None:
    text = msgspec.json.encode(case.codec)
    again = msgspec.json.decode(text, type=Codec)
    assert again == case.codec
    array = case.make(case.dtypes[0], case.shapes[-1], 0)
    assert again.encode(array) == case.codec.encode(array)


@every_case
def test_unknown_fields_and_kinds_of_a_configuration_are_refused(case: Case) -> None:
    fields = msgspec.to_builtins(case.codec)
    wrong = [fields | {"surprise": 1}, fields | {"stages": [{"kind": "surprise"}]}]
    wrong += [fields | {"stages": [stage | {"surprise": 1}]} for stage in fields["stages"]]
    for found in wrong:
        with pytest.raises(msgspec.ValidationError, match="surprise"):
            msgspec.convert(found, type=Codec)


@every_case
def test_one_codec_serves_many_threads(case: Case) -> None:
    arrays = [case.make(case.dtypes[0], case.shapes[-1], seed) for seed in range(8)]
    expected = [case.codec.encode(array) for array in arrays]
    gate = threading.Barrier(4)

    def work(start: int) -> None:
        gate.wait()
        for index in [*range(start, 8), *range(start)]:
            assert case.codec.encode(arrays[index]) == expected[index]
            check_round_trip(case, arrays[index])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


@every_case
def test_encoding_and_decoding_take_at_most_twice_the_tensor_beside_it(case: Case) -> None:
    """Of what Python and numpy allocate, results included; a compressor's own tables are not seen.

    A percent more is for what compressors reserve in case that nothing shrinks.
    """
    dtype = "float32" if "float32" in case.dtypes else case.dtypes[0]
    make = activations if dtype == "float32" else case.make
    array = make(dtype, case.large, 0)
    room = 2.02 * array.nbytes
    payload = case.codec.encode(array)  # what a thread keeps for good is there after this
    assert _peak(lambda: case.codec.encode(array)) <= room
    assert _peak(lambda: case.codec.decode(payload, dtype, array.shape)) <= room


def _peak(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@every_case
def test_a_bool_is_zero_or_one(case: Case) -> None:
    if "bool" not in case.dtypes:
        pytest.skip("takes no bools")
    payload = case.codec.encode(np.array([0, 1, 2], np.uint8))
    with pytest.raises(CodecError, match="neither 0 nor 1"):
        case.codec.decode(payload, "bool", (3,))


def test_what_a_checksum_guards_does_not_change_unseen() -> None:
    codec = get_codec("zstd")
    array = np.repeat(np.arange(8, dtype=np.float32), 16)
    payload = codec.encode(array)
    for bit in range(8 * len(payload)):
        flipped = bytearray(payload)
        flipped[bit // 8] ^= 1 << bit % 8
        got = check_hostile(codec, bytes(flipped), "float32", array.shape)
        assert got is None or same_bits(got, array)


def test_chains_that_cannot_be_decoded_are_not_encoded_either() -> None:
    zstd, bitmap = get_codec("zstd").stages[0], next(_stages("bitmap"))
    backwards = Codec("backwards", (zstd, bitmap))
    with pytest.raises(CodecError, match="stream"):
        backwards.encode(sample("float32", (4,)))


def _stages(name: str) -> Iterator[AnyStage]:
    return (stage for case in CASES if case.codec.name == name for stage in case.codec.stages)


def test_a_chain_has_an_end() -> None:
    stages = [{"kind": "zstd"}] * 9
    with pytest.raises(msgspec.ValidationError, match="length <= 8"):
        msgspec.convert({"name": "long", "stages": stages}, type=Codec)


def test_codecs_without_calibration_are_found_by_name() -> None:
    assert list(CODECS) == [codec.name for codec in CODECS.values()] == ["raw", "zstd"]
    with pytest.raises(CodecError, match="no codec is named 'gzip'; there are raw, zstd"):
        get_codec("gzip")


def test_every_kind_and_field_of_a_configuration_is_on_its_page() -> None:
    text = (Path(__file__).parents[1] / "docs" / "codecs.md").read_text()
    kinds = get_args(AnyStage)
    names = {field.name for kind in (Codec, *kinds) for field in msgspec.structs.fields(kind)}
    names |= {str(kind.__struct_config__.tag) for kind in kinds}
    assert not [name for name in sorted(names) if f"`{name}`" not in text]
