"""What happened in a run, in sentences and in the numbers to take home. Pure text."""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from .record import SEARCHING, Event, Record

_SIMILAR = 1.25  # a ratio of rates below which they are much the same
WRITTEN = (
    "Write these rates in place of your own: as max_lr if your schedule has one, otherwise as "
    "the optimizer's lr."
)
_LAST = 3  # decisions that are told, and as many events
_MOVED = " -> "  # in the words of a decision that moves a value
_NAMED = 4  # steps that a sentence names
_BETA = re.compile(r"beta\d+")


def number(value: float | None, digits: int = 3) -> str:
    """Return a number as people write it, a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}g}"
    return re.sub(r"e\+?(-?)0*", r"e\1", text)


def short(text: str, most: int) -> str:
    """Return a text, or its beginning where it is longer."""
    return text if len(text) <= most else f"{text[:most].rsplit(' ', 1)[0]} …"


def summary(record: Record) -> list[str]:
    """Return what happened, the most important first."""
    said = [_search(record), _loss(record), _trouble(record), *_values(record), _end(record)]
    return [sentence for sentence in said if sentence]


def status(records: Sequence[Record]) -> tuple[str, str]:
    """Return the state of the runs in a line, and "good", "warn" or "going" for its look."""
    events = [e.kind for record in records for e in record.events()]
    back, out = events.count("rollback"), events.count("left out")
    if any(record.phases[-1] in SEARCHING for record in records):
        return "The search for the learning rate is going on.", "going"
    found = [rate for record in records for rate in record.found or []]
    what = f"Learning rate found: {in_short(found)}." if found else "No learning rate is known."
    wrong = [_times(back, "roll-back"), _times(out, "sync", " without a replica")]
    wrong += dict.fromkeys(_loss_wrong(record) for record in records)
    if wrong := [one for one in wrong if one]:
        return f"{what} Look closer: {', '.join(wrong)}.", "warn"
    return f"{what} Nothing went wrong.", "good"


def _loss_wrong(record: Record) -> str:
    """Return what is wrong with a loss, usually nothing."""
    loss = record.loss if record.loss.known else record.probe
    known = [x for x in loss.base if x == x]
    if not known:
        return "no loss was finite" if record.loss.replicas else ""
    if loss.ends_broken:
        return "the loss is not finite"
    return "the loss rose" if known[-1] > known[0] else ""


def _times(count: int, one: str, more: str = "") -> str:
    return f"{count} {one}{'s' if count > 1 else ''}{more}" if count else ""


def ratio(found: float, written: float) -> str:
    """Return how a rate relates to the one that was written."""
    if not (found > 0 and written > 0):
        return "–"
    if max(found / written, written / found) < _SIMILAR:
        return f"{found / written:.2g} times"
    times, way = max((found / written, "higher"), (written / found, "lower"))
    return f"{times:,.0f} times {way}" if times >= 10 else f"{times:.2g} times {way}"


def taken(value: float | None) -> str:
    """Return a value of something other than a rate to write into a plain run.

    Of a beta near one, what it lacks of one counts: 0.9996 is not 1, which Adam refuses.
    """
    if value is None or not 0.9 < value < 1:
        return number(value)
    return f"{1 - float(f'{1 - value:.3g}'):.12g}"


def paste(record: Record) -> str:
    """Return the values as lines of Python for a plain run; nothing before they are known.

    What the user has to fill in is `...`: the parameters of a group, and a beta that was not
    explored. The momentum of SGD is the first of the betas.
    """
    if not record.latest:
        return ""
    values = {**record.latest["values"], **record.latest.get("would_be", {})}
    rates = record.found or []
    by_group: dict[str, dict[str, str]] = {str(g): {} for g in range(len(rates))}
    for name, value in values.items():
        if name.startswith("lr/") or value is None:
            continue
        # `weight_decay/0` is that of the first parameter group; an attribute has no group.
        entry, _, group = name.rpartition("/")
        by_group.setdefault(group if entry else "", {})[entry or name] = taken(value)
    entries = {g: _entries(own) if g else own for g, own in by_group.items()}
    rows = []
    if len(rates) > 1:
        for g, rate in enumerate(rates):
            own = {"lr": number(rate), **entries.pop(str(g))}
            row = ", ".join(f'"{entry}": {value}' for entry, value in own.items())
            rows.append(f'{{"params": ..., {row}}},  # group {g}')
    else:
        rows += [f"lr = {number(rate)}" for rate in rates]
    for group, own in entries.items():
        # Which one of several groups a name is of, the record does not tell.
        said = f"  # group {group}" if group and len(rates) > 1 else ""
        rows += [f"{_identifier(x)} = {value}{said}" for x, value in own.items()]
    return "\n".join(rows)


def _entries(found: Mapping[str, str]) -> dict[str, str]:
    """Return values by the names that optimizers take them by: all betas are one tuple."""
    betas = {int(name[4:]): x for name, x in found.items() if _BETA.fullmatch(name)}
    rest = {name: x for name, x in found.items() if not _BETA.fullmatch(name)}
    if not betas:
        return rest
    every = ", ".join(betas.get(k, "...") for k in range(max(1, *betas) + 1))
    return {"betas": f"({every})", **rest}


def _identifier(name: str) -> str:
    return re.sub(r"\W+", "_", name).strip("_")


def _search(record: Record) -> str:
    found, written = record.found, record.written
    phase = record.phases[-1]
    if phase in SEARCHING:
        now = {
            "climb": "The rate is climbing",
            "settle": "The rate has climbed and settles",
            "warmup": "The rate is found, and warms up",
        }
        doing = now.get(phase, "The replicas are trying rates of their own")
        rate = record.rates[0].base[-1] if record.rates else math.nan
        return f"The search is going on. {doing}; it stands at {number(rate)}."
    if not found:
        return ""
    came, wrote = in_short(found), in_short(written)
    against = ""
    if found[0] > 0 and len({*written}) == len({number(rate) for rate in found}) == 1:
        against = f", {ratio(found[0], written[0])}"
    rate = "a learning rate" if len(found) == 1 else "learning rates"
    wrote = f"You wrote {rate} of {wrote}."
    if phase == "observe":
        return f"{wrote} Explorer only observed; it would set {came}{against}."
    if steps := _search_steps(record):
        first = in_short(record.searched or found)
        if first != came:
            came = f"{first}; since then it has moved to {came}"
        return f"{wrote} The search took {steps:,} steps and found {came}{against}."
    them = "it" if len(found) == 1 else "them"
    return f"{wrote} Explorer moved {them} to {came}{against}."


def _loss(record: Record) -> str:
    for quantity, name in ((record.loss, "training loss"), (record.probe, "probe loss")):
        known = [(row, x) for row, x in enumerate(quantity.base) if x == x]
        if not known:
            continue
        (first, began), (last, ends) = known[0], known[-1]
        if number(began) == number(ends):
            text = f"The {name} is {number(ends)}, as at the beginning"
        else:
            verb = "fell" if ends < began else "rose"
            text = f"The {name} {verb} from {number(began)} to {number(ends)}"
        least = min(x for _, x in known)
        if ends > least + 0.1 * abs(began - least) and number(least) != number(began):
            text += f"; the least was {number(least)}"
        if quantity.base[-1] != quantity.base[-1] and record.phases[-1] not in SEARCHING:
            text += "; at the last sync it was not finite"
        return f"{text} (steps {record.steps[first]:,} to {record.steps[last]:,})."
    if record.loss.replicas:
        return "The training loss was never finite."
    return "The record has no loss yet: give it to explorer.step(loss)."


def _trouble(record: Record) -> str:
    events = record.events()
    back = [e for e in events if e.kind == "rollback"]
    out = [e for e in events if e.kind == "left out"]
    said = []
    if back:
        times = "once" if len(back) == 1 else f"{len(back)} times"
        said.append(
            f"The loss spiked and the run went back to its averaged weights {times} "
            f"({_steps(record, back)})."
        )
    if out:
        syncs = "one sync" if len(out) == 1 else f"{len(out)} syncs"
        said.append(
            f"At {syncs} a replica had diverged and was left out of the average "
            f"({_steps(record, out)})."
        )
    if levels := [e for e in events if e.kind == "new level"]:
        said.append(f"The loss stayed at a new level ({_steps(record, levels)}).")
    if not said and record.phases[-1] not in SEARCHING:
        return "There was no roll-back, and no replica was left out."
    return " ".join(said)


def _values(record: Record) -> list[str]:
    values = record.latest.get("values", {})
    others = [f"{taken(x)} ({n})" for n, x in values.items() if not n.startswith("lr/")]
    return [f"The other values stand at {', '.join(others)}."] if others else []


def _end(record: Record) -> str:
    said = ""
    if record.resumed:
        times = "once" if len(record.resumed) == 1 else f"{len(record.resumed)} times"
        steps = ", ".join(f"{step:,}" for step in record.resumed[-_NAMED:])
        said = f"The run was resumed {times}, before step {steps}. "
    if record.phases[-1] == "frozen":
        said += f"Since step {record.steps[-1]:,} all values are frozen."
    return said.strip()


def _steps(record: Record, events: Sequence[Event]) -> str:
    named = ", ".join(f"{record.steps[e.row]:,}" for e in events[-_NAMED:])
    if len(events) > _NAMED:
        return f"last at steps {named}"
    return f"step{'s' if len(events) > 1 else ''} {named}"


def in_short(rates: Sequence[float]) -> str:
    """Return a rate, or the least and the largest of several."""
    low, high = number(min(rates)), number(max(rates))
    return low if low == high else f"{low} to {high}"


def groups(record: Record) -> list[tuple[str, ...]]:
    """Return what was written and found, by parameter group."""
    pairs = zip(record.written, record.found or [], strict=False)
    return [
        (str(g), number(written), number(found), ratio(found, written))
        for g, (written, found) in enumerate(pairs)
    ]


def trials(record: Record) -> list[tuple[str, str]]:
    """Return the rates of the first group that the search has tried, with their losses."""
    told = record.trials
    pairs = list(zip(told.get("factors", []), told.get("losses", []), strict=False))
    # Two trials may share a rate, and one that diverged has no loss.
    pairs.sort(key=lambda pair: pair[0])
    rows = [(number(record.written[0] * factor), number(loss, 4)) for factor, loss in pairs]
    return [("before the trials", number(told.get("before"), 4)), *rows] if rows else []


def title_of_value(name: str, groups: int) -> str:
    """Return how a page calls what is explored: `lr/0` is the rate of the first group."""
    what, _, group = name.rpartition("/")
    if what != "lr":
        return name
    return "learning rate, times yours" if groups == 1 else f"group {group}'s rate, times yours"


def trials_note(record: Record) -> str:
    """Return a warning where no trial has lowered the loss; usually nothing."""
    told = record.trials
    losses = [x for x in told.get("losses", []) if x is not None]
    if not losses or told.get("before") is None or min(losses) < told["before"]:
        return ""
    return "No trial lowered the loss, so they say little about the rate."


def evidence(record: Record) -> list[tuple[str, ...]]:
    """Return each hyperparameter with its slope and what follows from it."""
    line, rows = record.latest, []
    for name, slope in line.get("slope", {}).items():
        t = line.get("t", {}).get(name) or 0.0
        if t == 0:
            continue
        verdict = "larger is worse" if t > 0 else "larger is better"
        verdict = verdict if abs(t) >= 1 else "no clear slope"
        value = line.get("values", {}).get(name)
        rows.append(
            (
                title_of_value(name, len(record.written)),
                taken(value),
                number(slope, 2),
                number(t, 2),
                verdict,
            )
        )
    return rows


def evidence_note(record: Record) -> str:
    """Return what replicas too few for what they explore cannot tell; usually nothing."""
    explored, replicas = len(record.latest.get("slope", {})), record.header["replicas"]
    if explored <= max(replicas - 2, 1):
        return ""
    return (
        f"{replicas} replicas cannot tell {explored} hyperparameters apart: these slopes are "
        f"shares of what they see together."
    )


def decisions(record: Record) -> list[str]:
    """Return the last decisions, and before them those at which something happened."""
    seldom = {event.row for event in record.events()}
    searched = {row for row in record.words if record.phases[row] in SEARCHING}
    searched |= {b + 1 for name, _, b in record.spans() if name == "trial"}
    last = [row for row, words in record.words.items() if _MOVED in words][-_LAST:]
    kept = sorted({*last, *sorted(seldom)[-_LAST:], *searched} & {*record.words})
    return [record.words[row] for row in kept]


def cost(record: Record) -> list[tuple[str, str]]:
    """Return what the run and Explorer have taken, as names and values."""
    steps = record.steps[-1]
    rows = [("optimizer steps", f"{steps:,}")]
    if (searched := _search_steps(record)) and steps > 0:
        share = 100 * searched / steps
        rows.append(("of the search", f"{searched:,} steps ({_percent(share)})"))
    if record.seconds:
        rows.append(("time", duration(record.seconds)))
    syncs = [x for x in record.sync_ms if x == x]
    if syncs:
        rows.append(("syncs", f"{len(syncs):,}, one every {record.interval:,} steps"))
        rows.append(("time of a sync (median)", f"{number(sorted(syncs)[len(syncs) // 2])} ms"))
    probes = [x for x in record.probe_ms if x > 0]
    if probes:
        rows.append(
            ("time of a probe (median)", f"{number(sorted(probes)[len(probes) // 2])} ms")
        )
    if syncs and record.seconds:
        share = (sum(syncs) + sum(probes)) / 10 / record.seconds
        rows.append(("syncs and probes", f"{_percent(share)} of the time"))
    return rows


def _search_steps(record: Record) -> int:
    """Return how many optimizer steps the search has taken: it may have begun late."""
    spans = [(a, b) for name, a, b in record.spans() if name in SEARCHING]
    return 1 + record.steps[spans[-1][1]] - record.steps[spans[0][0]] if spans else 0


def _percent(share: float) -> str:
    return f"{share:.0f} %" if share >= 10 else f"{number(share, 2)} %"


def duration(seconds: float) -> str:
    """Return a time in the two largest units that it has."""
    whole = round(seconds)
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    parts = [f"{whole // size % most} {unit}" for (unit, size), most in _with_most(units)]
    parts = [part for part in parts if not part.startswith("0 ")]
    return " ".join(parts[:2]) or "0 s"


def _with_most(units: Sequence[tuple[str, int]]) -> Any:
    return zip(units, (10**9, 24, 60, 60), strict=True)


def ended(record: Record) -> str:
    """Return when the newest line was written."""
    if record.times[-1] != record.times[-1]:
        return "–"
    moment = datetime.fromtimestamp(record.times[-1] / 1000, tz=timezone.utc)
    return moment.strftime("%Y-%m-%d %H:%M UTC")
