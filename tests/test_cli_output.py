"""What people read: right in 80 columns, without colour, with no name lost."""

from __future__ import annotations

import io
import re
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from rich.console import Console, RenderableType

from splitter import api
from splitter.graph.summary import summarise
from splitter.planning.plan import PlanOptions
from splitter.planning.records import Candidate, Latency, Origin, Plan
from splitter.planning.verify import Row, Verification
from splitter.profiling.device import device_names
from splitter.profiling.measure import Effort
from splitter.profiling.profile import Profile
from splitter.profiling.timing import Rounds
from splitter.reporting.answer import answer_json, answer_text
from splitter.reporting.catalog import catalog_text
from splitter.reporting.inspection import inspection_text
from splitter.reporting.profile import profile_text
from splitter.reporting.text import elided, listed, plain_table, plan_text
from splitter.reporting.units import count, rate, seconds, shape, size
from splitter.reporting.verification import verification_text
from tests import models

LONG = "fun_est_B_with_2E/u_conv5/Relu_fun_est_B_with_2E/u_conv5/BiasAdd_fusion/Conv2D_u_conv5/biases:0"
"""A name as converters write them; no table of 80 columns has room for it."""


def render(what: RenderableType, width: int = 80) -> str:
    """As a terminal of this width without colours shows it; no line is longer."""
    file = io.StringIO()
    Console(file=file, width=width, no_color=True, color_system=None).print(what)
    text = file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    return text


def joined(text: str) -> str:
    """Without the breaks and gaps that folding a long name leaves."""
    return re.sub(r"\s+", "", text)


@pytest.fixture(scope="module")
def renamed(tmp_path_factory: pytest.TempPathFactory) -> api.Model:
    """``convolutions`` with names that are long, look like markup, or like an emoji."""
    names = {"c1": LONG, "p1": f"pool/{LONG}", "r2": "[/bold]relu[0]", "g": "a:star:0"}
    model = models.convolutions()
    for node in model.graph.node:
        for field in (node.input, node.output):
            field[:] = [names.get(name, name) for name in field]
    onnx.checker.check_model(model)
    return api.load(models.save(model, tmp_path_factory.mktemp("renamed") / "model.onnx"))


@pytest.fixture(scope="module")
def profile(renamed: api.Model) -> Profile:
    rounds = Rounds(least=2, most=2, budget_s=0.0)
    return api.profile(renamed, effort=Effort(0.0, 0.0, rounds=rounds, trace_runs=2))


@pytest.fixture(scope="module")
def plan(renamed: api.Model, profile: Profile) -> Plan:
    options = PlanOptions(alternatives=20)
    return api.plan(renamed, device=profile, server=profile, link="lte", options=options)


def test_a_plan_shows_the_names_of_every_cut_that_it_prices(plan: Plan) -> None:
    text = joined(render(plan_text(plan)))
    assert len(plan.alternatives) >= 6
    for candidate in plan.alternatives:
        for item in candidate.crossing:
            assert item.tensor in text
    assert "lte:6.3Mbit/sup" in text
    assert "Provenbestbycbc" in text


def test_a_priced_plan_shows_its_crossing_tensor_whole(
    renamed: api.Model, profile: Profile
) -> None:
    for name in (LONG, "[/bold]relu[0]", "a:star:0"):
        plan = api.plan(renamed, device=profile, server=profile, link="lte", at=[name])
        text = render(plan_text(plan))
        assert text.startswith("Priced, not chosen: the cut at")
        assert joined(text).count(joined(name)) == 2


def test_an_inspection_shows_every_tensor_of_a_narrow_place(renamed: api.Model) -> None:
    text = render(inspection_text(summarise(renamed, 100), every=True))
    assert "Conv 2" in text
    for name in renamed.graph.tensors:
        assert name in joined(text)


def test_a_profile_shows_short_names_whole_and_the_ends_of_long_ones(profile: Profile) -> None:
    text = render(profile_text(profile, count=100))
    assert "(measured)" in text
    for kernel in profile.kernels:
        shown = kernel.name if len(kernel.name) <= 46 else kernel.name[-20:]
        assert shown in text
        assert kernel.op_type in text


def test_a_verification_gives_each_cut_a_row_for_its_name_and_ends_the_measured_one_with_the_error(
) -> None:  # fmt: skip
    predicted = Latency.of(0.0123, 0.000456, 0.789, 0.00000123, 12.3)
    measured = Latency.of(0.0125, 0.000456, 0.789, 0.00000123, 11.0)
    rows = tuple(
        Row(name=name, predicted=predicted, measured=measured, up_bytes=1)
        for name in ("split", f"{LONG}, b", "[/bold]relu[0]")
    )
    found = Verification(
        model_sha256="0" * 64, rows=rows, best="split", regret=0.0, rounds=7, device_factor=1.0,
        server_factor=2.0, device_origin=Origin.ESTIMATED, server_origin=Origin.MEASURED,
    )  # fmt: skip
    text = render(verification_text(found))
    legend, *lines = text.splitlines()
    assert legend == "█ head  ▄ encode  ░ link  ▀ decode  ▓ tail"
    assert lines[0].split() == ["head", "encode", "link", "decode", "tail", "total", "error"]
    assert lines[1] == "split"
    assert lines[2].split()[0] == "predicted"
    assert lines[3].split()[0] == "measured"
    assert lines[3].endswith("+11.0%")
    bars = [line.split()[1] for line in lines[4:6]]
    assert [bar[0] for bar in bars] == ["░", "░"]  # a head of 12 ms is no cell of 13 s
    assert len(bars[0]) > len(bars[1]) > 40
    assert len({len(line) for line in (lines[0], lines[3])}) == 1
    assert joined(f"{LONG}, b") in joined(text)
    assert "[/bold]relu[0]" in lines
    assert "(estimated)" in joined(text)
    assert "best of the 3 measured" in text

    slower = msgspec.structs.replace(found, best="[/bold]relu[0]", regret=0.25)
    assert "the plan's regret is 25.0%" in joined_words(render(verification_text(slower)))


