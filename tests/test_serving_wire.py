from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from splitter.codec import CODECS, Codec, get_codec
from splitter.codec.affine import Affine
from splitter.codec.bits import Bits
from splitter.errors import CodecError, InputError, ServingError
from splitter.graph.values import ITEM_BYTES, Tensor
from splitter.serving import framing, wire
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.protocol import METHODS, Address
from tests.contract import same_bits, sample

GOLDEN = (
    "0a056d6f64656c2a110a05706c61696e1204465033321a0201022a460a067061636b6564120555494e54381a"
    "0115220f0a05636f64656312061a047a737464220f0a05647479706512061a044650313622100a0573686170"
    "6512071a05322c332c343a080000803f000000c03a1528b52ffd243045000010000001009b000b74168502"
)
"""A plain and a compressed tensor, as the first version sent them."""

MESSAGES = [pb.ModelInferRequest, pb.ModelInferResponse]


def sent(message: Any, packets: list[wire.Packet]) -> list[wire.Packet]:
    wire.write_packets(message, packets)
    return wire.read_packets(type(message).FromString(message.SerializeToString()))


@pytest.mark.parametrize("kind", MESSAGES)
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", ITEM_BYTES)
def test_tensors_of_every_dtype_cross_bit_for_bit(kind: Any, codec: str, dtype: str) -> None:
    shapes = [(), (0,), (3, 1, 2), (40, 40)]
    arrays = {str(shape): sample(dtype, shape) for shape in shapes}
    arrays["zeros"] = np.zeros((40, 40), arrays["()"].dtype)
    packets = [wire.pack(name, a, get_codec(codec)) for name, a in arrays.items()]
    expected = [Tensor(name, dtype, a.shape) for name, a in arrays.items()]
    got = wire.unpack(sent(kind(), packets), expected)
    assert list(got) == list(arrays)
    assert all(same_bits(got[name], arrays[name]) for name in arrays)


def test_a_tensor_that_a_codec_would_not_shrink_goes_raw() -> None:
    noise, zeros = sample("float32", (100,)), np.zeros(100, np.float32)
    assert wire.pack("n", noise, get_codec("zstd")).codec == "raw"
    assert wire.pack("z", zeros, get_codec("zstd")).codec == "zstd"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_tensor_that_its_codec_cannot_carry_goes_lossless(bad: float) -> None:
    levels = Codec("levels", (Affine(levels=4, step=(1.0,), size=(1.0,)), Bits(2)))
    array = np.zeros((1, 64), np.float32)
    assert wire.pack("a", array, levels).codec == "levels"
    array[0, 3] = bad
    packet = wire.pack("a", array, levels)
    assert packet.codec == "zstd"
    got = wire.unpack([packet], [Tensor("a", "float32", (1, 64))], {"a": levels})
    assert same_bits(got["a"], array)


def test_messages_of_earlier_versions_are_read_for_ever() -> None:
    packets = wire.read_packets(pb.ModelInferRequest.FromString(bytes.fromhex(GOLDEN)))
    assert [packet.codec for packet in packets] == ["raw", "zstd"]
    expected = [Tensor("plain", "float32", (1, 2)), Tensor("packed", "float16", (2, 3, 4))]
    arrays = wire.unpack(packets, expected)
    assert arrays["plain"].tolist() == [[1.0, -2.0]]
    assert same_bits(arrays["packed"], np.zeros((2, 3, 4), np.float16))


@pytest.mark.parametrize("dtype", sorted(set(ITEM_BYTES) - {"float16", "bfloat16"}))
def test_typed_contents_of_every_datatype_are_read(dtype: str) -> None:
    array = np.array([0, 1, 1, 0] if dtype == "bool" else [0, 1, 2, 100], dtype)
    request = pb.ModelInferRequest()
    header = request.inputs.add(name="a", datatype=wire.DATATYPE_OF[dtype], shape=[2, 2])
    fields = {
        "b": "bool_contents", "i": "int_contents", "u": "uint_contents", "f": "fp32_contents"
    }  # fmt: skip
    wide = {"int64": "int64_contents", "uint64": "uint64_contents", "float64": "fp64_contents"}
    getattr(header.contents, wide.get(dtype, fields[dtype[0]])).extend(array.tolist())
    got = wire.unpack(wire.read_packets(request), [Tensor("a", dtype, (2, 2))])["a"]
    assert same_bits(got, array.reshape(2, 2))


@pytest.mark.parametrize(("datatype", "value"), [("INT8", 128), ("INT16", -32769)])
def test_typed_integers_out_of_range_are_refused(datatype: str, value: int) -> None:
    request = pb.ModelInferRequest()
    request.inputs.add(name="a", datatype=datatype, shape=[1]).contents.int_contents.append(value)
    with pytest.raises(InputError, match=f"elements that are no {datatype}"):
        wire.read_packets(request)


def test_halves_travel_as_raw_contents_only() -> None:
    request = pb.ModelInferRequest()
    request.inputs.add(name="a", datatype="FP16", shape=[1]).contents.fp32_contents.append(1)
    with pytest.raises(InputError, match="FP16 travels as raw contents only"):
        wire.read_packets(request)


