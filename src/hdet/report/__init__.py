"""Pages that show runs: one picture, sentences and a table, in one file without a network."""

from .page import Page as Page
from .picture import Panel as Panel
from .picture import Run as Run
