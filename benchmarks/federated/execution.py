"""Do the runs of the federated benchmark, one process per core.

Every run is a function of its unit alone and trains in one thread, so any number of
processes gives the same numbers. The parent writes the results: one file, one writer.
"""

import math
from dataclasses import replace
from functools import lru_cache
from statistics import fmean, stdev
from time import perf_counter
from typing import Any

from .runs.data import Split
from .runs.run import Federation, RoundRecord, split_of
from .runs.settings import Settings
from .units import Unit

LAST, LATE = 10, 20
# What guessing gives in ten classes, in percent.
_GUESSING = 10.0


def outcome(unit: Unit) -> dict[str, Any]:
    """Do one run, and return its numbers.

    A run in which no client's update is finite any more, or the global model's loss is not, is
    over: it "diverged", and is judged as one that guesses from there on.
    """
    start = perf_counter()
    federation = Federation(unit.settings, _split(_data_of(unit.settings)))
    records: list[RoundRecord] = []
    diverged = False
    for record in federation.run():
        records.append(record)
        diverged = not record.replied or not math.isfinite(record.loss)
        if diverged:
            break
    numbers = _numbers(records, unit.settings, diverged)
    return numbers | {"diverged": diverged, "seconds": round(perf_counter() - start, 2)}


def _numbers(records: list[RoundRecord], settings: Settings, diverged: bool) -> dict[str, Any]:
    sound = records[: len(records) - diverged]
    missing = settings.rounds - len(sound)
    accuracies = [record.accuracy for record in sound] + [_GUESSING] * missing
    # Who guesses one class for all never sees the others.
    worst_class = [record.worst_class for record in sound] + [0.0] * missing
    counts = [0] * settings.clients
    for record in records:
        for client in record.selected:
            counts[client] += 1
    squares = sum(count**2 for count in counts)
    return {
        "accuracies": [round(accuracy, 2) for accuracy in accuracies],
        "final": accuracies[-1],
        "peak": max(accuracies),
        "drop": max(accuracies) - accuracies[-1],
        "last": fmean(accuracies[-LAST:]),
        "late_deviation": stdev(accuracies[-LATE:]),
        "worst_class": fmean(worst_class[-LAST:]),
        "fairness": sum(counts) ** 2 / (settings.clients * squares) if squares else 1.0,
        "bytes_down": sum(record.bytes_down for record in records),
        "bytes_up": sum(record.bytes_up for record in records),
        "probed": sum(record.probed for record in records),
        "alpha": records[-1].alpha,
        "beta": records[-1].beta,
    }


def _data_of(settings: Settings) -> Settings:
    """Return settings that are the same for all runs on one split."""
    plain = Settings()
    kept = ("task", "clients", "concentration", "seed", "data", "dtype", "pool")
    return replace(plain, **{name: getattr(settings, name) for name in kept})


@lru_cache(maxsize=2)
def _split(settings: Settings) -> Split:
    return split_of(settings)
