"""What docs/scale.md concludes, all figures from the record; and how it reads the record."""

import math
import statistics
import textwrap

# In units of the best rate: where training losses show something at all.
CLEAR = 3.0
HELD_BY, CLIMBED_BY, OWN, ONE = (
    "probe at averaged weights",
    "probe at own weights",
    "own batches",
    "one example each",
)
PROBED = (HELD_BY, CLIMBED_BY)
SAME, RIGHT = "sign as with most replicas", "right sign"


def times(value: float) -> str:
    return f"{value:.3g}" if value >= 1 else f"1/{1 / value:.0f}"


def cell(entry: dict | None, digits: int = 2) -> str:
    if entry is None:
        return "-"
    return f"{entry['mean']:.{digits}f} ± {entry['error']:.{digits}f}"


def percent(entry: dict | None, digits: int = 0, sign: str = "") -> str:
    if entry is None:
        return "-"
    return f"{100 * entry['mean']:{sign}.{digits}f} ± {100 * entry['error']:.{digits}f} %"


def pooled(entries: list[dict | None]) -> dict:
    """Return the mean over rates, whose runs share seeds: errors are averaged, not shrunk."""
    known = [e for e in entries if e is not None]
    return {key: statistics.fmean(e[key] for e in known) for key in ("mean", "error")}


class Signals:
    """The rows of held runs at one spread, by signal and N."""

    def __init__(self, record: dict, spread: float) -> None:
        self.all = [row for row in record["signal"] if math.isclose(row["spread"], spread)]
        self.replicas = sorted({row["replicas"] for row in self.all})
        self.rates = sorted({row["rate"] for row in self.all})

    def row(self, signal: str, n: int, rate: float) -> dict:
        wanted = (signal, n)
        found = (r for r in self.all if (r["signal"], r["replicas"]) == wanted)
        return next(r for r in found if math.isclose(r["rate"], rate))

    def rows(self, signal: str, n: int) -> list[dict]:
        return [self.row(signal, n, rate) for rate in self.rates]


def _square(n: int) -> float:
    """Return the sum of the squared offsets of N replicas on an even grid from -1 to 1."""
    return n * (n + 1) / (3 * (n - 1))


def _bend(n: int) -> float:
    """Return the deviation that least squares takes a bend of the losses, z squared, for."""
    squares = [(2 * r / (n - 1) - 1) ** 2 for r in range(n)]
    middle = statistics.fmean(squares)
    return math.sqrt(sum((x - middle) ** 2 for x in squares) / (n - 2))


def _inflation(n: int) -> float:
    """Return the mean of t over its slope in true standard errors: few replicas overstate."""
    free = n - 2
    return math.sqrt(free / 2) * math.exp(math.lgamma((free - 1) / 2) - math.lgamma(free / 2))


def predicted(name: str, few: int, n: int) -> float:
    """Return how t should grow from `few` replicas to `n`."""
    law = math.sqrt(_square(n) / _square(few))
    if name in PROBED:
        return law * _bend(few) / _bend(n)
    law *= _inflation(n) / _inflation(few)
    # A batch of 1/N of the examples has N times the variance.
    return law * math.sqrt(few / n) if name == OWN else law


def prose(text: str, bullet: str = "") -> list[str]:
    """Return the lines of a paragraph, or of an item of a list."""
    after = " " * len(bullet)
    words = " ".join(text.split())
    return textwrap.wrap(words, 92, initial_indent=bullet, subsequent_indent=after)


def conclusion(record: dict) -> list[str]:
    """Return the page's first section."""
    lines = ["## In short", ""]
    for part in (_probed, _common, _unprobed, _wide, _strays, _advice):
        lines += prose(part(record), "- ")
    return [
        *lines,
        "",
        "One small task and short runs: of the sizes, take the order of magnitude.",
        "",
    ]


def _probed(record: dict) -> str:
    few = record["few"]
    clauses: dict[int, list[str]] = {}
    for row in sorted(record["regret"], key=lambda r: (r["replicas"], r["start"])):
        if row["kind"] == "explorer" and row["over few"] is not None:
            clauses.setdefault(row["replicas"], []).append(percent(row["over few"], 1, "+"))
    listed = "; ".join(f"with N = {n} {' and '.join(c)}" for n, c in clauses.items())
    return f"""**With a probe, more than {few} replicas change next to nothing.** Held-out loss
        over that with N = {few} and the same seeds, less 1, from a tenth of the best rate and
        from ten times it: {listed}."""


