from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import ml_dtypes
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from splitter.document import write_document
from splitter.errors import CodecError, InputError
from splitter.feeds import load_feeds
from splitter.graph.values import Tensor
from splitter.partition.manifest import MANIFEST, Manifest
from splitter.picture import MAX_PIXELS, fitted, open_pixels
from splitter.preprocess import (
    FLOATS,
    PREPROCESS,
    Preprocess,
    find_preprocess,
    image_size,
    pixels_of,
    values_of,
)
from tests import models
from tests.cli import succeed
from tests.serving import make_bundle, run_whole

Array = np.ndarray[Any, Any]

every_recipe = pytest.mark.parametrize("recipe", PREPROCESS.values(), ids=PREPROCESS)


def every_byte(recipe: Preprocess, count: int = 1) -> Array:
    """Images of 16 x 16 in which each channel has each byte once, at other places."""
    planes = [np.roll(np.arange(256, dtype=np.uint8), 37 * c) for c in range(recipe.channels)]
    image = np.stack(planes, -1).reshape(16, 16, recipe.channels)
    return np.stack([np.roll(image, n, axis=0) for n in range(count)])


def shape_of(images: Array, layout: str) -> tuple[int, ...]:
    count, height, width, channels = images.shape
    first = (count, channels, height, width)
    return first if layout == "NCHW" else (count, height, width, channels)


def by_formula(pixels: Array, recipe: Preprocess, dtype: Any) -> Array:
    """(p * scale - mean) / std in float32, written down once more; N x height x width x channels."""
    if recipe.colours == "BGR":
        pixels = pixels[..., ::-1]
    scaled = pixels.astype(np.float32) * np.float32(recipe.scale)
    centred = scaled - np.array(recipe.mean, np.float32)
    return (centred / np.array(recipe.std, np.float32)).astype(dtype)


def numpy_dtype(name: str) -> Any:
    return ml_dtypes.bfloat16 if name == "bfloat16" else name


@every_recipe
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_values_are_the_formula_on_every_byte(recipe: Preprocess, layout: str, dtype: str) -> None:
    images = every_byte(recipe, 2)
    values = values_of(images, recipe, dtype, shape_of(images, layout))
    expected = by_formula(images, recipe, numpy_dtype(dtype))
    if layout == "NCHW":
        expected = expected.transpose(0, 3, 1, 2)
    assert values.dtype.name == dtype
    assert values.tobytes() == np.ascontiguousarray(expected).tobytes()


@every_recipe
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", [*FLOATS, "uint8"])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_bytes_found_again_make_the_same_values_bit_for_bit(
    recipe: Preprocess, layout: str, dtype: str, count: int
) -> None:
    images = every_byte(recipe, count) if count else every_byte(recipe)[:0]
    shape = shape_of(images, layout)
    values = values_of(images, recipe, dtype, shape)
    found = pixels_of(values, recipe)
    assert found.shape == images.shape
    assert values_of(found, recipe, dtype, shape).tobytes() == values.tobytes()
    if dtype != "bfloat16":  # in which neighbours may have one value
        np.testing.assert_array_equal(found, images)


@given(
    st.sampled_from([1.0, 1 / 255, 1 / 127.5, 0.017]),
    st.lists(st.floats(-3, 200), min_size=3, max_size=3),
    st.lists(st.floats(0.01, 300), min_size=3, max_size=3),
    st.sampled_from(FLOATS),
)
def test_bytes_are_found_again_whatever_the_means(
    scale: float, mean: list[float], std: list[float], dtype: str
) -> None:
    recipe = Preprocess(name="drawn", scale=scale, mean=tuple(mean), std=tuple(std))
    images = every_byte(recipe)
    with np.errstate(over="ignore"):
        values = values_of(images, recipe, dtype, (1, 3, 16, 16))
        again = values_of(pixels_of(values, recipe), recipe, dtype, (1, 3, 16, 16))
    assert again.tobytes() == values.tobytes()


