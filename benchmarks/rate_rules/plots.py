"""The picture of docs/results/learning-rate-rules.md: what short trials say of each rate."""

from pathlib import Path
from typing import Any

from ..core.page import IMAGES
from ..core.plotting import NARROW, figure

PICTURE = IMAGES / "rate-rules-trials.png"
HIGHEST = 32  # percent; losses above are not shown
MARKERS = "osD^"


def draw(record: dict[str, Any], file: Path = PICTURE) -> None:
    """Draw the losses of trials over their rates, beside the best rates of whole runs."""
    shown = [t for t in record["trials"] if t["model"] != "0.84M"]
    title = "Short trials mislead from the initial weights, not later"
    caption = (
        "Loss on one common batch at the end of a trial, over that of the best rate. Vertical "
        "lines: the best rates of whole runs. One run on one card."
    )
    with figure(file, 5.4, title, caption, NARROW) as drawn:
        for ax, trial in zip(drawn.subplots(2, 2, sharey=True).flat, shown, strict=True):
            before = trial["before"]
            words = "from initial weights" if before is None else f"after {before[0]} steps"
            ax.set_title(f"GPT of {trial['model']}, {words}")
            for i, (length, losses) in enumerate(trial["losses"].items()):
                above = [100 * (loss / min(losses) - 1) for loss in losses]
                label = f"{length} steps"
                ax.plot(trial["rates"], above, marker=MARKERS[i], ms=4, lw=1.4, label=label)
            runs = (p for p in record["problems"].values() if p["model"] == trial["model"])
            for i, best in enumerate(sorted({run["best"] for run in runs})):
                label = None if i else "best of a run"
                ax.axvline(best, color="#666666", lw=1.2, ls="--", zorder=0, label=label)
            ax.set_xscale("log")
            ax.set_ylim(-1, HIGHEST)
            ax.set_xlabel("peak learning rate")
            ax.legend(fontsize=8)
        for ax in drawn.axes[::2]:
            ax.set_ylabel("loss above the lowest, %")
