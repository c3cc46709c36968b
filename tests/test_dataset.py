from __future__ import annotations

import builtins
import contextlib
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from splitter.dataset import Dataset, open_dataset
from splitter.dataset.labels import read_label_file
from splitter.errors import InputError
from splitter.feeds import check_feeds
from splitter.graph.values import Tensor
from splitter.preprocess import PREPROCESS, Preprocess

Array = np.ndarray[Any, Any]

PHOTO = {"x": Tensor("x", "float32", (1, 3, 8, 8))}
RECURRENT = {
    "input": Tensor("input", "float32", (1, 16)),
    "state": Tensor("state", "float32", (2, 1, 4)),
    "sr": Tensor("sr", "int64", ()),
}
TOKENS = {"ids": Tensor("ids", "int64", (1, 8)), "past": Tensor("past", "float32", (2, 3, 4))}


def photos(folder: Path, count: int = 6) -> list[str]:
    names = [f"p{number:02}.png" for number in range(count)]
    for number, name in enumerate(names):
        Image.fromarray(np.full((9, 9, 3), 10 * number, np.uint8)).save(folder / name)
    return names


def speech(path: Path, samples: int = 100, rate: int = 16_000, channels: int = 1) -> Array:
    values = np.arange(samples * channels, dtype="<i2").reshape(samples, channels) * 7
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(values.tobytes())
    return values


def names_of(data: Dataset) -> list[str]:
    return [sample.name for sample in data.samples]


def test_photos_are_samples_in_order_whatever_their_folder(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    photos(tmp_path, 2)
    photos(tmp_path / "b", 1)
    (tmp_path / ".p99.png").write_bytes(b"what some systems leave")
    (tmp_path / "readme.md").write_text("not data")
    data = open_dataset(tmp_path, PHOTO)
    assert names_of(data) == ["b/p00.png", "p00.png", "p01.png"]
    assert (data.kind, data.audio_rate, data.skipped) == ("images", None, ())
    assert data.preprocess == PREPROCESS["imagenet"]
    assert {sample.label for sample in data.samples} == {None}
    for sample in data.samples:
        check_feeds(data.feeds(sample), PHOTO)


def test_photos_are_fed_by_the_recipe_that_is_named(tmp_path: Path) -> None:
    photos(tmp_path, 2)
    by_name = open_dataset(tmp_path, PHOTO, preprocess="raw")
    assert (by_name.feeds(by_name.samples[1])["x"] == 10).all()
    own = Preprocess(name="own", scale=0.5)
    itself = open_dataset(tmp_path, PHOTO, preprocess=own)
    assert itself.preprocess == own
    assert (itself.feeds(itself.samples[1])["x"] == 5).all()
    with pytest.raises(InputError, match="did you mean 'raw'"):
        open_dataset(tmp_path, PHOTO, preprocess="rwa")


def test_the_other_inputs_of_a_model_of_photos_are_zero(tmp_path: Path) -> None:
    photos(tmp_path, 1)
    inputs = {**PHOTO, "state": Tensor("state", "float16", (2, 3))}
    data = open_dataset(tmp_path, inputs)
    state = data.feeds(data.samples[0])["state"]
    assert (state.shape, state.dtype.name, state.any()) == ((2, 3), "float16", False)


@given(count=st.integers(1, 40), limit=st.integers(1, 50))
def test_of_many_samples_some_are_taken_at_even_distances(count: int, limit: int) -> None:
    from splitter.dataset.dataset import _evenly

    places = [(str(index), None) for index in range(count)]
    taken = [int(name) for name, _ in _evenly(list(places), limit)]
    assert len(taken) == min(count, limit)
    gaps = np.diff([*taken, count])
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


def test_the_digest_follows_names_and_sizes_and_not_times(tmp_path: Path) -> None:
    photos(tmp_path, 3)
    first = open_dataset(tmp_path, PHOTO)
    (tmp_path / "p00.png").touch()
    assert open_dataset(tmp_path, PHOTO).digest == first.digest
    assert open_dataset(tmp_path, PHOTO, limit=2).digest != first.digest
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 9, 3)).astype(np.uint8)).save(
        tmp_path / "p00.png"
    )
    assert open_dataset(tmp_path, PHOTO).digest != first.digest


