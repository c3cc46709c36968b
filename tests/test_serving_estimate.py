"""The estimator of the link, in virtual time: what it converges to, follows, ignores and never says."""

from __future__ import annotations

import math
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitter.link import Link
from splitter.serving.device.estimate import JITTER_S, Exchange, LinkEstimate, LinkEstimator

RATES = st.floats(math.log(125.0), math.log(1.25e9)).map(math.exp)
"""1 kbit/s to 10 Gbit/s."""
SIZES = st.floats(math.log(100.0), math.log(5e6)).map(lambda x: round(math.exp(x)))
ROUND_TRIPS_S = st.floats(math.log(2e-4), math.log(0.3)).map(math.exp)


def link(rate: float, rtt_s: float) -> Link:
    return Link(name="test", up_bytes_per_s=rate, down_bytes_per_s=rate, rtt_s=rtt_s)


class Path:
    """A link in virtual time, used one request after the other."""

    def __init__(self, estimator: LinkEstimator, true: Link, gap_s: float = 0.1) -> None:
        self.estimator, self.true, self.gap_s, self.now_s = estimator, true, gap_s, 0.0

    def send(self, up: int, down: int = 0, slower: float = 1.0) -> LinkEstimate:
        link_s = self.true.transfer_s(up, down) * slower
        self.now_s += link_s + self.gap_s
        self.estimator.observe(Exchange(up, down, link_s), self.now_s)
        return self.now

    @property
    def now(self) -> LinkEstimate:
        estimate = self.estimator.estimate(self.now_s)
        assert estimate is not None
        return estimate


def near(one: float, other: float, factor: float) -> bool:
    return 1 / factor < one / other < factor


@settings(deadline=None, max_examples=30)
@given(RATES, ROUND_TRIPS_S, st.lists(SIZES, min_size=1, max_size=3), st.booleans())
def test_a_constant_link_is_learnt_for_the_sizes_that_are_sent(rate, rtt_s, sizes, has_prior):
    true = link(rate, rtt_s)
    sizes = [
        min(size, round(2 * rate)) for size in sizes
    ]  # what takes longer is past when it is learnt
    path = Path(LinkEstimator(link(1e6, 0.03) if has_prior else None), true)
    for _ in range(12):
        for size in sizes:
            path.send(size)
    for size in sizes:
        expected_s = true.transfer_s(size, 0)
        assert abs(path.now.transfer_s(size, 0) - expected_s) < max(0.3 * expected_s, JITTER_S)


@settings(deadline=None, max_examples=30)
@given(RATES)
def test_the_rate_is_learnt_where_the_bytes_take_most_of_the_time(rate):
    path = Path(LinkEstimator(), link(rate, 1e-3))
    for _ in range(8):
        path.send(round(rate) + 100)  # a second's worth
    assert near(path.now.up_bytes_per_s, rate, 1.2)


@settings(deadline=None, max_examples=30)
@given(RATES, st.floats(3.0, 300.0), st.booleans(), st.booleans())
def test_a_step_is_followed_within_two_requests(rate, factor, is_better, has_prior):
    size = round(rate / 10)
    after = min(1.25e9, rate * factor) if is_better else max(125.0, rate / factor)
    path = Path(LinkEstimator(link(rate, 0.01) if has_prior else None), link(rate, 0.01))
    for _ in range(10):
        path.send(size)
    path.true = link(after, 0.01)
    for _ in range(2):
        path.send(size)
    assert near(path.now.transfer_s(size, 0), path.true.transfer_s(size, 0), 1.4)


@settings(deadline=None, max_examples=20)
@given(RATES.filter(lambda rate: rate > 1e4), st.floats(4.0, 8.0))
def test_one_slow_request_is_half_believed_and_forgotten_with_the_next(rate, slower):
    size = round(rate / 50)
    path = Path(LinkEstimator(), link(rate, 1e-3), gap_s=0.02)
    for _ in range(10):
        before = path.send(size)
    hiccup = path.send(size, slower=slower)
    assert hiccup.transfer_s(size, 0) < 0.75 * slower * before.transfer_s(size, 0)
    assert near(path.send(size).transfer_s(size, 0), before.transfer_s(size, 0), 1.15)


def test_requests_of_one_size_leave_the_round_trip_as_planned():
    path = Path(LinkEstimator(link(1e6, 0.04)), link(4e5, 0.04))
    for _ in range(200):
        path.send(20_000)
    assert near(path.now.rtt_s, 0.04, 1.25)
    assert near(path.now.up_bytes_per_s, 4e5, 1.3)


