"""The federated demo: FedHyper and client selection beside FedAvg, from three client rates.

scikit-learn's digits are dealt out unevenly to a hundred clients of this one process; in each
round ten of them train a small network. FedAvg draws the ten at random and keeps the rate;
`HeteroSelect` chooses them, and FedHyper's rules G, SL and CL move the rates.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch
from rich.console import Console
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from ..federated import ClientLocalRate, GlobalRate, LocalTraining, ServerLocalRate
from ..federated.rounds import Order, Reply, Rounds
from ..federated.selection import HeteroSelect, Random
from ..federated.server_optimizers import FedAvg
from ..report import Page, Panel, Run
from ..seeding import generator
from .showing import FACTORS, shown, summary

CLIENTS, COUNT, ROUNDS, STEPS, BATCH, HELD_OUT = 100, 10, 50, 20, 32, 360
LAST = 10  # rounds whose mean accuracy is a run's result
RIGHT_RATE = 0.3  # FedAvg's best of a sweep
RATE, ACCURACY = "client learning rate", "accuracy, %"


class Digits:
    """A hundred clients and their images, as `Rounds` wants them."""

    def __init__(self, seed: int, ours: bool) -> None:
        self.seed, self.ours = seed, ours
        draw = generator(seed, "demo", "digits")
        pixels, labels = map(torch.tensor, load_digits(return_X_y=True))
        order = torch.randperm(len(labels), generator=draw)
        self.images, self.labels = (pixels.float()[order] - 5) / 6, labels[order]
        # Each class is dealt out by a Dirichlet draw, as most federated papers do.
        rng = np.random.default_rng(draw.initial_seed())
        shares = rng.dirichlet([0.5] * CLIENTS, size=10)
        owners = np.array([rng.choice(CLIENTS, p=shares[k]) for k in self.labels[HELD_OUT:]])
        parts = [torch.tensor(np.flatnonzero(owners == k)) + HELD_OUT for k in range(CLIENTS)]
        self.parts = {client: part for client, part in enumerate(parts) if len(part)}
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(generator(seed, "demo", "weights").get_state())
            self.model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def rounds(self, rate: float, rounds: int) -> Rounds:
        """Return a run from a client rate, by FedHyper or FedAvg."""
        seed, ours = self.seed, self.ours
        return Rounds(
            parameters_to_vector(self.model.parameters()).detach().clone(),
            self,
            list(self.parts),
            COUNT,
            selector=HeteroSelect(rounds=rounds, seed=seed) if ours else Random(seed=seed),
            server=FedAvg(),
            # G answers the same product: where it lowers alpha, SL need not lower beta.
            local_rate=ServerLocalRate(rate, fall=0.0) if ours else rate,
            global_rate=GlobalRate() if ours else 1.0,
            send_update=ours,
        )

    def train(self, ids: Sequence[Any], order: Order) -> Mapping[Any, Reply]:
        """Train each client from the order's weights."""
        return {client: self._train(client, order) for client in ids}

    def probe(self, ids: Sequence[Any], order: Order) -> Mapping[Any, Any]:
        """Return nothing: neither selector asks."""
        return {}

    def _train(self, client: int, order: Order) -> Reply:
        part = self.parts[client]
        draw = generator(self.seed, "demo", "batches", order.round, client)
        vector_to_parameters(order.weights.clone(), self.model.parameters())
        optimizer = torch.optim.SGD(self.model.parameters(), lr=order.rate)
        rule = ClientLocalRate(order.rate, STEPS, previous_update=order.previous_update)
        local = LocalTraining(
            self.model, optimizer, order.rate, client_rate=rule if self.ours else None
        )
        for _ in range(STEPS):
            rows = part[torch.randint(len(part), (BATCH,), generator=draw)]
            optimizer.zero_grad()
            loss = functional.cross_entropy(self.model(self.images[rows]), self.labels[rows])
            loss.backward()
            local.step(loss)
        counts = torch.bincount(self.labels[part], minlength=10).tolist()
        return Reply(local.update(), local.report(len(part), counts))

    @torch.no_grad()
    def accuracy(self, weights: Tensor) -> float:
        """Return how many of the held-out images are told right, in percent."""
        vector_to_parameters(weights.clone(), self.model.parameters())
        right = self.model(self.images[:HELD_OUT]).argmax(1) == self.labels[:HELD_OUT]
        return 100 * float(right.float().mean())


def run(console: Console, seed: int, length: float = 1.0) -> Page:
    """Run the demo, show it on the way, and return what it has shown."""
    # The numbers must not depend on how many cores a machine has.
    torch.set_num_threads(1)
    pairs = [
        (name, start) for start in FACTORS for name in ("FedAvg", "FedHyper + HeteroSelect")
    ]
    runs = [Run(name, start, name != "FedAvg") for name, start in pairs]
    rates, rounds = [RIGHT_RATE * FACTORS[one.start] for one in runs], round(ROUNDS * length)
    clients = [Digits(seed, one.ours) for one in runs]
    federations = [c.rounds(rate, rounds) for c, rate in zip(clients, rates, strict=True)]
    with shown(console, "A hundred clients learn digits", runs, rounds, "round") as draw:
        for number in range(1, rounds + 1):
            for one, digits, federation in zip(runs, clients, federations, strict=True):
                seen = federation.run_round()
                accuracy = digits.accuracy(federation.weights)
                one.add(number, {RATE: seen.beta * seen.alpha, ACCURACY: accuracy})
                draw()
    ends = [fmean(one.curves[ACCURACY][-LAST:]) for one in runs]
    best = max(end for end, one in zip(ends, runs, strict=True) if not one.ours)
    for one, rate, end in zip(runs, rates, ends, strict=True):
        last, points = f"{one.curves[RATE][-1]:.2g}", f"{end - best:+.1f} points"
        one.cells = [f"{rate:.2g}", last, f"{end:.1f} %", points]
        how = f"came to {last} and ended" if one.ours else "ended"
        start = f"{one.method} from {rate:.2g} ({one.start})"
        one.sentence = (
            f"{start} {how} at {end:.1f} %: {points} relative to the best FedAvg run."
        )
    return Page(
        title="A client learning rate that is right, 30 times too low and 30 times too high",
        runs=runs,
        panels=[Panel(RATE, log=True), Panel(ACCURACY)],
        x_title="round",
        header=["run", "rate", "rate at end", "accuracy", "vs best FedAvg"],
        closing=summary("Held-out accuracy, compared with the best FedAvg run", runs),
        setting=(
            f"scikit-learn's digits, dealt out unevenly to {CLIENTS} clients, {HELD_OUT} held "
            f"out: {rounds} rounds of {COUNT} clients, {STEPS} steps of SGD each, seed {seed}. "
            f"The right rate is FedAvg's best of a sweep. Rates are what clients start a round "
            f"with, times the server's. Accuracy is the mean of the last {LAST} rounds."
        ),
    )
