"""The policy, in virtual time: what it chooses, when it moves, and what its trials may cost."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitter.link import Link
from splitter.partition.manifest import CutCost, CutSpec
from splitter.planning.records import Latency
from splitter.serving.device.estimate import Exchange, LinkEstimate, LinkEstimator
from splitter.serving.device.policy import (
    FIRST_TRIAL_S,
    HOPELESS_TRIAL_S,
    LEAST_GAIN,
    LONGEST_TRIAL_S,
    OUTAGE_TRIAL_S,
    SAVED_S,
    TRIAL_BYTES_PER_S,
    Policy,
)


def cut(
    name: str, head_s: float, up: int | None, tail_s: float = 0.01, down: int = 4000
) -> CutSpec:
    """A cut that sends so many bytes; None keeps all on the device."""
    is_split = up is not None
    return CutSpec(
        id=name, name=name, head="head" if head_s else None, tail="tail" if is_split else None,
        crossing=(), head_nodes=(), tail_outputs=(),
        cost=CutCost(
            head_s=head_s, encode_s=0.002 if is_split else 0.0, decode_s=0.001 if is_split else 0.0,
            tail_s=tail_s if is_split else 0.0, up_bytes=up or 0, down_bytes=down if is_split else 0,
        ),
    )  # fmt: skip


DEVICE = cut("device", 0.3, None)
INPUT = cut("input", 0.0, 150_000, 0.03)
EARLY = cut("early", 0.06, 30_000, 0.02)
LATE = cut("late", 0.15, 6_000)
TABLE = (EARLY, DEVICE, INPUT, LATE)


def link(rate: float, rtt_s: float = 0.02) -> Link:
    return Link(name="test", up_bytes_per_s=rate, down_bytes_per_s=rate, rtt_s=rtt_s)


def sure(rate: float, rtt_s: float = 0.02, failures: int = 0, samples: int = 9) -> LinkEstimate:
    return doubtful(rate, 0.0, rtt_s, failures, samples)


def doubtful(
    rate: float, doubt: float, rtt_s: float = 0.02, failures: int = 0, samples: int = 9
) -> LinkEstimate:
    return LinkEstimate(
        up_bytes_per_s=rate, down_bytes_per_s=rate, rtt_s=rtt_s, faster_s_per_byte=doubt / rate,
        slower_s_per_byte=doubt / rate, rtt_deviation_s=0.0, correlation=0.0, samples=samples,
        failures=failures, age_s=0.0,
    )  # fmt: skip


def price(spec: CutSpec, rate: float, rtt_s: float = 0.02) -> float:
    """The formula, written a second time."""
    cost = spec.cost
    assert cost is not None
    if spec.tail is None:
        return cost.head_s
    link_s = cost.up_bytes / rate + rtt_s + cost.down_bytes / rate
    return cost.head_s + cost.encode_s + link_s + cost.decode_s + cost.tail_s


COSTS = st.tuples(
    st.floats(0, 1), st.one_of(st.none(), st.integers(0, 1_000_000)), st.floats(0, 0.2)
)
RATES = st.floats(math.log(125.0), math.log(1.25e9)).map(math.exp)


@settings(deadline=None)
@given(st.lists(COSTS, min_size=1, max_size=6), RATES, st.floats(0, 1))
def test_a_sure_estimate_is_followed_to_the_cheapest_cut(costs, rate, rtt_s):
    table = [cut(str(number), *cost) for number, cost in enumerate(costs)]
    policy = Policy(table)
    chosen = policy.choose(sure(rate, rtt_s), 0.0)
    cheapest = min(price(each, rate, rtt_s) for each in table)
    assert price(chosen, rate, rtt_s) <= cheapest * (1 + 1e-9) + LEAST_GAIN * price(
        table[0], rate, rtt_s
    )
    assert policy.price(chosen, link(rate, rtt_s)) == pytest.approx(price(chosen, rate, rtt_s))


@settings(deadline=None, max_examples=10)
@given(RATES, st.floats(0, 20))
def test_no_cut_that_is_dearer_by_more_than_the_least_gain_is_kept_for_ever(rate, doubt):
    policy = Policy(TABLE)
    best = min(price(each, rate) for each in TABLE)
    for turn in range(1000):
        chosen = policy.choose(doubtful(rate, doubt), turn / 10)
    assert price(chosen, rate) - best <= 1.001 * LEAST_GAIN * price(chosen, rate)


@settings(deadline=None, max_examples=10)
@given(RATES)
def test_a_link_that_does_not_change_makes_no_flapping(rate):
    true, estimator, policy = link(rate), LinkEstimator(link(2e6)), Policy(TABLE, link(2e6))
    now_s = 0.0
    for _ in range(60):
        chosen = policy.choose(estimator.estimate(now_s), now_s)
        now_s += price(chosen, rate)
        if chosen.tail is not None and chosen.cost is not None:
            sent = chosen.cost.up_bytes, chosen.cost.down_bytes
            estimator.observe(Exchange(*sent, true.transfer_s(*sent)), now_s)
    assert policy.switches <= 4


def test_a_gain_within_the_doubt_is_taken_only_after_requests_that_agree():
    policy = Policy(TABLE)
    rate = 2.0e5
    assert price(LATE, rate) < price(EARLY, rate)
    chosen = [policy.choose(doubtful(rate, 0.9), 0.0).id for _ in range(20)]
    assert chosen[0] == "early"
    assert chosen[-1] == "late"
    assert policy.switches == 1


def test_after_a_request_without_answer_the_device_is_not_doubted():
    policy = Policy(TABLE)
    doubted = doubtful(4e4, 5.0)
    assert policy.choose(doubted, 0.0) is EARLY
    assert policy.choose(replace(doubted, failures=1), 0.1) is DEVICE


def test_gains_that_do_not_last_are_not_added_up():
    policy = Policy(TABLE)
    rates = (price_even := 2.0e5, 2.0e6)
    assert price(LATE, price_even) < price(EARLY, price_even)
    for turn in range(200):
        assert policy.choose(doubtful(rates[turn % 2], 0.9), turn / 10) is EARLY


def test_cuts_without_a_cost_are_never_chosen_and_never_left():
    unpriced = CutSpec(
        id="x", name="x", head=None, tail="tail", crossing=(), head_nodes=(), tail_outputs=()
    )
    policy = Policy([EARLY, unpriced, DEVICE])
    assert policy.choose(sure(1e9), 0.0) is not unpriced
    assert policy.price(unpriced, sure(1e9)) == math.inf
    assert Policy([unpriced, DEVICE]).choose(sure(1.0), 0.0) is unpriced
    with pytest.raises(ValueError, match="needs a cut"):
        Policy([])


def test_before_anything_is_known_the_planned_cut_is_kept():
    assert Policy(TABLE).choose(None, 0.0) is EARLY
    assert Policy(TABLE, link(200.0)).current is DEVICE


def test_a_slow_device_or_server_moves_the_breakpoints():
    policy = Policy(TABLE)
    rate = 1e6
    assert policy.choose(sure(rate), 0.0) is EARLY
    for _ in range(30):
        policy.observe(EARLY, Latency.of(head_s=0.6, encode_s=0.02, decode_s=0.001, tail_s=0.02))
    assert policy.price(DEVICE, link(rate)) == pytest.approx(3.0, rel=0.1)
    assert policy.choose(sure(rate), 1.0) is INPUT
    for _ in range(60):
        policy.observe(INPUT, Latency.of(encode_s=0.002, decode_s=0.001, tail_s=6.0), 2.0)
    assert policy.choose(sure(rate), 2.0) is DEVICE


def test_a_slow_codec_says_nothing_of_the_model():
    policy = Policy(TABLE)
    for _ in range(30):
        policy.observe(INPUT, Latency.of(encode_s=0.2, decode_s=0.1, tail_s=0.03))
    assert policy.price(DEVICE, link(1e6)) == pytest.approx(0.3)


def test_a_cut_is_priced_with_the_bytes_that_it_really_sends():
    policy = Policy(TABLE)
    fast = Latency.of(head_s=0.06, encode_s=0.002, decode_s=0.001, tail_s=0.02)
    for _ in range(30):
        policy.observe(EARLY, fast, sent_bytes=(300_000, 4_000))
    assert policy.price(EARLY, link(1e6)) == pytest.approx(0.06 + 0.023 + 0.304 + 0.02)
    assert policy.choose(sure(1e6), 0.0) is LATE


def test_one_odd_measurement_moves_a_factor_a_little():
    policy = Policy(TABLE)
    policy.observe(DEVICE, Latency.of(head_s=300.0))
    assert policy.price(DEVICE, link(1e6)) < 0.6


def trials(policy: Policy, until_s: float, estimates: list[LinkEstimate]) -> list[float]:
    """When trials are named, with a request each tenth of a second and the given results in turn."""
    found, now_s, belief = [], 0.0, estimates[0]
    while now_s < until_s:
        policy.choose(belief, now_s)
        if policy.trial(now_s) is not None:
            found.append(now_s)
            belief = estimates[min(len(found), len(estimates) - 1)]
        now_s += 0.1
    return found


def on_device() -> Policy:
    policy = Policy((DEVICE, EARLY, INPUT, LATE))
    assert policy.choose(sure(5e4), 0.0) is DEVICE
    return policy


def gaps(times: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]


def test_trials_come_less_and_less_often_while_the_link_stays_as_it_is():
    times = trials(on_device(), 60.0, [sure(5.5e4, samples=count) for count in range(100)])
    found = gaps([0.0, *times])
    assert all(after > before - 0.15 for before, after in pairwise(found))
    assert found[0] < FIRST_TRIAL_S + 0.2
    assert LONGEST_TRIAL_S - 0.1 < found[-1] < LONGEST_TRIAL_S + 0.2


def test_trials_come_often_again_where_one_finds_the_link_changed():
    rates = [5.5e4] * 6 + [7.5e4] * 100
    beliefs = [sure(rate, samples=count) for count, rate in enumerate(rates)]
    found = gaps(trials(on_device(), 60.0, beliefs))
    assert found[4] > LONGEST_TRIAL_S - 0.1
    assert found[6] < FIRST_TRIAL_S + 0.2
    assert found[-1] > LONGEST_TRIAL_S - 0.1


def test_trials_stay_frequent_while_none_is_answered():
    beliefs = [sure(1e3, failures=count, samples=count) for count in range(100)]
    assert gaps(trials(on_device(), 60.0, beliefs))[-1] < OUTAGE_TRIAL_S + 0.2


@settings(deadline=None, max_examples=10)
@given(st.integers(1_000, 3_000_000), st.lists(st.floats(0.5, 2.0), min_size=1, max_size=50))
def test_bytes_of_trials_are_bounded_and_counted(up, wobble):
    policy = Policy([DEVICE, cut("only", 0.01, up)])
    slow = [sure(10.0 * factor, samples=count) for count, factor in enumerate(wobble * 40)]
    times = trials(policy, 300.0, slow)
    assert policy.trials == len(times)
    assert policy.trial_bytes == len(times) * (up + 4000)
    assert policy.trial_bytes <= TRIAL_BYTES_PER_S * (300.0 + SAVED_S) + up + 4000


def test_a_link_that_can_only_pay_with_a_shorter_round_trip_is_tried_rarely():
    policy = Policy((DEVICE, EARLY, INPUT, LATE))
    assert policy.choose(sure(1e6, rtt_s=1.0), 0.0) is DEVICE
    beliefs = [sure(1e6, rtt_s=1.0, samples=count) for count in range(100)]
    assert gaps(trials(policy, 400.0, beliefs))[-1] > HOPELESS_TRIAL_S - 0.1


def test_no_trials_where_requests_are_sent_anyway_or_nothing_could_be_sent():
    policy = Policy(TABLE)
    policy.choose(sure(1e6), 0.0)
    assert all(policy.trial(float(now_s)) is None for now_s in range(100))
    alone = Policy([DEVICE])
    alone.choose(sure(1e6), 0.0)
    assert all(alone.trial(float(now_s)) is None for now_s in range(100))


def test_the_trial_is_of_the_cut_that_pays_first():
    policy = on_device()
    trial = next(found for now in range(100) if (found := policy.trial(float(now))) is not None)
    rates = [math.exp(step / 20) for step in range(140, 300)]
    pays = next(
        best
        for rate in rates
        if (best := min(TABLE, key=lambda each: price(each, rate))) is not DEVICE
    )
    assert trial is pays


@settings(deadline=None, max_examples=10)
@given(st.floats(5e4, 5e6), st.floats(5.0, 50.0))
def test_a_step_of_the_link_is_followed_within_a_few_requests_and_back(rate, factor):
    estimator, policy = LinkEstimator(link(rate)), Policy(TABLE, link(rate))
    now_s = 0.0

    def run(rate: float, count: int) -> CutSpec:
        nonlocal now_s
        for _ in range(count):
            chosen = policy.choose(estimator.estimate(now_s), now_s)
            trial = policy.trial(now_s)
            sent = trial if trial is not None else chosen
            now_s += price(chosen, rate)
            if sent.tail is not None and sent.cost is not None:
                sizes = sent.cost.up_bytes, sent.cost.down_bytes
                estimator.observe(Exchange(*sizes, link(rate).transfer_s(*sizes)), now_s)
        return policy.choose(estimator.estimate(now_s), now_s)

    def is_near_best(chosen: CutSpec, rate: float) -> bool:
        return price(chosen, rate) < 1.3 * min(price(each, rate) for each in TABLE)

    assert is_near_best(run(rate, 20), rate)
    assert is_near_best(run(rate / factor, 6), rate / factor)
    assert is_near_best(run(rate, 40), rate)  # from the device only a trial tells, seconds later
