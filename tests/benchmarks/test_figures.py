"""The pictures of the concept pages: each page has its own, which is always the same."""

import re
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from benchmarks.figures.command import FIGURES, IMAGES, draw

PAGES = Path(__file__).parents[2] / "docs" / "concepts"


@pytest.mark.parametrize("name", FIGURES)
def test_a_page_shows_its_picture(name):
    pictures = re.findall(r"!\[.+\]\(\.\./images/(\S+)\)", (PAGES / f"{name}.md").read_text())
    assert pictures == [f"concept-{name}.png"]
    assert (IMAGES / pictures[0]).exists()


@pytest.mark.parametrize("name", ["heteroselect", "maid"])  # the others train for seconds
def test_a_picture_is_the_same_every_time(name, tmp_path):
    pictures = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        pictures.append(draw(name, folder).read_bytes())
    assert pictures[0] == pictures[1]