def test_a_file_that_cannot_be_read_is_skipped_and_named(tmp_path: Path) -> None:
    photos(tmp_path, 3)
    whole = (tmp_path / "p01.png").read_bytes()
    (tmp_path / "p01.png").write_bytes(whole[:-30])
    (tmp_path / "p02.png").write_bytes(b"no photo")
    data = open_dataset(tmp_path, PHOTO)
    assert names_of(data) == ["p00.png"]
    first, second = data.skipped
    assert first.startswith("p01.png: cannot be read as an image (")
    assert second.startswith("p02.png: cannot be read as an image (")
    assert str(tmp_path) not in first


def test_a_photo_too_long_to_crop_is_skipped_and_named(tmp_path: Path) -> None:
    photos(tmp_path, 1)
    Image.fromarray(np.zeros((1, 60_000, 3), np.uint8)).save(tmp_path / "long.png")
    inputs = {"x": Tensor("x", "float32", (1, 3, 224, 224))}
    assert open_dataset(tmp_path, inputs).skipped == (
        "long.png: an image of 60000 x 1 pixels is too long to be cropped to 224 x 224",
    )


def test_nothing_readable_is_an_error_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "b.jpg").write_bytes(b"text")
    with pytest.raises(InputError, match=r"none of 2 files can be read; a\.jpg: cannot be read"):
        open_dataset(tmp_path, PHOTO)


def test_a_file_that_went_is_an_error_that_names_it(tmp_path: Path) -> None:
    photos(tmp_path, 1)
    data = open_dataset(tmp_path, PHOTO)
    (tmp_path / "p00.png").unlink()
    with pytest.raises(InputError, match=r"p00\.png: cannot be read"):
        data.feeds(data.samples[0])


def test_folders_without_data_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("nothing")
    with pytest.raises(InputError, match=r"holds no data; looked for \.jpg, .*\.npz, \.wav"):
        open_dataset(tmp_path, PHOTO)
    for path in (tmp_path / "absent", tmp_path / "notes.md"):
        with pytest.raises(InputError, match="is no folder of data"):
            open_dataset(path, PHOTO)
    with pytest.raises(InputError, match="0 samples are none"):
        open_dataset(tmp_path, PHOTO, limit=0)


def test_data_that_the_model_does_not_take_is_refused_with_the_reason(tmp_path: Path) -> None:
    photos(tmp_path, 1)
    with pytest.raises(
        InputError, match="holds nothing that the model takes; images: .*not one RGB"
    ):
        open_dataset(tmp_path, {"x": Tensor("x", "float32", (1, 16))})
    with pytest.raises(InputError, match="a and b could take photos"):
        open_dataset(tmp_path, {n: Tensor(n, "float32", (1, 3, 8, 8)) for n in "ab"})


def test_a_folder_of_two_kinds_is_refused_unless_the_model_takes_one(tmp_path: Path) -> None:
    photos(tmp_path, 1)
    (tmp_path / "classes.txt").write_text("what the classes are called\n")
    assert open_dataset(tmp_path, PHOTO).kind == "images"
    np.save(tmp_path / "a.npy", np.zeros((1, 3, 8, 8), np.float32))
    with pytest.raises(InputError, match="holds images and arrays; give a folder of one kind"):
        open_dataset(tmp_path, PHOTO)


def test_an_array_is_fed_to_the_input_of_its_shape(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(2, 1, 4)).astype(np.float32)
    np.save(tmp_path / "a.npy", array)
    data = open_dataset(tmp_path, RECURRENT)
    feeds = data.feeds(data.samples[0])
    assert data.kind == "arrays"
    assert data.preprocess is None
    np.testing.assert_array_equal(feeds["state"], array)
    assert not feeds["input"].any()


