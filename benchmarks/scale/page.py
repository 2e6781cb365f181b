"""Make docs/scale.md from records/scale.json."""

import json
import math
import statistics
from itertools import pairwise
from pathlib import Path

from .findings import (
    CLEAR,
    CLIMBED_BY,
    HELD_BY,
    ONE,
    OWN,
    PROBED,
    RIGHT,
    SAME,
    Signals,
    cell,
    conclusion,
    percent,
    pooled,
    predicted,
    prose,
    times,
)

RECORDS = Path(__file__).parent / "records"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def scale_page(records: Path = RECORDS) -> str:
    """Return docs/scale.md."""
    record = json.loads((records / "scale.json").read_text())
    lines = [
        "# What more replicas buy",
        "",
        "Written by `python benchmarks/write_docs.py` from `benchmarks/records`.",
        f"torch {record['torch']}, Python {record['python']}.",
        "",
    ]
    parts = (conclusion, _set_up, _signal, _law, _regret, _spreads, _averages)
    return "\n".join([*lines, *(line for part in parts for line in part(record))])


def _set_up(record: dict) -> list[str]:
    lines = ["## What was run", ""]
    lines += prose(f"""`{record["command"]}`: the `{record["task"]}` task with a student of two
        matrices, AdamW, one-cycle, {record["steps"]} steps, T = {record["sync_every"]}; N
        replicas in one process, by the reference that the tests hold the distributed code
        against.""")
    lines += [
        "",
        *prose(f"""**The global batch is {record["batch"]} examples for every N**, and
        a replica has {record["batch"]} / N of them. So the shared gradient, the best rate and
        the sweep are the same for every N, and only what the replicas can see differs. The
        probe, too, is {record["batch"]} examples for every N. What this leaves out: larger runs
        mostly have larger batches, with which all noise falls and the best rate moves."""),
    ]
    lines += [
        "",
        "Numbers of seeds; ± is the standard error over them, with two a rough one:",
        "",
    ]
    replicas = list(record["seeds"]["explorer"])
    rows = [
        [kind, *(str(counts.get(n, "-")) for n in replicas)]
        for kind, counts in record["seeds"].items()
    ]
    lines += _table(["runs", *(f"N = {n}" for n in replicas)], rows)
    sweep = sorted((float(rate), entry) for rate, entry in record["sweep"].items())
    rows = [[f"{rate:g}", cell(entry, 4)] for rate, entry in sweep]
    lines += _table(["peak rate of a plain run", "held-out loss"], rows)
    starts = " and ".join(
        f"{cell(entry, 3) if entry else 'diverged'} at {times(float(m))}"
        for m, entry in record["at the starts"].items()
    )
    ends = f"The best is {record['best']:g}. Plain runs end at {starts} times it."
    return [*lines, ends, ""]


def _signal(record: dict) -> list[str]:
    signals = Signals(record, record["default spread"])
    low, high = record["phase"]
    lines = ["## The signal", ""]
    lines += prose(f"""Rates are held, with the default spread ({record["default spread"]:g}),
        at multiples of the best one; syncs between {100 * low:.0f} and {100 * high:.0f} %
        of the run. At each, the replicas' losses are regressed on their offsets. The losses are
        those of""")
    lines += [
        "",
        f"- **{HELD_BY}**: what Explorer holds a rate by;",
        f"- **{CLIMBED_BY}**: what it climbs by;",
        f"- **{OWN}**: the interval's training losses, which is all there is without a probe;",
        f"- **{ONE}**: the same of one example a step, so that the noise of a replica's loss",
        "  is the same for every N.",
        "",
    ]
    lines += prose("""Mean t ± standard error (standard deviation over syncs and seeds);
        positive asks for a smaller rate. With N = 4 there are two degrees of freedom, with
        which t has no finite variance: read its rows with care.""")
    head = ["losses", "N", *(f"at {times(rate)}" for rate in signals.rates)]
    grid = [(name, n) for name in (HELD_BY, CLIMBED_BY, OWN, ONE) for n in signals.replicas]
    rows = []
    for name, n in grid:
        found = signals.rows(name, n)
        cells = [f"{cell(r['t'], 2)} ({r['deviation of t']:.1f})" for r in found]
        rows.append([name, str(n), *cells])
    lines += ["", *_table(head, rows)]
    return lines + _signs(signals, grid)


