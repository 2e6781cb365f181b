"""Federated rounds within one process: the algorithms line by line, without a network.

The slow reference beside `hdet.integrations.flower`, and what benchmarks run on. A round:

    A      = selector.candidates(ids), probed;  S = selector.select(t, ids, m)
    Delta_i = what client i of S adds to w^t when it trains from it at rate beta^t
    Delta  = sum_i p_i Delta_i,   p_i = n_i / sum n
    alpha  = global rate from Delta;   w^{t+1} = w^t + alpha * server_step(Delta)
    beta   = local rate from Delta, for the next round

Clients that do not reply, or whose update is not finite, are left out; a round in which nobody
replies changes nothing.
What clients are and how they train is the caller's: see `Clients`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from .baselines import Decay, FedExP
from .rates import GlobalRate, ServerLocalRate
from .selection import ClientReport, Selector
from .server_optimizers import ServerOptimizer
from .vectors import inner


@dataclass(frozen=True)
class Order:
    """What the server sends to the clients of a round.

    Attributes:
        round: t, counted from 1.
        weights: w^t, flat, [n].
        rate: beta^t.
        previous_update: the last round's mean update, new minus old, [n], where clients
            move their own rate; else None.
    """

    round: int
    weights: torch.Tensor
    rate: float
    previous_update: torch.Tensor | None = None


@dataclass(frozen=True)
class Reply:
    """What a client sends back.

    Attributes:
        delta: its weights minus the global ones, flat, [n].
        report: its statistics.
    """

    delta: torch.Tensor
    report: ClientReport


class Clients(Protocol):
    """Whoever trains: one process or many, one after the other or in a batch."""

    def train(self, ids: Sequence[Any], order: Order) -> Mapping[Any, Reply]:
        """Train on each client of `ids`; those that fail are missing from the answer."""
        ...

    def probe(self, ids: Sequence[Any], order: Order) -> Mapping[Any, ClientReport]:
        """Return the loss of `order.weights` on clients' data; failures are missing."""
        ...


@dataclass(frozen=True)
class Round:
    """What happened in one round.

    Attributes:
        round: t.
        selected: ids, in the order of selection.
        probed: how many clients were asked for their loss.
        reports: of the clients that replied.
        alpha: global rate that was used.
        beta: local rate that was used.
        hypergradient: <Delta^t, Delta^{t-1}>, 0 where no rule computes it.
    """

    round: int
    selected: list[Any]
    probed: int
    reports: Mapping[Any, ClientReport]
    alpha: float
    beta: float
    hypergradient: float


Shares = Callable[[Sequence[Any], Mapping[Any, Reply]], Sequence[float]]


def by_examples(ids: Sequence[Any], replies: Mapping[Any, Reply]) -> list[float]:
    """Return weights of the mean: each client's number of examples."""
    return [float(replies[client].report.num_examples) for client in ids]


def equally(ids: Sequence[Any], replies: Mapping[Any, Reply]) -> list[float]:
    """Return equal weights of the mean."""
    return [1.0] * len(ids)


class Rounds:
    """A federated run, round after round.

    Args:
        weights: w^1, flat, [n], floating point.
        clients: who trains.
        ids: all clients, in a fixed order.
        count: m, how many are asked to train in a round.
        selector: who is asked.
        server: what is made of the mean update.
        local_rate: beta; a number, `Decay`, or `ServerLocalRate`.
        global_rate: alpha; a number, `Decay`, `FedExP`, or `GlobalRate`.
        send_update: whether orders carry the last mean update, for `ClientLocalRate`.
        shares: weights of the mean.
    """

    def __init__(
        self,
        weights: torch.Tensor,
        clients: Clients,
        ids: Sequence[Any],
        count: int,
        *,
        selector: Selector,
        server: ServerOptimizer,
        local_rate: float | Decay | ServerLocalRate = 0.01,
        global_rate: float | Decay | FedExP | GlobalRate = 1.0,
        send_update: bool = False,
        shares: Shares = by_examples,
    ) -> None:
        self.weights = weights
        self.judged = weights
        self._clients, self._ids, self._count = clients, list(ids), count
        self._selector, self._server = selector, server
        self._local_rate, self._global_rate = local_rate, global_rate
        self._send_update, self._shares = send_update, shares
        self._update: torch.Tensor | None = None
        self._local_state: dict[str, int] = {}
        self._round = 0

    def run_round(self) -> Round:
        """Run one round; `weights` are the new ones, `judged` those to evaluate."""
        self._round += 1
        beta = self._beta()
        update = self._update if self._send_update else None
        order = Order(self._round, self.weights, beta, update)
        candidates = list(self._selector.candidates(self._ids))
        probes = self._clients.probe(candidates, order) if candidates else None
        selected = self._selector.select(self._round, self._ids, self._count, probes)
        answers = self._clients.train(selected, order)
        replies = {
            client: reply
            for client, reply in answers.items()
            if bool(inner(reply.delta, reply.delta).isfinite())
        }
        reports = {client: reply.report for client, reply in replies.items()}
        self._selector.feedback(self._round, reports)
        alpha, hypergradient = self._aggregate(selected, replies)
        return Round(
            self._round, selected, len(candidates), reports, alpha, beta, hypergradient
        )

    def _beta(self) -> float:
        if isinstance(self._local_rate, Decay):
            self._local_state = self._local_rate.state_dict()
            return self._local_rate.update()
        if isinstance(self._local_rate, ServerLocalRate):
            return self._local_rate.beta
        return self._local_rate

    def _aggregate(
        self, selected: Sequence[Any], replies: Mapping[Any, Reply]
    ) -> tuple[float, float]:
        order = {client: place for place, client in enumerate(self._ids)}
        # A sum depends on its order, and the order of replies on the network.
        replied = [client for client in selected if client in replies]
        ids = sorted(replied, key=lambda client: order[client])
        if not ids:
            if isinstance(self._local_rate, Decay):
                self._local_rate.load_state_dict(self._local_state)
            return 0.0, 0.0
        shares = list(self._shares(ids, replies))
        total = sum(shares)
        delta = torch.zeros_like(self.weights)
        for client, share in zip(ids, shares, strict=True):
            delta += replies[client].delta * (share / total)
        alpha = self._alpha(delta, [replies[client].delta for client in ids], shares)
        step = self._server.step(delta)
        before = self.weights
        self.weights = before + (step if alpha == 1.0 else alpha * step)
        # FedExP oscillates by design; its model is the mean of the last two iterates.
        extrapolated = isinstance(self._global_rate, FedExP)
        self.judged = (before + self.weights) / 2 if extrapolated else self.weights
        self._update = delta
        hypergradient = 0.0
        if isinstance(self._local_rate, ServerLocalRate):
            self._local_rate.update(delta)
            hypergradient = self._local_rate.hypergradient
        if isinstance(self._global_rate, GlobalRate):
            hypergradient = self._global_rate.hypergradient
        return alpha, hypergradient

    def _alpha(
        self, delta: torch.Tensor, deltas: Sequence[torch.Tensor], shares: Sequence[float]
    ) -> float:
        rate = self._global_rate
        if isinstance(rate, Decay):
            return rate.update()
        if isinstance(rate, GlobalRate):
            return rate.update(delta)
        if isinstance(rate, FedExP):
            return rate.update(delta, [float(inner(d, d)) for d in deltas], shares)
        return rate
