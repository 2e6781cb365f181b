"""The federated demo: FedHyper and client selection beside FedAvg, from three client rates.

scikit-learn's digits are dealt out unevenly to a hundred clients of this one process; in each
round ten of them train a small network. FedAvg draws the ten at random and keeps the rate;
`HeteroSelect` chooses them, and FedHyper's rules G, SL and CL move the rates.
"""

from collections.abc import Mapping, Sequence
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
from .showing import shown, summary

CLIENTS, COUNT, ROUNDS, STEPS, BATCH, HELD_OUT = 100, 10, 50, 20, 32, 360
LAST = 10  # rounds whose mean accuracy is a run's result
RIGHT_RATE = 0.1  # where FedAvg ended best
FACTORS = {"30x too low": 1 / 30, "right": 1.0, "30x too high": 30.0}
RATE, ACCURACY = "client learning rate", "held-out accuracy, %"


class Digits:
    """A hundred clients and what they have, as `Rounds` wants them."""

    def __init__(self, seed: int, moves_rate: bool) -> None:
        self.seed, self.moves_rate = seed, moves_rate
        draw = generator(seed, "demo", "digits")
        pixels, labels = map(torch.tensor, load_digits(return_X_y=True))
        order = torch.randperm(len(labels), generator=draw)
        self.images, self.labels = (pixels.float()[order] / 16 - 0.3) / 0.38, labels[order]
        # Each class is shared out by a Dirichlet draw, as most federated papers do.
        rng = np.random.default_rng(draw.initial_seed())
        shares = rng.dirichlet([0.5] * CLIENTS, size=10)
        owners = np.array([rng.choice(CLIENTS, p=shares[k]) for k in self.labels[HELD_OUT:]])
        parts = {
            client: np.flatnonzero(owners == client) + HELD_OUT for client in range(CLIENTS)
        }
        self.parts = {client: torch.tensor(part) for client, part in parts.items() if len(part)}
        torch_state = torch.get_rng_state()
        torch.set_rng_state(generator(seed, "demo", "weights").get_state())
        self.model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        torch.set_rng_state(torch_state)
        self.start = parameters_to_vector(self.model.parameters()).detach().clone()

    def train(self, ids: Sequence[Any], order: Order) -> Mapping[Any, Reply]:
        """Train each client from the order's weights."""
        return {client: self._train(client, order) for client in ids}

    def probe(self, ids: Sequence[Any], order: Order) -> Mapping[Any, Any]:
        """Neither selector asks anybody."""
        return {}

    def _train(self, client: int, order: Order) -> Reply:
        part = self.parts[client]
        draw = generator(self.seed, "demo", "batches", order.round, client)
        vector_to_parameters(order.weights.clone(), self.model.parameters())
        optimizer = torch.optim.SGD(self.model.parameters(), lr=order.rate)
        rule = None
        if self.moves_rate:
            rule = ClientLocalRate(order.rate, STEPS, previous_update=order.previous_update)
        local = LocalTraining(self.model, optimizer, order.rate, client_rate=rule)
        for _ in range(STEPS):
            rows = part[torch.randint(len(part), (BATCH,), generator=draw)]
            optimizer.zero_grad()
            loss = functional.cross_entropy(self.model(self.images[rows]), self.labels[rows])
            loss.backward()
            local.step(loss)
        counts = torch.bincount(self.labels[part], minlength=10)
        return Reply(local.update(), local.report(len(part), counts))

    @torch.no_grad()
    def accuracy(self, weights: Tensor) -> float:
        """Return the share of held-out images that are told right, in percent."""
        vector_to_parameters(weights.clone(), self.model.parameters())
        right = self.model(self.images[:HELD_OUT]).argmax(1) == self.labels[:HELD_OUT]
        return 100 * float(right.float().mean())


def _rounds(seed: int, rate: float, ours: bool) -> tuple[Digits, Rounds]:
    clients = Digits(seed, moves_rate=ours)
    return clients, Rounds(
        clients.start,
        clients,
        list(clients.parts),
        COUNT,
        selector=HeteroSelect(rounds=ROUNDS, seed=seed) if ours else Random(seed=seed),
        server=FedAvg(),
        # Both rules answer the same product: where G lowers alpha, beta need not fall.
        local_rate=ServerLocalRate(rate, fall=0.0) if ours else rate,
        global_rate=GlobalRate() if ours else 1.0,
        send_update=ours,
    )


def run(seed: int, console: Console, rounds: int = ROUNDS) -> Page:
    """Run the demo, show it on the way, and return what it has shown."""
    methods = {"FedAvg": False, "FedHyper + HeteroSelect": True}
    runs = [Run(name, start, ours) for start in FACTORS for name, ours in methods.items()]
    rates = [RIGHT_RATE * FACTORS[one.start] for one in runs]
    made = [_rounds(seed, rate, one.ours) for rate, one in zip(rates, runs, strict=True)]
    with shown(console, "A hundred clients learn digits", runs, rounds, "round") as draw:
        for number in range(1, rounds + 1):
            for one, (clients, federation) in zip(runs, made, strict=True):
                seen = federation.run_round()
                accuracy = clients.accuracy(federation.weights)
                one.add(number, {RATE: seen.beta * seen.alpha, ACCURACY: accuracy})
                draw()
    ends = [float(np.mean(one.curves[ACCURACY][-LAST:])) for one in runs]
    best = max(end for end, one in zip(ends, runs, strict=True) if not one.ours)
    for one, rate, end in zip(runs, rates, ends, strict=True):
        against = f"{abs(end - best):.1f} points {'below' if end < best else 'above'}"
        against = "the best FedAvg run" if end == best and not one.ours else against
        found = f"{one.curves[RATE][-1]:.2g}"
        one.cells = [f"{rate:.2g}", found, f"{end:.1f} %", against]
        how = f"came to {found} and ended" if one.ours else "ended"
        one.sentence = (
            f"{one.method} from {rate:.2g} ({one.start}) {how} at {end:.1f} %: {against}."
        )
    return Page(
        title="A client learning rate that is right, 30 times too low and 30 times too high",
        runs=runs,
        panels=[Panel(RATE, log=True), Panel(ACCURACY)],
        x_title="round",
        header=["run", "rate at start", "rate at end", "accuracy", "beside best FedAvg run"],
        closing=summary("Held-out accuracy beside the best FedAvg run", runs),
        setting=(f"..."),
    )
