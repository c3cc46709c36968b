"""Quantisers fitted to values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitter.calibration.fit import fit_affine, fit_codecs, lossless_codecs, why_not_fitted
from splitter.codec.affine import Affine
from splitter.codec.base import Form

Array = np.ndarray[Any, Any]


def error(affine: Affine, values: Array) -> float:
    array = values.astype(np.float32)
    decoded = affine.decode(affine.encode(array), Form("float32", array.shape))
    return float(((decoded.astype(float) - array.astype(float)) ** 2).sum())


@given(seed=st.integers(0, 2**32 - 1), levels=st.integers(2, 256), rectified=st.booleans())
def test_a_fit_is_no_worse_than_the_whole_range(seed: int, levels: int, rectified: bool) -> None:
    values = np.random.default_rng(seed).laplace(size=400)
    values = np.maximum(values, 0) if rectified else values
    low, high = min(values.min(), 0), max(values.max(), 0)
    step = (high - low) / (levels - 1)
    plain = Affine(levels, (step,), (step,), min(levels - 1, round(-low / step)))
    assert error(fit_affine(values, levels), values) <= error(plain, values) * (1 + 1e-4) + 1e-6


@given(seed=st.integers(0, 2**32 - 1), levels=st.integers(2, 256), sign=st.sampled_from([-1, 0, 1]))
def test_zero_stays_zero(seed: int, levels: int, sign: int) -> None:
    values = np.random.default_rng(seed).standard_normal(100) ** 3
    values = values if sign == 0 else sign * np.abs(values)
    affine = fit_affine(values, levels)
    assert error(affine, np.zeros(3)) == 0
    if sign > 0:
        assert affine.zero == 0


def test_more_levels_lie_nearer() -> None:
    values = np.abs(np.random.default_rng(1).standard_normal(5000))
    errors = [error(fit_affine(values, levels), values) for levels in (2, 4, 8, 16, 64, 256)]
    assert errors == sorted(errors, reverse=True)


def test_codecs_say_truly_whether_they_lose_and_have_names_of_their_own() -> None:
    array = np.random.default_rng(2).standard_normal((1, 4, 9, 9)).astype(np.float32)
    codecs = [*lossless_codecs(), *fit_codecs([array])]
    assert len({codec.name for codec in codecs}) == len(codecs)
    gaps = []
    for codec in codecs:
        decoded = codec.decode(codec.encode(array), "float32", array.shape)
        gaps.append(float(np.linalg.norm(decoded - array)))
        assert codec.is_lossless == (gaps[-1] == 0)
    assert gaps[:2] == [0, 0]
    assert gaps[-1] == max(gaps)  # from the finest to the coarsest


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 0, 3), (1, 3, 1, 1)])
def test_any_shape_and_float_is_fitted_or_said_not_to_be(dtype: str, shape: Any) -> None:
    arrays = [np.full(shape, value, dtype) for value in (-1.5, 0, 2.25)]
    codecs = fit_codecs(arrays)
    assert bool(codecs) == (0 not in shape)
    for codec in codecs:
        for array in arrays:
            assert codec.decode(codec.encode(array), dtype, shape).shape == shape


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ([np.zeros(4, np.float32)], "all values are 0"),
        ([np.full(4, 2.5, np.float32)] * 2, "all values are 2.5"),
        ([np.zeros((0, 4), np.float32)], "no elements"),
        ([np.ones(2, np.float32), np.array([1, np.nan], np.float32)], "NaN or infinite"),
        ([np.array([1, np.inf], np.float32)], "NaN or infinite"),
        ([np.arange(4)], "int64 is kept exact"),
        ([np.array([True, False])], "bool is kept exact"),
        ([np.arange(4, dtype=np.uint8)], "uint8 is kept exact"),
    ],
)
def test_what_cannot_be_fitted_says_why(arrays: list[Array], why: str) -> None:
    assert fit_codecs(arrays) == ()
    assert why in (why_not_fitted(arrays) or "")


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_values_of_any_size_are_fitted(scale: float) -> None:
    array = (np.random.default_rng(3).standard_normal(50) * scale).astype(np.float32)
    square = float((array.astype(float) ** 2).sum())
    assert error(fit_affine(array.astype(float), 64), array) < 0.01 * square
    for codec in fit_codecs([array]):
        if "affine" in codec.name:
            assert np.isfinite(codec.decode(codec.encode(array), "float32", array.shape)).all()


def test_float16_is_not_tried_where_it_would_overflow() -> None:
    array = np.array([1e5, -3, 0], np.float32)
    assert "float16" not in {codec.name for codec in fit_codecs([array])}


def test_a_step_that_leaves_nothing_of_the_tensor_is_no_codec() -> None:
    arrays = [np.random.default_rng(seed).choice([-0.5, 0.5], (1, 3, 8, 8)) for seed in range(4)]
    flat = [array.astype(np.float32) for array in arrays]
    names = {codec.name for codec in fit_codecs(flat)}
    assert "step1.7" in names
    assert "step2" not in names  # half a step is all there is
    for codec in fit_codecs(flat):
        decoded = codec.decode(codec.encode(flat[0]), "float32", flat[0].shape)
        assert len(np.unique(decoded)) > 1
