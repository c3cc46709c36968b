from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitter.errors import LinkError
from splitter.link import Link
from splitter.link_parse import BYTES_PER_S, SECONDS, find_link, link_names, parse_link

DESCRIPTION = """
schema: splitter.link/1
name: lab
summary: between two racks
up_mbit_per_s: {value: 8, source: measured}
down_mbit_per_s: {value: 16.0, source: measured}
rtt_ms: {value: 2.5, source: "assumption: one switch"}
"""


def test_a_megabit_is_a_million_bits_and_the_round_trip_is_in_seconds():
    link = find_link("20Mbit/s,15ms")
    assert link.up_bytes_per_s == link.down_bytes_per_s == 2_500_000
    assert link.rtt_s == pytest.approx(0.015)
    assert link.source == "given"


def test_two_rates_are_up_then_down():
    link = find_link("20/100Mbit/s, 15ms")
    assert (link.up_bytes_per_s, link.down_bytes_per_s) == (2_500_000, 12_500_000)


@given(
    rate=st.floats(0.001, 1e6).map(lambda x: round(x, 3)),
    unit=st.sampled_from(sorted(BYTES_PER_S)),
    rtt=st.floats(0, 1e4).map(lambda x: round(x, 3)),
    time=st.sampled_from(sorted(SECONDS)),
)
def test_every_unit_means_what_it_says(rate, unit, rtt, time):
    link = parse_link(f"{rate:.3f}{unit},{rtt:.3f}{time}")
    assert link.up_bytes_per_s == pytest.approx(rate * BYTES_PER_S[unit])
    assert link.rtt_s == pytest.approx(rtt * SECONDS[time])


def test_bits_and_bytes_differ_eightfold():
    assert find_link("8Mbit/s,1ms").up_bytes_per_s == find_link("1MB/s,1ms").up_bytes_per_s


@pytest.mark.parametrize(
    "text",
    [
        "20Mbit/s", "20Mbit/s,", "20Mbit/s,15", "20,15ms", "-3Mbit/s,1ms", "0Mbit/s,1ms", "0/5Mbit/s,1ms",
        "20mbit/s,1ms", "nanMbit/s,1ms", "20Mbit/s,-1ms", "20Mbit/s,infs", ",", "x,y",
        "9" * 400 + "Mbit/s,1ms", "1Mbit/s," + "9" * 400 + "s", "", "1/2/3Mbit/s,1ms",
    ],
)  # fmt: skip
def test_a_malformed_link_is_one_clear_line(text):
    with pytest.raises(LinkError) as caught:
        find_link(text)
    assert "\n" not in str(caught.value)


def test_a_wrong_name_is_answered_with_the_nearest_and_with_all():
    with pytest.raises(LinkError, match="did you mean lte") as caught:
        find_link("ltee")
    assert all(name in str(caught.value) for name in link_names())
    assert "20Mbit/s,15ms" in str(caught.value)


def test_the_kinds_of_network_that_people_have_are_there():
    assert {"3g", "lte", "5g", "wifi", "ethernet", "satellite"} <= set(link_names())


@pytest.mark.parametrize("name", link_names())
def test_every_link_that_is_listed_can_be_found_in_any_case(name):
    link = find_link(name.upper())
    assert link.name == name
    assert link.source
    assert link.source != "given"


def test_a_link_in_a_file_is_read_with_its_units(tmp_path):
    path = tmp_path / "lab.yaml"
    path.write_text(DESCRIPTION)
    link = find_link(str(path))
    assert link.up_bytes_per_s == 1_000_000
    assert link.down_bytes_per_s == 2_000_000
    assert link.rtt_s == pytest.approx(0.0025)
    assert "assumption: one switch" in link.source


@given(up=st.integers(0, 10**9), down=st.integers(0, 10**9))
def test_a_transfer_costs_its_bytes_each_way_and_one_round_trip(up, down):
    link = Link(name="x", up_bytes_per_s=1000.0, down_bytes_per_s=500.0, rtt_s=0.25)
    assert link.transfer_s(up, down) == pytest.approx(up / 1000 + down / 500 + 0.25)
