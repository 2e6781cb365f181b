"""What a comparison found: rows, sentences, and one page that holds all of it.

The paper (HDET, arXiv 2604.24708) reports one run a configuration. Here every number
has its standard error over seeds where there are several, each of the paper's claims is
checked against it, and so are the comparisons that the paper lacks. A difference of at
most two combined standard errors is called noise, whichever way it points.

A mean over seeds of which one is not finite is not finite either: leaving it out would
make the configuration look better than it is.
"""

import base64
import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from .records import (
    Configuration,
    Result,
    RunFolder,
    Settings,
    mean_and_error,
    write_json,
)

if TYPE_CHECKING:
    from rich.table import Table

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
_HDET = ("hdet-no-auto-lr", "hdet-no-warm-start", "hdet-full")


@dataclass(frozen=True)
class Row:
    """One configuration over its finished seeds; NaN for what is not finite.

    Attributes:
        name: of the configuration.
        configuration: its label.
        seeds: how many have finished.
        mean_lr: mean over seeds of the mean base learning rate.
        final_lr: mean over seeds of the last base learning rate.
        train_loss: mean over seeds.
        train_error: its standard error; NaN with one seed.
        held_out_loss: mean over seeds.
        held_out_error: its standard error; NaN with one seed.
        diverged: how many seeds did.
        seconds: mean wall time of one run.
        sync_share: mean share of it spent in syncs.
        warm_start: whether it had the checkpoint's steps on top of its own.
    """

    name: str
    configuration: str
    seeds: int
    mean_lr: float
    final_lr: float
    train_loss: float
    train_error: float
    held_out_loss: float
    held_out_error: float
    diverged: int
    seconds: float
    sync_share: float
    warm_start: bool = False


def summarise(folder: RunFolder) -> list[Row]:
    """Return a row for each configuration with a finished run, in the table's order.

    Raises:
        ValueError: if this is not a run folder.
    """
    rows = []
    for configuration in folder.settings().configurations:
        found = folder.results(configuration.name)
        if found:
            rows.append(_row(configuration, found))
    return rows


def _row(configuration: Configuration, found: list[Result]) -> Row:
    train = _mean_and_error([result.train_loss for result in found])
    held_out = _mean_and_error([result.held_out_loss for result in found])
    return Row(
        configuration.name,
        configuration.label,
        len(found),
        _mean_and_error([result.mean_lr for result in found])[0],
        _mean_and_error([result.final_lr for result in found])[0],
        *train,
        *held_out,
        sum(result.diverged for result in found),
        _mean_and_error([result.seconds for result in found])[0],
        _mean_and_error([result.sync_share for result in found])[0],
        configuration.warm_start,
    )


def _mean_and_error(values: Sequence[float | None]) -> tuple[float, float]:
    finite = [x for x in values if x is not None and math.isfinite(x)]
    # `statistics` refuses infinities and NaN.
    return mean_and_error(finite if len(finite) == len(values) else [])


# ----------------------------------------------------------------------- findings


def findings(rows: Sequence[Row]) -> list[str]:
    """Say of the paper's claims, and of the controls', what these rows show.

    Args:
        rows: from `summarise`; comparisons that miss a row are left out.

    Returns:
        One sentence a comparison, each with its numbers.
    """
    by = {row.name: row for row in rows}
    low, full, tenth = (
        by.get(name) for name in ("baseline-low", "hdet-full", "auto-lr-from-tenth")
    )
    said = [
        _lower(by.get(name), low, "reaches a lower training loss than")
        for name in _HDET
    ]
    said += [_worse(by.get(name), low) for name in ("baseline-high", "warm-init")]
    others = [by[name] for name in _HDET[:2] if name in by]
    said.append(_lower(full, _best(others), "is the best HDET row, ahead of"))
    between = [by[name] for name in ("ddp-mid-1", "ddp-mid-2") if name in by]
    claim = "ends lower than the best plain DDP at a rate in between,"
    said.append(_lower(full, _best(between), claim))
    claim = "ends lower than averaging without a spread,"
    said.append(_lower(full, by.get("averaging-only"), claim))
    claim = "ends lower than plain DDP at the rate it started from,"
    said.append(_lower(tenth, by.get("ddp-tenth"), claim))
    rest = [row for row in rows if row.name not in ("auto-lr-from-tenth", "ddp-tenth")]
    said.append(_catches_up(tenth, _best(rest)))
    return [sentence for sentence in said if sentence]


def _best(rows: Sequence[Row]) -> Row | None:
    """Return the row with the lowest loss; any of them if none is finite."""
    return min(rows, key=_loss, default=None)


def _loss(row: Row) -> float:
    return row.train_loss if math.isfinite(row.train_loss) else math.inf


def _compare(a: Row, b: Row) -> str:
    """Return the key of `_VERDICTS` for the loss of `a` against that of `b`."""
    difference = _loss(a) - _loss(b)
    if math.isnan(difference):
        return "neither"
    way = "lower" if difference < 0 else "higher"
    if math.isinf(difference):
        return way
    error = math.hypot(a.train_error, b.train_error)
    if math.isnan(error):
        return f"one {way}"
    return "noise" if abs(difference) <= 2 * error else way