def _signs(signals: Signals, grid: list[tuple[str, int]]) -> list[str]:
    most = max(signals.replicas)
    lines = prose(f"""The share of syncs whose sign is right (larger below the best rate,
        smaller above); the mean absolute evidence, tanh(|t| / 3), that Explorer makes of t, as
        a mean over the rates; and how often the sign is that of N = {most} at the same sync of
        the same seed. A coin has 50 %. Far above the best rate the runs themselves part, and
        with them their signs.""")
    wrong = [rate for rate in signals.rates if not math.isclose(rate, 1)]
    rows = []
    for name, n in grid:
        found = [signals.row(name, n, rate) for rate in wrong]
        cells = [percent(r[RIGHT]) for r in found]
        cells.append(cell(pooled([r["evidence"] for r in signals.rows(name, n)])))
        cells += ["-" if n == most else percent(r[SAME]) for r in found]
        rows.append([name, str(n), *cells])
    head = ["losses", "N", *(f"right at {times(rate)}" for rate in wrong), "evidence"]
    head += [f"as N = {most} at {times(rate)}" for rate in wrong]
    return [*lines, "", *_table(head, rows)]


def _growth(signals: Signals, name: str, few: int, n: int) -> str:
    """Return how t has grown from `few` replicas to `n`."""
    if name in PROBED:
        ratios = [
            b["median of abs t"] / a["median of abs t"]
            for a, b in zip(signals.rows(name, few), signals.rows(name, n), strict=True)
        ]
        return f"{math.exp(statistics.fmean(map(math.log, ratios))):.2f}"
    one, other = (signals.row(name, k, CLEAR)["t"] for k in (n, few))
    ratio = one["mean"] / other["mean"]
    error = ratio * math.hypot(*(x["error"] / x["mean"] for x in (one, other)))
    return f"{ratio:.2f} ± {error:.2f}"


def _law(record: dict) -> list[str]:
    signals, few = Signals(record, record["default spread"]), record["few"]
    more = [n for n in signals.replicas if n > few]
    lines = ["### Against the square root of N", ""]
    lines += prose(f"""If replicas differ by noise of their own, of the same size for every N, t
        grows as about the root of N. On own batches that noise grows as the root of N itself,
        since a replica's share of the batch shrinks, and t should stay where it is. Below,
        growth of t: for the training losses of the mean t at {CLEAR:g} times the best rate,
        where there is something to see; for the probe of the median |t|, in the mean over
        rates. In brackets what least squares predicts, few degrees of freedom allowed for; for
        the probe on the assumption that there is no noise at all, and the residual is a bend of
        the loss, the same for every N.""")
    pairs = [(few, n) for n in more] + list(pairwise(more))
    rows = []
    for name in (HELD_BY, CLIMBED_BY, OWN, ONE):
        cells = [f"{_growth(signals, name, *p)} ({predicted(name, *p):.2f})" for p in pairs]
        rows.append([name, *cells])
    lines += ["", *_table(["losses", *(f"N = {a} to {b}" for a, b in pairs)], rows)]
    lines += prose("""The probe's t grows with N and means no more for it. All replicas share
        every gradient and score one batch: their weights stand on one line, and the loss along
        it is a smooth curve. What t is measured in is the bend of that curve. What
        is random, the probe's batch and the gradients since the last sync, is common to all
        replicas, and no number of them averages it out.""")
    return [*lines, ""]


