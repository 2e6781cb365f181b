"""Write the pages that are not yet templates."""

from .bilevel.docs_page import bilevel_page
from .core.page import DOCS
from .federated.docs_page import federated_page
from .penalties.page import penalties_page

PAGES = {"federated-benchmark.md": federated_page, "penalties.md": penalties_page}
PAGES |= {"bilevel-benchmark.md": bilevel_page}

if __name__ == "__main__":
    for page, write in PAGES.items():
        (DOCS / page).write_text(write())
