from __future__ import annotations

import builtins
import io
import struct
import sys
import threading
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from splitter.codec import Codec
from splitter.codec.base import Form, Stage
from splitter.codec.flac import Flac
from splitter.codec.image import Jpeg, Picture, Png, Webp, WebpLossless
from splitter.codec.inputs import input_codecs
from splitter.codec.pcm import Pcm
from splitter.codec.pixels import NearPixels, Pixels
from splitter.dataset import open_dataset
from splitter.errors import CodecError
from splitter.graph.cut import cut_of
from splitter.graph.read import load_model
from splitter.graph.values import Tensor
from splitter.partition.bundle import Division, write_bundle
from splitter.preprocess import PREPROCESS, Preprocess, values_of
from splitter.runtime import Runner, Settings
from splitter.serving.server import serve
from splitter.serving.session import Session
from tests import models
from tests.contract import check_hostile, same_bits

Array = np.ndarray[Any, Any]

RECIPE = PREPROCESS["imagenet"]
IMAGE = Tensor("x", "float32", (1, 3, 24, 20))
SOUND = Tensor("x", "float32", (1, 512))
OF_IMAGES = input_codecs(IMAGE, RECIPE, None)
OF_SOUND = input_codecs(SOUND, None, 16_000)
PICTURES: tuple[Picture, ...] = (Png(), Jpeg(), Webp(), WebpLossless())
every_image_codec = pytest.mark.parametrize("codec", OF_IMAGES, ids=lambda codec: codec.name)
every_sound_codec = pytest.mark.parametrize("codec", OF_SOUND, ids=lambda codec: codec.name)
every_picture = pytest.mark.parametrize("stage", PICTURES, ids=lambda stage: type(stage).__name__)


