"""README decides in a minute: it is short, and its numbers are true of records and demo."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
QUICKSTART = (ROOT / "docs" / "quickstart.md").read_text()
# The pages that tell the result in a sentence.
TELLING = {name: (ROOT / name).read_text() for name in ("README.md", "docs/index.md")}


def test_it_is_short():
    assert len(README.splitlines()) <= 110
    assert len(README.split()) <= 800


def test_it_shows_both_commands():
    assert "`make demo`" in README
    assert "`make test`" in README


@pytest.mark.parametrize("page", TELLING)
def test_the_result_in_a_sentence_is_that_of_the_record(page):
    pytest.importorskip("pandas")
    from benchmarks.robustness.analysis import recorded, standings
    from benchmarks.robustness.methods import OURS

    file = ROOT / "benchmarks" / "records" / "robustness" / "summary.json"
    cells = recorded(json.loads(file.read_text()))
    ours = standings(cells).set_index("method").loc[OURS]
    text = " ".join(TELLING[page].split())
    assert f"{cells['problem'].nunique()} problems" in text
    assert f"{ours['mean']:.1f} % above" in text
    assert f"{ours['worst']:.1f} % at worst" in text


@pytest.mark.parametrize("page", TELLING)
def test_the_demos_numbers_are_those_of_the_quickstart(page):
    plain, explorer = re.findall(
        r"30x too high \| [\d.]+, \+([\d.]+) % \| [\d.]+, ([+-][\d.]+)", QUICKSTART
    )[0]
    text = TELLING[page].replace("**", "")
    assert re.search(rf"\b{float(plain):.0f} %\s+above the best run", text)
    side = "below" if float(explorer) < 0 else "above"
    assert re.search(rf"Explorer\s+{abs(float(explorer)):.0f} %\s+{side}", text)