def _common(record: dict) -> str:
    signals, few = Signals(record, record["default spread"]), record["few"]
    most, least = max(signals.replicas), min(signals.replicas)

    def share(n: int, key: str, signal: str = HELD_BY) -> str:
        rows = [r for r in signals.rows(signal, n) if key != SAME or r["rate"] < 0.9]
        return f"{100 * pooled([r[key] for r in rows])['mean']:.0f} %"

    def sure(n: int) -> str:
        return f"{pooled([r['evidence'] for r in signals.rows(HELD_BY, n)])['mean']:.2f}"

    return f"""**The noise is common to all replicas.** Below the best rate the sign of the
        slope at averaged weights is that of N = {most} at {share(least, SAME)} of the syncs
        with N = {least}, and at {share(few, SAME)} with N = {few}. Over all rates it is right
        at {share(least, RIGHT)} with N = {least}, at {share(few, RIGHT)} with N = {few} and at
        {share(most, RIGHT)} with N = {most}: not far from a coin, whatever N. Only t grows,
        since it is measured in the bend of the loss, and it was large before: the evidence that
        is made of it is {sure(least)} on average with N = {least}, and {sure(most)} with
        N = {most}, of 1 at most. With any N, Explorer acts on little but the sign."""


def _unprobed(record: dict) -> str:
    signals = Signals(record, record["default spread"])
    some = [n for n in signals.replicas if n >= record["few"]]

    def listed(name: str) -> str:
        found = [cell(signals.row(name, n, CLEAR)["t"]) for n in some]
        return ", ".join(found[:-1]) + " and " + found[-1]

    def below(n: int) -> str:
        shares = [signals.row(OWN, n, rate)["right sign"] for rate in signals.rates if rate < 1]
        return f"{100 * pooled(shares)['mean']:.0f} %"

    ends = ", ".join(
        f"{100 * statistics.median(row['regrets']):.0f} % with N = {row['replicas']}"
        for row in record["regret"]
        if row["kind"] == "unprobed" and row["start"] < 1
    )
    return f"""**Without a probe it is the examples that count, not the replicas.** With the
        global batch fixed, the mean t at {CLEAR:g} times the best rate is {listed(OWN)} with
        N = {", ".join(map(str, some))}. Where every replica brings one example whatever N, it
        is {listed(ONE)}. Below the best rate the sign is a coin's, right at {below(some[0])} of
        the syncs with N = {some[0]} and at {below(some[-1])} with N = {some[-1]}. Nor do more
        replicas help a search that starts far below: from a tenth of the best rate its median
        regret is {ends}."""


def _wide(record: dict) -> str:
    usual = record["default spread"]
    spreads = sorted({row["spread"] for row in record["signal"]})
    some = [Signals(record, spread) for spread in spreads]
    over = [row["over the default spread"] for row in record["regret"]]
    known = [entry for entry in over if entry is not None]
    largest = max(known, key=lambda e: abs(e["mean"]))
    clauses = []
    for n in some[0].replicas:
        found = [f"{s.row(OWN, n, CLEAR)['t']['mean']:.2f}" for s in some]
        clauses.append(", ".join(found[:-1]) + f" and {found[-1]} with N = {n}")
    shown = ", ".join(f"{s:g}" for s in spreads[:-1]) + f" and {spreads[-1]:g}"
    return f"""**The spread need not change with N.** With a probe, other spreads than {usual:g}
        change the held-out loss by {percent(largest, 1, "+")} at most, of {len(known)}
        comparisons. Without one, t grows with the spread: at {CLEAR:g} times the best rate it
        is, with spreads of {shown}, {"; ".join(clauses)}: alike for both."""


def _strays(record: dict) -> str:
    rows, at_mean = record["average"], "over plain at the mean rate"

    def beyond(key: str) -> int:
        return sum(abs(r[key]["mean"]) > 2 * r[key]["error"] for r in rows)

    calm = [row for row in rows if row["rate"] < 1.5]
    largest = max(calm, key=lambda r: abs(r["over plain"]["mean"]))["over plain"]
    low = min(rows, key=lambda r: (r["rate"], r["replicas"]))
    return f"""**The mean of wide replicas does not stray.** Up to the best rate it changes the
        held-out loss by {percent(largest, 2, "+")} at most. The replicas train as one run
        at the mean of their rates, which is a little above the base rate: with
        N = {low["replicas"]} at {times(low["rate"])} times the best rate the loss is
        {percent(low["over plain"], 2, "+")} over that of a plain run at the base rate, and
        {percent(low[at_mean], 2, "+")} over that at the mean rate. Of {len(rows)} comparisons
        {beyond("over plain")} with the base rate and {beyond(at_mean)} with the mean rate lie
        beyond two standard errors."""


def _advice(record: dict) -> str:
    few, most = record["few"], max(row["replicas"] for row in record["signal"])
    return f"""**With {most} replicas**, then, expect of Explorer what it does with {few}, use a
        probe as with {few}, and leave the spread alone. Where its regret is too much, more
        replicas are no remedy. Not measured here: larger global batches, and several
        hyperparameters at once, for which replicas are needed to tell them apart."""
