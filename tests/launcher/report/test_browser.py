"""The report in a real browser: what its console says, what it asks for, what it draws."""

import json

import pytest

from distrain.runs.records import write_json
from launcher.report.page import write_report
from tests.launcher.report.chromium import Chromium
from tests.launcher.report.runs import RunWriter, curated_run, failed_run, finished_run

pytestmark = pytest.mark.browser

MEANT_TO_FAIL = """<!doctype html><script src='http://example.test/a.js'></script>
<script>console.error('said aloud'); nothing.here;</script>"""
SERIES = """
[...document.querySelectorAll("path[data-points]")].map((path) => {
  const lines = path.getAttribute("d").replaceAll("h0", "").match(/-?\\d+/g).length / 2;
  const box = path.getBBox();
  return [path.dataset.label, Number(path.dataset.points), lines, box.width];
})
"""
SMALL_CHARTS = ("learning rate", "gradient norm", "throughput", "memory")
FIRST_PLOT = """
(() => { const plot = document.querySelector(".plot");
         plot.scrollIntoView({block: "center", behavior: "instant"});
         const box = plot.getBoundingClientRect();
         return [box.left, box.top, box.width, box.height]; })()
"""
OVERFLOW = "document.documentElement.scrollWidth - window.innerWidth"
CLIPPED_LABELS = """
[...document.querySelectorAll(".x, .y span, .level span")].filter((label) => {
  const box = label.getBoundingClientRect();
  return box.left < 0 || box.right > window.innerWidth;
}).map((label) => label.textContent)
"""

CUT_TABLES = """
[...document.querySelectorAll("table")].filter((table) =>
  table.parentElement.scrollWidth > table.parentElement.clientWidth
).map((table) => table.textContent.trim().slice(0, 40))
"""
FAILURE = """
(() => {
  const banner = document.querySelector("[role=alert]"), box = banner.getBoundingClientRect();
  return [banner.innerText.trim(), box.left, box.right, box.bottom];
})()
"""
COUNTS = """
(() => {
  const width = (box) => box.getBoundingClientRect().width;
  return [...document.querySelectorAll(".counts")].map((card) => [
    card.querySelector("h3").firstChild.textContent.trim(),
    width(card.querySelector(".track")),
    [...card.querySelectorAll(".reasons li")].map((line) =>
      [line.querySelector(".reason").textContent, width(line.querySelector(".bar"))])]);
})()
"""
OPEN_EXAMPLES = (
    "document.querySelectorAll('.examples, .examples details').forEach((d) => d.open = true)"
)
ESCAPING = """
[...document.querySelectorAll(".examples pre, .examples .path, .reason")].filter((box) => {
  const outer = box.closest(".card").getBoundingClientRect(), own = box.getBoundingClientRect();
  return own.left < outer.left || own.right > outer.right || own.height > 400;
}).map((box) => box.textContent.slice(0, 40))
"""
EXAMPLES = "[...document.querySelectorAll('.examples pre')].map((box) => box.textContent)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("profile")) as opened:
        opened.resize(1280, 900)
        yield opened


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("runs") / "quickstart")


def test_errors_and_requests_would_be_noticed(browser, tmp_path):
    """Without this, the silence asserted below would prove nothing."""
    page = tmp_path / "page.html"
    page.write_text(MEANT_TO_FAIL)
    browser.open(page)
    assert browser.requests == ["http://example.test/a.js"]
    assert any("said aloud" in text for text in browser.complaints)
    assert any("nothing is not defined" in text for text in browser.complaints)


def test_report_draws_every_record_without_an_error_or_a_request(browser, run):
    browser.open(write_report(run))
    assert (browser.complaints, browser.requests) == ([], [])
    series = browser.run(SERIES)
    pretrain, sft = 430, 120
    expected = [
        ("train", pretrain),
        ("validation", 11),
        *(
            (label, pretrain)
            for label in ("learning rate", "gradient norm", "throughput", "memory")
        ),
        ("train", sft),
        ("validation", 3),
        *((label, sft) for label in ("learning rate", "gradient norm", "throughput", "memory")),
    ]
    assert [(label, claimed) for label, claimed, _, _ in series] == expected
    assert [drawn for _, _, drawn, _ in series] == [number for _, number in expected]
    assert all(width > 0 for _, _, _, width in series)


