"""Inference sessions: the only user of onnxruntime.

A model is run the same way when it is profiled, checked after a split, and served: the same provider,
threads and optimisation level (``Settings``).
"""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from splitter.allocator import Setting, give_back_memory, set_allocator
from splitter.document import Record
from splitter.errors import InputError, ModelError, ProfileError

Array = np.ndarray[Any, Any]

ort.set_default_logger_severity(4)


class Optimisation(enum.StrEnum):
    """onnxruntime's graph optimisation levels."""

    NONE = "none"
    BASIC = "basic"
    EXTENDED = "extended"
    ALL = "all"


_LEVELS = {
    Optimisation.NONE: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    Optimisation.BASIC: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    Optimisation.EXTENDED: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    Optimisation.ALL: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}

_NUMPY_OF = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16", "tensor(bool)": "bool",
    **{f"tensor({u}int{n})": f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)},
    "tensor(string)": "object",
}  # fmt: skip

_TYPE_OF = {dtype: name for name, dtype in _NUMPY_OF.items()}


class Settings(Record, frozen=True, kw_only=True):
    """How a session runs; part of every profile and bundle."""

    provider: str = "CPUExecutionProvider"
    threads: int = 1
    optimisation: Optimisation = Optimisation.ALL
    arena: bool = True
    """Keep memory from one run to the next, which is faster. Without it, it is given back to the system
    after each use: less is resident, and each run faults its pages in again."""


@dataclass(frozen=True)
class Port:
    """An input or output of a session."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]

    @property
    def type(self) -> str:
        """As onnxruntime calls it, such as ``tensor(float)``."""
        return _TYPE_OF.get(self.dtype, self.dtype)


def available_providers() -> tuple[str, ...]:
    """The execution providers of this installation."""
    return tuple(ort.get_available_providers())


def version() -> str:
    """The version of onnxruntime, such as ``1.31.1``."""
    return str(ort.__version__)


class Runner:
    """A loaded model; ``run`` is thread-safe."""

    def __init__(
        self,
        model: bytes | str | os.PathLike[str],
        settings: Settings = Settings(),  # noqa: B008  (frozen)
        *,
        weights_dir: str | os.PathLike[str] | None = None,
        profile_prefix: str | None = None,
        optimised_path: str | os.PathLike[str] | None = None,
        free_dims: Mapping[str, int] | None = None,
    ) -> None:
        """Load a model from a file, or from bytes whose external weights lie in ``weights_dir``.

        ``free_dims`` fixes dimensions that the file leaves free, by name, so that the runtime optimises
        for them; a name that the file does not have means nothing.

        Raises
        ------
        ProfileError
            The provider is not in this installation.
        ModelError
            The runtime cannot load the model.
        """
        if settings.provider not in available_providers():
            known = ", ".join(available_providers())
            raise ProfileError(
                f"provider {settings.provider!r} is not installed; this one has {known}"
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = settings.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = _LEVELS[settings.optimisation]
        options.log_severity_level = 4
        options.enable_cpu_mem_arena = settings.arena
        if not settings.arena:
            _map_large_blocks()
        if profile_prefix is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile_prefix
        if optimised_path is not None:
            options.optimized_model_filepath = os.fspath(optimised_path)
        for name, size in (free_dims or {}).items():
            options.add_free_dimension_override_by_name(name, size)
        if weights_dir is not None:
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", os.fspath(weights_dir)
            )
        source = model if isinstance(model, bytes) else os.fspath(Path(model))
        try:
            self._session = ort.InferenceSession(source, options, providers=[settings.provider])
        except Exception as exc:  # noqa: BLE001  (the runtime raises a dozen unrelated classes)
            raise ModelError(f"onnxruntime cannot load the model: {_first_line(exc)}") from exc
        give_back_memory()  # loading took a copy or two of the weights
        self.settings = settings
        self.inputs = tuple(_port(value) for value in self._session.get_inputs())
        self.outputs = tuple(_port(value) for value in self._session.get_outputs())
        self._output_names = [port.name for port in self.outputs]

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
        """Run once; outputs are in the model's order, or the order asked for.

        Raises
        ------
        InputError
            The runtime refuses the feeds.
        """
        names = self._output_names if outputs is None else list(outputs)
        try:
            native = {name: _native(value) for name, value in feeds.items()}
            return list(self._session.run(names, native))
        except Exception as exc:  # noqa: BLE001  (the runtime raises a dozen unrelated classes)
            raise InputError(f"onnxruntime cannot run the model: {_first_line(exc)}") from exc

    def end_profiling(self) -> Path:
        """Stop profiling and return the path of the trace."""
        return Path(self._session.end_profiling())


_MAPPED_FROM_BYTES = 64 << 10


def _map_large_blocks() -> None:
    """Have blocks of 64 KiB or more given back to the system as soon as they are freed.

    glibc raises that bound by itself with each large block that is freed, up to 32 MiB.
    """
    bounds = (Setting.MMAP_THRESHOLD, Setting.TRIM_THRESHOLD)
    set_allocator(dict.fromkeys(bounds, _MAPPED_FROM_BYTES))


def _native(value: Array) -> Array:
    """In this machine's byte order: the runtime takes any other for it, and computes nonsense."""
    if isinstance(value, np.ndarray) and not value.dtype.isnative:
        return value.astype(value.dtype.newbyteorder("="))
    return value


def _port(value: Any) -> Port:
    return Port(value.name, _NUMPY_OF.get(value.type, value.type), tuple(value.shape))


def _first_line(exc: Exception) -> str:
    text = str(exc).strip()
    return text.splitlines()[0] if text else type(exc).__name__