def test_an_archive_gives_the_arrays_that_it_has(tmp_path: Path) -> None:
    arrays = {"input": np.ones((1, 16), np.float32), "sr": np.array(8000)}
    np.savez(tmp_path / "a.npz", **arrays)
    data = open_dataset(tmp_path, RECURRENT)
    feeds = data.feeds(data.samples[0])
    assert feeds["sr"] == 8000
    assert feeds["input"].all()
    assert not feeds["state"].any()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((1, 3, 8, 9), np.float32)}, "has shape 1x3x8x9, the model needs 1x3x8x8"),
        ({"x": np.zeros((1, 3, 8, 8))}, "is float64, the model needs float32"),
        ({"y": np.zeros((1, 3, 8, 8), np.float32)}, "the model has no input 'y'"),
    ],
)
def test_an_array_that_does_not_fit_is_an_error_that_names_the_file(
    arrays: dict[str, Array], message: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "good.npz", x=np.zeros((1, 3, 8, 8), np.float32))
    np.savez(tmp_path / "wrong.npz", **arrays)
    with pytest.raises(InputError, match=rf"wrong\.npz: .*{message}"):
        open_dataset(tmp_path, PHOTO)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 3, 8, 8), ()])
def test_an_unnamed_array_of_a_wrong_shape_is_an_error_too(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    np.save(tmp_path / "wrong.npy", np.zeros(shape, np.float32))
    with pytest.raises(InputError, match=r"wrong\.npy: input 'x' has shape"):
        open_dataset(tmp_path, PHOTO)


def test_damaged_arrays_are_skipped(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((1, 3, 8, 8), np.float32))
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "b.npy").write_bytes(data[:-1])
    (tmp_path / "c.npz").write_bytes(data)
    np.savez(tmp_path / "d.npz")
    skipped = open_dataset(tmp_path, PHOTO).skipped
    assert [reason.partition(":")[0] for reason in skipped] == ["b.npy", "c.npz", "d.npz"]


def test_an_input_of_unknown_shape_cannot_be_filled(tmp_path: Path) -> None:
    inputs = {**PHOTO, "y": Tensor("y", "float32", None)}
    photos(tmp_path, 1)
    with pytest.raises(InputError, match="input 'y' has no known shape to fill with zeros"):
        open_dataset(tmp_path, inputs)


def test_sound_is_frames_of_the_input_with_zero_state_and_the_rate(tmp_path: Path) -> None:
    values = speech(tmp_path / "a.wav", 100, rate=8000, channels=2)
    data = open_dataset(tmp_path, RECURRENT)
    assert names_of(data) == [f"a.wav#{index}" for index in range(6)]
    assert (data.kind, data.audio_rate, data.preprocess) == ("audio", 8000, None)
    feeds = data.feeds(data.samples[2])
    check_feeds(feeds, RECURRENT)
    np.testing.assert_array_equal(feeds["input"][0] * 32768, values[32:48, 0])
    assert feeds["sr"] == 8000
    assert not feeds["state"].any()


def test_sound_files_that_are_short_odd_or_damaged_are_skipped(tmp_path: Path) -> None:
    speech(tmp_path / "a.wav", 40)
    speech(tmp_path / "b.wav", 15)
    speech(tmp_path / "c.wav", 40, rate=8000)
    (tmp_path / "d.wav").write_bytes(b"RIFF")
    speech(tmp_path / "e.wav", 40)
    whole = (tmp_path / "e.wav").read_bytes()
    (tmp_path / "e.wav").write_bytes(whole[:-60])  # the header still promises 40
    data = open_dataset(tmp_path, RECURRENT)
    assert names_of(data) == ["a.wav#0", "a.wav#1"]
    assert [reason.partition(":")[0] for reason in data.skipped] == [
        "b.wav",
        "c.wav",
        "d.wav",
        "e.wav",
    ]
    assert "15 samples, where the input takes 16" in data.skipped[0]
    assert "8000 samples a second, the first file has 16000" in data.skipped[1]


