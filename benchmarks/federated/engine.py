"""Local training of all selected clients at once, in one batch of small networks.

The idea: ten clients with their own weights are one batched matrix product, ten times
fewer calls than ten clients in turn, and a benchmark of thousands of runs becomes an
affair of minutes. The network has one hidden layer, and its gradient is written out;
`tests/benchmarks/federated/test_engine.py` compares every number with torch's own modules,
one client after the other.

Weights are one flat vector in the order of `torch.nn.Sequential(Linear, ReLU, Linear)`:
hidden matrix [h, d], hidden bias [h], output matrix [10, h], output bias [10].
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hdet.federated.rounds import Order, Reply
from hdet.federated.selection import ClientReport
from hdet.federated.vectors import inner
from hdet.seeding import generator

from .client_rates import DeltaRates, HyperRates
from .methods import Rule, Settings
from .tasks import CLASSES, Split


class Network:
    """A perceptron with one hidden layer on flat weights, for many clients at once.

    Args:
        pixels: d, numbers in an image.
        hidden: h, width of the hidden layer.
    """

    def __init__(self, pixels: int, hidden: int) -> None:
        self.shapes = [(hidden, pixels), (hidden,), (CLASSES, hidden), (CLASSES,)]
        self._sizes = [torch.Size(shape).numel() for shape in self.shapes]
        self.size = sum(self._sizes)

    def initial(self, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return weights [n] as torch's `Linear` draws them: uniform to 1/sqrt(inputs)."""
        parts, draws = [], generator(seed, "weights")
        for matrix, bias in (self.shapes[:2], self.shapes[2:]):
            bound = matrix[1] ** -0.5
            for shape in (matrix, bias):
                drawn = torch.rand(shape, generator=draws, dtype=torch.float64)
                parts.append(((2 * drawn - 1) * bound).flatten())
        return torch.cat(parts).to(dtype)

    def views(self, flat: Tensor) -> list[Tensor]:
        """Return the four parts of [..., n] in their shapes."""
        parts = flat.split(self._sizes, dim=-1)
        return [p.unflatten(-1, s) for p, s in zip(parts, self.shapes, strict=True)]

    def logits(self, flat: Tensor, images: Tensor) -> Tensor:
        """Return [M, 10] for one client's weights [n] and images [M, d]."""
        w1, b1, w2, b2 = self.views(flat)
        return F.linear(F.relu(F.linear(images, w1, b1)), w2, b2)

    def gradient(self, flat: Tensor, images: Tensor, labels: Tensor, out: Tensor) -> Tensor:
        """Write the mean cross-entropy's gradient for each client, and return the loss.

        Args:
            flat: weights, [m, n].
            images: [m, B, d].
            labels: [m, B].
            out: filled with the gradient, [m, n].

        Returns:
            Mean cross-entropy of each client, [m], in nats.
        """
        w1, b1, w2, b2 = self.views(flat)
        g1, gb1, g2, gb2 = self.views(out)
        hidden = torch.baddbmm(b1[:, None], images, w1.transpose(1, 2)).relu_()
        scores = torch.baddbmm(b2[:, None], hidden, w2.transpose(1, 2))
        logs = F.log_softmax(scores, -1)
        losses = -logs.gather(-1, labels[..., None]).squeeze(-1).mean(-1)
        down = logs.exp_()
        down.scatter_add_(
            -1, labels[..., None], down.new_full((1,), -1.0).expand(*labels.shape, 1)
        )
        down /= labels.shape[-1]
        g2.copy_(down.transpose(1, 2) @ hidden)
        gb2.copy_(down.sum(1))
        below = (down @ w2).mul_(hidden > 0)
        g1.copy_(below.transpose(1, 2) @ images)
        gb1.copy_(below.sum(1))
        return losses


