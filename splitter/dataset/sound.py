"""Samples of sound files: 16-bit WAV by the standard library, all else with the extra ``audio``."""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from splitter.errors import InputError

Array = np.ndarray[Any, Any]
_WAVE_ERRORS = (OSError, EOFError, ValueError, wave.Error)


@dataclass(frozen=True)
class Length:
    """What a sound file holds."""

    samples: int
    """Of each channel."""
    rate: int
    """A second."""


def length_of(path: Path) -> Length:
    """How many samples a file holds, and how many a second; raises InputError if it cannot be read."""
    if _is_plain(path):
        try:
            with wave.open(str(path), "rb") as file:
                frame = file.getnchannels() * file.getsampwidth()
                # a header may claim more than the file has
                samples = min(file.getnframes(), path.stat().st_size // frame)
                return Length(samples, file.getframerate())
        except _WAVE_ERRORS as exc:
            raise InputError(f"{path}: cannot be read as sound ({exc})") from exc
    soundfile = _soundfile(path)
    try:
        with soundfile.SoundFile(path) as file:
            return Length(int(file.frames), int(file.samplerate))
    except (OSError, ValueError, soundfile.SoundFileError) as exc:
        raise InputError(f"{path}: cannot be read as sound ({exc})") from exc


def read_sound(path: Path, start: int, count: int) -> Array:
    """``count`` samples of the first channel from ``start``, float32 from -1 to 1.

    Raises
    ------
    InputError
        The file cannot be read, or is shorter.
    """
    if _is_plain(path):
        try:
            with wave.open(str(path), "rb") as file:
                channels = file.getnchannels()
                file.setpos(start)
                data = file.readframes(count)
        except _WAVE_ERRORS as exc:
            raise InputError(f"{path}: cannot be read as sound ({exc})") from exc
        whole = len(data) // (2 * channels) * channels
        samples = np.frombuffer(data, "<i2", whole)[::channels].astype(np.float32) / np.float32(
            32768
        )
    else:
        soundfile = _soundfile(path)
        try:
            with soundfile.SoundFile(path) as file:
                file.seek(start)
                samples = file.read(count, dtype="float32", always_2d=True)[:, 0]
        except (OSError, ValueError, soundfile.SoundFileError) as exc:
            raise InputError(f"{path}: cannot be read as sound ({exc})") from exc
    if samples.size != count:
        raise InputError(f"{path}: ends after {start + samples.size} samples, not {start + count}")
    return samples


def _is_plain(path: Path) -> bool:
    """Whether the standard library reads it: PCM of 16 bits, all that ``wave`` opens in that width."""
    if path.suffix.lower() != ".wav":
        return False
    try:
        with wave.open(str(path), "rb") as file:
            return file.getsampwidth() == 2
    except _WAVE_ERRORS:
        return False


def _soundfile(path: Path) -> ModuleType:
    try:
        import soundfile
    except (ImportError, OSError):  # the latter where libsndfile is missing
        raise InputError(
            f"{path}: is not WAV of 16-bit samples; other sound needs pip install 'splitter[audio]'"
        ) from None
    module: ModuleType = soundfile
    return module
