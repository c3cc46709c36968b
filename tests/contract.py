"""What every codec must do, checked on one array or one payload at a time.

A chain with a new stage is one line in ``CASES``; every test of ``test_codec_contract`` then holds for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import zstandard

from splitter.codec import CODECS, Codec
from splitter.codec.affine import FLOATS, Affine
from splitter.codec.base import MAX_TENSOR_BYTES
from splitter.codec.bitmap import Bitmap
from splitter.codec.bits import Bits
from splitter.codec.cast import Cast
from splitter.codec.levels import Levels
from splitter.codec.lz4 import Lz4
from splitter.codec.rans import CONTEXTS, TOTAL, Rans
from splitter.codec.rans_predicted import NEAR, Predicted
from splitter.codec.shuffle import Shuffle
from splitter.codec.zstd import Zstd
from splitter.errors import CodecError
from splitter.graph.values import ITEM_BYTES

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]

SHAPES: tuple[Shape, ...] = ((), (1,), (0,), (3, 0, 2), (2, 3, 5), (1, 64, 7, 7))
CHANNELS: tuple[Shape, ...] = ((1, 3), (0, 3, 2), (2, 3, 0), (1, 3, 7, 7), (5, 3, 4, 9))
"""Three on axis 1: the batch and all behind may have any size."""


def numpy_dtype(name: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def sample(dtype: str, shape: Shape, seed: int = 0) -> Array:
    """Any bit pattern that the dtype has: NaNs with payloads, negative zeros, subnormals."""
    generator = np.random.default_rng(seed)
    if dtype == "bool":
        return np.asarray(generator.integers(0, 2, shape).astype(bool))
    size = int(np.prod(shape)) * ITEM_BYTES[dtype]
    return np.frombuffer(generator.bytes(size), numpy_dtype(dtype)).reshape(shape)


def activations(dtype: str, shape: Shape, seed: int = 0) -> Array:
    """Floats as networks make them: half zeros, some of them negative, and a few beyond any range."""
    generator = np.random.default_rng(seed)
    values = np.asarray(generator.normal(0.0, 2.0, shape))
    values[generator.random(shape) < 0.5] = 0.0
    values[generator.random(shape) < 0.1] = -0.0
    values[generator.random(shape) < 0.1] *= 100.0
    return values.astype(numpy_dtype(dtype))


def few_levels(dtype: str, shape: Shape, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 6, shape).astype(numpy_dtype(dtype))


@dataclass(frozen=True)
class Case:
    """A chain, and the tensors that it takes: those of all other dtypes it must refuse."""

    codec: Codec
    dtypes: tuple[str, ...] = tuple(ITEM_BYTES)
    shapes: tuple[Shape, ...] = SHAPES
    make: Callable[[str, Shape, int], Array] = sample
    settles: bool = True
    """What was decoded encodes to the same payload: lossy or not, a second crossing loses nothing."""
    large: Shape = (1, 3, 1024, 1024)
    """Of some 12 MB, to see what memory it takes."""

    def __str__(self) -> str:
        return self.codec.name


def quantised(name: str, levels: int, *stages: Any, channels: int = 1, zero: int = 0) -> Case:
    """Steps of which none is a power of two, so that no rounding is exact by luck.

    A bfloat16, which has 8 bits, can tell 256 levels apart only where they are.
    """
    least = 4.5 / levels if levels <= 128 else 1 / 32
    step = tuple(least * 2**channel for channel in range(channels))
    affine = Affine(levels=levels, step=step, size=step, zero=zero)
    shapes = SHAPES if channels == 1 else CHANNELS
    return Case(Codec(name, (affine, *stages)), FLOATS, shapes, activations)


@cache
def _dictionary() -> bytes:
    payloads = [few_levels("uint8", (200,), seed).tobytes() for seed in range(200)]
    return zstandard.train_dictionary(1024, payloads).as_bytes()


def _skewed(contexts: int, levels: int) -> bytes:
    """Another distribution for each context."""
    likely = np.random.default_rng(levels).dirichlet(np.full(levels, 0.3), contexts)
    table = np.floor(likely * (TOTAL - levels)).astype(np.int64) + 1
    table[:, 0] += TOTAL - table.sum(1)
    return table.astype("<u2").tobytes()


def neighbours(levels: int, zero: int, channels: int) -> Rans:
    return Rans(
        levels=levels, zero=zero, classes=bytes(i % 2 for i in range(channels)),
        parents=tuple(i - 4 if i >= 4 else i for i in range(channels)),
        frequencies=_skewed(min(channels, 2) * CONTEXTS, levels),
    )  # fmt: skip


def predicted(levels: int, zero: int, channels: int) -> Predicted:
    """Weights of any size, of which many means and spreads lie beyond all edges."""
    random = np.random.default_rng(levels)
    parents = [[i - 4 if i >= 4 else i, i % 4 if i >= 4 else i] for i in range(channels)]
    weights = random.normal(0, 1000, (channels, NEAR + 4)).astype("<i2")
    spreads = random.normal(300, 500, (channels, NEAR + 2)).astype("<i2")
    return Predicted(
        levels=levels, zero=zero, channels=channels,
        parents=np.array(parents, "<u2").tobytes(),
        weights=weights.tobytes(), spreads=spreads.tobytes(),
        mean_edges=(-500, -100, 0, 3, 100, 700), spread_edges=(5, 100, 400),
        frequencies=_skewed(28, levels),
    )  # fmt: skip


def entropy(name: str, rans: Rans | Predicted) -> Case:
    channels = rans.channel_count()
    affine = Affine(levels=rans.levels, step=(0.3,), size=(0.3,), zero=rans.zero)
    shapes = SHAPES if channels == 1 else tuple((n, channels, *rest) for n, _, *rest in CHANNELS)
    large = (1, channels, 1024, 3072 // channels)
    return Case(Codec(name, (affine, rans)), FLOATS, shapes, activations, large=large)


LONGER = ("float32", "float64")
CASES: tuple[Case, ...] = (
    *(Case(codec) for codec in CODECS.values()),
    Case(Codec("zstd9", (Zstd(9),))),
    Case(Codec("zstd-long", (Zstd(3, "long"),))),
    Case(Codec("zstd-dictionary", (Zstd(1, dictionary=_dictionary()),))),
    Case(Codec("lz4", (Lz4(),))),
    Case(Codec("bitmap", (Bitmap(),))),
    Case(Codec("bitmap-zstd", (Bitmap(), Zstd()))),
    Case(Codec("shuffle-bitmap-zstd", (Shuffle(), Bitmap(), Zstd(3)))),
    Case(Codec("float16", (Cast("float16"),)), LONGER, SHAPES, activations),
    Case(Codec("float16-zstd", (Cast("float16"), Shuffle(), Zstd())), LONGER, SHAPES, activations),
    Case(Codec("float16-lz4", (Cast("float16"), Shuffle(), Lz4())), LONGER, make=activations),
    Case(Codec("bfloat16-zstd", (Cast("bfloat16"), Shuffle(), Zstd())), LONGER, make=activations),
    Case(Codec("levels-zstd", (Levels(6), Zstd())), ("uint8",), make=few_levels),
    quantised("affine2", 2, Bits(1)),
    quantised("affine3-zstd19", 3, Bits(2), Zstd(19)),
    quantised("affine4-lz4", 4, Bits(2), Lz4()),
    quantised("affine16-zstd9", 16, Bits(4), Zstd(9), zero=7),
    quantised("affine16-dictionary", 16, Bits(4), Zstd(1, dictionary=_dictionary())),
    quantised("affine256-zstd", 256, Zstd(1, "long")),
    quantised("affine256-bitmap-zstd", 256, Bitmap(), Zstd(3)),
    quantised("channels2-zstd", 2, Bits(1), Zstd(), channels=3, zero=1),
    quantised("channels7-zstd3", 7, Bits(4), Zstd(3, "long"), channels=3, zero=3),
    quantised("channels256", 256, channels=3, zero=128),
    entropy("rans2", neighbours(2, 0, 1)),
    entropy("rans16", neighbours(16, 0, 3)),
    entropy("rans31", neighbours(31, 15, 11)),
    entropy("predicted2", predicted(2, 0, 1)),
    entropy("predicted16", predicted(16, 7, 3)),
    entropy("predicted31", predicted(31, 15, 11)),
)


def same_bits(left: Array, right: Array) -> bool:
    same_kind = left.dtype.name == right.dtype.name and left.shape == right.shape
    return same_kind and left.tobytes() == right.tobytes()


def check_round_trip(case: Case, array: Array) -> None:
    codec, payload = case.codec, case.codec.encode(array)
    assert isinstance(payload, bytes)
    got = codec.decode(payload, array.dtype.name, array.shape)
    if codec.is_lossless:
        assert same_bits(got, array)
        return
    assert got.shape == array.shape
    assert got.dtype.name == array.dtype.name
    assert not got[np.asarray(array == 0)].any(), "a zero did not stay zero"
    if case.settles:
        assert codec.encode(got) == payload


def check_forms(case: Case, array: Array) -> None:
    """What each stage makes has the form that it said: of that dtype, and never larger."""
    value = np.ascontiguousarray(array).reshape(array.shape)
    forms = case.codec.forms(array.dtype.name, array.shape)
    for stage, form in zip(case.codec.stages, forms[1:], strict=True):
        value = stage.encode(value)
        assert value.dtype.name == form.dtype
        assert value.nbytes <= form.nbytes if form.is_bound else value.shape == form.shape


def check_size(case: Case, array: Array) -> None:
    """A payload is refused as a tensor of impossible shape, and over ``max_bytes``."""
    codec, payload, dtype = case.codec, case.codec.encode(array), array.dtype.name
    for shape in [(1 << 62, 1 << 62), (0, 1 << 62), (-1, *array.shape), (1,) * 65]:
        with pytest.raises(CodecError):
            codec.decode(payload, dtype, shape)
    if array.nbytes:
        with pytest.raises(CodecError, match="over"):
            codec.decode(payload, dtype, array.shape, max_bytes=array.nbytes - 1)


def check_hostile(
    codec: Codec, payload: bytes, dtype: str, shape: Shape, max_bytes: int = MAX_TENSOR_BYTES
) -> Array | None:
    """Any bytes at all: an array of the shape and dtype asked for, or CodecError, and nothing else."""
    refusal = ""
    try:
        array = codec.decode(payload, dtype, shape, max_bytes=max_bytes)
    except CodecError as exc:
        refusal = str(exc)
    if refusal:
        assert "\n" not in refusal
        return None
    assert array.shape == shape
    assert array.dtype.name == dtype
    if dtype == "bool" and array.size:
        assert array.view(np.uint8).max() <= 1
    return array