class BatchedClients:
    """`hdet.federated.rounds.Clients`, all selected ones trained in one batch.

    Args:
        data: who has what; clients are named by their index in `data.parts`.
        network: the model.
        settings: how they train, and the seed of the order of examples.
        rule: the strategy, of which `client_rate` and `delta_sgd` move the clients' rates.
    """

    def __init__(self, data: Split, network: Network, settings: Settings, rule: Rule) -> None:
        self._data, self._network, self._settings, self._rule = data, network, settings, rule
        self._counts = [data.label_counts(client) for client in range(len(data.parts))]
        # Simulated seconds of a local step of each client, 0.1 to 0.5.
        draws = torch.rand(settings.clients, generator=generator(settings.seed, "seconds"))
        self.seconds = (0.1 + 0.4 * draws).tolist()

    def train(self, ids: Sequence[Any], order: Order) -> Mapping[Any, Reply]:
        """Train on each client of `ids` from `order.weights`, and return all replies."""
        local, rule, count = self._settings, self._rule, len(ids)
        indices = torch.stack([self.batches(client, order.round) for client in ids])
        weights = order.weights.repeat(count, 1)
        gradient, momentum = torch.empty_like(weights), torch.zeros_like(weights)
        rates = None
        if rule.delta_sgd is not None:
            rates = DeltaRates(order.rate, count, **rule.delta_sgd)
        elif rule.client_rate is not None:
            rates = HyperRates(order, local.steps, count, **rule.client_rate)
        losses = []
        for step in range(local.steps):
            at = indices[:, step]
            images, labels = self._data.images[at], self._data.labels[at]
            loss_at = partial(self._loss_at, images, labels, order)
            losses.append(loss_at(weights, gradient))
            if isinstance(rates, DeltaRates):
                rates.follow(weights, gradient, loss_at)
            if local.max_norm is not None:
                norms = gradient.norm(dim=1, keepdim=True)
                gradient.mul_((local.max_norm / (norms + 1e-6)).clamp_max(1.0))
            rate = order.rate if rates is None else rates.next(gradient)
            if local.momentum:
                direction = momentum.mul_(local.momentum).add_(gradient)
            else:
                direction = gradient
            weights.sub_(direction * rate)
        deltas = weights - order.weights
        reports = self._reports(ids, deltas, torch.stack(losses).double())
        every = zip(ids, deltas, reports, strict=True)
        return {client: Reply(delta, report) for client, delta, report in every}

    def _loss_at(
        self, images: Tensor, labels: Tensor, order: Order, weights: Tensor, out: Tensor
    ) -> Tensor:
        """Write the gradient at `weights`, FedProx's term included; return the losses."""
        losses = self._network.gradient(weights, images, labels, out)
        if self._settings.proximal_mu:
            out.add_(weights - order.weights, alpha=self._settings.proximal_mu)
        return losses

    def probe(self, ids: Sequence[Any], order: Order) -> Mapping[Any, ClientReport]:
        """Return the mean loss of `order.weights` on each client's first examples."""
        parts = [self._data.parts[client][: self._settings.probe] for client in ids]
        indices = torch.cat(parts)
        logits = self._network.logits(order.weights, self._data.images[indices])
        losses = F.cross_entropy(logits.double(), self._data.labels[indices], reduction="none")
        return {
            client: ClientReport(
                loss=float(part.mean()),
                num_examples=len(self._data.parts[client]),
                label_counts=self._counts[client],
            )
            for client, part in zip(ids, losses.split([len(p) for p in parts]), strict=True)
        }

    def batches(self, client: int, round_: int) -> Tensor:
        """Return the indices of the examples of each of a client's steps, [K, B]."""
        part, local = self._data.parts[client], self._settings
        draws = generator(local.seed, "batches", round_, client)
        needed = local.steps * local.batch
        passes = -(-needed // len(part))
        order = torch.cat([torch.randperm(len(part), generator=draws) for _ in range(passes)])
        return part[order[:needed]].view(local.steps, local.batch)

    def _reports(
        self, ids: Sequence[Any], deltas: Tensor, losses: Tensor
    ) -> list[ClientReport]:
        means, squares = losses.mean(0).tolist(), losses.square().mean(0).tolist()
        norms = inner(deltas, deltas).sqrt().tolist()
        return [
            ClientReport(
                loss=means[i],
                squared_loss=squares[i],
                num_examples=len(self._data.parts[client]),
                duration=self.seconds[client] * self._settings.steps,
                update=deltas[i],
                update_norm=norms[i],
                label_counts=self._counts[client],
            )
            for i, client in enumerate(ids)
        ]
