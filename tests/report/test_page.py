"""The page of a report: its words, its table and its picture."""

import json
import math
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("plotly")

from hdet.report import Page, Panel, Run


class Text(HTMLParser):
    """Collects the words of some tags."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[str]] = {}
        self._tag = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._tag = tag
        self.found.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        self._tag = ""

    def handle_data(self, data: str) -> None:
        if self._tag:
            self.found[self._tag][-1] += data


def page() -> Page:
    runs = [Run("plain <b>", "low", False), Run("ours", "low", True)]
    for run in runs:
        run.cells, run.sentence = ["0.1", "2.5"], f"{run.name} ended & well."
        for x, loss in ((1, 3.0), (2, math.inf), (3, 2.5)):
            run.add(x, {"rate": 0.1 / x, "loss": loss})
    return Page(
        title="A <title>",
        runs=runs,
        panels=[Panel("rate", log=True), Panel("loss", high=2.9)],
        x_title="step",
        header=["run", "rate", "loss"],
        closing="So it ended.",
        setting="How it was run.",
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page().write(tmp_path_factory.mktemp("report"))


def test_every_word_is_there_and_escaped(report: Path) -> None:
    parser = Text()
    parser.feed(report.read_text(encoding="utf-8"))
    assert parser.found["h1"] == ["A <title>"]
    assert parser.found["td"] == ["0.1", "2.5"] * 2
    assert parser.found["th"] == ["run", "rate", "loss", "plain <b>, low", "ours, low"]
    assert parser.found["p"][-2:] == ["So it ended.", "How it was run."]
    assert "plain <b>, low ended & well." in parser.found["li"]


def test_the_picture_comes_first_with_the_curves(report: Path) -> None:
    html = report.read_text(encoding="utf-8")
    assert html.index('id="picture"') < html.index("So it ended.") < html.index("<table>")
    data = html.split('id="data">')[1].split("</script>")[0]
    runs = json.loads(data)["runs"]
    assert [(run["name"], run["dash"]) for run in runs] == [
        ("plain <b>, low", "dot"),
        ("ours, low", "solid"),
    ]
    rate, loss = runs[0]["curves"]
    assert rate["y"] == pytest.approx([0.1, 0.05, 0.1 / 3])
    # What is not finite leaves a gap.
    assert loss["y"] == [3.0, None, 2.5]


def test_it_is_one_file_under_5_mb_that_loads_nothing(report: Path) -> None:
    html = report.read_text(encoding="utf-8")
    assert report.stat().st_size < 5_000_000
    assert [file.name for file in report.parent.iterdir()] == ["report.html"]
    assert "<script src" not in html
    assert html.count("<link") == html.count('<link rel="icon" href="data:,">') == 1
