"""What lies beside a page of the docs when its commands are run: models, their profiles, photos and the like."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

from splitter import api
from splitter.partition.seeded import light_model, write_seeded
from tests import models
from tests.pages import TINY

PHOTOS = 6


def convolutions() -> onnx.ModelProto:
    """The small network of most pages, with the names that their examples cut at."""
    return models.convolutions()


def with_open_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same with any number of samples, ``batch_size`` of them."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch_size"
    return model


class Kit:
    """Makes the files of a page; a model is profiled once and not for each page."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._profiles: dict[str, Path] = {}

    def lay_out(self, page: Path, folder: Path) -> None:
        """Put into the folder what the page names."""
        text = page.read_text()
        is_guide = page.parent.name == "how-to" or page.name == "tutorial.md"
        name = "watcher" if is_guide else "convolutions"
        found = {"model.onnx": name, "squeezenet.onnx": "squeezenet", "mobilenetv2.onnx": "open"}
        for file, model in found.items():
            if file in text:
                self._model(model, folder / file)
        if "here.json" in text and "model.onnx" in text:
            shutil.copy(self._profile(name), folder / "here.json")
        _photos(folder)

    def _model(self, name: str, path: Path) -> Path:
        if name == "squeezenet":
            write_seeded(light_model("squeezenet"), path)
            return path
        builders = {
            "watcher": models.watcher,
            "convolutions": convolutions,
            "open": lambda: with_open_batch(convolutions()),
        }
        return models.save(builders[name](), path)

    def _profile(self, name: str) -> Path:
        if name not in self._profiles:
            model = api.load(self._model(name, self._folder / f"{name}.onnx"))
            path = self._folder / f"{name}.json"
            api.profile(model, effort=TINY).save(path)
            self._profiles[name] = path
        return self._profiles[name]


def _photos(folder: Path) -> None:
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for index in range(PHOTOS):
        coarse = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
        photo = Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC)
        photo.save(folder / "photos" / f"{index}.jpg")
    shutil.copy(folder / "photos" / "0.jpg", folder / "photo.jpg")
    rows = [f"{index}.jpg,{index % 5}\n" for index in range(PHOTOS)]
    (folder / "labels.csv").write_text("file,class_index\n" + "".join(rows))
    (folder / "classes.txt").write_text("".join(f"class_{index}\n" for index in range(10)))
