"""What lies beside a page when its commands are run: models, their profiles, photos and the like."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import trustme
import yaml
from PIL import Image

from splitter import api
from splitter.partition.seeded import light_model, write_seeded
from splitter.planning.plan import PlanOptions
from splitter.planning.problem import Wishes
from splitter.planning.terms import Limits, Pin
from tests import models
from tests.certificates import write_authority, write_pair
from tests.pages import measure_little

PHOTOS = 6

COMMANDS = "commands.md"
"""The examples of every ``--help``."""

GIVEN = ("model.onnx", "here.json", "photo.jpg", "photos")
"""What a guide starts from; the rest it makes."""

RENAMED = {"r1": "relu_3", "r2": "relu_4", "g": "pool5_1"}
"""Tensors of the small network that examples cut at."""


def convolutions(image: str = "image") -> onnx.ModelProto:
    """The small network of most pages, with the names that their examples use."""
    model = models.convolutions()
    renamed = RENAMED | {"image": image}
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    model.graph.input[0].name = image
    return model


def with_open_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same with any number of samples, ``batch_size`` of them."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch_size"
    return model


class Kit:
    """Makes the files of a page; a model is profiled once and not for each page."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def lay_out(self, page: Path, text: str, folder: Path) -> None:
        """Put into the folder what the text of the page names."""
        is_guide = page.parent.name == "how-to" or page.name == "tutorial.md"
        source = self._source("watcher" if is_guide else page.name)
        for file, make in FILES.items():
            if is_guide and file not in GIVEN:
                continue
            if re.search(rf"(?<![\w/-]){re.escape(file)}\b", text):
                make(source, folder / file)
        for found in re.findall(r"^```yaml complete\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            (folder / f"{yaml.safe_load(found)['name']}.yaml").write_text(found)

    def _source(self, page: str) -> Path:
        """A folder with ``model.onnx`` and its ``here.json``, kept."""
        builders: dict[str, Callable[[], onnx.ModelProto]] = {
            "watcher": models.watcher,
            COMMANDS: lambda: convolutions("input"),
        }
        name = page if page in builders else "convolutions"
        folder = self._folder / name
        if not folder.exists():
            folder.mkdir()
            path = models.save(builders.get(name, convolutions)(), folder / "model.onnx")
            measure_little(api.load(path)).save(folder / "here.json")
        return folder


Make = Callable[[Path, Path], object]
"""Makes a file from the folder of the page's model and profile."""


def _copy(name: str) -> Make:
    return lambda source, path: shutil.copy(source / name, path)


def _estimate(device: str) -> Make:
    def make(source: Path, path: Path) -> None:
        model = api.load(source / "model.onnx")
        api.profile(model, device=device, base=source / "here.json").save(path)

    return make


def _plan(source: Path, path: Path, *, relays: bool = False) -> None:
    """A split in any case: what the small network really gains by one is nothing."""
    model, here = api.load(source / "model.onnx"), source / "here.json"
    pins = (Pin("c1", "device"), Pin("c2", "relay1"), Pin("scores", "server")) if relays else ()
    api.plan(
        model, device="raspberry-pi-4", server=here, link="wifi",
        relays=[(here, "ethernet")] if relays else [], at=[] if relays else ["p1"],
        options=PlanOptions(wishes=Wishes(limits=Limits(pins=pins))),
    ).save(path)  # fmt: skip


def _chain(source: Path, path: Path, *, part: str = "") -> None:
    """A folder of bundles over three tiers, or one of them."""
    _plan(source, path.with_suffix(".three"), relays=True)
    model, chain = api.load(source / "model.onnx"), path.with_suffix(".chain")
    api.split(model, chain, plan=path.with_suffix(".three"), fallback="whole")
    (chain / part).rename(path)


def _calibration(source: Path, path: Path) -> None:
    folder = path.with_suffix(".photos")
    _photos(source, folder)
    api.calibrate(api.load(source / "model.onnx"), folder, tensors=1, samples=2).save(path)


def _speech_detector(source: Path, path: Path) -> None:
    if models.SHARED.is_dir():
        shutil.copy(models.SHARED / "models" / "silero_vad_16k_op15.onnx", path)


def _speech_profile(source: Path, path: Path) -> None:
    if models.SHARED.is_dir():
        model = api.load(path.with_name("silero.onnx"), dims={"batch": 1, "sequence": 576})
        measure_little(model).save(path)


def _verification(source: Path, path: Path) -> None:
    plan = path.with_suffix(".plan")
    _plan(source, plan)
    api.verify(api.load(source / "model.onnx"), plan, seconds=0.0).save(path)


def _bundle(source: Path, path: Path) -> None:
    api.split(api.load(source / "model.onnx"), path, at=["p1"], fallback="whole")


def _repository(source: Path, path: Path) -> None:
    path.mkdir()
    _bundle(source, path / "first")


def _other_model(source: Path, path: Path) -> None:
    """The same network with other weights: small only by its name."""
    model = onnx.load(source / "model.onnx")
    for weights in model.graph.initializer:
        if weights.data_type == onnx.TensorProto.FLOAT:
            weights.raw_data = (onnx.numpy_helper.to_array(weights) / 2).tobytes()
    onnx.save(model, path)


def _arrays(source: Path, path: Path) -> None:
    """``.npy``, ``.npz`` or a folder of arrays that the model takes."""
    (given,) = onnx.load(source / "model.onnx").graph.input
    shape = [dim.dim_value for dim in given.type.tensor_type.shape.dim]
    arrays = np.random.default_rng(0).standard_normal((4, *shape)).astype(np.float32)
    if path.suffix == ".npz":
        np.savez(path, **{given.name: arrays[0]})
    elif path.suffix == ".npy":
        np.save(path, arrays[0])
    else:
        path.mkdir()
        for index, array in enumerate(arrays):
            np.save(path / f"{index}.npy", array)


def _photo(source: Path, path: Path, seed: int = 0) -> None:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC).save(path)


