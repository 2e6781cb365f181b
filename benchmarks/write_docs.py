"""Write the page that is not yet a template."""

from .core.page import DOCS
from .federated.docs_page import federated_page

PAGES = {"federated-benchmark.md": federated_page}

if __name__ == "__main__":
    for page, write in PAGES.items():
        (DOCS / page).write_text(write())