def test_values_between_two_bytes_are_those_of_the_nearest() -> None:
    recipe = PREPROCESS["imagenet"]
    images = every_byte(recipe)
    values = values_of(images, recipe, "float32", (1, 3, 16, 16))
    step = np.float32(1 / 255) / np.array(recipe.std, np.float32)[:, np.newaxis, np.newaxis]
    for part in (-0.45, 0.45):
        np.testing.assert_array_equal(pixels_of(values + np.float32(part) * step, recipe), images)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 256.0, -1.0, 1e30])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_values_that_are_of_no_pixel_are_refused(bad: float, dtype: str) -> None:
    values = np.zeros((1, 3, 4, 4), np.float64)
    values[0, 1, 2, 3] = bad
    with np.errstate(over="ignore"):
        array = values.astype(dtype)
    with pytest.raises(CodecError, match="none that preprocess 'raw' makes of a pixel"):
        pixels_of(array, PREPROCESS["raw"])


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("float32", (3, 4, 4)), ("float32", (1, 4, 4, 4)), ("int64", (1, 3, 4, 4)),
        ("float32", (1, 3, 0, 4)), ("bool", (1, 3, 4, 4)), ("float32", ()),
    ],
)  # fmt: skip
def test_arrays_that_hold_no_images_are_refused(dtype: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(CodecError, match="holds no images of preprocess 'raw'"):
        pixels_of(np.zeros(shape, dtype), PREPROCESS["raw"])


def test_an_image_of_another_size_than_the_input_is_refused() -> None:
    pixels = np.zeros((4, 5, 3), np.uint8)
    with pytest.raises(InputError, match="shape 1x3x5x4 takes no RGB image of 4x5x3"):
        values_of(pixels, PREPROCESS["raw"], "float32", (1, 3, 5, 4))
    with pytest.raises(InputError, match="an input of bool"):
        values_of(pixels, PREPROCESS["raw"], "bool", (1, 3, 4, 5))


def test_the_layout_follows_the_colours_unless_it_is_said() -> None:
    auto, last = PREPROCESS["raw"], Preprocess(name="last", layout="NHWC")
    assert image_size(auto, "float32", (1, 3, 5, 7)) == (5, 7)
    assert image_size(auto, "float32", (1, 5, 7, 3)) == (5, 7)
    assert image_size(auto, "float32", (1, 3, 7, 3)) == (7, 3)
    assert image_size(last, "float32", (1, 3, 7, 3)) == (3, 7)
    assert image_size(last, "float32", (1, 3, 5, 7)) is None
    assert image_size(PREPROCESS["grey"], "float32", (1, 1, 5, 7)) == (5, 7)
    assert image_size(auto, "float32", None) is None


def test_a_recipe_is_found_by_name_or_read_from_a_file(tmp_path: Path) -> None:
    assert find_preprocess("imagenet") is PREPROCESS["imagenet"]
    text = "name: mine\ncolours: BGR\nfit: letterbox\npad: 7\nmean: [1, 2, 3]\nstd: [4]\n"
    (tmp_path / "mine.yaml").write_text(text)
    expected = Preprocess(
        name="mine", colours="BGR", fit="letterbox", pad=7, mean=(1.0, 2.0, 3.0), std=(4.0,)
    )
    assert find_preprocess(str(tmp_path / "mine.yaml")) == expected
    assert msgspec.json.decode(msgspec.json.encode(expected), type=Preprocess) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imagnet", "no preprocessing is called 'imagnet'; did you mean 'imagenet'"),
        ("", "no preprocessing is called ''"),
        ("absent.yaml", r"absent\.yaml: cannot be read \(No such file"),
    ],
)
def test_a_recipe_that_does_not_exist_is_named(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        find_preprocess(text)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("colours: RGB", "name"),
        ("name: a\ncolors: RGB", "colors"),
        ("name: a\ncolours: CMYK", "colours"),
        ("name: a\nscale: 0", "scale"),
        ("name: a\nscale: .nan", "scale"),
        ("name: a\nstd: [1, -1, 1]", "std"),
        ("name: a\nmean: [.inf]", "mean"),
        ("name: a\nmean: [1, 2]", "2 values of mean for 3 channels"),
        ("name: a\ncolours: L\nstd: [1, 2, 3]", "3 values of std for 1 channels"),
        ("name: a\npad: 256", "pad"),
        ("name: a\nshort_side: 1000000", "short_side"),
        ("- a list", "Expected"),
        ("name: [", "mine"),
    ],
)
def test_a_file_with_a_wrong_field_is_one_error_that_names_it(
    text: str, named: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(InputError, match=named) as raised:
        find_preprocess(str(tmp_path / "mine.yaml"))
    assert "mine.yaml" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("at", "top", "left"), [("centre", 6, 0), ("top-left", 0, 0)])
