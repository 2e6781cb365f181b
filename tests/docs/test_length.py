"""How much there is to read: counted are the words outside code blocks and folded parts."""

import pytest

from .pages import DOCS, counted, name

MOST_IN_ALL = 15_000
MOST_ON_A_PAGE = 900
# Written for reference, and not to be read from end to end.
COUNTED = [
    page
    for page in sorted(DOCS.rglob("*.md"))
    if page.name != "changelog.md" and page.parent.name != "api"
]


@pytest.mark.parametrize("page", COUNTED, ids=name)
def test_a_page_is_short(page):
    assert counted(page.read_text()) <= MOST_ON_A_PAGE


def test_the_site_is_short():
    assert sum(counted(page.read_text()) for page in COUNTED) <= MOST_IN_ALL
