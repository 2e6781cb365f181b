"""One federated run within this process, and what is recorded of each round."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hdet.federated import Decay
from hdet.federated.rounds import Round, Rounds
from hdet.seeding import generator

from .data import CLASSES, Split, split
from .engine import BatchedClients, Local, Network
from .settings import SELECTORS, STRATEGIES, Settings

# What a reply to a probe weighs: a loss and the number of examples.
_ANSWER_BYTES = 16


@dataclass(frozen=True)
class RoundRecord:
    """How a round went; losses in nats, accuracies in percent of the test images.

    Attributes:
        round: from 1.
        loss: mean cross-entropy of the global model on the test images.
        accuracy: of the global model.
        worst_class: the lowest accuracy of a class.
        train_loss: mean loss of the clients' local steps; None if nobody replied.
        alpha: global rate that was used.
        beta: local rate that was sent.
        selected: places of the clients asked to train.
        replied: how many did.
        probed: how many clients were asked for their loss.
        bytes_down: sent to clients, probes' models included.
        bytes_up: received from clients.
    """

    round: int
    loss: float
    accuracy: float
    worst_class: float
    train_loss: float | None
    alpha: float
    beta: float
    selected: list[int]
    replied: int
    probed: int
    bytes_down: int
    bytes_up: int


class Federation:
    """A run within this process: data, network, and its rounds.

    Args:
        settings: the run.
        data: the split data, if already made; made from the settings if None.

    Attributes:
        rounds: the run's `hdet.federated.rounds.Rounds`.
        data: who has what.
        network: the model.
    """

    def __init__(self, settings: Settings, data: Split | None = None) -> None:
        self.settings = settings
        dtype = getattr(torch, settings.dtype)
        self.data = data or split_of(settings)
        self.network = Network(self.data.images.shape[1], settings.hidden)
        rule = STRATEGIES[settings.strategy](settings)
        self._client_rate = rule.client_rate
        local_rate = rule.local_rate
        if settings.final_share != 1.0 and isinstance(local_rate, float):
            local_rate = Decay(local_rate, settings.final_share ** (1 / settings.rounds))
        self.clients = BatchedClients(
            self.data, self.network, local_of(settings), settings.seed, seconds_of(settings)
        )
        self.rounds = Rounds(
            self.network.initial(settings.seed, dtype),
            self.clients,
            list(range(settings.clients)),
            settings.count,
            selector=SELECTORS[settings.selector](settings),
            server=rule.server,
            local_rate=local_rate,
            global_rate=rule.global_rate,
            send_update=rule.client_rate is not None,
        )

    def run(self) -> Iterator[RoundRecord]:
        """Run all rounds, and yield the record of each when it is over."""
        for _ in range(self.settings.rounds):
            yield self._record(self.rounds.run_round())

    def _record(self, outcome: Round) -> RoundRecord:
        loss, accuracy, worst = judge(self.network, self.rounds.eval_weights, self.data)
        sent = self.rounds.weights.element_size() * self.network.size
        # From round two on the last update goes along with the weights.
        copies = 2 if self._client_rate is not None and outcome.round > 1 else 1
        losses = [report.loss for report in outcome.reports.values()]
        return RoundRecord(
            outcome.round,
            loss,
            accuracy,
            worst,
            sum(losses) / len(losses) if losses else None,
            outcome.alpha,
            outcome.beta,
            [int(str(client)) for client in outcome.selected],
            len(outcome.reports),
            outcome.probed,
            sent * (copies * len(outcome.selected) + outcome.probed),
            sent * len(outcome.reports) + _ANSWER_BYTES * outcome.probed,
        )


def split_of(settings: Settings) -> Split:
    """Return the data of a run, dealt out to its clients."""
    return split(
        settings.task,
        settings.clients,
        settings.concentration,
        settings.seed,
        settings.data,
        getattr(torch, settings.dtype),
        settings.pool,
    )


def local_of(settings: Settings) -> Local:
    """Return how the clients of a run train."""
    rule = STRATEGIES[settings.strategy](settings)
    return Local(
        steps=settings.steps,
        batch=settings.batch,
        momentum=settings.momentum,
        proximal_mu=settings.proximal_mu,
        max_norm=settings.max_norm,
        client_rate=rule.client_rate,
        delta_sgd=rule.delta_sgd,
        probe=settings.probe,
    )


def seconds_of(settings: Settings) -> list[float]:
    """Return simulated seconds of a local step of each client, 0.1 to 0.5, fixed."""
    draws = torch.rand(settings.clients, generator=generator(settings.seed, "seconds"))
    return (0.1 + 0.4 * draws).tolist()


def judge(network: Network, weights: Tensor, data: Split) -> tuple[float, float, float]:
    """Return test loss in nats, accuracy and the worst class's accuracy, in percent."""
    logits = network.logits(weights, data.test_images)
    right = (logits.argmax(1) == data.test_labels).double()
    totals = torch.bincount(data.test_labels, minlength=CLASSES).clamp_min(1)
    by_class = torch.bincount(data.test_labels, right, minlength=CLASSES) / totals
    loss = F.cross_entropy(logits.double(), data.test_labels)
    return float(loss), 100 * float(right.mean()), 100 * float(by_class.min())
