"""The final numbers of a federated run, computed from its rounds alone.

How evenly clients were selected is Jain's index of the counts x_k of the K clients,

    J = (sum x)^2 / (K sum x^2),

1 if all are equal and 1/K if one was chosen every time. Uniform draws do not reach 1 either:
over T rounds of m clients each count is nearly binomial with p = m/K, and J near
1 / (1 + (1 - p) / (T p)).

Source: Jain, Chiu, Hawe, "A Quantitative Measure of Fairness and Discrimination for Resource
Allocation in Shared Computer Systems", DEC TR-301, 1984.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .run import RoundRecord
from .settings import Settings

# One round's accuracy is noisy with a tenth of the clients in it.
LAST = 10


@dataclass(frozen=True)
class Summary:
    """How a run went; losses in nats, accuracies in percent of the test images.

    Attributes:
        rounds: how many there were.
        accuracy: of the last round's model.
        peak_accuracy: the highest of any round.
        peak_round: the first round that had it.
        last_accuracy: mean over the last `LAST` rounds, or all if fewer.
        worst_class: the lowest accuracy of a class, of the last round's model.
        loss: of the last round's model.
        train_loss: mean of the clients' local steps in the last round that had replies.
        alpha: the server's rate in the last round.
        beta: the clients' rate in the last round.
        bytes_down: sent to clients in all rounds.
        bytes_up: received from clients in all rounds.
        silent: replies that did not come.
        counts: how often each client was selected, by client.
        jain: Jain's index of `counts`.
        jain_uniform: what it would be near if clients were drawn uniformly.
    """

    rounds: int
    accuracy: float
    peak_accuracy: float
    peak_round: int
    last_accuracy: float
    worst_class: float
    loss: float
    train_loss: float | None
    alpha: float
    beta: float
    bytes_down: int
    bytes_up: int
    silent: int
    counts: list[int]
    jain: float
    jain_uniform: float


def summarise(records: Sequence[RoundRecord], settings: Settings) -> Summary:
    """Return the final numbers.

    Args:
        records: of at least one round, in order.
        settings: the run.
    """
    last = records[-1]
    best = max(records, key=lambda record: record.accuracy)
    tail = records[-LAST:]
    trained = [record.train_loss for record in records if record.train_loss is not None]
    counts = [0] * settings.clients
    for record in records:
        for client in record.selected:
            counts[client] += 1
    return Summary(
        rounds=len(records),
        accuracy=last.accuracy,
        peak_accuracy=best.accuracy,
        peak_round=best.round,
        last_accuracy=sum(record.accuracy for record in tail) / len(tail),
        worst_class=last.worst_class,
        loss=last.loss,
        train_loss=trained[-1] if trained else None,
        alpha=last.alpha,
        beta=last.beta,
        bytes_down=sum(record.bytes_down for record in records),
        bytes_up=sum(record.bytes_up for record in records),
        silent=sum(len(record.selected) - record.replied for record in records),
        counts=counts,
        jain=jain(counts),
        jain_uniform=jain_of_uniform(len(records), settings.count / settings.clients),
    )


def jain(counts: Sequence[int]) -> float:
    """Return Jain's index of counts that are not all zero."""
    return sum(counts) ** 2 / (len(counts) * sum(count**2 for count in counts))


def jain_of_uniform(rounds: int, share: float) -> float:
    """Return what Jain's index is near if each round draws `share` of the clients."""
    return 1 / (1 + (1 - share) / (rounds * share))


def in_bytes(number: float) -> str:
    """Return a number of bytes as people write it, as in `9.5 MB`."""
    for unit in ("B", "kB", "MB"):
        # 999.9 would be rounded to 1e+03.
        if number < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB" if number < 999.5 else f"{number:.0f} GB"