def _regret(record: dict) -> list[str]:
    few, usual = record["few"], record["default spread"]
    found = [r for r in record["regret"] if math.isclose(r["spread"], usual)]
    lines = ["## Regret", ""]
    lines += prose(f"""Explorer at its defaults from a tenth of the best rate and from ten times
        it; and without a probe, with the search that it makes by default only with one. Regret
        is the held-out loss over that of the best plain rate with the same seed, less 1. The
        seeds differ between N, so compare by the column over N = {few}: the loss over that with
        N = {few} and the same seeds, less 1. The final rate, the factor found times the start,
        is a geometric mean; syncs of the search, cliffs and explosions are means.""")
    rows = []
    for row in sorted(found, key=lambda r: (r["kind"], r["start"], r["replicas"])):
        rate = row["log of rate over best"]["mean"]
        label = "with probe" if row["kind"] == "explorer" else "no probe"
        rows.append(
            [
                label,
                times(row["start"]),
                f"{row['replicas']}",
                f"{len(row['regrets'])}",
                percent(row["regret"], 1, "+"),
                f"{100 * statistics.median(row['regrets']):+.1f} %",
                percent(row["over few"], 1, "+"),
                f"{math.exp(rate):.2f}",
                f"{row['climbing']:.1f}",
                f"{row['cliffs']:.1f}",
                f"{row['explosions']:.1f}",
            ]
        )
    head = ["", "start", "N", "seeds", "regret", "median", f"over N = {few}"]
    lines.append("")
    return lines + _table([*head, "final rate / best", "search", "cliffs", "explosions"], rows)


def _spreads(record: dict) -> list[str]:
    usual = record["default spread"]
    spreads = sorted({row["spread"] for row in record["signal"]})
    lines = ["## The spread", ""]
    lines += prose(f"""`hdet.lr(spread=...)`, {usual:g} by default, acts once the search is
        over; while it climbs the replicas stand a factor of 2 around the base rate whatever the
        spread. The signal, with rates held:""")
    lines.append("")
    some = [Signals(record, spread) for spread in spreads]
    rates = some[0].rates
    head = ["losses", "N", "spread"]
    for rate in rates:
        head += [f"t at {times(rate)}", f"right at {times(rate)}"]
    rows = []
    for name in (HELD_BY, OWN):
        for n in some[0].replicas:
            for spread, signals in zip(spreads, some, strict=True):
                cells = []
                for rate in rates:
                    row = signals.row(name, n, rate)
                    cells += [cell(row["t"], 2), percent(row["right sign"])]
                rows.append([name, str(n), f"{spread:g}", *cells])
    lines += _table(head, rows)
    lines += [
        "Regret with a probe, and the held-out loss over that of the default spread with the",
        "same seeds, less 1:",
        "",
    ]
    rows = [
        [
            times(row["start"]),
            str(row["replicas"]),
            f"{row['spread']:g}",
            percent(row["regret"], 1, "+"),
            percent(row["over the default spread"], 1, "+"),
        ]
        for row in sorted(record["regret"], key=_by_start)
        if row["kind"] == "explorer" and row["replicas"] in some[0].replicas
    ]
    return lines + _table(["start", "N", "spread", "regret", "over the default spread"], rows)


def _by_start(row: dict) -> tuple:
    return row["start"], row["replicas"], row["spread"]


def _averages(record: dict) -> list[str]:
    lines = ["### Does the mean of wide replicas stray?", ""]
    lines += prose("""Replicas stand evenly on the logarithm of the rate, so their mean rate is
        above the base rate, by the factor below. Held runs, whose weights are averaged at each
        sync, against plain runs of the same seeds at the base rate, and at the mean rate:
        held-out loss over theirs, less 1. Distance is that of the replicas from their mean
        before a sync, root mean square, over the norm of the mean.""")
    lines.append("")
    rows = [
        [
            f"{row['spread']:g}",
            times(row["rate"]),
            str(row["replicas"]),
            f"{row['mean factor']:.3f}",
            cell(row["distance"], 4),
            percent(row["over plain"], 2, "+"),
            percent(row["over plain at the mean rate"], 2, "+"),
        ]
        for row in sorted(record["average"], key=_by_spread)
    ]
    head = ["spread", "rate / best", "N", "mean factor", "distance"]
    return lines + _table([*head, "over plain", "over plain at the mean rate"], rows)


def _by_spread(row: dict) -> tuple:
    return row["spread"], row["rate"], row["replicas"]
