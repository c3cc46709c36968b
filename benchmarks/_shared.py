"""The trained models beside the checkout, with bound shapes and real inputs."""

from __future__ import annotations

import wave
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from splitter.feeds import load_feeds
from splitter.graph.model import Model
from splitter.graph.read import load_model
from splitter.runtime import Array

SHARED = Path(__file__).parents[1].parent / "shared"

SHAPES: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "mobilenetv2_fp32": {"input": (1, 3, 224, 224)},
    "mobilenetv2_qdq_int8": {"input": (1, 3, 224, 224)},
    "ppocr_v3_det_en": {"x": (1, 3, 544, 800)},
    "silero_vad_16k_op15": {"input": (1, 576), "state": (2, 1, 128)},
    "tinygpt": {"input_ids": (1, 128)},
}
"""Of the inputs whose shape the file leaves open."""

PHOTOS: Mapping[str, tuple[str, str]] = {
    "mobilenetv2_fp32": ("wolves", "imagenet"),
    "mobilenetv2_qdq_int8": ("wolves", "imagenet"),
    "squeezenet_fp32": ("wolves", "caffe"),
    "ppocr_v3_det_en": ("sign_text", "imagenet"),
    "tbefn_240x320": ("street_people_dog", "unit"),
    "ultraface_rfb320": ("five_faces", "centred"),
    "yolox_nano": ("street_people_dog", "raw-bgr"),
}
"""Photo and preprocessing, of the models that read one."""


def model_names() -> list[str]:
    """Every shared model; empty in a bare clone."""
    return sorted(path.stem for path in (SHARED / "models").glob("*.onnx"))


def shared_model(name: str) -> Model:
    return load_model(SHARED / "models" / f"{name}.onnx", None, SHAPES.get(name, {}))


def real_feeds(name: str, model: Model) -> dict[str, Array]:
    """A photo, a stretch of speech or a text, prepared as the model was trained."""
    inputs = {port: model.graph.tensors[port] for port in model.graph.inputs}
    if name in PHOTOS:
        photo, preprocess = PHOTOS[name]
        return load_feeds([str(SHARED / "data" / "photos" / f"{photo}.jpg")], inputs, preprocess)
    if name == "tinygpt":
        text = (SHARED / "data" / "text" / "shakespeare_val_a.txt").read_bytes()[:128]
        return {"input_ids": np.frombuffer(text, np.uint8).astype(np.int64)[np.newaxis]}
    zeros = {
        port: np.zeros(tensor.shape or (), tensor.dtype)
        for port, tensor in inputs.items()
        if tensor.shape is not None
    }
    return zeros | _speech(name)


def _speech(name: str) -> dict[str, Array]:
    """The inputs that hear; the others are state, zero at the start."""
    with wave.open(str(SHARED / "data" / "audio" / "speech_20s.wav")) as file:
        file.setpos(5 * file.getframerate())
        samples = np.frombuffer(file.readframes(576), np.int16).astype(np.float32) / 32768
    frame = samples[:512]
    if name == "silero_vad_16k_op15":
        return {"input": samples[np.newaxis], "sr": np.array(16000)}
    if name == "dtln_1":
        return {"input_2": np.abs(np.fft.rfft(frame)).astype(np.float32)[np.newaxis, np.newaxis]}
    return {"input_4": frame[np.newaxis, np.newaxis]}