@pytest.mark.parametrize("rtt_s", [0.002, 0.02, 0.2])
def test_requests_of_two_sizes_correct_a_wrong_round_trip(rtt_s):
    path = Path(LinkEstimator(link(1e6, 0.02)), link(1e6, rtt_s))
    for _ in range(30):
        path.send(200_000)
        path.send(2_000)
    assert near(path.now.up_bytes_per_s, 1e6, 1.25)
    assert near(path.now.transfer_s(2_000, 0), path.true.transfer_s(2_000, 0), 1.3)


def test_a_request_that_got_no_answer_says_that_the_link_is_slow_at_most():
    path = Path(LinkEstimator(), link(1e6, 0.01))
    for _ in range(5):
        path.send(50_000)
    before = path.now.up_bytes_per_s
    path.estimator.failed(50_000, 2.0, path.now_s + 2.0)
    path.estimator.failed(50_000, 2.0, path.now_s + 4.0)
    path.now_s += 4.0
    assert path.now.up_bytes_per_s < before / 5
    assert path.now.failures == 2
    for _ in range(2):
        path.send(50_000)
    assert near(path.now.up_bytes_per_s, before, 1.5)
    assert path.now.failures == 0


EVENTS = st.lists(
    st.tuples(
        st.booleans(),
        st.integers(0, 1 << 40),
        st.integers(0, 1 << 40),
        st.one_of(st.floats(), st.floats(0, 10)),
        st.floats(-10, 1e6),
    ),
    max_size=20,
)


@settings(deadline=None, max_examples=50)
@given(EVENTS, st.booleans())
def test_whatever_is_seen_the_estimate_is_a_link(events, has_prior):
    estimator = LinkEstimator(link(1e6, 0.02) if has_prior else None)
    for is_answered, up, down, seconds, now_s in events:
        if is_answered:
            estimator.observe(Exchange(up, down, seconds), now_s)
        else:
            estimator.failed(up, seconds, now_s)
        estimate = estimator.estimate(now_s)
        if estimate is None:
            continue
        for value in (estimate.up_bytes_per_s, estimate.down_bytes_per_s, estimate.rtt_s):
            assert 0 < value < math.inf
        assert 0 <= estimate.transfer_s(up, down) < math.inf
        assert 0 <= estimate.less_s(up, down) < math.inf
        assert 0 <= estimate.less_s(-up, down, 0) < math.inf
        assert -1.001 <= estimate.correlation <= 1.001
        assert estimate.age_s >= 0


def test_without_a_plan_nothing_is_said_before_the_first_request():
    estimator = LinkEstimator()
    assert estimator.estimate(0.0) is None
    estimator.observe(Exchange(1000, 0, math.nan), 0.0)
    assert estimator.estimate(1.0) is None
    estimator.observe(Exchange(1000, 0, 0.1), 1.0)
    assert estimator.estimate(1.0) is not None


def test_the_planned_link_is_believed_until_the_first_request_and_again_long_after_the_last():
    planned = Link(name="test", up_bytes_per_s=2e6, down_bytes_per_s=8e6, rtt_s=0.02)
    path = Path(LinkEstimator(planned), planned)
    assert near(path.now.transfer_s(50_000, 4_000), planned.transfer_s(50_000, 4_000), 1.25)
    assert path.now.age_s == math.inf
    assert near(path.now.down_bytes_per_s, 4 * path.now.up_bytes_per_s, 1.001)
    path.true = link(5e4, 0.02)
    for _ in range(5):
        path.send(50_000)
    assert path.now.up_bytes_per_s < 1e5
    path.now_s += 3600
    assert near(path.now.transfer_s(50_000, 4_000), planned.transfer_s(50_000, 4_000), 1.3)


def test_uncertainty_grows_while_nothing_is_seen_and_shrinks_with_every_request():
    path = Path(LinkEstimator(), link(1e6, 0.01))
    spreads = [path.send(50_000).less_s(50_000, 0) for _ in range(4)]
    assert spreads[3] < spreads[0]
    path.now_s += 10
    assert path.now.less_s(50_000, 0) > 2 * spreads[3]


def test_many_threads_may_learn_at_once():
    estimator = LinkEstimator()

    def work(number: int) -> None:
        for turn in range(50):
            estimator.observe(Exchange(10_000 + number, 100, 0.02), turn / 10)
            estimator.estimate(turn / 10)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    estimate = estimator.estimate(5.0)
    assert estimate is not None
    assert estimate.samples == 200
    assert near(estimate.transfer_s(10_000, 100), 0.02, 1.2)