def test_pointer_shows_the_recorded_value(browser, run):
    browser.open(write_report(run))
    left, top, width, height = browser.run(FIRST_PLOT)
    browser.point_at(left + width / 2, top + height / 2)
    step = int(browser.run("document.querySelector('.tip b').textContent").split()[1])
    label, loss = browser.run("document.querySelector('.tip div').textContent").split()
    records = map(json.loads, run.stage("pretrain").metrics.read_text().splitlines())
    losses = {r["train/global_step"]: r["train/loss"] for r in records if "train/loss" in r}
    assert abs(step - 215.5) <= 1
    assert label == "train"
    assert float(loss) == pytest.approx(losses[step], abs=2e-3)
    browser.point_at(1, 1)
    assert browser.run("document.querySelector('.tip')") is None
    assert browser.complaints == []


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_page_fits_every_screen(browser, run, width):
    browser.resize(width, 800)
    browser.open(write_report(run))
    assert browser.run(OVERFLOW) <= 0
    assert browser.run(CLIPPED_LABELS) == []
    browser.resize(1280, 900)


@pytest.mark.parametrize("width", [1100, 1280])
def test_tables_side_by_side_are_whole(browser, tmp_path, width):
    made = finished_run(tmp_path / "quickstart")
    # Of a stage that goes on from another: a second table beside that of token frequencies.
    source = {"step": 150, "product": "95a2f73017d58904"}
    write_json(made.stage("pretrain").built_on, {"earlier": source})
    browser.resize(width, 800)
    browser.open(write_report(made))
    assert "Made from" in browser.run("document.body.innerText")
    assert browser.run(CUT_TABLES) == []
    browser.resize(1280, 900)


@pytest.mark.parametrize(("state", "steps"), [("empty", 0), ("begun", 1), ("long", 5000)])
def test_report_opens_cleanly_at_any_moment_of_a_run(browser, tmp_path, state, steps):
    writer = RunWriter(tmp_path / state, max_steps=5000)
    if steps:
        writer.event("started", "pretrain", attempt=1)
        writer.state("pretrain", "running", 1)
        writer.steps("pretrain", 1, 1, steps, total=5000)
    browser.open(write_report(writer.run))
    assert (browser.complaints, browser.requests) == ([], [])
    drawn = {label: number for label, _, number, _ in browser.run(SERIES)}
    assert drawn.get("train", 0) == steps


@pytest.mark.parametrize("width", [360, 1280])
def test_a_failure_stands_at_the_top_with_its_remedy(browser, tmp_path, width):
    browser.resize(width, 800)
    browser.open(write_report(failed_run(tmp_path / "failed")))
    assert (browser.complaints, browser.requests) == ([], [])
    text, left, right, bottom = browser.run(FAILURE)
    assert "pretrain failed" in text
    assert "found <nan>; expected a finite loss." in text
    assert text.endswith("What to do Lower the learning rate.")
    assert left >= 0
    assert right <= width
    assert bottom < 800, "seen without scrolling"
    assert browser.run(OVERFLOW) <= 0
    browser.resize(1280, 900)


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    return write_report(curated_run(tmp_path_factory.mktemp("runs") / "curated"))


def test_bars_of_documents_are_as_long_as_their_counts(browser, curated):
    browser.open(curated)
    assert (browser.complaints, browser.requests) == ([], [])
    everything, web, code = browser.run(COUNTS)
    assert [card[0] for card in (everything, web, code)] == ["All sources", "web", "code"]
    _, whole, reasons = web
    assert [reason for reason, _ in reasons] == [
        "gopher_quality.min_words", "duplicate", "contaminated", "not_utf8 broken"
    ]  # fmt: skip
    assert [width for _, width in reasons[:2]] == pytest.approx([whole, 0.32 * whole], abs=1)
    assert all(width >= 1 for _, width in reasons)


@pytest.mark.parametrize("width", [360, 1280])
def test_rejected_documents_do_nothing_but_stand_there(browser, curated, width):
    browser.resize(width, 800)
    browser.open(curated)
    browser.run(OPEN_EXAMPLES)
    assert (browser.complaints, browser.requests) == ([], [])
    assert browser.run("document.scripts.length + document.images.length") == 1
    texts = browser.run(EXAMPLES)
    assert "</pre></details><script>alert('hostile')</script><img src=x onerror=alert(1)>" in texts
    assert any(r"to the left \u202eesrever" in text for text in texts)
    assert browser.run(ESCAPING) == []
    assert browser.run(OVERFLOW) <= 0
    browser.resize(1280, 900)
