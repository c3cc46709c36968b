"""What ``splitter top`` shows: in any width, of any server, whatever its names are."""

from __future__ import annotations

import io
import math

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from splitter.reporting.top import KEPT, View, per_second
from splitter.serving.interval import BatchSizes, CutLoad, Interval, TermSeconds
from splitter.serving.poller import Reading

QUIET = Interval(server="here:1", seconds=1.0, ready=True, version="0.1.0")
TERM = TermSeconds(mean_s=0.004, p50_s=0.003, p95_s=0.012, p99_s=math.inf)
BUSY = msgspec.structs.replace(
    QUIET, up_s=200.0, requests_per_s=123.4, status_per_s={"OK": 120.4, "RESOURCE_EXHAUSTED": 3.0},
    turned_away_per_s={"peer": 1.5}, in_flight=4, in_flight_bytes=120_000, waiting=3,
    batches=(
        BatchSizes(over=0, up_to=1, requests=60), BatchSizes(over=2, up_to=4, requests=30),
        BatchSizes(over=128, up_to=math.inf, requests=10),
    ),
    terms=dict.fromkeys(("receive", "queue", "decode", "tail", "encode"), TERM),
    received_bytes_per_s=1e6, received_raw_bytes_per_s=4e6, sent_bytes_per_s=5e3,
    sent_raw_bytes_per_s=5e3,
    cuts=(
        CutLoad(model="net", version="2", bundle="b" * 12, cut="c" * 12, name="split", planned=True,
                requests_per_s=100, waiting=3),
        CutLoad(model="net", version="1", bundle="a" * 12, cut="d" * 12, requests_per_s=23.4),
    ),
    switches={"net": 2.0},
)  # fmt: skip


def draw(view: View, width: int = 80, height: int | None = None, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="replace", newline="")
    console = Console(file=file, width=width, color_system=None)
    console.print(view, height=height)
    file.flush()
    text = raw.getvalue().decode(encoding)
    assert max(map(cell_len, text.splitlines()), default=0) <= width
    return text


def showing(*intervals: Interval | None) -> View:
    view = View("here:1", 1.0)
    for one in intervals:
        view.take(Reading(one, "" if one else "server here:1: not reached (Connection refused)"))
    return view


def test_one_interval_says_all_that_was_counted() -> None:
    text = draw(showing(BUSY))
    words = " ".join(text.split())
    assert words.startswith("here:1 ready 4 in flight splitter 0.1.0 up 3.33 min requests 123/s")
    for said in (
        "refused 4.5/s", "waiting 3", "queue p95 12 ms", "tail p95 12 ms", "received 1 MB/s",
        "saved 3 MB/s", "OK 120/s RESOURCE_EXHAUSTED 3/s turned away by peer 1.5/s",
        "75% saved of 4 MB/s received 0% saved of 5 kB/s sent", "4 ms 3 ms 12 ms > 10 s",
        "1 60%", "3-4 30%", "129+ 10%", "100/s 81% 3 cccccccccccc net 2 split",
        "23.4/s 19% 0 dddddddddddd net 1 no longer loaded",
        "switches between cuts: 2 now, 2 in all that is shown",
    ):  # fmt: skip
        assert said in words, said
    for term in BUSY.terms:
        assert f"\n{term} " in text


def test_a_screen_of_80_by_24_holds_it_all() -> None:
    cuts = tuple(msgspec.structs.replace(BUSY.cuts[0], cut=f"{n:012x}") for n in range(9))
    view = showing(*[msgspec.structs.replace(BUSY, cuts=cuts)] * 100)
    assert len(view.readings) == KEPT
    lines = draw(view, 80, 24).rstrip().splitlines()
    assert len(lines) == 24
    assert "more cuts: 7" in lines[-1]
    assert "00000000000" in lines[-2]
    view.take(Reading(problem="server here:1: not reached (Connection refused)"))
    away = draw(view, 80, 24).rstrip().splitlines()
    assert len(away) == 24
    assert [line[:20] for line in away[2:]] == [line[:20] for line in lines[2:]]  # nothing jumps


def test_a_minute_is_drawn_beside_each_figure_with_gaps_where_there_was_no_answer() -> None:
    text = draw(showing(QUIET, BUSY, None, BUSY))
    line = next(line for line in text.splitlines() if line.startswith("requests"))
    assert line.endswith(" ▁▇ ▇")
    ascii_line = draw(showing(QUIET, BUSY, None, BUSY), encoding="ascii").splitlines()[2]
    assert ascii_line.endswith(" _* *")


def test_a_server_that_is_away_is_said_to_be_with_the_reason() -> None:
    view = showing(BUSY, None, None)
    first, second = draw(view).splitlines()[:2]
    assert "AWAY for 2 s" in first
    assert "Connection refused" in second
    assert "AWAY" in draw(showing(None))
    view.take(Reading(QUIET))
    assert "AWAY" not in draw(view)


def test_a_server_that_stops_or_began_anew_is_said_to() -> None:
    assert "NOT READY" in draw(showing(msgspec.structs.replace(QUIET, ready=False)))
    assert "began anew" in draw(showing(msgspec.structs.replace(QUIET, restarted=True)))


names = st.one_of(
    st.text(max_size=300), st.sampled_from(["\x1b[31mred", "[bold]x[/]", "日本語" * 30])
)
rates = st.floats(0, 1e12)
loads = st.builds(
    CutLoad, model=names, version=names, bundle=names, cut=names, name=names, planned=st.booleans(),
    requests_per_s=rates, waiting=st.integers(0, 10**9),
)  # fmt: skip
terms = st.builds(
    TermSeconds, mean_s=rates, p50_s=rates, p95_s=rates, p99_s=st.sampled_from([0.1, math.inf])
)
intervals = st.builds(
    Interval, server=names, seconds=st.floats(0.1, 100), ready=st.booleans(), version=names,
    up_s=st.one_of(st.none(), rates), restarted=st.booleans(), requests_per_s=rates,
    status_per_s=st.dictionaries(names, rates, max_size=4),
    turned_away_per_s=st.dictionaries(names, rates, max_size=2), in_flight=st.integers(0, 10**9),
    waiting=st.integers(0, 10**9), terms=st.dictionaries(st.sampled_from(["tail", "queue"]), terms),
    batches=st.just(BUSY.batches), received_bytes_per_s=rates, received_raw_bytes_per_s=rates,
    cuts=st.lists(loads, max_size=12).map(tuple), switches=st.dictionaries(names, rates, max_size=2),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.none(), intervals), max_size=4), names, st.integers(60, 200),
    st.one_of(st.none(), st.integers(10, 60)), st.sampled_from(["utf-8", "ascii"]),
)  # fmt: skip
def test_every_line_fits_and_no_name_steers_the_terminal(
    found: list[Interval | None], server: str, width: int, height: int | None, encoding: str
) -> None:
    view = showing(*found)
    view.server = server
    text = draw(view, width, height, encoding)
    assert all(mark.isprintable() or mark == "\n" for mark in text)


def test_rates_are_as_people_read_them() -> None:
    assert [per_second(v) for v in (0, 0.3333, 12.34, 999.6, 12_345)] == [
        "0", "0.333", "12.3", "1000", "12.3 k",
    ]  # fmt: skip
