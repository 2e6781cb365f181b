"""Pages that show runs: one picture, sentences and numbers, in one file without a network.

    record, files   reads a run's record, as far as it has been written
    thinning        which rows of a long one are drawn
    figure          what the picture is drawn from, in plain numbers
    words           what happened, in sentences
    rendering, web  the page: templates, style and the script that draws
    report          `hdet report`: the page of a user's own runs
    watch           `hdet watch`: the same while a run goes on
    terminal        `hdet show`: the same in a terminal
    page, picture   the page of a demo

Nothing here imports torch.
"""

from .page import Page as Page
from .picture import Panel as Panel
from .picture import Run as Run