def photo(count: int = 1, height: int = 24, width: int = 20, channels: int = 3) -> Array:
    """Smooth, with an edge and a little noise."""
    generator = np.random.default_rng(5)
    y, x = np.mgrid[:height, :width]
    base = 90 + 60 * np.sin(x / 7) + 50 * np.cos(y / 5) + 30 * (x > width // 2)
    parts = [base + 20 * n + 10 * c for n in range(count) for c in range(channels)]
    images = np.stack(parts).reshape(count, channels, height, width).transpose(0, 2, 3, 1)
    return (images + generator.normal(0, 3, images.shape)).clip(0, 255).astype(np.uint8)


def image_input(tensor: Tensor = IMAGE, recipe: Preprocess = RECIPE) -> Array:
    shape = tensor.shape or ()
    is_first = shape[1] == recipe.channels
    height, width = shape[2:] if is_first else shape[1:3]
    return values_of(photo(shape[0], height, width, recipe.channels), recipe, tensor.dtype, shape)


def sound(count: int = 512) -> Array:
    samples = 8000 * np.sin(np.arange(count) / 9) + 2000 * np.sin(np.arange(count) / 2)
    return (samples.astype(np.int16).astype(np.float32) / 32768).reshape(1, count)


def codec_of(*stages: Stage) -> Codec:
    return Codec("tried", stages)  # type: ignore[arg-type]


@every_image_codec
@pytest.mark.parametrize("recipe", PREPROCESS.values(), ids=PREPROCESS)
@pytest.mark.parametrize("count", [1, 3])
def test_an_image_comes_back_bit_for_bit_or_near(
    codec: Codec, recipe: Preprocess, count: int
) -> None:
    shapes = [(count, recipe.channels, 24, 20), (count, 24, 20, recipe.channels)]
    for dtype, shape in [("float32", shapes[0]), ("float16", shapes[1]), ("uint8", shapes[0])]:
        tensor = Tensor("x", dtype, shape)
        mine = {found.name: found for found in input_codecs(tensor, recipe, None)}[codec.name]
        array = image_input(tensor, recipe)
        found = mine.decode(mine.encode(array), dtype, shape)
        if mine.is_lossless:
            assert same_bits(found, array)
        else:
            assert (found.shape, found.dtype.name) == (shape, dtype)
            spread = float(array.astype(np.float64).std())
            error = np.abs(found.astype(np.float64) - array.astype(np.float64)).mean()
            assert error < 0.3 * spread


def test_those_said_to_be_lossless_are_those_that_keep_every_bit() -> None:
    lossless = [codec.name for codec in (*OF_IMAGES, *OF_SOUND) if codec.is_lossless]
    assert lossless == ["uint8-zstd", "png", "webp-lossless"]


def test_a_better_quality_takes_more_bytes_and_is_nearer() -> None:
    array = values_of(photo(1, 64, 64), RECIPE, "float32", (1, 3, 64, 64))
    tensor = Tensor("x", "float32", array.shape)
    for format in ("jpeg", "webp"):
        sizes, errors = [], []
        for codec in input_codecs(tensor, RECIPE, None):
            if codec.name.startswith(f"{format}-") and not codec.is_lossless:
                payload = codec.encode(array)
                sizes.append(len(payload))
                found = codec.decode(payload, "float32", array.shape)
                errors.append(float(np.abs(found - array).mean()))
        assert len(sizes) >= 4
        assert sizes == sorted(sizes, reverse=True)
        assert errors == sorted(errors)


def test_every_encoding_of_a_photo_is_smaller_than_its_floats() -> None:
    array = image_input(Tensor("x", "float32", (1, 3, 96, 96)))
    for codec in input_codecs(Tensor("x", "float32", array.shape), RECIPE, None):
        assert len(codec.encode(array)) < array.nbytes / 3, codec.name


def test_only_inputs_made_of_photos_or_sound_have_encodings_of_their_own() -> None:
    assert [codec.name for codec in OF_SOUND] == ["int16-zstd", "flac"]
    assert {"png", "jpeg-85", "webp-75"} <= {codec.name for codec in OF_IMAGES}
    for tensor in (IMAGE, SOUND):
        assert input_codecs(tensor, None, None) == ()
    assert input_codecs(SOUND, RECIPE, None) == ()
    state = Tensor("state", "float32", (2, 1, 128))
    for tensor in (state, IMAGE, Tensor("sr", "int64", ()), Tensor("x", "float32", None)):
        assert input_codecs(tensor, None, 16_000) == ()
    for shape in [(1, 4, 24, 20), (1, 3, 0, 20), (3, 24, 20)]:
        assert input_codecs(Tensor("x", "float32", shape), RECIPE, None) == ()
    assert input_codecs(Tensor("x", "int64", (1, 3, 24, 20)), RECIPE, None) == ()


@pytest.mark.parametrize("codec", [*OF_IMAGES, *OF_SOUND], ids=lambda codec: codec.name)
def test_a_codec_is_its_configuration(codec: Codec) -> None:
    assert msgspec.json.decode(msgspec.json.encode(codec), type=Codec) == codec


def test_an_array_off_the_grid_is_refused_where_bits_are_kept_and_rounded_elsewhere() -> None:
    array = image_input()
    array[0, 1, 2, 3] = np.nextafter(array[0, 1, 2, 3], np.float32(9))
    for codec in OF_IMAGES:
        if codec.is_lossless:
            with pytest.raises(CodecError, match="not exactly what preprocess 'imagenet' makes"):
                codec.encode(array)
        else:
            assert codec.encode(array) == codec.encode(image_input())


@every_image_codec
@pytest.mark.parametrize("bad", [np.nan, np.inf, 100.0])
def test_values_that_no_pixel_has_are_refused(codec: Codec, bad: float) -> None:
    array = image_input()
    array[0, 0, 0, 0] = bad
    with pytest.raises(CodecError, match="preprocess 'imagenet'"):
        codec.encode(array)


def test_minus_zero_is_not_taken_for_zero() -> None:
    array = np.full((1, 3, 4, 4), -0.0, np.float32)
    with pytest.raises(CodecError, match="not exactly"):
        codec_of(Pixels(PREPROCESS["raw"])).encode(array)


@every_picture
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 3), (2, 3, 5, 3), (1, 7, 2, 1), (3, 4, 4, 1), (0, 4, 4, 3)]
)
def test_pictures_of_any_size_and_number_keep_their_form(
    stage: Picture, shape: tuple[int, ...]
) -> None:
    array = photo(max(1, shape[0]), *shape[1:])[: shape[0]]
    codec = codec_of(stage)
    found = codec.decode(codec.encode(array), "uint8", shape)
    assert found.shape == shape
    if stage.is_lossless:
        assert same_bits(found, array)


