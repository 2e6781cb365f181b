"""Runs shown while they grow, and results in words."""

import io
import math

from rich.console import Console

from hdet.demo.showing import beside, shown, summary
from hdet.report import Run


def runs() -> list[Run]:
    made = [Run("plain", "low", False), Run("ours", "low", True), Run("ours", "high", True)]
    for run in made:
        run.add(5, {"rate": 0.123456, "loss": math.inf if run.start == "high" else 2.0})
    return made


def text(console: Console) -> str:
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_a_terminal_gets_a_table_with_the_last_values_of_every_run() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with shown(console, "A title", runs(), 10, "step") as draw:
        draw()
    drawn = text(console)
    assert "A title" in drawn
    assert drawn.count("5/10") >= 3
    assert "0.123" in drawn
    assert "inf" in drawn
    assert drawn.endswith("\x1b[?25h"), "the cursor is shown again"


def test_elsewhere_lines_come_now_and_then() -> None:
    console = Console(file=io.StringIO(), width=100)
    made = runs()
    with shown(console, "A title", made, 10, "step") as draw:
        draw()
        draw()
    assert text(console).splitlines() == [
        "step 5 of 10: plain, low: rate 0.123, loss 2",
        "step 5 of 10: ours, low: rate 0.123, loss 2",
        "step 5 of 10: ours, high: rate 0.123, loss inf",
    ]


def test_losses_are_compared_in_percent() -> None:
    assert beside(2.2, 2.0) == "+10.0 %"
    assert beside(1.9, 2.0) == "-5.0 %"
    assert beside(math.nan, 2.0) == beside(math.inf, 2.0) == "diverged"


def test_the_summary_names_our_methods_first() -> None:
    made = runs()
    for run, cell in zip(made, ("+0.0 %", "+3.0 %", "diverged"), strict=True):
        run.cells = ["0.1", cell]
    said = summary("Loss", made)
    assert said == "Loss: ours +3.0 % (low), diverged (high); plain +0.0 % (low)."
