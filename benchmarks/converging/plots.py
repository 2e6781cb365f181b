"""The picture of docs/results/converging.md: control and experiment, overlaid."""

from pathlib import Path
from typing import Any

from ..core.page import IMAGES
from ..core.plotting import NARROW, figure
from .analysis import CONTROL, STARTS, place

PICTURE = IMAGES / "converging.png"
COLOURS = {"best": "#444444", "below": "#1f77b4", "above": "#d62728"}
HIGHEST = 5.6  # just above the loss of a model that knows nothing, log(256)


def draw(record: dict[str, Any], file: Path = PICTURE) -> None:
    """Draw the held-out losses of all runs over the steps."""
    words = {
        "best": "best rate",
        "below": f"/ {record['far']:g}",
        "above": f"x {record['far']:g}",
    }
    title = "Held-out loss under torchtitan's converging protocol"
    caption = (
        "Dashed: control, plain training. Solid: Explorer from the same rate, without trials, "
        "as under FSDP2. One line for each seed. Losses above the picture are not shown."
    )
    with figure(file, 4.0, title, caption, NARROW) as drawn:
        ax = drawn.subplots()
        for start in STARTS:
            for row in (row for row in record["rows"] if place(row, record) == start):
                plain = row["arm"] == CONTROL
                for i, run in enumerate(row["runs"]):
                    steps, losses = zip(*run["curve"], strict=True)
                    label = (
                        None if i else f"{'control' if plain else 'Explorer'}, {words[start]}"
                    )
                    style = {"ls": "--" if plain else "-", "color": COLOURS[start]}
                    ax.plot(steps, losses, lw=1.3, label=label, **style)
        ax.set_ylim(None, HIGHEST)
        ax.set_xlabel("optimizer steps")
        ax.set_ylabel("held-out loss, nats per byte")
        ax.legend(ncols=3, fontsize=8)
