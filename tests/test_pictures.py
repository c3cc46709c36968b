"""What is drawn beside the tables: of any model, with any names, in 80 columns, piped or not."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import RenderableType

from splitter import api
from splitter.cli.options import show
from splitter.planning.drawing import OrderCut, OrderTensor
from splitter.planning.plan import PlanOptions
from splitter.planning.records import Candidate, Latency, Origin, Plan
from splitter.planning.verify import Row, Verification
from splitter.profiling.measure import Effort
from splitter.profiling.timing import Rounds
from splitter.reporting.answer import answer_text
from splitter.reporting.bars import TERMS
from splitter.reporting.plan import plan_report
from splitter.reporting.verification import verification_text
from splitter.serving.device.report import AnsweredBy, Timing
from tests import models

TINY = Effort(anchors_s=0.2, codecs_s=0.2, rounds=Rounds(2, 2, 0.0), trace_runs=2)

Drawn = Callable[..., str]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """What a command would print, and to a terminal where one is asked for."""

    def draw(
        what: RenderableType, width: int = 80, encoding: str = "utf-8", terminal: bool = False
    ) -> str:
        raw = io.BytesIO()
        file = io.TextIOWrapper(raw, encoding=encoding, newline="")
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", file)
            patch.setenv("COLUMNS", str(width))
            if terminal:
                patch.setattr(file, "isatty", lambda: True, raising=False)
            show(what)
        file.flush()
        return raw.getvalue().decode(encoding)

    return draw


def fits(text: str, width: int = 80) -> bool:
    return max(map(cell_len, text.splitlines()), default=0) <= width


def made(name: str, folder: Path) -> Plan:
    path = models.save(models.every_model()[name], folder / f"{name}.onnx")
    model = api.load(path, dims={"batch": 1} if name == "awkward_names" else None)
    profile = api.profile(model, effort=TINY)
    return api.plan(
        model, device=profile, server=profile, link="wifi", options=PlanOptions(alternatives=9)
    )


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return made("convolutions", tmp_path_factory.mktemp("drawn"))


@pytest.mark.parametrize(
    "name", ["chain", "two_inputs", "two_outputs", "awkward_names", "residual"]
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_the_plan_of_any_model_is_drawn_in_80_columns_and_piped(
    name: str, encoding: str, plans: dict[str, Plan], drawn: Drawn
) -> None:
    text = drawn(plan_report(plans[name]), encoding=encoding)
    assert fits(text)
    assert "\x1b" not in text
    assert re.search(r"^ *\S head  \S encode  \S link  \S decode  \S tail$", text, re.MULTILINE)
    assert "each cut along the node order" in text
    assert text.isascii() or encoding == "utf-8"


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Plan]:
    folder = tmp_path_factory.mktemp("plans")
    names = ("chain", "two_inputs", "two_outputs", "awkward_names", "residual")
    return {name: made(name, folder) for name in names}


odd = st.one_of(
    st.text(min_size=1, max_size=200),
    st.sampled_from(["\x1b[31mred", "日本語" * 40, "a\nb", "[b]x[/b]", ":smile:", "e\u0301" * 90]),
)
seconds = st.floats(0, 1e4).map(lambda value: 0.0 if value < 1e-7 else value)


def renamed(plan: Plan, names: list[str], totals: list[float]) -> Plan:
    """With other names and other seconds."""

    def other(candidate: Candidate, index: int) -> Candidate:
        crossing = tuple(
            msgspec.structs.replace(item, tensor=names[index % len(names)])
            for item in candidate.crossing
        )
        latency = Latency.of(*(totals[(index + k) % len(totals)] for k in range(5)))
        terms = {f"{term}_s": getattr(latency, f"{term}_s") for term in (*TERMS, "total")}
        return msgspec.structs.replace(candidate, crossing=crossing, **terms)

    order = tuple(
        OrderCut(
            place=index, total_s=total,
            crossing=(OrderTensor(tensor=names[index % len(names)], codec="raw", wire_bytes=1),),
            feasible=bool(index % 5),
        )
        for index, total in enumerate(totals)
    )  # fmt: skip
    return msgspec.structs.replace(
        plan, predicted=other(plan.predicted, 0), order=order,
        baselines=tuple(other(one, k) for k, one in enumerate(plan.baselines)),
        alternatives=tuple(other(one, k) for k, one in enumerate(plan.alternatives)),
    )  # fmt: skip


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    names=st.lists(odd, min_size=1, max_size=6), totals=st.lists(seconds, min_size=1, max_size=400),
    width=st.sampled_from([80, 100, 200]), encoding=st.sampled_from(["utf-8", "ascii"]),
)  # fmt: skip
def test_no_name_and_no_figure_breaks_a_plan(
    names: list[str], totals: list[float], width: int, encoding: str, plan: Plan, drawn: Drawn
) -> None:
    text = drawn(plan_report(renamed(plan, names, totals)), width, encoding)
    assert fits(text, width)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)


latencies = st.lists(seconds, min_size=5, max_size=5).map(lambda terms: Latency.of(*terms))


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(
        st.builds(Row, name=odd, predicted=latencies, measured=latencies, up_bytes=st.just(1)),
        min_size=1, max_size=5,
    ),
    encoding=st.sampled_from(["utf-8", "ascii"]),
)  # fmt: skip
def test_measured_stands_beside_predicted_on_one_scale(
    rows: list[Row], encoding: str, drawn: Drawn
) -> None:
    found = Verification(
        model_sha256="0" * 64, rows=tuple(rows), best=rows[0].name, regret=0.0, rounds=7,
        device_factor=1.0, server_factor=2.0, device_origin=Origin.ESTIMATED,
        server_origin=Origin.MEASURED,
    )  # fmt: skip
    text = drawn(verification_text(found), encoding=encoding)
    assert fits(text)
    marks = "█▄░▀▓" if encoding == "utf-8" else "#+-=%"
    bars = re.findall(rf"^  (?:predicted|measured ) ([{marks}]*)$", text, re.MULTILINE)
    assert len(bars) == 2 * len(rows)
    totals = [one.total_s for row in rows for one in (row.predicted, row.measured)]
    most = max(totals)
    longest = max(map(len, bars))
    for total, bar in zip(totals, bars, strict=True):
        assert (len(bar) > 0) == (total > 0)
        if total:
            assert abs(len(bar) - max(1, longest * total / most)) <= 1


def test_the_pointer_is_below_the_plan_s_own_place(plan: Plan, drawn: Drawn) -> None:
    place = len(plan.order) // 2
    here = plan.order[place]
    predicted = msgspec.structs.replace(
        plan.predicted, head_nodes=here.place,
        crossing=tuple(
            msgspec.structs.replace(_crossing(plan), tensor=item.tensor) for item in here.crossing
        ),
    )  # fmt: skip
    text = drawn(plan_report(msgspec.structs.replace(plan, predicted=predicted)))
    pointer = next(line for line in text.splitlines() if "▲" in line)
    each = 4  # cells of a place, where there are few
    assert place * each <= pointer.index("▲") < (place + 1) * each
    assert "the plan" in pointer

    elsewhere = msgspec.structs.replace(predicted, head_nodes=here.place + 1000)
    text = drawn(plan_report(msgspec.structs.replace(plan, predicted=elsewhere)))
    assert "▲" not in text
    assert "at none of these places" in text


def _crossing(plan: Plan) -> object:
    return next(item for one in plan.alternatives for item in one.crossing)


def test_every_candidate_has_one_bar_with_its_total(plan: Plan, drawn: Drawn) -> None:
    text = drawn(plan_report(plan))
    bars = re.findall(r"^(.+?) +[█▄░▀▓]+ ([\d.]+ \w+)$", text, re.MULTILINE)
    assert len(bars) == len(set(bars))
    assert {"all on the device", "input sent to the server"} <= {name.strip() for name, _ in bars}


def test_a_terminal_gets_colours_unless_it_asks_for_none(
    plan: Plan, drawn: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = drawn(plan_report(plan), terminal=True)
    assert "\x1b[34m" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", drawn(plan_report(plan), terminal=True))
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in drawn(plan_report(plan), terminal=True)
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == drawn(plan_report(plan))


def timings(*answered: AnsweredBy) -> list[Timing]:
    return [
        Timing(**msgspec.structs.asdict(Latency.of(0.01 * (k + 1))), answered_by=by)
        for k, by in enumerate(answered)
    ]


def test_runs_are_drawn_in_turn_with_who_answered(drawn: Drawn) -> None:
    s, d = AnsweredBy.SERVER, AnsweredBy.DEVICE
    text = drawn(answer_text({}, timings(s, s, d, d)))
    assert "each run in turn, from 10 ms to 40 ms:\n▃▅▆█\nssdd\n" in text
    assert "runs answered: 2 by the server (s), 2 by the device (d)" in text
    alike = drawn(answer_text({}, timings(s, s)))
    assert "runs answered" not in alike
    many = drawn(answer_text({}, timings(*[s] * 900, *[d] * 100)), encoding="ascii")
    marks = next(line for line in many.splitlines() if set(line) == {"s", "d"})
    assert marks == "s" * 54 + "d" * 6
    assert "each run" not in drawn(answer_text({}, timings(s)))