def test_sound_that_is_not_of_16_bits_needs_the_extra_and_is_read_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile = pytest.importorskip("soundfile", reason="needs the extra audio")
    values = (np.arange(64) / 64).astype(np.float32)
    soundfile.write(tmp_path / "float.wav", values, 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "whole.flac", values, 16_000)
    data = open_dataset(tmp_path, RECURRENT)
    assert len(data.samples) == 8
    feeds = data.feeds(data.samples[1])
    np.testing.assert_array_equal(feeds["input"][0], values[16:32])

    real = builtins.__import__

    def missing(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "soundfile":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.delitem(sys.modules, "soundfile")
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(InputError, match=r"splitter\[audio\]"):
        open_dataset(tmp_path, RECURRENT)


def test_text_is_windows_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("to be or not to be, that is")
    (tmp_path / "b.txt").write_text("caf\u00e9 and more", encoding="utf-8")
    (tmp_path / "c.txt").write_text("short")
    data = open_dataset(tmp_path, TOKENS)
    assert (data.kind, names_of(data)) == ("text", ["a.txt#0", "a.txt#1", "a.txt#2"])
    feeds = data.feeds(data.samples[1])
    assert bytes(feeds["ids"][0].tolist()) == b" not to "
    assert feeds["ids"].dtype == np.int64
    assert not feeds["past"].any()
    assert data.skipped == (
        "b.txt: is not ASCII text", "c.txt: 5 characters, where the input takes 8",
    )  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "file,class_index,wnid,name\np00.png,4,n01,\"a, b\"\np01.png,5,n02,c\n",
        "label,filename\n4,p00.png\n5,p01.png\n",
        "p00.png\t4\np01.png\t5\n",
        "p00.png 4\n\np01.png  5\n",
        "p00.png,4\np01.png,5",
        "\ufeffp00.png, 4\r\nelsewhere/p01.png, 5\r\n",
    ],
)  # fmt: skip
def test_labels_are_a_table_or_lines(text: str, tmp_path: Path) -> None:
    photos(tmp_path, 2)
    (tmp_path / "labels.txt").write_text(text, encoding="utf-8")
    data = open_dataset(tmp_path, PHOTO, labels=tmp_path / "labels.txt", classes=6)
    assert [sample.label for sample in data.samples] == [4, 5]


