"""Device descriptions: what a machine that is not at hand can do, each figure with its source."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from splitter import catalog
from splitter.catalog import LARGEST, Figure, Text
from splitter.document import Record
from splitter.errors import ProfileError

Positive = Annotated[int, Meta(gt=0)]


class Peaks(Record, frozen=True, kw_only=True):
    """Peak arithmetic of the whole device by number format, operations a second."""

    float32: Figure
    float16: Figure | None = None
    int8: Figure | None = None


class Bandwidth(Record, frozen=True, kw_only=True):
    """Main memory, bytes read plus bytes written."""

    peak: Figure
    sustained: Figure
    """What a copy larger than the caches reaches."""


class Power(Record, frozen=True, kw_only=True):
    """Watts of the whole device, or of the module or card where the source says so."""

    active_w: Figure
    idle_w: Figure


class Efficiency(Record, frozen=True):
    """The part of the peak that a large float32 matrix product reaches, as ``Rates`` measure it."""

    value: Annotated[float, Meta(gt=0, le=1)]
    source: Text


class Overhead(Record, frozen=True):
    """Seconds that each kernel costs, whatever it computes."""

    value: Annotated[float, Meta(ge=0, le=LARGEST)]
    source: Text


class Unsupported(Record, frozen=True):
    """Operators that cannot run there."""

    names: tuple[str, ...]
    source: Text


class DeviceDescription(Record, frozen=True, kw_only=True):
    """A file of ``profiles/devices``."""

    schema: Literal["splitter.device/1"]
    name: Text
    summary: Text
    cores: Positive
    threads: Positive
    """The threads that the figures stand for."""
    peak_flops_per_s: Peaks
    efficiency: Efficiency
    memory_bytes_per_s: Bandwidth
    codec_bytes_per_s: Figure | None = None
    """Of the processor that runs the codecs, where that is not the one that runs the model."""
    memory_bytes: Figure
    power: Power | None = None
    kernel_overhead_s: Overhead
    unsupported_operators: Unsupported

    @property
    def flops_per_s(self) -> float:
        """Reached in float32."""
        return self.peak_flops_per_s.float32.value * self.efficiency.value

    @property
    def int8_ops_per_s(self) -> float:
        """Reached in int8; a device without int8 arithmetic is no faster than in float32."""
        peak = self.peak_flops_per_s.int8 or self.peak_flops_per_s.float32
        return peak.value * self.efficiency.value

    @property
    def bytes_per_s(self) -> float:
        """Reached by kernels that wait for memory."""
        return self.memory_bytes_per_s.sustained.value


def device_names() -> tuple[str, ...]:
    """The devices that come with the package."""
    return catalog.names("devices")


def find_device(text: str) -> DeviceDescription:
    """The description of a name or of a ``.yaml`` file.

    Raises
    ------
    ProfileError
        No such device, or a malformed file; the message names the field.
    """
    return catalog.read(text, "devices", DeviceDescription, ProfileError)
