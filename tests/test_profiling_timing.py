import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitter.profiling.anchors import LOOKS, most_doubtful, refinement
from splitter.profiling.timing import Rounds, Samples, interleaved, relative


class FakeClock:
    """Advances by what each call says it takes."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def taking(self, seconds: float):
        def call() -> None:
            self.now += seconds

        return call


def test_each_call_is_charged_its_own_seconds_and_no_others():
    clock = FakeClock()
    rounds = Rounds(least=3, most=3, budget_s=0.0, warmup=1)
    one, two = interleaved([clock.taking(1.0), clock.taking(2.0)], rounds, clock)
    assert one.seconds == (1.0, 1.0, 1.0)
    assert two.seconds == (2.0, 2.0, 2.0)


def test_calls_take_turns():
    order: list[str] = []
    clock = FakeClock()

    def saying(letter: str):
        def call() -> None:
            order.append(letter)
            clock.now += 1.0

        return call

    interleaved(
        [saying("a"), saying("b")],
        Rounds(least=2, most=2, budget_s=0.0, warmup=1),
        clock,
    )
    assert "".join(order) == "ababab"


def test_rounds_stop_when_the_budget_is_spent_but_not_before_the_least():
    clock = FakeClock()
    (slow,) = interleaved([clock.taking(10.0)], Rounds(4, 100, budget_s=1.0, warmup=0), clock)
    assert len(slow.seconds) == 4
    (brief,) = interleaved([clock.taking(0.1)], Rounds(1, 100, budget_s=1.0, warmup=1), clock)
    assert 10 <= len(brief.seconds) <= 12


def test_a_quick_call_is_timed_when_its_data_are_in_the_caches():
    clock = FakeClock()
    cold = True

    def call() -> None:
        nonlocal cold
        clock.now += 1e-3 if cold else 1e-4
        cold = False

    def evict() -> None:
        nonlocal cold
        clock.now += 1.0
        cold = True

    found, _ = interleaved([call, evict], Rounds(least=3, most=3, budget_s=0.0, warmup=1), clock)
    assert found.median_s == pytest.approx(1e-4)


def test_a_machine_that_slows_down_does_not_change_relative_seconds():
    seconds = (1.0, 1.0, 3.0, 3.0, 1.0)
    whole, part = Samples(tuple(2 * s for s in seconds)), Samples(seconds)
    assert relative(part, whole).median_s == 0.5
    assert relative(part, whole).spread_s == 0.0


@given(
    st.lists(st.floats(0, 1e3), min_size=1, max_size=40),
    st.data(),
)
def test_refinement_visits_every_place_once_and_the_ends_first(node_s, data):
    cumulative = [0.0]
    for seconds in node_s:
        cumulative.append(cumulative[-1] + seconds)
    places = sorted(
        data.draw(st.sets(st.integers(0, len(node_s)), min_size=1, max_size=len(node_s) + 1))
    )
    order = list(refinement(places, cumulative))
    assert sorted(order) == places
    assert set(order[:2]) == {places[0], places[-1]}


def straight(count: int, looks: int) -> dict[int, tuple[float, float, int]]:
    """Heads that grow and tails that shrink evenly along the places."""
    return {p: (p / count, 1 - p / count, looks) for p in range(1, count)}


@given(st.integers(2, 8), st.sampled_from([0.7, 1.4]), st.sampled_from([0, 1]))
def test_the_place_that_lies_out_of_line_is_looked_at_again(odd, factor, part):
    values = straight(10, looks=1)
    bent = list(values[odd])
    bent[part] *= factor
    values[odd] = (bent[0], bent[1], 1)
    cumulative = [float(p) for p in range(11)]
    doubtful = most_doubtful(values, sorted(values), cumulative)
    assert doubtful is not None
    assert abs(doubtful - odd) <= 1  # its neighbours are out of line with it
    values[doubtful] = (*values[doubtful][:2], LOOKS)
    assert most_doubtful(values, sorted(values), cumulative) != doubtful


def test_nothing_is_doubtful_after_enough_looks():
    values = straight(10, looks=LOOKS)
    assert most_doubtful(values, sorted(values), [float(p) for p in range(11)]) is None