def test_names_with_spaces_are_files_too(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("a photo.png 3\nother photo.png\t4\n")
    files = ["a photo.png", "x/other photo.png"]
    assert read_label_file(tmp_path / "l.txt", files, None) == dict(zip(files, [3, 4], strict=True))


def test_a_label_of_a_sound_file_is_that_of_all_its_frames(tmp_path: Path) -> None:
    speech(tmp_path / "a.wav", 40)
    (tmp_path / "labels.csv").write_text("file,index\na.wav,1\n")
    data = open_dataset(tmp_path, RECURRENT, labels=tmp_path / "labels.csv")
    assert [sample.label for sample in data.samples] == [1, 1]


def test_labels_may_be_of_more_files_than_are_taken(tmp_path: Path) -> None:
    names = photos(tmp_path, 6)
    (tmp_path / "p03.png").write_bytes(b"damaged")
    lines = [f"{name} {index}" for index, name in enumerate(names)]
    (tmp_path / "labels").write_text("\n".join(lines))
    data = open_dataset(tmp_path, PHOTO, labels=tmp_path / "labels", limit=2)
    assert [(sample.name, sample.label) for sample in data.samples] == [("p00.png", 0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p00.png 1\nq.png 3\nr.png 3", "2 labels are of no file in the data, first 'q.png'"),
        ("p00.png 1", "2 files have no label, first p01.png"),
        ("", "3 files have no label, first p00.png"),
        ("file,class_index\n", "3 files have no label, first p00.png"),
        ("p00.png one", "labels:1: label 'one' is no index of a class"),
        ("p00.png 1.0", "labels:1: label '1.0' is no index of a class"),
        ("p00.png -1", "labels:1: label '-1' is no index of a class"),
        ("p00.png 99999999999999", "labels:1: label '99999999999999' is no index"),
        ("file,class_index\np00.png,\n", "labels:2: label '' is no index"),
        ("file,class_index\np00.png\n", "labels:2: has no class_index"),
        ("p00.png 1\np01.png 10", "labels:2: label 10, where the model has classes 0 to 9"),
        ("p00.png 1\np00.png 2", "labels:2: p00.png has label 2, and before 1"),
        ("file,index\n" + "p" * 200_000 + ",1", "labels:2: cannot be read as a table"),
        ("lonely", "labels:1: 'lonely' is not a file and an index"),
    ],
)  # fmt: skip
def test_labels_that_do_not_match_are_an_error_that_names_the_first(
    text: str, message: str, tmp_path: Path
) -> None:
    photos(tmp_path, 3)
    (tmp_path / "labels").write_text(text)
    with pytest.raises(InputError, match=message) as raised:
        open_dataset(tmp_path, PHOTO, labels=tmp_path / "labels", classes=10)
    assert "\n" not in str(raised.value)


def test_a_label_that_may_be_of_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        photos(tmp_path / name, 1)
    (tmp_path / "labels").write_text("p00.png 1")
    with pytest.raises(InputError, match=r"'p00\.png' may be a/p00\.png or b/p00\.png"):
        open_dataset(tmp_path, PHOTO, labels=tmp_path / "labels")
    (tmp_path / "labels").write_text("a/p00.png 1\nb\\p00.png 2")
    data = open_dataset(tmp_path, PHOTO, labels=tmp_path / "labels")
    assert [sample.label for sample in data.samples] == [1, 2]


def test_labels_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    photos(tmp_path, 1)
    (tmp_path / "bad").write_bytes(b"\xff\xfe\x00")
    for name in ("bad", "absent"):
        with pytest.raises(InputError, match=f"{name}: cannot be read"):
            open_dataset(tmp_path, PHOTO, labels=tmp_path / name)


@given(st.binary(max_size=200))
def test_any_bytes_are_labels_or_an_input_error(data: bytes) -> None:
    path = Path(TEMPORARY, "labels")
    path.write_bytes(data)
    with contextlib.suppress(InputError):
        assert list(read_label_file(path, ["a.png"], None)) == ["a.png"]


TEMPORARY = ""


@pytest.fixture(autouse=True, scope="module")
def _temporary(tmp_path_factory: pytest.TempPathFactory) -> None:
    global TEMPORARY  # noqa: PLW0603  (hypothesis calls a test many times, and fixtures once)
    TEMPORARY = str(tmp_path_factory.mktemp("labels"))


def test_the_labelled_photos_all_have_their_label(shared: Path) -> None:
    folder = shared / "data" / "imagenet200"
    inputs = {"input": Tensor("input", "float32", (1, 3, 224, 224))}
    data = open_dataset(folder, inputs, labels=folder / "labels.csv", limit=7, classes=1000)
    for sample in data.samples:
        assert sample.label == int(sample.name.removeprefix("images/").partition("_")[0])
    with pytest.raises(InputError, match="where the model has classes 0 to 99"):
        open_dataset(folder, inputs, labels=folder / "labels.csv", limit=7, classes=100)


def test_speech_is_frames_and_prose_is_windows(shared: Path) -> None:
    voice = {
        "input": Tensor("input", "float32", (1, 576)),
        "state": Tensor("state", "float32", (2, 1, 128)),
        "sr": Tensor("sr", "int64", ()),
    }
    data = open_dataset(shared / "data" / "audio", voice, limit=20)
    assert len(data.samples) == 20
    assert data.feeds(data.samples[3])["sr"] == data.audio_rate == 16_000
    ids = {"input_ids": Tensor("input_ids", "int64", (1, 128))}
    data = open_dataset(shared / "data" / "text", ids, limit=20)
    assert all(data.feeds(sample)["input_ids"].max() < 128 for sample in data.samples)
