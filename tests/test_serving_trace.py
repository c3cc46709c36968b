"""Traces of bandwidth: integrals, their inverse, and files that are none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitter.errors import LinkError
from splitter.serving.relay.trace import Trace

SAMPLES = st.lists(
    st.tuples(st.floats(0.01, 5.0), st.sampled_from([0.0, 10.0, 1e3, 1e6])), min_size=1, max_size=12
).filter(lambda samples: any(rate for _, rate in samples))


def trace_of(samples: list[tuple[float, float]]) -> Trace:
    ends = np.cumsum([seconds for seconds, _ in samples])
    return Trace([0.0, *ends[:-1].tolist()], [rate for _, rate in samples], float(ends[-1]))


@settings(deadline=None, max_examples=50)
@given(SAMPLES, st.floats(0, 50), st.floats(1, 1e6))
def test_bytes_have_passed_when_they_finish_and_not_before(samples, start_s, nbytes):
    trace = trace_of(samples)
    end_s = trace.finish_s(start_s, nbytes)
    assert end_s >= start_s
    passed = trace.passed(end_s) - trace.passed(start_s)
    assert passed == pytest.approx(nbytes, rel=1e-6, abs=1e-3 + 1e-9 * trace.passed(end_s))
    just_before = end_s - 1e-3
    if just_before > start_s:
        assert trace.passed(just_before) - trace.passed(start_s) < nbytes


def test_a_trace_is_a_step_function_that_starts_again():
    trace = Trace([0.0, 1.0, 2.0], [100.0, 0.0, 300.0], 4.0)
    assert trace.mean(0.5, 1.5) == 50.0
    assert trace.mean(3.5, 4.5) == 200.0
    assert trace.finish_s(0.5, 50) == 1.0  # bytes that end where an outage begins have arrived
    assert trace.finish_s(0.5, 51) == pytest.approx(2 + 1 / 300)
    assert trace.finish_s(0.0, 700 * 5 + 100) == pytest.approx(21.0)
    assert Trace.constant(50.0).finish_s(3.25, 100) == pytest.approx(5.25)


def test_a_file_is_read_in_mbit_per_second_from_its_first_line_on(tmp_path):
    path = tmp_path / "trace.txt"
    path.write_text("# a comment\n5.0 8\n6.0 16\n8.0 0\n")
    trace = Trace.load(path)
    assert trace.length_s == 5.0
    assert trace.mean(0.0, 1.0) == 1e6
    assert trace.mean(1.0, 3.0) == 2e6
    assert trace.mean(3.0, 5.0) == 0.0


@pytest.mark.parametrize(
    "text", ["", "0 1\n", "0 1 2\n1 2 3\n", "0 a\n1 b\n", "0 -1\n1 1\n", "0 0\n1 0\n"]
)
def test_what_is_no_trace_is_refused(tmp_path, text):
    path = tmp_path / "trace.txt"
    path.write_text(text)
    with pytest.raises(LinkError):
        Trace.load(path)
    with pytest.raises(LinkError):
        Trace.load(tmp_path / "absent.txt")


@pytest.mark.parametrize(
    ("times", "rates", "length_s"),
    [([0.0, 0.0], [1.0, 1.0], 2.0), ([1.0], [1.0], 2.0), ([0.0], [1.0], 0.0), ([], [], 1.0),
     ([0.0], [float("nan")], 1.0)],
)  # fmt: skip
def test_times_increase_and_rates_are_numbers(times, rates, length_s):
    with pytest.raises(LinkError):
        Trace(times, rates, length_s)
