"""What is left of an answer: classes, labels, errors, and their intervals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitter.calibration.answers import (
    MAX_ERROR,
    Outcome,
    answer_kind,
    compare_answers,
    dot,
    summarise,
    usual_sizes,
    wilson,
)
from splitter.errors import CalibrationError

Array = np.ndarray[Any, Any]
SCORES = np.array([[0.1, 0.7, 0.2]], np.float32)


def compare(whole: Array, found: Array, kind: Any = "values", label: int | None = None) -> Outcome:
    outputs = {"y": whole}
    return compare_answers(outputs, {"y": found}, kind, label, usual_sizes([outputs]))


@given(samples=st.integers(1, 2000), part=st.floats(0, 1))
def test_the_interval_holds_the_part_and_stays_within_0_and_1(samples: int, part: float) -> None:
    low, high = wilson(part, samples)
    assert 0 <= low <= part <= high <= 1
    assert low < high


def test_the_interval_is_that_of_the_literature_and_shrinks_with_samples() -> None:
    # Newcombe, Statistics in Medicine 17 (1998) 857, table I: 81 of 263
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    widths = [high - low for low, high in (wilson(0.9, n) for n in (10, 100, 1000))]
    assert widths == sorted(widths, reverse=True)
    assert wilson(1.0, 200) == pytest.approx((0.981, 1.0), abs=1e-3)
    assert wilson(0.0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("shape", "dtype", "asked", "labelled", "text", "expected"),
    [
        ((1, 10), "float32", "auto", False, False, "top1"),
        ((1, 10, 1, 1), "float32", "auto", False, False, "top1"),
        ((1, 10), "float16", "auto", False, False, "top1"),
        ((1, 1), "float32", "auto", False, False, "values"),
        ((1, 10), "int64", "auto", False, False, "values"),
        ((1, 7, 10), "float32", "auto", False, False, "values"),
        ((1, 7, 10), "float32", "auto", False, True, "top1"),
        ((1, 7, 10), "float32", "top1", False, False, "top1"),
        ((1, 10), "float32", "values", False, False, "values"),
        ((1, 3, 8, 8), "float32", "auto", False, False, "values"),
        ((), "float32", "auto", False, False, "values"),
        ((1, 0), "float32", "auto", False, False, "values"),
        ((1, 10), "float32", "auto", True, False, "top1"),
    ],
)
def test_the_answer_is_a_class_where_there_are_scores(
    shape: Any, dtype: str, asked: Any, labelled: bool, text: bool, expected: str
) -> None:
    outputs = {"y": np.zeros(shape, dtype), "z": np.zeros(3)}
    assert answer_kind(outputs, asked, is_labelled=labelled, is_text=text) == expected


@pytest.mark.parametrize(("asked", "labelled"), [("top1", False), ("auto", True)])
def test_a_class_is_not_made_of_what_holds_no_scores(asked: Any, labelled: bool) -> None:
    with pytest.raises(CalibrationError, match=r"'boxes'.*\[1, 3, 8, 8\].*--answer values"):
        answer_kind(
            {"boxes": np.zeros((1, 3, 8, 8), np.float32)},
            asked, is_labelled=labelled, is_text=False,
        )  # fmt: skip


def test_lost_counts_what_the_whole_has_right_and_this_has_not() -> None:
    other = SCORES[:, ::-1].copy()
    other[0, 0] = 1.0
    same = compare(SCORES, SCORES, "top1", 1)
    assert (same.agreement, same.accuracy, same.lost) == (1, 1, 0)
    wrong = compare(SCORES, other, "top1", 1)
    assert (wrong.agreement, wrong.accuracy, wrong.lost) == (0, 0, 1)
    lucky = compare(SCORES, other, "top1", 0)
    assert (lucky.agreement, lucky.accuracy, lucky.lost) == (0, 1, 0)
    both = compare(SCORES, SCORES, "top1", 2)
    assert (both.agreement, both.accuracy, both.lost) == (1, 0, 0)
    total = summarise([same, wrong, lucky, both])
    assert (total.agreement, total.accuracy, total.lost) == (0.5, 0.5, 0.25)
    unlabelled = summarise([compare(SCORES, SCORES, "top1")])
    assert (unlabelled.accuracy, unlabelled.lost) == (None, None)


def test_scores_of_positions_count_for_parts() -> None:
    whole = np.zeros((1, 4, 3), np.float32)
    whole[0, range(4), [0, 1, 2, 0]] = 1
    found = whole.copy()
    found[0, 3] = [0, 0, 2]
    assert compare(whole, found, "top1").agreement == 0.75


@given(st.integers(0, 2**32 - 1), st.floats(0.001, 10))
def test_the_error_is_relative_whatever_the_scale(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    whole, noise = rng.standard_normal((2, 5, 7))
    found = compare(whole, whole + 0.1 * noise)
    scaled = compare(whole * scale, (whole + 0.1 * noise) * scale)
    expected = np.linalg.norm(0.1 * noise) / np.linalg.norm(whole)
    assert found.error == pytest.approx(expected)
    assert scaled.error == pytest.approx(expected)
    assert found.cosine == pytest.approx(scaled.cosine)


def test_an_output_that_is_near_nothing_is_compared_with_its_usual_size() -> None:
    quiet, loud = {"y": np.full(4, 1e-9)}, {"y": np.full(4, 1.0)}
    usual = usual_sizes([quiet, loud])
    assert usual["y"] == pytest.approx(math.sqrt((4 + 4e-18) / 2))
    found = compare_answers(quiet, {"y": np.full(4, 3e-9)}, "values", None, usual)
    assert found.error < 1e-8


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "uint8"])
def test_the_worst_output_counts(dtype: str) -> None:
    whole = {"a": np.ones(4, np.float32), "b": np.ones(4, dtype)}
    found = {"a": np.ones(4, np.float32), "b": np.zeros(4, dtype)}
    outcome = compare_answers(whole, found, "values", None, usual_sizes([whole]))
    assert (outcome.error, outcome.cosine) == (1, 0)


def test_outputs_that_are_not_finite_are_compared_where_the_whole_s_are() -> None:
    whole = np.array([1.0, np.nan, np.inf, 2.0])
    assert compare(whole, whole).error == 0
    assert compare(whole, np.array([1.0, 0.0, 0.0, 2.0])).error == 0
    broken = compare(whole, np.array([np.nan, 0.0, 0.0, 2.0]))
    assert (broken.error, broken.cosine) == (MAX_ERROR, 0)
    assert compare(np.ones(2), np.array([1e300, 1e-300])).error == MAX_ERROR


def test_empty_outputs_and_zeros_are_equal_to_themselves() -> None:
    for array in (np.zeros((0, 3)), np.zeros(()), np.zeros(5)):
        assert compare(array, array) == Outcome(None, None, None, 0, 1)
    assert compare(np.zeros(5), np.ones(5)).error == 1


def test_outputs_that_are_no_arrays_are_equal_or_not() -> None:
    words = np.array(["a", "b"], dtype=object)
    assert compare(words, words.copy()).error == 0
    assert compare(words, np.array(["a", "c"], dtype=object)).error == 1


def test_dot_is_the_inner_product() -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 1000))
    assert dot(a, b) == pytest.approx(float(a @ b))