@every_picture
def test_noise_at_the_best_quality_keeps_within_the_bound(stage: Picture) -> None:
    best = Jpeg(100, "4:4:4") if isinstance(stage, Jpeg) else stage
    best = Webp(100) if isinstance(stage, Webp) else best
    array = np.random.default_rng(0).integers(0, 256, (2, 64, 48, 3)).astype(np.uint8)
    codec = codec_of(best)
    assert codec.decode(codec.encode(array), "uint8", array.shape).shape == array.shape


@every_picture
@pytest.mark.parametrize(
    "form",
    [
        Form("float32", (1, 4, 4, 3)), Form("uint8", (4, 4, 3)), Form("uint8", (1, 4, 4, 4)),
        Form("uint8", (1, 0, 4, 3)), Form("uint8", (1, 16_384, 4, 3)),
        Form("uint8", (1, 16_000, 16_000, 3)), Form("uint8", (1, 4, 4, 3), is_bound=True),
    ],
)  # fmt: skip
def test_forms_that_hold_no_pictures_are_refused(stage: Picture, form: Form) -> None:
    with pytest.raises(CodecError):
        stage.form(form)


@every_picture
@pytest.mark.parametrize("told", [(1, 24, 21, 3), (1, 20, 24, 3), (1, 24, 20, 1), (2, 24, 20, 3)])
def test_a_picture_is_refused_as_one_of_another_size(stage: Picture, told: tuple[int, ...]) -> None:
    codec = codec_of(stage)
    payload = codec.encode(photo())
    if told[3] == 1 and stage.format == "webp":
        pytest.skip("WebP has no grey: what it holds is made grey on decoding")
    with pytest.raises(CodecError):
        codec.decode(payload, "uint8", told)


@every_picture
@pytest.mark.parametrize("count", [1, 2])
def test_every_truncation_of_a_picture_is_found(stage: Picture, count: int) -> None:
    codec, array = codec_of(stage), photo(count)
    payload = codec.encode(array)
    for end in range(len(payload)):
        with pytest.raises(CodecError):
            codec.decode(payload[:end], "uint8", array.shape)
    for more in (b"\x00", b"\x00" * 4, payload):
        with pytest.raises(CodecError):
            codec.decode(payload + more, "uint8", array.shape)


@every_picture
def test_a_picture_of_another_format_is_refused(stage: Picture) -> None:
    for other in PICTURES:
        if other.format != stage.format:
            with pytest.raises(CodecError):
                codec_of(stage).decode(codec_of(other).encode(photo()), "uint8", (1, 24, 20, 3))
    gif = io.BytesIO()
    Image.fromarray(photo()[0]).save(gif, "GIF")
    with pytest.raises(CodecError):
        codec_of(stage).decode(gif.getvalue(), "uint8", (1, 24, 20, 3))


def mutated(data: st.DataObject, payload: bytes) -> bytes:
    found = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(found)))
        change = data.draw(st.sampled_from(["flip", "set", "insert", "cut", "drop"]))
        if change == "insert":
            found[place:place] = data.draw(st.binary(min_size=1, max_size=8))
        elif change == "cut":
            del found[place:]
        elif change == "drop":
            del found[place : place + 3]
        elif place < len(found):
            bit = 1 << data.draw(st.integers(0, 7))
            found[place] = (
                found[place] ^ bit if change == "flip" else data.draw(st.integers(0, 255))
            )
    return bytes(found)


