"""FedHyper: the clients' rate over the rounds, from three starts."""

from itertools import cycle
from pathlib import Path

from ..core.plotting import logarithmic
from ..federated.federation import Federation
from ..federated.methods import Settings
from .drawing import concept

STARTS = (0.003, 0.1, 1.0)
ROUNDS, LAST = 40, 5


def draw(folder: Path) -> None:
    """Run a hundred clients with digits from three rates, and draw the rates sent to them."""
    with concept(folder, "fedhyper", 3.6, "The rate that clients are sent") as figure:
        ax = figure.subplots()
        for start, colour in zip(STARTS, cycle(["C0", "C1", "C4"])):
            ours, kept = (_run(strategy, start) for strategy in ("fedhyper", "fedavg"))
            label = f"from {start:g}: accuracy {ours[1]:.0f} %, FedAvg {kept[1]:.0f} %"
            ax.plot(range(1, ROUNDS + 1), ours[0], color=colour, label=label)
            ax.plot(range(1, ROUNDS + 1), kept[0], color=colour, linestyle="--")
        logarithmic(ax)
        ax.set(xlabel="round (dashed: FedAvg)", ylabel="local learning rate")
        ax.set_ylim(1e-4, 10)
        ax.legend(loc="lower right")


def _run(strategy: str, start: float) -> tuple[list[float], float]:
    """Return the rate of each round, and the mean accuracy of the last ones."""
    rounds = list(
        Federation(Settings(strategy=strategy, local_rate=start, rounds=ROUNDS)).run()
    )
    return [r.beta for r in rounds], sum(r.accuracy for r in rounds[-LAST:]) / LAST
