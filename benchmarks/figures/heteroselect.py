"""HeteRo-Select: how often each of ten unlike clients is chosen, and how balanced they are."""

from pathlib import Path

import numpy as np
import torch

from hdet.federated.selection import ClientReport, HeteroSelect, Oort, Random, Selector
from hdet.federated.selection.terms import js_divergence

from .drawing import concept

ROUNDS, COUNT = 400, 3
# Clients 1 to 7 have class 0, and 8 to 10 the two others; some have more examples.
LABELS = torch.tensor(
    [[40, 0, 0]] * 4 + [[80, 0, 0]] * 2 + [[160, 0, 0]] + [[0, 60, 0]] + [[0, 0, 60]] * 2
).double()
LOSSES = [0.5] * 7 + [0.8, 0.8, 0.8]


def draw(folder: Path) -> None:
    """Let three selectors choose among the same clients, and draw the shares of rounds."""
    title = "Ten clients, three chosen a round: who takes part"
    with concept(folder, "heteroselect", 3.4, title) as figure:
        ax = figure.subplots()
        selectors = (Random(), Oort(alpha=0.0), HeteroSelect(rounds=ROUNDS))
        for k, selector in enumerate(selectors):
            shares, distance = _chosen(selector)
            name = type(selector).__name__
            label = f"{name}: cohorts {distance:.2f} from everybody's labels"
            ax.bar(np.arange(10) + 0.27 * (k - 1), 100 * shares, 0.25, label=label)
        names = [f"{int(row.sum())}\n{'ABC'[int(row.argmax())]}" for row in LABELS]
        ax.set_xticks(range(10), names)
        ax.set_ylim(0, 150)
        ax.set_yticks(range(0, 101, 25))
        ax.set(xlabel="examples of the client, and its only label", ylabel="% of rounds")
        ax.legend(loc="upper left")


def _chosen(selector: Selector) -> tuple[np.ndarray, float]:
    """Return each client's share of the rounds, and the cohorts' mean distance."""
    clients, counts, distances = list(range(10)), np.zeros(10), []
    for number in range(1, ROUNDS + 1):
        chosen = selector.select(number, clients, COUNT)
        reports = {
            k: ClientReport(
                loss=LOSSES[k],
                num_examples=int(LABELS[k].sum()),
                label_counts=LABELS[k].int().tolist(),
            )
            for k in map(int, chosen)
        }
        selector.feedback(number, reports)
        counts[list(reports)] += 1
        cohort = LABELS[list(reports)].sum(0, keepdim=True)
        distances.append(float(js_divergence(cohort, LABELS.sum(0))))
    return counts / ROUNDS, float(np.mean(distances))