def joined_words(text: str) -> str:
    return " ".join(text.split())


def test_an_answer_shows_the_best_classes_by_name() -> None:
    answer = {LONG: np.array([[0.1, 0.7, 0.2]], np.float32), "n": np.array(["a"], object)}
    timings = [Latency.of(0.001, 0, 0.002, 0, 0.003), Latency.of(0.002, 0, 0.002, 0, 0.003)]
    text = render(answer_text(answer, timings, 0.006, ["cat", "[b]dog", "emu"]))
    assert LONG in joined(text)
    order = [text.index(name) for name in ("[b]dog", "emu", "cat")]
    assert order == sorted(order)
    assert "median of 2 runs: 6.5 ms" in text
    assert "the plan predicts 6 ms" in text
    assert msgspec.json.decode(answer_json(answer, timings))["outputs"][LONG]["argmax"] == 1


def test_fewer_class_names_than_classes_leave_the_others_without() -> None:
    answer = {"y": np.arange(10, dtype=np.float32)}
    text = render(answer_text(answer, [Latency()], None, ["zero"]))
    assert re.search(r"^ +9 +9$", text, flags=re.M)


def test_the_catalogue_fits_and_has_every_name() -> None:
    text = render(catalog_text())
    for name in (*device_names(), "lte", "satellite-leo"):
        assert f"\n{name} " in text


def test_what_is_not_possible_is_said_beneath_the_table(plan: Plan) -> None:
    why = "operator Conv+Add of node 'a-node-with-a-long-name' does not run on the device"
    impossible = msgspec.structs.replace(plan.baselines[0], feasible=False, why_not=why)
    told = msgspec.structs.replace(
        plan, baselines=(impossible, *plan.baselines[1:]), predicted=_split(plan)
    )
    text = joined_words(render(plan_text(told)))
    assert f"not possible: {impossible.name} ({why})" in text


def _split(plan: Plan) -> Candidate:
    return next(item for item in plan.alternatives if item.head_nodes and item.tail_nodes)


def test_cells_are_no_markup() -> None:
    table = plain_table("a")
    table.add_row("[red]x[/red] :smile: [/]")
    assert "[red]x[/red] :smile: [/]" in render(table)


def test_a_list_of_names_says_how_many_it_leaves_out() -> None:
    assert listed([]) == "nothing"
    assert listed(list("abc")) == "a, b, c"
    assert listed(list("abcd")) == "a, b and 2 more"


def test_a_name_is_shortened_in_its_middle_and_to_the_width() -> None:
    assert elided("short", 5) == "short"
    found = elided(LONG, 30)
    assert len(found) == 30
    assert LONG.startswith(found.partition("...")[0])
    assert LONG.endswith(found.partition("...")[2])


@pytest.mark.parametrize(
    ("show", "value", "text"),
    [
        (seconds, 0, "0"), (seconds, 4.12e-2, "41.2 ms"), (seconds, 8.7e-4, "870 us"),
        (seconds, 1.93, "1.93 s"), (seconds, 0.9996, "1000 ms"), (seconds, 86400, "86400 s"),
        (seconds, 1e-9, "0.001 us"), (seconds, -2e-3, "-2 ms"),
        (size, 0, "0 B"), (size, 999, "999 B"), (size, 37600, "37.6 kB"), (size, 4.82e6, "4.82 MB"),
        (size, 1.24e12, "1.24 TB"),
        (rate, 2.5e6, "20 Mbit/s"), (rate, 1.25e9, "10 Gbit/s"), (rate, 1, "8 bit/s"),
        (count, 3.49e6, "3.49 M"), (count, 12, "12"), (count, 1.658e13, "16.6 T"),
        (shape, (1, 3), "1x3"), (shape, (), "scalar"), (shape, None, "?"),
    ],
)  # fmt: skip
def test_figures_are_written_as_people_read_them(show, value, text) -> None:  # type: ignore[no-untyped-def]
    assert show(value) == text


def test_real_models_fit_in_eighty_columns(shared: Path) -> None:
    for name in ("tbefn_240x320", "ultraface_rfb320"):
        model = api.load(shared / "models" / f"{name}.onnx")
        render(inspection_text(summarise(model, 8), every=True))