# What a claim that `a` ends lower is worth, by what was seen. Without an error bar
# nothing is shown, either way.
_VERDICTS = {
    "lower": "Shown",
    "higher": "Not shown, the reverse is",
    "noise": "Not shown, within noise",
    "neither": "Not shown, neither is finite",
    "one lower": "Points that way",
    "one higher": "Points the other way",
}


def _lower(a: Row | None, b: Row | None, claim: str) -> str:
    """Say whether `a` ends lower than `b`."""
    if a is None or b is None:
        return ""
    start = _VERDICTS[_compare(a, b)]
    return f"{start}: {a.configuration} {claim} {b.configuration}: {_numbers(a, b)}."


def _worse(a: Row | None, low: Row | None) -> str:
    """Say whether `a` diverges or ends higher than the low baseline."""
    if a is None or low is None:
        return ""
    if a.diverged:
        start = "Shown" if a.diverged == a.seeds else "Shown in part"
    else:
        start = _VERDICTS[_compare(low, a)]
    return (
        f"{start}: {a.configuration} diverges or ends higher than "
        f"{low.configuration}: diverged in {a.diverged} of {a.seeds}; "
        f"{_numbers(a, low)}."
    )


def _catches_up(a: Row | None, best: Row | None) -> str:
    """Say whether a start at too low a rate ends level with the best row."""
    if a is None or best is None:
        return ""
    seen = _compare(a, best)
    # Here it is being level that is claimed, and being higher that refutes it.
    level = {"noise": "Shown, level within noise", "higher": "Not shown"}
    return (
        f"{level.get(seen, _VERDICTS[seen])}: {a.configuration} catches up with the "
        f"best other row, {best.configuration}: {_numbers(a, best)}."
    )


def _numbers(a: Row, b: Row) -> str:
    losses = " against ".join(_with_error(r.train_loss, r.train_error) for r in (a, b))
    if min(a.seeds, b.seeds) == 1:
        text = f"{losses} (one seed: no error bar"
    elif a.seeds == b.seeds:
        text = f"{losses} (n = {a.seeds}"
    else:
        text = f"{losses} (n = {a.seeds} and {b.seeds}"
    difference = a.train_loss - b.train_loss
    if math.isfinite(difference):
        error = math.hypot(a.train_error, b.train_error)
        text += f", difference {_with_error(difference, error, '+')}"
    if a.warm_start != b.warm_start:
        longer = a if a.warm_start else b
        text += f"; {longer.configuration} had its checkpoint's steps on top"
    return text + ")"


def _number(value: float, sign: str = "") -> str:
    if not math.isfinite(value):
        return "not finite"
    return f"{value:{sign}.4f}" if abs(value) < 1e4 else f"{value:{sign}.2e}"


def _with_error(value: float, error: float, sign: str = "") -> str:
    text = _number(value, sign)
    return text + (f" ± {_number(error)}" if math.isfinite(error) else "")


# ------------------------------------------------------------------------- output


def table(rows: Sequence[Row]) -> "Table":
    """Return the rows for a terminal of 100 columns."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(caption="losses: mean ± standard error over seeds")
    shown.add_column("Configuration", min_width=20, overflow="fold")
    names = ("mean LR", "train loss", "held-out", "diverged", "s", "sync %")
    for name in names:
        shown.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        shown.add_row(
            # A plain string would be read as markup.
            Text(row.configuration),
            f"{row.mean_lr:.2e}",
            _with_error(row.train_loss, row.train_error),
            _with_error(row.held_out_loss, row.held_out_error),
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
        The page. It holds its pictures, and loads nothing.

    Raises:
        ValueError: if this is not a run folder, or no run has begun.
    """
    from .plots import draw_all

    plots = draw_all(folder)
    settings, rows = folder.settings(), summarise(folder)
    content = {
        "rows": [asdict(row) for row in rows],
        "findings": findings(rows),
        "missing": missing(folder),
    }
    write_json(folder.path / "summary.json", _without_nan(content))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hdet.bench"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "rate": _rate}
    page = environment.get_template("report.html.j2").render(
        settings=settings,
        configurations={row.name: row for row in settings.configurations},
        rows=rows,
        findings=content["findings"],
        missing=content["missing"],
        versions=folder.environment(),
        command=_command(settings),
        paper=PAPER,
        plots={
            name: base64.b64encode(file.read_bytes()).decode()
            for name, file in plots.items()
        },
    )
    file = folder.path / "report.html"
    beside = file.with_suffix(".tmp")
    beside.write_text(page, encoding="utf-8")
    os.replace(beside, file)
    return file


def _rate(value: float) -> str:
    return f"{value:.2e}" if math.isfinite(value) else "not finite"


def _command(settings: Settings) -> str:
    words = ["hdet", "compare", "--task", settings.task]
    words += ["--steps", str(settings.steps), "--seeds", str(settings.seeds)]
    words += ["--replicas", str(settings.replicas)]
    words += ["--sync-every", str(settings.sync_every)]
    words += ["--spread", str(settings.spread)]
    words += ["--loss-scale", str(settings.loss_scale)]
    words += ["--only", ",".join(row.name for row in settings.configurations)]
    return shlex.join(words + (["--data", settings.data] if settings.data else []))


def _without_nan(content: Any) -> Any:
    """Return the content with null for NaN, which JSON does not have."""
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_without_nan(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
