"""The report in a real browser: it opens, answers the keyboard, and shows what the sliders ask for."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from splitter.planning.records import Plan
from splitter.reporting.html import report_html
from tests.reports import HOSTILE, measured_of, staged_plan

ARGUMENTS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
DRAWN = "performance.getEntriesByName('graph-drawn').length"
CONTRASTS = (Path(__file__).parent / "contrast.js").read_text()
NAMELESS = """[...document.querySelectorAll("button, input, select, [tabindex], svg")]
    .filter((e) => !e.innerText && !e.getAttribute("aria-label") && !(e.labels && e.labels.length))
    .map((e) => e.outerHTML.slice(0, 80))"""
SLIDE = """(input, place) => {
    input.value = place;
    input.dispatchEvent(new Event("input", { bubbles: true }));
}"""
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs Chromium (Debian's package chromium)")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="module")
def plan(folder: Path) -> Plan:
    return staged_plan(folder / "staged.onnx")


@pytest.fixture
def opened(browser: Any, folder: Path, plan: Plan) -> Iterator[Open]:
    """Open a report from its file; a complaint of the page, or a request to a network, is a failure."""
    faults: list[str] = []
    contexts = []

    def open_(shown: Plan = plan, **options: Any) -> Any:
        path = folder / "report.html"
        path.write_text(report_html(shown, (measured_of(shown),)))
        # without motion: a click on a page that still scrolls goes beside its target
        chosen = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce"} | options
        context = browser.new_context(**chosen)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        page.on("request", lambda r: r.url == path.as_uri() or faults.append(r.url))
        page.goto(path.as_uri())
        page.wait_for_function(DRAWN)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not faults


def text(page: Any, selector: str) -> str:
    return str(page.locator(selector).inner_text())


def drawn(page: Any) -> str:
    """What the graph shows, in words that follow it."""
    return text(page, "#drawn")


def slide(page: Any, name: str, place: int) -> None:
    """Move a slider as a hand does: the page hears an input event."""
    page.locator(f"#slide-{name}").evaluate(SLIDE, place)


def test_the_answer_is_on_the_first_screen(opened):
    page = opened()
    assert text(page, "h1") == "Split after s0_pool (MaxPool)"
    assert page.locator(".lines").bounding_box()["y"] < 900 * 0.6
    assert text(page, "#figures li.chosen b") == "367 ms"
    assert drawn(page) == "Drawn: The plan, 367 ms, 197 kB sent."
    assert text(page, "#band span") == "the cut: 197 kB over 8Mbit/s,5ms"
    assert page.locator("#left-out li").all_inner_texts() == [
        "Accuracy against bits: give the report the calibration.json that splitter calibrate wrote."
    ]


def test_the_slider_changes_the_cut_in_words_and_in_the_graph(opened):
    page = opened()
    slide(page, "up", 1000)
    assert "input sent to the server" in text(page, "#policy-answer")
    assert "input sent to the server" in drawn(page)
    assert "786 kB" in text(page, "#band span")
    slide(page, "up", 0)
    assert "all on the device" in drawn(page)
    assert page.locator("#band").is_hidden()
    page.locator("#back").click()
    assert drawn(page).startswith("Drawn: The plan")
    page.locator("#slide-up").focus()
    for _ in range(6):
        page.keyboard.press("PageUp")
    assert "input sent to the server" in drawn(page)
    for place in range(0, 1001, 125):  # what is computed there is what the proven table says
        slide(page, "up", place)
        best = text(page, "#policy-answer").partition("(")[2][0]
        assert page.locator("#policy .here").all_inner_texts()[0].startswith(best)


def test_the_keyboard_walks_the_graph_and_opens_blocks(opened):
    page = opened()
    page.locator("#graph").focus()
    page.keyboard.press("ArrowDown")
    assert text(page, "#said").startswith("input, image")
    page.keyboard.press("ArrowDown")
    assert text(page, "#said").startswith("MaxPool, s0_pool")
    page.locator("#search").fill("s4_tanh")
    page.keyboard.press("Enter")
    shown = text(page, "#details")
    assert shown.startswith("Tanh")
    assert "50 ms, 4.17 % of the model" in shown
    assert "float32 1×3×8×8" in shown
    page.locator("#details button").click()  # closes the block around it
    assert "Open this block" in text(page, "#details")
    page.locator("#graph").focus()
    page.keyboard.press("Enter")
    assert "Close this block" in text(page, "#details")
    page.keyboard.press("Escape")
    assert text(page, "#details").startswith("The plan")


def test_a_click_on_the_drawing_opens_a_block_and_shows_a_node(opened):
    page = opened()
    page.locator("#search").fill("s4_relu")
    page.keyboard.press("Enter")
    page.locator(
        "#details button"
    ).click()  # closes the block, which keeps its place: half a rank below
    assert "Open this block" in text(page, "#details")
    page.keyboard.press("Escape")
    box = page.locator("#graph").bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.click(box["x"] + 5, box["y"] + box["height"] - 5)
    assert text(page, "#details").startswith("The plan")
    page.mouse.click(middle[0], middle[1] + 30)
    assert "Close this block" in text(page, "#details")
    page.locator("#search").fill("s4_relu")
    page.keyboard.press("Enter")
    page.mouse.click(box["x"] + 5, box["y"] + box["height"] - 5)
    page.mouse.click(*middle)
    assert text(page, "#details").startswith("Relu")


def test_every_place_is_read_by_keys_and_drawn(opened):
    page = opened()
    chart = page.locator("#bars-svg")
    chart.focus()
    page.keyboard.press("Home")
    assert text(page, "#bar").startswith("all on the server: 912 ms")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert text(page, "#bar").startswith("2 nodes on the device, the last one Relu s0_relu")
    assert page.evaluate("document.activeElement.id") == "bars-svg"
    page.keyboard.press("Enter")
    assert drawn(page).startswith("Drawn: The cut after node 2 of 24")
    assert page.locator("#back").is_visible()
    page.locator("#cuts-table summary").click()
    assert page.locator("#cuts-table tbody tr").count() == 25


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling_and_text_is_legible(opened, scheme):
    page = opened(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    assert page.evaluate(CONTRASTS) == []
    page.locator("#theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") != scheme
    assert page.evaluate(CONTRASTS) == []


def test_everything_that_acts_has_a_name_and_is_reached_by_tab(opened):
    page = opened()
    reached = []
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    expected = [
        "theme",
        "slide-up",
        "slide-rtt",
        "slide-slow",
        "search",
        "zoom-in",
        "fit",
        "graph",
        "bars-svg",
    ]
    assert [name for name in dict.fromkeys(reached) if name in expected] == expected
    assert page.evaluate(NAMELESS) == []


def test_hostile_names_are_shown_as_they_are(opened, tmp_path):
    hostile = staged_plan(tmp_path / "m.onnx", suffix=HOSTILE)
    page = opened(hostile)
    page.locator("#search").fill("s4_tanh")
    page.keyboard.press("Enter")
    assert HOSTILE in text(page, "#details")
    for details in page.locator("details").all():
        details.locator("summary").click()
    slide(page, "up", 900)
    assert "owned" not in page.title().partition(":")[0]
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 4