@every_image_codec
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_mutated_images_give_the_right_form_or_a_codec_error(
    codec: Codec, data: st.DataObject
) -> None:
    shape = data.draw(st.sampled_from([(1, 3, 24, 20), (2, 3, 8, 8)]))
    payload = codec.encode(image_input(Tensor("x", "float32", shape)))
    told = data.draw(st.sampled_from([shape, (1, 3, 24, 20), (2, 3, 8, 8), (1, 24, 20, 3), (2, 2)]))
    check_hostile(codec, mutated(data, payload), "float32", told)


@every_picture
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_headers_of_pictures_may_say_anything(stage: Picture, data: st.DataObject) -> None:
    payload = bytearray(codec_of(stage).encode(photo()))
    for _ in range(data.draw(st.integers(1, 6))):
        payload[data.draw(st.integers(0, 63))] = data.draw(st.integers(0, 255))
    check_hostile(codec_of(stage), bytes(payload), "uint8", (1, 24, 20, 3))


@pytest.mark.parametrize("codec", [*OF_IMAGES, *OF_SOUND], ids=lambda codec: codec.name)
@given(payload=st.binary(max_size=80))
def test_arbitrary_bytes_give_the_right_form_or_a_codec_error(codec: Codec, payload: bytes) -> None:
    tensor = IMAGE if codec in OF_IMAGES else SOUND
    check_hostile(codec, payload, tensor.dtype, tensor.shape or ())


