from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from splitter.errors import InputError, SplitterError
from splitter.feeds import check_feeds, load_feeds, read_labels, write_npz
from splitter.graph.values import Tensor
from splitter.picture import MAX_PIXELS
from splitter.preprocess import PREPROCESS

Array = np.ndarray[Any, Any]

ONE = {"x": Tensor("x", "float32", (1, 3, 8, 8))}
TWO = {"left": Tensor("left", "float32", (2,)), "right": Tensor("right", "int64", (3,))}


def arrays() -> dict[str, Array]:
    return {"left": np.array([1, 2], np.float32), "right": np.array([1, 2, 3], np.int64)}


def photo(path: Path, pixels: Array) -> Path:
    """Write height x width x 3 bytes as a PNG, which keeps them."""
    image = pytest.importorskip("PIL.Image", reason="reading images needs Pillow")
    image.fromarray(pixels).save(path)
    return path


def test_the_name_may_be_left_out_where_there_is_one_input(tmp_path: Path) -> None:
    array = np.ones((1, 3, 8, 8), np.float32)
    np.save(tmp_path / "a.npy", array)
    for text in (f"{tmp_path}/a.npy", f"x={tmp_path}/a.npy"):
        np.testing.assert_array_equal(load_feeds([text], ONE)["x"], array)


def test_the_name_may_not_be_left_out_where_there_are_two(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(2, np.float32))
    with pytest.raises(InputError, match="NAME=FILE for each of left, right"):
        load_feeds([f"{tmp_path}/a.npy"], TWO)


def test_an_archive_without_a_name_feeds_every_input(tmp_path: Path) -> None:
    np.savez(tmp_path / "all.npz", **arrays())
    feeds = load_feeds([f"{tmp_path}/all.npz"], TWO)
    for name, array in arrays().items():
        np.testing.assert_array_equal(feeds[name], array)


def test_an_archive_with_a_name_gives_the_array_of_that_name_or_its_only_one(
    tmp_path: Path,
) -> None:
    np.savez(tmp_path / "all.npz", **arrays())
    np.savez(tmp_path / "only.npz", other=arrays()["right"])
    feeds = load_feeds([f"left={tmp_path}/all.npz", f"right={tmp_path}/only.npz"], TWO)
    np.testing.assert_array_equal(feeds["right"], arrays()["right"])
    with pytest.raises(InputError, match="has no array 'x', only left, right"):
        load_feeds([f"x={tmp_path}/all.npz"], ONE)


def test_later_files_replace_earlier_ones(tmp_path: Path) -> None:
    np.savez(tmp_path / "all.npz", **arrays())
    np.save(tmp_path / "left.npy", np.array([8, 9], np.float32))
    feeds = load_feeds([f"{tmp_path}/all.npz", f"left={tmp_path}/left.npy"], TWO)
    assert feeds["left"].tolist() == [8, 9]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"left": None}, "input 'left' is not fed"),
        ({"lefty": np.ones(2)}, "no input 'lefty'.*did you mean 'left'"),
        ({"left": np.ones(2)}, "'left' is float64, the model needs float32"),
        ({"left": np.ones(3, np.float32)}, "'left' has shape 3, the model needs 2"),
        ({"left": np.float32(1)}, "'left' has shape scalar, the model needs 2"),
        ({"left": np.ones((1, 2), np.float32)}, "'left' has shape 1x2, the model needs 2"),
    ],
)
def test_feeds_that_do_not_fit_are_refused_by_name(change: dict[str, Any], message: str) -> None:
    feeds = {**arrays(), **change}
    with pytest.raises(InputError, match=message):
        check_feeds({name: array for name, array in feeds.items() if array is not None}, TWO)


def test_an_input_whose_shape_depends_on_data_takes_any() -> None:
    check_feeds({"x": np.ones((5, 7), np.float32)}, {"x": Tensor("x", "float32", None)})


