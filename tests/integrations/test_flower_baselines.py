"""FedExP and decay on Flower, and Flower against the rounds within one process."""

from collections.abc import Hashable, Mapping, Sequence

import pytest
import torch
from flwr.app import ArrayRecord, Message
from flwr.serverapp import strategy as flower
from torch import Tensor

from hdet.federated import FedExP as ExtrapolatedRate
from hdet.federated import GlobalRate, ServerLocalRate, rounds, server_optimizers
from hdet.federated.local_training import LocalTraining
from hdet.federated.selection import ClientReport, Random
from hdet.integrations.flower import Decay, FedExP, FedHyper

from .flower_clients import (
    RATE,
    STEPS,
    client_app,
    config,
    data,
    flat,
    grid,
    metrics,
    model,
    run,
)

F64 = torch.float64


def fedavg() -> flower.FedAvg:
    return flower.FedAvg(fraction_evaluate=0.0)


class Clients:
    """The clients of `client_app`, within this process and in float64."""

    def train(
        self, ids: Sequence[Hashable], order: rounds.Order
    ) -> Mapping[Hashable, rounds.Reply]:
        return {i: self._reply(i, order) for i in ids}

    def probe(
        self, ids: Sequence[Hashable], order: rounds.Order
    ) -> Mapping[Hashable, ClientReport]:
        raise NotImplementedError

    def _reply(self, partition, order: rounds.Order) -> rounds.Reply:
        net = model(dtype=F64)
        torch.nn.utils.vector_to_parameters(order.weights.clone(), net.parameters())
        optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
        local = LocalTraining(net, optimizer, order.rate)
        x, y = data(partition, F64)
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = (net(x) - y).square().mean()
            loss.backward()
            local.step(loss)
        return rounds.Reply(local.update(), local.report(len(x)))


def in_one_process(server: server_optimizers.ServerOptimizer, count: int, **rates) -> Tensor:
    start = torch.nn.utils.parameters_to_vector(model(dtype=F64).parameters()).detach()
    settings = {"local_rate": RATE, **rates}
    run = rounds.Rounds(
        start, Clients(), range(5), 5, selector=Random(), server=server, **settings
    )
    for _ in range(count):
        run.run_round()
    return run.eval_weights


def on_flower(strategy: flower.Strategy, count: int) -> Tensor:
    initial = ArrayRecord(model(dtype=F64).state_dict())
    return flat(run(strategy, grid(client_app(dtype=F64)), count, initial).arrays)


