"""One federated run within this process, and what is recorded of each round."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hdet.federated import Decay
from hdet.federated.rounds import Round, Rounds

from .engine import BatchedClients, Network
from .methods import Settings, rule_of, selector_of
from .tasks import CLASSES, Split, deal, load

# What a reply to a probe weighs: a loss and the number of examples.
_ANSWER_BYTES = 16


@dataclass(frozen=True)
class RoundRecord:
    """How a round went; losses in nats, accuracies in percent of the test images.

    Attributes:
        loss: mean cross-entropy of the global model on the test images.
        accuracy: of the global model.
        worst_class: the lowest accuracy of a class.
        alpha: global rate that was used.
        beta: local rate that was sent.
        selected: the clients asked to train.
        replied: how many did.
        probed: how many clients were asked for their loss.
        bytes_down: sent to clients, probes' models included.
        bytes_up: received from clients.
    """

    loss: float
    accuracy: float
    worst_class: float
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
        clients: all of them.
        data: who has what.
        network: the model.
    """

    def __init__(self, settings: Settings, data: Split | None = None) -> None:
        self._settings = s = settings
        self.data = data or split_of(s)
        self.network = Network(self.data.images.shape[1], s.hidden)
        rule = rule_of(s)
        self._sends_update = rule.client_rate is not None
        local_rate = rule.local_rate
        if s.final_share != 1.0 and isinstance(local_rate, float):
            local_rate = Decay(local_rate, s.final_share ** (1 / s.rounds))
        self.clients = BatchedClients(self.data, self.network, s, rule)
        self.rounds = Rounds(
            self.network.initial(s.seed, getattr(torch, s.dtype)),
            self.clients,
            list(range(s.clients)),
            s.count,
            selector=selector_of(s),
            server=rule.server,
            local_rate=local_rate,
            global_rate=rule.global_rate,
            send_update=self._sends_update,
        )

    def run(self) -> Iterator[RoundRecord]:
        """Run all rounds, and yield the record of each when it is over."""
        for _ in range(self._settings.rounds):
            yield self._record(self.rounds.run_round())

    def _record(self, outcome: Round) -> RoundRecord:
        loss, accuracy, worst = judge(self.network, self.rounds.eval_weights, self.data)
        model = self.rounds.weights.element_size() * self.network.size
        # From round two on the last update goes along with the weights.
        copies = 2 if self._sends_update and outcome.round > 1 else 1
        return RoundRecord(
            loss,
            accuracy,
            worst,
            outcome.alpha,
            outcome.beta,
            [int(str(client)) for client in outcome.selected],
            len(outcome.reports),
            outcome.probed,
            model * (copies * len(outcome.selected) + outcome.probed),
            model * len(outcome.reports) + _ANSWER_BYTES * outcome.probed,
        )


def split_of(settings: Settings) -> Split:
    """Return the data of a run, dealt out to its clients."""
    s, dtype = settings, getattr(torch, settings.dtype)
    images, labels, test_images, test_labels = load(s.task, s.pool)
    parts = deal(labels, s.clients, s.concentration, s.seed)
    return Split(images.to(dtype), labels, test_images.to(dtype), test_labels, parts)


def judge(network: Network, weights: Tensor, data: Split) -> tuple[float, float, float]:
    """Return test loss in nats, accuracy and the worst class's accuracy, in percent."""
    logits = network.logits(weights, data.test_images)
    right = (logits.argmax(1) == data.test_labels).double()
    totals = torch.bincount(data.test_labels, minlength=CLASSES).clamp_min(1)
    by_class = torch.bincount(data.test_labels, right, minlength=CLASSES) / totals
    loss = F.cross_entropy(logits.double(), data.test_labels)
    return float(loss), 100 * float(right.mean()), 100 * float(by_class.min())