def hostile(folder: Path) -> dict[str, bytes]:
    good = io.BytesIO()
    np.save(good, np.ones((1, 3, 8, 8), np.float32))
    archive = io.BytesIO()
    np.savez_compressed(archive, x=np.zeros(1000, np.float32))
    objects = io.BytesIO()
    np.save(objects, np.array([{}], object), allow_pickle=True)
    data, zipped = good.getvalue(), archive.getvalue()
    return {
        "empty.npy": b"", "short.npy": data[:-1], "magic.npy": data[:6], "version.npy": b"\x93NUMPY\x09",
        "zip.npy": zipped, "objects.npy": objects.getvalue(),
        "huge.npy": data.replace(b"(1, 3, 8, 8)", b"(9999999999)").replace(b"9999)", b"999,)"),
        "empty.npz": b"", "short.npz": zipped[:-30], "array.npz": data,
        "damaged.npz": zipped[:60] + bytes(20) + zipped[80:],
        "empty.jpg": b"", "text.png": b"not a photo", "model.onnx": data,
    }  # fmt: skip


@pytest.mark.parametrize("name", hostile(Path()))
def test_a_damaged_file_is_one_error_that_names_it(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(hostile(tmp_path)[name])
    with pytest.raises(InputError, match=name.replace(".", r"\.")) as raised:
        load_feeds([f"x={tmp_path / name}"], ONE)
    assert "\n" not in str(raised.value)


def test_an_array_that_claims_to_be_huge_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "huge.npy").write_bytes(hostile(tmp_path)["huge.npy"])
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            load_feeds([f"x={tmp_path}/huge.npy"], ONE)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", b"secret")
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(InputError, match="cannot be read as an archive"):
        load_feeds([f"{tmp_path}/a.npz"], ONE)


@pytest.mark.parametrize("recipe", PREPROCESS)
@pytest.mark.parametrize("shape", [(1, 3, 12, 20), (1, 12, 20, 3)])
def test_a_photo_fills_the_input_whatever_its_size(
    recipe: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    if recipe == "grey":
        shape = tuple(1 if size == 3 else size for size in shape)
    inputs = {"x": Tensor("x", "float32", shape)}
    for height, width in ((12, 20), (30, 10), (5, 100), (1, 1)):
        path = photo(tmp_path / "p.png", np.full((height, width, 3), 77, np.uint8))
        values = load_feeds([str(path)], inputs, recipe)["x"]
        assert values.shape == shape
        assert values.dtype == np.float32
        assert values.flags.c_contiguous


def test_preprocessing_is_the_formula_on_the_pixels_in_the_right_order(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[..., 0], pixels[0, 0] = 255, (10, 20, 30)
    path = str(photo(tmp_path / "p.png", pixels))
    raw = load_feeds([path], ONE, "raw")["x"][0]
    np.testing.assert_array_equal(raw, pixels.transpose(2, 0, 1))
    np.testing.assert_array_equal(load_feeds([path], ONE, "raw-bgr")["x"][0], raw[::-1])
    unit = load_feeds([path], ONE, "unit")["x"][0]
    np.testing.assert_allclose(unit, raw / 255, rtol=1e-6)
    centred = load_feeds([path], ONE, "centred")["x"][0]
    np.testing.assert_allclose(centred, (raw - 127) / 128, rtol=1e-6)

    even = str(photo(tmp_path / "q.png", np.full((9, 9, 3), (10, 20, 30), np.uint8)))
    imagenet = load_feeds([even], ONE, "imagenet")["x"][0, :, 4, 4]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(imagenet, (np.array([10, 20, 30]) / 255 - mean) / std, rtol=1e-5)


def test_an_integer_input_takes_the_pixels_as_they_are(tmp_path: Path) -> None:
    path = photo(tmp_path / "p.png", np.full((8, 8, 3), 200, np.uint8))
    inputs = {"x": Tensor("x", "uint8", (1, 8, 8, 3))}
    values = load_feeds([str(path)], inputs, "raw")["x"]
    assert values.dtype == np.uint8
    assert (values == 200).all()


def test_cropping_keeps_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:, 48:80] = 255
    path = str(photo(tmp_path / "p.png", pixels))
    values = load_feeds([path], ONE, "imagenet")["x"][0]
    assert values[:, :, 3:5].min() > values[:, :, 0].max()


def test_a_photo_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="reading images needs Pillow")
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255
    upright, turned = tmp_path / "a.png", tmp_path / "b.png"
    image.fromarray(pixels).save(upright)
    exif = image.Exif()
    exif[0x0112] = 3  # taken upside down
    image.fromarray(pixels[::-1].copy()).save(turned, exif=exif)
    seen, expected = (load_feeds([str(path)], ONE, "raw")["x"] for path in (turned, upright))
    np.testing.assert_array_equal(seen, expected)


