"""Federated rounds within one process: the algorithms line by line, without a network.

The slow reference for `hdet.integrations.flower`, on which the benchmarks run. A round:

    A      = selector.candidates(ids), probed;  S = selector.select(t, ids, m)
    Delta_i = what client i of S adds to w^t when it trains from it at rate beta^t
    Delta  = sum_i p_i Delta_i,   p_i = n_i / sum n
    alpha  = global rate from Delta;   w^{t+1} = w^t + alpha * server_step(Delta)
    beta   = local rate from Delta, for the next round

Clients that do not reply, or whose update is not finite, are left out; a round without any
reply changes nothing. The caller says what clients are and how they train: see `Clients`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from .baselines import Decay, FedExP
from .hypergradient import Hypergradient
from .rates import GlobalRate, ServerLocalRate
from .selection import ClientReport, Selector
from .server_optimizers import ServerOptimizer
from .vectors import inner


@dataclass(frozen=True)
class Order:
    """The message to the clients of a round.

    Attributes:
        round: t, counted from 1.
        weights: w^t, flat, [n].
        rate: beta^t.
        previous_update: the last round's mean update, new minus old, [n], if clients move
            their own rate; else None.
    """

    round: int
    weights: torch.Tensor
    rate: float
    previous_update: torch.Tensor | None = None


@dataclass(frozen=True)
class Reply:
    """A client's reply.

    Attributes:
        delta: its weights minus the global ones, flat, [n].
        report: its statistics.
    """

    delta: torch.Tensor
    report: ClientReport


class Clients(Protocol):
    """The clients, which may train one after another or in a batch."""

    def train(self, ids: Sequence[Any], order: Order) -> Mapping[Any, Reply]:
        """Train each client of `ids` by `order`; those that fail are missing in the result."""
        ...

    def probe(self, ids: Sequence[Any], order: Order) -> Mapping[Any, ClientReport]:
        """Return the loss of the weights in `order` on the data of each of `ids`; likewise."""
        ...


@dataclass(frozen=True)
class Round:
    """The outcome of one round.

    Attributes:
        round: t.
        selected: ids, in the order of the run's `ids`.
        probed: how many clients were asked for their loss.
        reports: of the clients that replied.
        alpha: global rate that was used.
        beta: local rate that was used.
        hypergradient: <Delta^t, Delta^{t-1}>; 0 without FedHyper, and in its first round.
    """

    round: int
    selected: list[Any]
    probed: int
    reports: Mapping[Any, ClientReport]
    alpha: float
    beta: float
    hypergradient: float


_FOLLOWING = (GlobalRate, ServerLocalRate)

Shares = Callable[[Mapping[Any, Reply]], Sequence[float]]


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
        shares: returns the weights of the mean from the replies by id; None is by examples.

    Attributes:
        weights: w^{t+1}, from which the next round starts.
        eval_weights: those to evaluate: `weights`, and with FedExP, which overshoots by design,
            the mean of the last two.
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
        shares: Shares | None = None,
    ) -> None:
        self.weights = self.eval_weights = weights
        self._clients, self._ids, self._count = clients, list(ids), count
        self._selector, self._server = selector, server
        self._local_rate, self._global_rate = local_rate, global_rate
        self._send_update, self._shares = send_update, shares
        rules = [r for r in (global_rate, local_rate) if isinstance(r, _FOLLOWING)]
        self._follows = bool(rules)
        # One for both rules, kept in the first, so that their states are the run's.
        self._hypergradient = rules[0].memory if rules else Hypergradient()
        self._round = 0

    def run_round(self) -> Round:
        """Run one round and return what happened in it."""
        self._round += 1
        beta = self._beta()
        update = self._hypergradient.previous if self._send_update else None
        order = Order(self._round, self.weights, beta, update)
        candidates = list(self._selector.candidates(self._ids))
        probes = self._clients.probe(candidates, order) if candidates else None
        selected = self._selector.select(self._round, self._ids, self._count, probes)
        answers = self._clients.train(selected, order)
        # In the order of `ids`: a sum depends on its order, and that of replies on the network.
        replied = set(selected) & answers.keys()
        deltas = {i: answers[i].delta for i in self._ids if i in replied}
        squares = {i: float(inner(delta, delta)) for i, delta in deltas.items()}
        replies = {i: answers[i] for i, square in squares.items() if math.isfinite(square)}
        reports = {client: reply.report for client, reply in replies.items()}
        self._selector.feedback(self._round, reports)
        alpha = self._aggregate(replies, [squares[i] for i in replies]) if replies else 0.0
        h = self._hypergradient.value if replies and self._follows else 0.0
        return Round(self._round, selected, len(candidates), reports, alpha, beta, h)

    def _beta(self) -> float:
        if isinstance(self._local_rate, Decay):
            return self._local_rate.rate
        if isinstance(self._local_rate, ServerLocalRate):
            return self._local_rate.beta
        return self._local_rate

    def _aggregate(self, replies: Mapping[Any, Reply], squares: Sequence[float]) -> float:
        """Move the weights and the rates by the replies, and return alpha."""
        if self._shares is None:
            shares = [float(reply.report.num_examples) for reply in replies.values()]
        else:
            shares = list(self._shares(replies))
        total = sum(shares)
        delta = torch.zeros_like(self.weights)
        for reply, share in zip(replies.values(), shares, strict=True):
            delta += reply.delta * (share / total)
        if self._follows:
            self._hypergradient.update(delta)
        else:
            self._hypergradient.previous = delta
        alpha = self._alpha(delta, squares, shares)
        if isinstance(self._local_rate, ServerLocalRate):
            self._local_rate.follow(self._hypergradient)
        elif isinstance(self._local_rate, Decay):
            self._local_rate.update()
        before, step = self.weights, self._server.step(delta)
        self.weights = before + (step if alpha == 1.0 else alpha * step)
        extrapolates = isinstance(self._global_rate, FedExP)
        self.eval_weights = (before + self.weights) / 2 if extrapolates else self.weights
        return alpha

    def _alpha(
        self, delta: torch.Tensor, squares: Sequence[float], shares: Sequence[float]
    ) -> float:
        rate = self._global_rate
        if isinstance(rate, Decay):
            return rate.update()
        if isinstance(rate, GlobalRate):
            return rate.follow(self._hypergradient)
        if isinstance(rate, FedExP):
            return rate.update(delta, squares, shares)
        return rate