def test_a_letterbox_holds_the_whole_photo_and_the_padding(at: Any, top: int, left: int) -> None:
    recipe = Preprocess(name="box", fit="letterbox", pad=9, pad_at=at)
    photo = np.full((10, 40, 3), 200, np.uint8)
    box = fitted(photo, recipe, 16, 16)
    assert (box[top : top + 4, left : left + 16] == 200).all()
    assert int((box == 200).sum()) == 4 * 16 * 3
    assert set(np.unique(box)) == {9, 200}


def test_yolox_is_blue_first_in_the_corner_of_a_grey_box() -> None:
    photo = np.full((20, 10, 3), (10, 20, 30), np.uint8)
    recipe = PREPROCESS["yolox"]
    values = values_of(fitted(photo, recipe, 8, 8), recipe, "float32", (1, 3, 8, 8))
    assert values[0, :, 4, 1].tolist() == [30, 20, 10]
    assert values[0, :, 4, 6].tolist() == [114, 114, 114]


def test_grey_is_one_channel_as_the_eye_weighs_colours() -> None:
    photo = np.zeros((4, 4, 3), np.uint8)
    photo[..., 1] = 255
    pixels = fitted(photo, PREPROCESS["grey"], 4, 4)
    assert pixels.shape == (4, 4, 1)
    assert (pixels == 150).all()  # 0.587 of ITU-R 601


def test_a_photo_so_long_that_its_crop_would_fill_the_memory_is_refused() -> None:
    photo = np.zeros((1, 200_000, 3), np.uint8)
    with pytest.raises(InputError, match="200000 x 1 pixels is too long to be cropped"):
        fitted(photo, PREPROCESS["imagenet"], 224, 224)
    assert fitted(photo, PREPROCESS["unit"], 224, 224).shape == (224, 224, 3)


def test_a_photo_that_pillow_only_warns_of_is_read_without_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)  # warns of more than that
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "PNG")
    assert MAX_PIXELS > 64
    assert open_pixels(file.getvalue()).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("kept", "told", "used"),
    [
        (None, None, "imagenet"),
        (PREPROCESS["caffe"], None, "caffe"),
        (PREPROCESS["caffe"], "raw", "raw"),
    ],
)
def test_run_prepares_a_photo_as_it_is_told_or_else_as_the_bundle_says(
    kept: Preprocess | None, told: str | None, used: str, tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    bundle = make_bundle(models.convolutions(), tmp_path)
    manifest = msgspec.structs.replace(Manifest.load(bundle), preprocess=kept)
    write_document(bundle / MANIFEST, manifest)
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)).save(
        photo
    )
    options = [] if told is None else ["--preprocess", told]
    succeed(capfd, "run", bundle, "--input", photo, *options, "-o", tmp_path / "answer.npz")
    inputs = {"image": Tensor("image", "float32", (1, 3, 16, 16))}
    expected = run_whole(bundle, load_feeds([str(photo)], inputs, used))
    with np.load(tmp_path / "answer.npz") as answer:
        np.testing.assert_array_equal(answer["scores"], expected[0])
