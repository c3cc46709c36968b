"""Bars and sparklines: right in length, told apart without colour, ASCII where that is all there is."""

from __future__ import annotations

import io
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console, RenderableType

from splitter.reporting.bars import (
    _ASCII_LEVELS,
    _ASCII_MARKS,
    _LEVELS,
    _MARKS,
    TERMS,
    Bar,
    Bars,
    Curve,
    Sparkline,
    apportion,
    least_of_each,
    lengths,
    levels,
)
from splitter.reporting.cells import fitted

figures = st.floats(0, 1e6).map(lambda value: 0.0 if value < 1e-9 else value)
optional = st.one_of(st.none(), figures)
names = st.text(max_size=60)


def draw(what: RenderableType, width: int, encoding: str = "utf-8") -> list[str]:
    """The lines of a terminal without colours."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="replace", newline="")
    Console(file=file, width=width, color_system=None).print(what)
    file.flush()
    return raw.getvalue().decode(encoding).splitlines()


@given(st.lists(figures, min_size=1, max_size=8), st.integers(0, 200))
def test_cells_go_to_parts_in_proportion_and_all_of_them(parts: list[float], cells: int) -> None:
    found = apportion(parts, cells)
    total = math.fsum(parts)
    assert sum(found) == (cells if total else 0)
    for part, count in zip(parts, found, strict=True):
        assert abs(count - (cells * part / total if total else 0)) < 1 + 1e-6


@given(st.lists(figures, min_size=1, max_size=8), figures, st.integers(1, 200))
def test_a_bar_is_as_long_as_its_sum_and_never_nothing(
    parts: list[float], more: float, width: int
) -> None:
    total = math.fsum(parts)
    most = total + more
    found = sum(lengths(parts, most, width))
    assert found <= width
    assert (found > 0) == (total > 0)
    if total:
        assert abs(found - max(1, width * total / most)) <= 0.5 + 1e-6


bars = st.lists(
    st.builds(
        Bar,
        names,
        st.lists(figures, min_size=5, max_size=5),
        st.sampled_from(["0", "41.2 ms", "870 us"]),
        st.booleans(),
    ),
    max_size=6,
)


@settings(max_examples=50, deadline=None)
@given(bars, st.integers(50, 200), st.sampled_from(["utf-8", "ascii"]))
def test_charts_fit_and_have_the_marks_of_their_terminal(
    bars: list[Bar], width: int, encoding: str
) -> None:
    lines = draw(Bars(bars), width, encoding)
    assert len(lines) == len(bars) + 1
    assert max(map(cell_len, lines), default=0) <= width
    marks = _MARKS if encoding == "utf-8" else _ASCII_MARKS
    legend = lines[0]
    assert all(f"{mark} {term}"[:3] in legend for mark, term in zip(marks, TERMS, strict=True))


def test_a_bar_s_parts_stand_in_their_order_with_their_marks() -> None:
    parts = [10.0, 5.0, 20.0, 5.0, 10.0]
    for encoding, marks in (("utf-8", _MARKS), ("ascii", _ASCII_MARKS)):
        (line,) = draw(Bars([Bar("a", parts, "50 s")], has_legend=False), 61, encoding)
        counts = [10, 5, 20, 5, 10]
        assert line == "a " + "".join(m * c for m, c in zip(marks, counts, strict=True)) + " 50 s"


def test_marks_differ_without_colour() -> None:
    for marks in (_MARKS, _ASCII_MARKS, _LEVELS, _ASCII_LEVELS):
        assert len(set(marks)) == len(marks)
        assert {cell_len(mark) for mark in marks} == {1}


@settings(max_examples=50, deadline=None)
@given(st.lists(optional, max_size=300), st.integers(1, 120), st.booleans())
def test_sparklines_are_as_wide_as_they_were_told_and_show_the_newest(
    values: list[float | None], width: int, ascii_only: bool
) -> None:
    (line,) = draw(Sparkline(values, width=width), 120, "ascii" if ascii_only else "utf-8")
    assert cell_len(line) == width
    known = [value for value in values[-width:] if value is not None]
    assert sum(mark != " " for mark in line) == len(known)


@given(st.lists(figures, min_size=1, max_size=50), st.booleans())
def test_a_greater_value_has_no_lower_mark(values: list[float], ascii_only: bool) -> None:
    marks = _ASCII_LEVELS if ascii_only else _LEVELS
    ranks = [marks.index(m) for m in levels(values, 0.0, None, is_ascii=ascii_only)]
    for value, rank in zip(values, ranks, strict=True):
        assert all(r <= rank for v, r in zip(values, ranks, strict=True) if v <= value)
    assert max(values) == 0 or ranks[values.index(max(values))] == 7


@settings(max_examples=50, deadline=None)
@given(st.lists(optional, min_size=1, max_size=300), st.integers(0, 299), st.integers(30, 200))
def test_a_curve_fits_and_its_pointer_is_below_the_chosen_place(
    values: list[float | None], chosen: int, width: int
) -> None:
    chosen %= len(values)
    values[chosen] = 0.0
    curve = Curve(values, 0.0, 1e6, chosen, top="1e6", bottom="0", caption="the chosen one")
    lines = draw(curve, width)
    assert len(lines) == curve.height + 1
    assert max(map(cell_len, lines)) <= width
    below = lines[-1].index("▲")
    assert lines[-2][below] == "▁"
    assert "the chosen one" in lines[-1]


@given(st.lists(optional, min_size=1, max_size=200), st.data())
def test_columns_keep_the_least_of_all(values: list[float | None], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(values)))
    found = least_of_each(values, count)
    assert len(found) == count

    def least(some: list[float | None]) -> float | None:
        return min((value for value in some if value is not None), default=None)

    assert least(found) == least(values)


@given(names.filter(str.isprintable), st.integers(1, 70))
def test_a_label_takes_the_cells_that_it_was_given(name: str, width: int) -> None:
    found = fitted(name, width)
    assert cell_len(found) == width
    assert found.rstrip() == name.rstrip() or cell_len(name) > width


@pytest.mark.parametrize("width", [80, 120, 400])
def test_wide_terminals_do_not_make_bars_endless(width: int) -> None:
    (line,) = draw(Bars([Bar("a", [1, 0, 0, 0, 0], "1 s")], has_legend=False), width)
    assert len(line) < 72
