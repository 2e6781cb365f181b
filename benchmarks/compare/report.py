"""What is made of a run folder for people: a table for the terminal, and one page.

The page holds its pictures and loads nothing, so it can be sent on alone. It names no
path of the machine it was made on.
"""

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ..core.files import write_json
from ..core.pages import write_page
from .findings import findings
from .records import RunFolder, Settings
from .rows import Row, number, power, summarise, with_error

# Mean learning rate and training loss as the paper's table has them; + is its own mark
# for a run that diverged.
PAPER = {
    "baseline-low": ("0.0001", "3.294"),
    "baseline-high": ("0.0009", "4.169+"),
    "warm-init": ("0.0009", "4.674+"),
    "hdet-no-auto-lr": ("0.0009", "3.280"),
    "hdet-no-warm-start": ("0.0009", "3.281"),
    "hdet-full": ("0.0009", "3.277"),
}


def table(rows: Sequence[Row]) -> Table:
    """Return the rows for a terminal of 80 columns."""
    shown = Table(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        caption="Losses: mean ± standard error over seeds. LR: mean of the base rate. "
        "div: seeds that diverged. s: seconds of a run. sync: % of them in syncs.",
        caption_justify="left",
    )
    shown.add_column("Configuration", min_width=23, overflow="fold")
    for name in ("LR", "train", "held-out", "div", "s", "sync"):
        shown.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        losses = (
            with_error(row.train_loss, row.train_error),
            with_error(row.held_out_loss, row.held_out_error),
        )
        shown.add_row(
            # A plain string would be read as markup.
            Text(row.configuration),
            power(row.mean_lr),
            *(loss.replace(" ± ", "±") for loss in losses),
            f"{row.diverged}/{row.seeds}",
            f"{row.seconds:.0f}",
            f"{100 * row.sync_share:.1f}",
        )
    return shown


def missing(folder: RunFolder) -> list[str]:
    """Name the runs that were asked for and have no result yet."""
    settings = folder.settings()
    return [
        f"{row.label}, seed {seed}"
        for row in settings.configurations
        for seed in range(settings.seeds)
        if folder.result(row.name, seed) is None
    ]


def write_report(folder: RunFolder) -> Path:
    """Write plots, `summary.json` and `report.html`; call it again at any time.

    Returns:
        The page.

    Raises:
        ValueError: if this is not a run folder, or no run has begun.
    """
    # Matplotlib is slow to import, and the first hours of a comparison need none of it.
    from .plots import draw_all

    plots = draw_all(folder)
    settings, rows = folder.settings(), summarise(folder)
    said, lacking = findings(rows), missing(folder)
    content = {
        "rows": [asdict(row) for row in rows],
        "findings": said,
        "missing": lacking,
    }
    write_json(folder.path / "summary.json", content)
    return write_page(
        folder.path / "report.html",
        "report.html.j2",
        plots,
        {"number": number, "power": power},
        settings=settings,
        rows=rows,
        findings=said,
        missing=lacking,
        versions=folder.environment(),
        command=_command(settings),
        paper=PAPER,
    )


def _command(settings: Settings) -> str:
    """Return the command that makes such a folder again, without the user's path."""
    words = ["hdet", "compare", "--task", settings.task]
    words += ["--steps", str(settings.steps), "--seeds", str(settings.seeds)]
    words += ["--replicas", str(settings.replicas)]
    words += ["--sync-every", str(settings.sync_every)]
    words += ["--spread", str(settings.spread)]
    words += ["--loss-scale", str(settings.loss_scale)]
    words += ["--only", ",".join(row.name for row in settings.configurations)]
    return shlex.join(words) + (" --data <path>" if settings.data else "")