PAIRS = {
    "FedAvg": (server_optimizers.FedAvg, fedavg),
    "FedAvgM": (
        lambda: server_optimizers.FedAvgM(eta=0.8, momentum=0.9),
        lambda: flower.FedAvgM(
            fraction_evaluate=0.0, server_learning_rate=0.8, server_momentum=0.9
        ),
    ),
    "FedAdam": (
        lambda: server_optimizers.FedAdam(),
        lambda: flower.FedAdam(fraction_evaluate=0.0),
    ),
    "FedAdagrad": (
        lambda: server_optimizers.FedAdagrad(),
        lambda: flower.FedAdagrad(fraction_evaluate=0.0),
    ),
    "FedYogi": (
        lambda: server_optimizers.FedYogi(),
        lambda: flower.FedYogi(fraction_evaluate=0.0),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_our_server_optimizers_are_flowers(name):
    ours, theirs = PAIRS[name]
    expected = on_flower(theirs(), 5)
    torch.testing.assert_close(in_one_process(ours(), 5), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_fedhyper_on_flower_is_fedhyper_within_one_process(name):
    ours, theirs = PAIRS[name]
    local_rate = ServerLocalRate(RATE, step="cosine", fall=0.0)
    rates = {"local_rate": local_rate, "global_rate": GlobalRate(step="cosine")}
    expected = in_one_process(ours(), 3, **rates)
    found = on_flower(FedHyper(theirs(), mode="g+sl", beta=RATE), 3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_fedexp_extrapolates_by_its_formula_and_ends_between_two_models():
    seen: dict[int, dict[int, Tensor]] = {}

    def keep(partition: int, at: int, answer: Message) -> Message:
        seen.setdefault(at, {})[partition] = flat(answer.content.array_records["arrays"])
        return answer

    strategy = FedExP(fedavg(), eps=1e-3)
    with pytest.raises(RuntimeError, match="after the first round"):
        _ = strategy.final_arrays
    w = flat(ArrayRecord(model(dtype=F64).state_dict()))
    initial = ArrayRecord(model(dtype=F64).state_dict())
    result = run(strategy, grid(client_app(dtype=F64, tamper=keep)), 3, initial)
    shares = torch.tensor([8.0 + 2 * i for i in range(5)], dtype=F64)
    shares /= shares.sum()
    before = w
    for t in (1, 2, 3):
        deltas = torch.stack([seen[t][i] for i in range(5)]) - w
        mean = shares @ deltas
        spread = float(shares @ deltas.square().sum(1))
        eta = max(1.0, spread / (2 * (float(mean @ mean) + 1e-3)))
        assert metrics(result, t)["fedexp-alpha"] == pytest.approx(eta, rel=1e-12)
        before, w = w, w + eta * mean
    torch.testing.assert_close(flat(result.arrays), w, rtol=0, atol=1e-13)
    final = flat(strategy.final_arrays)
    torch.testing.assert_close(final, (w + before) / 2, rtol=0, atol=1e-13)


@pytest.mark.parametrize("count", [1, 3])
def test_fedexps_final_model_is_the_one_evaluated_within_one_process(count):
    expected = in_one_process(server_optimizers.FedAvg(), count, global_rate=ExtrapolatedRate())
    strategy = FedExP(fedavg())
    on_flower(strategy, count)
    torch.testing.assert_close(flat(strategy.final_arrays), expected, rtol=0, atol=1e-12)


def test_fedexp_extrapolates_where_clients_disagree():
    """Clients that cancel each other in the mean: the step is longer than their mean."""

    def disagree(partition: int, at: int, answer: Message) -> Message:
        start = model().state_dict()
        sign = 1.0 if partition % 2 else -1.0
        moved = {n: v + sign * (0.1 + 0.01 * partition) for n, v in start.items()}
        answer.content["arrays"] = ArrayRecord(moved)
        return answer

    result = run(FedExP(fedavg(), eps=0.0), grid(client_app(tamper=disagree), 4), 1)
    assert metrics(result, 1)["fedexp-alpha"] > 2.0


def test_a_decaying_local_rate_reaches_the_messages():
    nodes = grid()
    result = run(Decay(fedavg(), 0.1, 0.5), nodes, 3)
    sent = [config(m)["lr"] for m in nodes.of_type("train")]
    assert sent == [0.1] * 5 + [0.05] * 5 + [0.025] * 5
    assert [metrics(result, t)["decay-beta"] for t in (1, 2, 3)] == [0.1, 0.05, 0.025]


def test_a_decaying_global_rate_scales_the_step():
    first = run(Decay(fedavg(), 1.0, 0.5, of="global"), rounds=1).arrays
    both = run(Decay(fedavg(), 1.0, 0.5, of="global"), rounds=2)
    whole = run(fedavg(), rounds=1, initial=first).arrays
    expected = flat(first) + 0.5 * (flat(whole) - flat(first))
    torch.testing.assert_close(flat(both.arrays), expected, rtol=1e-6, atol=1e-7)
    assert metrics(both, 2)["decay-alpha"] == 0.5


def test_a_round_that_fails_is_repeated_at_its_rate():
    def fails_in_two(partition: int, at: int, answer: Message) -> Message:
        if at == 2:
            raise RuntimeError("power cut")
        return answer

    nodes = grid(client_app(tamper=fails_in_two))
    run(Decay(fedavg(), 0.1, 0.5), nodes, 3)
    sent = [config(m)["lr"] for m in nodes.of_type("train")]
    assert sent == [0.1] * 5 + [0.05] * 10


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FedExP(fedavg(), eps=-1.0), "eps=-1.0"),
        (lambda: Decay(fedavg(), 0.1, of="both"), "of='both'"),
        (lambda: Decay(fedavg(), 0.1, factor=1.5), "factor=1.5"),
        (lambda: Decay(fedavg(), 0.0), "above 0"),
    ],
)
def test_bad_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