@given(message=st.binary(max_size=80), seed=st.integers(0, 3))
def test_random_messages_are_read_or_refused_with_one_line(message: bytes, seed: int) -> None:
    request = pb.ModelInferRequest()
    wire.write_packets(request, [wire.pack("a", sample("float32", (2,), seed), get_codec("raw"))])
    try:
        request.MergeFromString(message)
    except Exception:  # noqa: BLE001  (protobuf refuses it)
        return
    refusal = ""
    try:
        wire.unpack(wire.read_packets(request), [Tensor("a", "float32", (2,))])
    except (InputError, CodecError) as exc:
        refusal = str(exc)
    assert "\n" not in refusal


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """However short a message is, its raw contents are cut out."""
    monkeypatch.setattr(framing, "_WORTH_BYTES", 0)


def fields_of(message: bytes) -> Any:
    """A request as protobuf reads it; None where it does not."""
    try:
        return pb.ModelInferRequest.FromString(message)
    except DecodeError:
        return None


def fields_by_hand(message: bytes) -> Any:
    rest, raw = framing.cut_out(message, framing.RAW_INPUTS)
    read = fields_of(rest)
    if read is not None:
        read.raw_input_contents.extend(bytes(one) for one in raw)
    return read


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(st.text(max_size=3), max_size=3),
    raw=st.lists(st.binary(max_size=200), max_size=4),
    flips=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(1, 255)), max_size=3),
    tail=st.binary(max_size=12),
)
def test_raw_contents_are_cut_out_as_protobuf_reads_them(
    by_hand: None, names: Any, raw: Any, flips: Any, tail: bytes
) -> None:
    request = pb.ModelInferRequest(model_name="m", id="7", raw_input_contents=raw)
    request.parameters["priority"].int64_param = -1
    for name in names:
        request.inputs.add(name=name, shape=[1, 1 << 40])
    message = bytearray(request.SerializeToString())
    for at, bits in flips:
        message[at % len(message)] ^= bits
    whole = bytes(message) + tail
    assert fields_by_hand(whole) == fields_of(whole)


def test_an_answer_joined_by_hand_is_the_one_that_protobuf_writes() -> None:
    response = pb.ModelInferResponse(id="é" * 100, raw_output_contents=[b"", b"x" * 300])
    seconds = {"tail_s": 0.25, "queue_s": -0.0}
    for key, value in seconds.items():
        response.parameters[key].double_param = value
    response.parameters["batch_size"].int64_param = 1 << 40
    response.parameters["is"].bool_param = True
    parts = [
        framing.text(framing.RESPONSE_ID, "é" * 100),
        framing.DoubleParameters(*seconds)(*seconds.values()),
        framing.int_parameter("batch_size", 1 << 40),
        framing.true_parameter("is"),
    ]
    payloads = [b"", memoryview(b"x" * 300)]
    joined = framing.join(parts, framing.RAW_OUTPUTS, payloads)
    assert pb.ModelInferResponse.FromString(joined) == response
    streamed = framing.join(parts, framing.RAW_OUTPUTS, payloads, is_streamed=True)
    assert pb.ModelStreamInferResponse.FromString(streamed).infer_response == response


def test_the_published_fields_have_the_published_numbers_and_types() -> None:
    """Against the messages that Triton's client brings, which were made elsewhere."""
    theirs = pytest.importorskip("tritonclient.grpc.service_pb2")
    for request, response in METHODS.values():
        for kind in (request, response):
            published = theirs.DESCRIPTOR.message_types_by_name[kind.DESCRIPTOR.name]
            _compare(kind.DESCRIPTOR, published)


def _compare(ours: Any, published: Any) -> None:
    def fields(descriptor: Any) -> set[tuple[Any, ...]]:
        return {(f.number, f.name, f.type, f.is_repeated) for f in descriptor.fields}

    missing = fields(published) - fields(ours)
    assert fields(ours) <= fields(published), ours.name
    # of the many ways to configure Triton only those that are ever filled are ours
    assert not missing or published.file.name == "model_config.proto", ours.name
    for field in ours.fields:
        if field.type == FieldDescriptor.TYPE_ENUM:
            theirs = published.fields_by_name[field.name].enum_type
            values = [{(v.name, v.number) for v in e.values} for e in (field.enum_type, theirs)]
            assert values[0] == values[1], field.name
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            _compare(field.message_type, published.fields_by_name[field.name].message_type)


@pytest.mark.parametrize("text", ["127.0.0.1:0", "localhost:8001", "[::1]:8001", "tail.lan:65535"])
def test_addresses_read_back_as_written(text: str) -> None:
    assert str(Address.parse(text)) == text


def test_only_this_machine_is_loopback() -> None:
    assert Address.parse("127.8.0.1:1").is_loopback
    assert Address.parse("[::1]:1").is_loopback
    for text in ("0.0.0.0:1", "[::]:1", "192.168.0.1:1", "localhost.example:1"):
        assert not Address.parse(text).is_loopback
    with pytest.raises(ServingError, match="write HOST:PORT"):
        Address.parse("8001")
