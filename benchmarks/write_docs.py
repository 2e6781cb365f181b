"""Write the pages that are not yet templates."""

from .bilevel.docs_page import bilevel_page
from .core.page import DOCS
from .penalties.page import penalties_page

PAGES = {"penalties.md": penalties_page}
PAGES |= {"bilevel-benchmark.md": bilevel_page}

if __name__ == "__main__":
    for page, write in PAGES.items():
        (DOCS / page).write_text(write())
