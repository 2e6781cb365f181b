"""What was learned, to look at.

penalties   logistic: the penalty of each pixel's weight, one image for each digit
images      tv, foe: test crops, clean, noisy, and denoised before and after learning
filters     foe: the filters before and after, with their weights
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from torch import Tensor

from hdet.bilevel.denoising import psnr

from ...compare import axes
from .settings import Settings, load
from .tasks import Images, Task

# Test crops that are shown.
_CROPS = 4


def draw_pictures(settings: Settings, theta: Any) -> dict[str, Figure]:
    """Return the task's own figures by their names; none for a task that has none."""
    task = load(settings)
    made = {}
    if task.images is not None:
        made["images"] = _images(task, task.images, theta)
    if settings.task == "foe":
        made["filters"] = _filters(task.theta0, theta)
    if settings.task == "logistic":
        made["penalties"] = _penalties(task.theta0, theta)
    return made


def _images(task: Task, images: Images, theta: Any) -> Figure:
    clean, noisy = images.clean[:_CROPS], images.noisy[:_CROPS]
    columns = {
        "clean": clean,
        "noisy": noisy,
        "denoised, before": images.denoise(noisy, task.theta0),
        "denoised, learned": images.denoise(noisy, theta),
    }
    figure = axes.figure(2.3 * len(clean) + 0.4, "Test images, before and after learning")
    panels = figure.subplots(len(clean), len(columns), squeeze=False)
    for column, (name, shown) in enumerate(columns.items()):
        quality = psnr(shown, clean).tolist() if name != "clean" else []
        for row, crop in enumerate(shown):
            ax = panels[row, column]
            ax.imshow(crop.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            ax.set_title(f"{name}, {quality[row]:.1f} dB" if quality else name, loc="center")
            _bare(ax)
    return figure


def _filters(before: dict[str, Tensor], after: dict[str, Tensor]) -> Figure:
    count = len(after["filters"])
    figure = axes.figure(3.2, "Filters, with the weights of what they find")
    panels = figure.subplots(2, count, squeeze=False)
    for row, (name, theta) in enumerate({"before": before, "learned": after}.items()):
        weights = (theta["scale"] + theta["weights"]).exp()
        for k in range(count):
            ax, kernel = panels[row, k], theta["filters"][k]
            # Each by a scale of its own: its length and its weight stand for one another.
            most = float(kernel.abs().max()) or 1.0
            ax.imshow(
                kernel.numpy(), cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest"
            )
            strength = float(weights[k] * kernel.square().sum().sqrt())
            ax.set_title(f"{strength:.2g}", loc="center", fontsize=9)
            _bare(ax)
        panels[row, 0].set_ylabel(name)
    text = (
        "Above each: its weight times its length. Red and blue are of opposite sign, each "
        "filter on a scale of its own."
    )
    axes.caption(figure, text)
    return figure


def _penalties(before: Tensor, after: Tensor) -> Figure:
    figure = axes.figure(4.2, "Learned penalties, one image for each digit")
    panels = figure.subplots(2, 5)
    values, start = after.numpy(), float(before[0, 0])
    low, high = np.quantile(values, [0.02, 0.98])
    norm = TwoSlopeNorm(start, min(low, start - 0.1), max(high, start + 0.1))
    shown = None
    for digit, ax in enumerate(panels.flat):
        image = values[:, digit].reshape(8, 8)
        shown = ax.imshow(image, cmap="RdBu_r", norm=norm, interpolation="nearest")
        ax.set_title(f"digit {digit}", loc="center")
        _bare(ax)
    assert shown is not None
    figure.colorbar(shown, ax=panels, label="theta, logarithm of the penalty", extend="both")
    text = (
        f"Each pixel's weight has a penalty of its own, exp(theta); all began at theta = "
        f"{start:g}, which is white. Blue: the weight is freer than it was; red: held nearer 0."
    )
    axes.caption(figure, text)
    return figure


def _bare(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