def png(
    width: int, height: int, *parts: tuple[bytes, bytes], depth: int = 8, kind: int = 2
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    pixels = zlib.compress(
        bytes(height * (1 + 3 * width)) if width * height < 1 << 16 else bytes(99)
    )
    every = [(b"IHDR", header), *parts, (b"IDAT", pixels), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in every
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_the_hand_made_png_is_one() -> None:
    assert not codec_of(Png()).decode(png(5, 4), "uint8", (1, 4, 5, 3)).any()


def saved(format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(photo()[0]).save(file, format, **options)
    return file.getvalue()


def hostile_pictures() -> dict[str, tuple[Picture, bytes]]:
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "b" * 10_000, zip=True)
    second = Image.fromarray(photo(2)[1])
    scans = bytearray(saved("JPEG", quality=80))
    scans[scans.index(b"\xff\xda") + 4] = 1
    return {
        "png of many pixels": (Png(), png(65_535, 65_535)),
        "png with text": (Png(), saved("PNG", pnginfo=text)),
        "png with a profile": (
            Png(),
            png(20, 24, (b"iCCP", b"a\0\0" + zlib.compress(bytes(1000)))),
        ),
        "png with an animation": (Png(), png(20, 24, (b"acTL", bytes(8)))),
        "png of 16 bits": (Png(), png(20, 24, depth=16)),
        "png with a palette": (Png(), png(20, 24, (b"PLTE", bytes(3)), kind=3)),
        "png with too few rows": (Png(), png(20, 24).replace(b"IDAT", b"IDAX")),
        "jpeg in passes": (Jpeg(), saved("JPEG", progressive=True)),
        "jpeg with a comment": (Jpeg(), saved("JPEG", comment=b"hello")),
        "jpeg with exif": (Jpeg(), saved("JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\xff")),
        "jpeg of several scans": (Jpeg(), bytes(scans)),
        "jpeg without a frame": (Jpeg(), b"\xff\xd8\xff\xda\0\x02\xff\xd9"),
        "webp that moves": (Webp(), saved("WEBP", save_all=True, append_images=[second])),
        "webp with a profile": (Webp(), saved("WEBP", icc_profile=b"x" * 64)),
    }


@pytest.mark.parametrize("name", hostile_pictures())
def test_pictures_with_more_in_them_than_pixels_are_refused_unopened(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, payload = hostile_pictures()[name]
    monkeypatch.setattr("splitter.picture.Image.open", None)
    tracemalloc.start()
    try:
        with pytest.raises(CodecError, match=stage.format) as raised:
            codec_of(stage).decode(payload, "uint8", (1, 24, 20, 3))
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()
    assert "\n" not in str(raised.value)


def test_a_webp_that_says_it_is_huge_is_refused_unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    for stage, place in ((Webp(), 26), (WebpLossless(), 21)):
        payload = bytearray(codec_of(stage).encode(photo()))
        payload[place : place + 4] = b"\xff\x3f\xff\x0f"
        monkeypatch.setattr("splitter.picture.Image.open", None)
        with pytest.raises(CodecError, match=r"x 1638[34] x 3, not 24 x 20"):
            codec_of(stage).decode(bytes(payload), "uint8", (1, 24, 20, 3))
        monkeypatch.undo()


@pytest.mark.parametrize("length", [0, 1, 5, 1 << 31, (1 << 32) - 1])
def test_lengths_of_pictures_may_say_anything(length: int) -> None:
    codec, array = codec_of(Png()), photo(2)
    payload = codec.encode(array)
    with pytest.raises(CodecError):
        codec.decode(struct.pack("<I", length) + payload[4:], "uint8", array.shape)


@every_sound_codec
def test_sound_that_was_16_bit_comes_back_bit_for_bit(codec: Codec) -> None:
    for count in (2, 512, 5000):
        array = sound(count)
        assert same_bits(codec.decode(codec.encode(array), "float32", array.shape), array)
    extremes = np.array([[-1.0, 32767 / 32768, 0.0, 1 / 32768]], np.float32)
    assert same_bits(codec.decode(codec.encode(extremes), "float32", (1, 4)), extremes)


@every_sound_codec
def test_other_sound_is_rounded_to_the_nearest_sample(codec: Codec) -> None:
    array = np.random.default_rng(0).uniform(-1, 1, (1, 999)).astype(np.float32)
    array[0, 0] = 1.0
    found = codec.decode(codec.encode(array), "float32", array.shape)
    assert np.abs(found - array)[0, 1:].max() <= 0.5 / 32768 + 1e-7
    assert found[0, 0] == np.float32(32767 / 32768)


@every_sound_codec
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1.1, -2.0])
def test_what_is_no_sound_is_refused(codec: Codec, bad: float) -> None:
    array = sound()
    array[0, 5] = bad
    with pytest.raises(CodecError, match="not from -1 to 1"):
        codec.encode(array)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int16", "int64", "bool"])
def test_only_long_floats_become_samples(dtype: str) -> None:
    with pytest.raises(CodecError, match="16-bit samples"):
        Pcm().form(Form(dtype, (1, 4)))


@pytest.mark.parametrize("rate", [1, 8000, 16_000, 44_100, 655_350])
@pytest.mark.parametrize("shape", [(0,), (1,), (3,), (1, 577), (2, 3, 100)])
def test_samples_of_any_shape_and_rate_are_kept(rate: int, shape: tuple[int, ...]) -> None:
    codec = codec_of(Flac(rate))
    array = np.random.default_rng(0).integers(-32768, 32768, shape).astype(np.int16)
    assert same_bits(codec.decode(codec.encode(array), "int16", shape), array)


def test_flac_is_smaller_than_samples_on_speech(shared: Path) -> None:
    inputs = {"x": Tensor("x", "float32", (1, 4096))}
    data = open_dataset(shared / "data" / "audio", inputs, limit=5)
    codec = {codec.name: codec for codec in input_codecs(inputs["x"], None, data.audio_rate)}[
        "flac"
    ]
    for sample in data.samples:
        array = data.feeds(sample)["x"]
        payload = codec.encode(array)
        assert len(payload) < 0.9 * array.size * 2
        assert same_bits(codec.decode(payload, "float32", array.shape), array)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_flac_payload_that_changed_gives_the_same_samples_or_a_codec_error(
    data: st.DataObject,
) -> None:
    codec, array = codec_of(Flac()), (sound() * 32768).astype(np.int16)
    told = data.draw(st.sampled_from([array.shape, array.shape, (1, 511), (0,), (1, 100_000)]))
    found = check_hostile(codec, mutated(data, codec.encode(array)), "int16", told)
    if found is not None and told == array.shape:
        assert same_bits(found, array), "a change got through the checksum"


def test_every_truncation_of_flac_is_found() -> None:
    codec, array = codec_of(Flac()), (sound() * 32768).astype(np.int16)
    payload = codec.encode(array)
    for end in range(len(payload)):
        with pytest.raises(CodecError):
            codec.decode(payload[:end], "int16", array.shape)


def test_flac_at_another_rate_or_of_another_length_is_refused() -> None:
    array = np.zeros(100, np.int16)
    payload = codec_of(Flac(8000)).encode(array)
    with pytest.raises(CodecError, match=r"\(8000, 1, 16, 100\), where \(16000, 1, 16, 100\)"):
        codec_of(Flac()).decode(payload, "int16", (100,))
    with pytest.raises(CodecError, match="100"):
        codec_of(Flac(8000)).decode(payload, "int16", (101,))


def test_flac_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "soundfile":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.delitem(sys.modules, "soundfile", raising=False)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(CodecError, match=r"splitter\[audio\]"):
        codec_of(Flac()).encode(np.zeros(4, np.int16))


def test_codecs_serve_many_threads() -> None:
    array, spoken = image_input(), sound()
    gate = threading.Barrier(4)

    def work(_: int) -> list[bytes]:
        gate.wait()
        found = [codec.decode(codec.encode(array), "float32", array.shape) for codec in OF_IMAGES]
        found += [codec.decode(codec.encode(spoken), "float32", spoken.shape) for codec in OF_SOUND]
        return [one.tobytes() for one in found]

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(work, range(4))
    assert all(other == first for other in others)


def test_near_pixels_are_pixels_in_all_but_the_claim() -> None:
    array = image_input()
    exact, near = codec_of(Pixels(RECIPE)), codec_of(NearPixels(RECIPE))
    assert exact.encode(array) == near.encode(array)
    assert exact.is_lossless
    assert not near.is_lossless


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_photos_survive_their_encodings(format: str, shared: Path) -> None:
    inputs = {"x": Tensor("x", "float32", (1, 3, 224, 224))}
    data = open_dataset(shared / "data" / "photos", inputs)
    for codec in input_codecs(inputs["x"], data.preprocess, None):
        if codec.name.startswith(format):
            array = data.feeds(data.samples[0])["x"]
            found = codec.decode(codec.encode(array), "float32", array.shape)
            cosine = float((found * array).sum() / np.linalg.norm(found) / np.linalg.norm(array))
            assert cosine > 0.98, codec.name


@every_image_codec
def test_a_server_makes_the_input_of_the_picture_that_it_is_sent(
    codec: Codec, tmp_path: Path
) -> None:
    model = load_model(models.save(models.convolutions(), tmp_path / "model.onnx"))
    cut = cut_of(model.graph, [])
    folder = write_bundle(model, [Division(cut, {"image": codec})], tmp_path / "bundle").folder
    array = image_input(model.graph.tensors["image"])
    seen = codec.decode(codec.encode(array), "float32", array.shape)
    expected = Runner(tmp_path / "model.onnx", Settings()).run({"image": seen})
    with serve(folder) as server, Session(folder, server.address) as session:
        found = session.run(None, {"image": array})
        assert session.last.up_bytes < array.nbytes
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-6)