@pytest.mark.parametrize("shape", [None, (1, 8), (2, 3, 8, 8), (1, 1, 8, 8), (3, 8, 8)])
def test_a_photo_is_not_fed_to_what_takes_no_photo(
    shape: tuple[int, ...] | None, tmp_path: Path
) -> None:
    path = photo(tmp_path / "p.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(InputError, match="is not one RGB image; feed an .npy"):
        load_feeds([str(path)], {"x": Tensor("x", "float32", shape)})


def test_a_photo_of_too_many_pixels_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_PIXELS >= 48_000_000  # what telephones take
    monkeypatch.setattr("splitter.picture.MAX_PIXELS", 63)
    path = photo(tmp_path / "p.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(InputError, match="8 x 8 pixels, more than 63"):
        load_feeds([str(path)], ONE)


NAMES = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\\"), min_size=1, max_size=20
)
DTYPES = st.sampled_from(["float32", "float16", "int64", "uint8", "bool", ">f4"])
ARRAYS = DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_side=4)))


@given(st.dictionaries(NAMES, ARRAYS, max_size=4))
def test_arrays_written_are_read_again_whatever_they_are_called(found: dict[str, Array]) -> None:
    file = Path(TEMPORARY, "a.npz")
    write_npz(file, found)
    with np.load(file) as archive:
        assert set(archive.files) == set(found)
        for name, array in found.items():
            assert archive[name].dtype == array.dtype
            np.testing.assert_array_equal(archive[name], array)


TEMPORARY = ""


@pytest.fixture(autouse=True, scope="module")
def _temporary(tmp_path_factory: pytest.TempPathFactory) -> None:
    global TEMPORARY  # noqa: PLW0603  (hypothesis calls a test many times, and fixtures once)
    TEMPORARY = str(tmp_path_factory.mktemp("npz"))


@pytest.mark.parametrize("name", ["file", "allow_pickle", "a/b:0", "self"])
def test_no_name_is_taken_for_an_option_of_the_writer(name: str, tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", {name: np.ones(2)})
    with np.load(tmp_path / "a.npz") as archive:
        assert archive[name].tolist() == [1, 1]


def test_strings_are_written_as_text(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", {"words": np.array(["a", "bc"], object)})
    with np.load(tmp_path / "a.npz") as archive:
        assert archive["words"].tolist() == ["a", "bc"]


def test_an_archive_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", fail)
    with pytest.raises(SplitterError, match=r"a\.npz: cannot be written \(No space left"):
        write_npz(tmp_path / "a.npz", {"x": np.ones(2)})
    assert list(tmp_path.iterdir()) == []


def test_labels_are_lines_or_the_last_column_of_a_table(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("tench, Tinca tinca\ngold fish\n")
    (tmp_path / "table.txt").write_text("0\tn01\ttench\n1\tn02\tgold fish \n")
    assert read_labels(tmp_path / "plain.txt") == ["tench, Tinca tinca", "gold fish"]
    assert read_labels(tmp_path / "table.txt") == ["tench", "gold fish"]
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    for name in ("bad.txt", "absent.txt"):
        with pytest.raises(InputError, match=name):
            read_labels(tmp_path / name)