def _photos(source: Path, path: Path) -> None:
    path.mkdir()
    for index in range(PHOTOS):
        _photo(source, path / f"{index}.jpg", index)


def _text(text: str) -> Make:
    def make(source: Path, path: Path) -> None:
        path.write_text(text)
        path.chmod(0o600)

    return make


def _certificates(source: Path, path: Path) -> None:
    """An authority, and what it issued to a server and a device."""
    if path.exists():
        return
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    write_authority(authority, path.parent / "ca.pem")
    for name in ("server", "device"):
        write_pair(authority, path.parent, name)


FILES: dict[str, Make] = {
    "model.onnx": _copy("model.onnx"),
    "here.json": _copy("here.json"),
    "small.onnx": _other_model,
    "squeezenet.onnx": lambda source, path: write_seeded(light_model("squeezenet"), path),
    "mobilenetv2.onnx": lambda source, path: models.save(with_open_batch(models.watcher()), path),
    "silero.onnx": _speech_detector,
    "vad.json": _speech_profile,
    "pi.json": _estimate("raspberry-pi-4"),
    "cloud.json": _estimate("aws-c7i-xlarge"),
    "plan.json": _plan,
    "monday.json": _plan,
    "today.json": _plan,
    "three.json": lambda source, path: _plan(source, path, relays=True),
    "measured.json": _verification,
    "calibration.json": _calibration,
    "c.json": _calibration,
    "models": _repository,
    "bundle": _bundle,
    "1-device-relay": lambda source, path: _chain(source, path, part="1-device-relay"),
    "2-relay-server": lambda source, path: _chain(source, path, part="2-relay-server"),
    "photo.jpg": _photo,
    "left.jpg": _photo,
    "right.jpg": _photo,
    "photos": _photos,
    "speech": _arrays,
    "photo.npy": _arrays,
    "activation.npy": _arrays,
    "x.npy": _arrays,
    "all.npz": _arrays,
    "labels.csv": _text(
        "file,class_index\n" + "".join(f"{i}.jpg,{i % 5}\n" for i in range(PHOTOS))
    ),
    "classes.txt": _text("".join(f"class_{index}\n" for index in range(10))),
    "trace.txt": _text("0 4.0\n1 6.5\n2 3.0\n"),
    "token": _text("a-secret-token\n"),
    "tokens": _text("a-secret-token\n"),
    "ca.pem": _certificates,
    "server.pem": _certificates,
}
