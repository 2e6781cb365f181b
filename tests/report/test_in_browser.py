"""The page of a real run in a real browser: what is seen, by keyboard and in both modes."""

import itertools
import json
from pathlib import Path

import pytest

pytest.importorskip("plotly")

from hdet.report.files import records_in
from hdet.report.report import write_report

from .browser import Tab

pytestmark = pytest.mark.ranks

# Every line of text with its box, its colour and what lies behind it.
TEXTS = """
(() => {
  const found = [], ground = (node) => {
    for (; node; node = node.parentElement) {
      const color = getComputedStyle(node).backgroundColor;
      if (!/, 0\\)$|transparent/.test(color)) return color;
    }
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement;
    if (!node.textContent.trim()) continue;
    if (parent.closest('script, noscript, option, [hidden], .sign')) continue;
    if (!parent.checkVisibility({checkVisibilityCSS: true})) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const style = getComputedStyle(parent), svg = parent.closest('svg');
    for (const box of range.getClientRects()) {
      if (box.width < 1) continue;
      found.push({text: node.textContent.trim(),
                  box: [box.left, box.top, box.right, box.bottom],
                  color: svg ? style.fill : style.color, ground: ground(parent),
                  size: parseFloat(style.fontSize)});
    }
  }
  return found;
})()
"""


@pytest.fixture(scope="module")
def page(real_record: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("page") / "x.html"
    write_report(records_in([real_record]), out)
    return out.as_uri()


def luminance(color: str) -> float:
    parts = [float(x) / 255 for x in color[color.index("(") + 1 : -1].split(",")[:3]]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_it_can_be_read(tab: Tab, page: str, width: int, dark: bool) -> None:
    tab.open(page, width, dark)
    assert tab.complaints == []
    assert tab.requests == [page]
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    texts = tab.evaluate(TEXTS)
    seen = {one["text"] for one in texts}
    assert {"learning rate, group 0", "loss", "optimizer step"} <= seen
    for one in texts:
        assert contrast(one["color"], one["ground"]) >= 4.5, one
    for a, b in itertools.combinations(texts, 2):
        left, top = max(a["box"][0], b["box"][0]), max(a["box"][1], b["box"][1])
        right, bottom = min(a["box"][2], b["box"][2]), min(a["box"][3], b["box"][3])
        assert right - left < 2 or bottom - top < 3, (a, b)


@pytest.mark.parametrize("dark", [False, True])
def test_curves_and_marks_stand_out(tab: Tab, page: str, dark: bool) -> None:
    from hdet.report.figure import COLOURS

    tab.open(page, dark=dark)
    ground = tab.evaluate("getComputedStyle(document.getElementById('figure')).backgroundColor")
    for colour in COLOURS:
        channels = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert contrast(f"rgb({', '.join(map(str, channels))})", ground) >= 3, colour


def test_the_curves_are_there_before_plotly_is(tab: Tab, page: str) -> None:
    tab.open(page)
    first, ready = (
        float(tab.evaluate(f"document.body.dataset.{k}")) for k in ("first", "ready")
    )
    assert first <= ready
    drawn = tab.evaluate("(preview(), [...document.querySelectorAll('#picture path')].map("
                         "(path) => path.getAttribute('d')))")  # fmt: skip
    runs = tab.evaluate("traces(panels().map((p, i) => bounds(i, p)))"
                        ".filter((one) => one.mode === 'lines').length")  # fmt: skip
    assert len(drawn) == runs > 2
    assert not any("NaN" in d for d in drawn)


def test_the_mode_changes_within_the_picture(tab: Tab, page: str) -> None:
    tab.open(page)
    ink = "getComputedStyle(document.querySelector('#picture .xtick text')).fill"
    light = tab.evaluate(ink)
    tab.dark(True)
    assert tab.evaluate(ink) != light


def test_the_keyboard_reaches_everything(tab: Tab, page: str) -> None:
    tab.open(page)
    reached = []
    for _ in range(30):
        tab.press("Tab")
        one = tab.evaluate(
            "(e => e.id || e.labels?.[0]?.textContent || e.textContent.slice(0, 20))"
            "(document.activeElement)"
        )
        if reached and one == reached[0]:
            break
        reached.append(one)
    for name in (
        "choose",
        "each replica (thin)",
        "events",
        "Whole run",
        "Search",
        "cursor",
        "Copy",
    ):
        assert name in reached, reached


def test_arrow_keys_move_the_cursor_and_others_zoom(tab: Tab, page: str) -> None:
    tab.open(page)
    tab.evaluate("document.getElementById('cursor').focus()")
    now = "Number(document.getElementById('cursor').getAttribute('aria-valuenow'))"
    words = "document.getElementById('readout').textContent"
    tab.press("Home")
    assert tab.evaluate(now) == 1
    assert "climb" in tab.evaluate(words)
    tab.press("ArrowRight", 3)
    assert tab.evaluate(now) == 4
    tab.press("End")
    assert "training loss" in tab.evaluate(words)
    ends = "document.getElementById('picture').layout.xaxis.range"
    whole = tab.evaluate(ends)
    tab.press("+")
    tab.until(f"JSON.stringify({ends}) !== {json.dumps(json.dumps(whole))}")
    tab.press("Escape")
    tab.until(f"{ends}[0] === {whole[0]} && {ends}[1] === {whole[1]}")


def test_series_are_toggled_and_groups_chosen(tab: Tab, page: str) -> None:
    tab.open(page)
    count = "document.querySelectorAll('#picture .scatterlayer .trace').length"
    before = tab.evaluate(count)
    script = "[...document.querySelectorAll('#toggles label')].find(l => l.textContent === {})"
    tab.evaluate(script.format("'each replica (thin)'") + ".querySelector('input').focus()")
    tab.press(" ")
    tab.until(f"{count} < {before}")
    tab.evaluate(
        "(s => { s.value = s.options.length - 1; s.dispatchEvent(new Event('change')); })"
        "(document.getElementById('choose'))"
    )
    tab.until(
        "[...document.querySelectorAll('#picture .annotation text')]"
        ".some(t => t.textContent.startsWith('weight_decay'))"
    )


def test_pointing_at_the_picture_moves_the_cursor(tab: Tab, page: str) -> None:
    tab.open(page)
    box = tab.evaluate(
        "(b => [b.left, b.top, b.width, b.height])"
        "(document.getElementById('picture').getBoundingClientRect())"
    )
    x, y = box[0] + 0.5 * box[2], box[1] + 0.5 * box[3]
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    tab.until("Number(document.getElementById('cursor').getAttribute('aria-valuenow')) < 120")


def test_a_roll_back_is_marked(tab: Tab, page: str) -> None:
    tab.open(page)
    assert "roll-back" in tab.evaluate("document.getElementById('toggles').textContent")
    marks = "document.getElementById('picture').data.filter(t => t.mode === 'markers').length"
    assert tab.evaluate(marks) >= 2


def test_runs_are_laid_over_each_other(tab: Tab, real_record: Path, tmp_path: Path) -> None:
    other = tmp_path / "y.jsonl"
    other.write_text(real_record.read_text())
    out = tmp_path / "runs.html"
    write_report(records_in([real_record, other]), out)
    tab.open(out.as_uri(), 390)
    assert tab.complaints == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    colours = "[...new Set(document.getElementById('picture').data.map(t => t.line?.color))]"
    assert len(tab.evaluate(colours)) >= 2
    readout = tab.evaluate("document.getElementById('readout').textContent")
    assert "x: " in readout
    assert "y: " in readout
