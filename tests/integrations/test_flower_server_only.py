"""Clients of Flower's own app, which know nothing of hdet: what works, and what is said."""

import logging
from collections.abc import Mapping
from types import MappingProxyType

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg, QFedAvg, Result, Strategy

from hdet.federated.selection import HeteroSelect, Oort, PowerOfChoice, Random
from hdet.integrations.flower import Decay, FedHyper, SelectClients

from .flower_clients import client_app, config, data, grid, model
from .local_grid import LocalGrid

LOCAL_STEPS = 3
NODES = 6


def stock_app(
    rate: str = "lr", loss: str = "train_loss", examples: str = "num-examples"
) -> ClientApp:
    """Return an app as Flower's own PyTorch template has it."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        net = model()
        net.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        optimizer = torch.optim.SGD(net.parameters(), lr=float(config(message)[rate]))
        x, y = data(int(context.node_config["partition-id"]), torch.float32)
        errors = []
        for _ in range(LOCAL_STEPS):
            optimizer.zero_grad()
            error = (net(x) - y).square().mean()
            error.backward()
            optimizer.step()
            errors.append(float(error.detach()))
        told = MetricRecord({loss: errors[-1], examples: len(x)})
        content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": told})
        return Message(content, reply_to=message)

    return app


def start(
    strategy: Strategy,
    nodes: LocalGrid,
    rounds: int = 3,
    config: Mapping[str, float | str] = MappingProxyType({"lr": 0.1}),
) -> Result:
    return strategy.start(
        nodes,
        ArrayRecord(model().state_dict()),
        rounds,
        train_config=ConfigRecord(dict(config)),
    )


def fedavg() -> FedAvg:
    return FedAvg(fraction_evaluate=0.0)


def rates(nodes: LocalGrid, name: str = "lr") -> list[set[float]]:
    by_round: dict[int, set[float]] = {}
    for message in nodes.of_type("train"):
        told = config(message)
        by_round.setdefault(told["server-round"], set()).add(told[name])
    return list(by_round.values())


def test_the_apps_own_rate_is_where_fedhyper_begins():
    nodes = grid(stock_app(), NODES)
    strategy = FedHyper(fedavg())
    result = start(strategy, nodes)
    sent = rates(nodes)
    assert sent[0] == sent[1] == {0.1}
    # SL's first answer comes with the second update; with the same signs the rate grows.
    assert len(sent[2]) == 1
    assert sent[2] != {0.1}
    assert result.train_metrics_clientapp[1]["fedhyper-beta"] == 0.1


def test_without_any_rate_it_begins_at_its_own_default():
    nodes = grid(stock_app(), NODES)
    start(FedHyper(fedavg()), nodes, 1, {"note": "none"})
    assert rates(nodes) == [{0.01}]


@pytest.mark.parametrize("name", ["learning-rate", "learning_rate"])
def test_other_usual_names_of_the_rate_are_understood(name):
    nodes = grid(stock_app(rate=name), NODES)
    start(FedHyper(fedavg()), nodes, config={name: 0.2})
    assert rates(nodes, name)[0] == {0.2}
    assert rates(nodes, name) == rates(nodes, "lr")


@pytest.mark.parametrize(
    "wrap",
    [
        # Without G the local rate follows the product down, too.
        lambda s: FedHyper(s, mode="sl", rate_key="eta"),
        lambda s: Decay(s, 0.2, rate_key="eta"),
    ],
)
def test_any_other_name_of_the_rate_can_be_said(wrap):
    nodes = grid(stock_app(rate="eta"), NODES)
    start(wrap(fedavg()), nodes, config={"eta": 0.2})
    assert rates(nodes, "eta")[0] == {0.2}
    assert rates(nodes, "eta") == rates(nodes, "lr")
    assert len(set.union(*rates(nodes, "eta"))) > 1


def test_two_rates_are_refused_before_any_message():
    nodes = grid(stock_app(), NODES)
    with pytest.raises(ValueError, match=r"beta=0.3.*differs from train_config's lr=0.1"):
        start(FedHyper(fedavg(), beta=0.3), nodes)
    with pytest.raises(ValueError, match=r"beta=.*-1"):
        start(FedHyper(fedavg()), nodes, config={"lr": -1.0})
    assert nodes.calls == 0


def test_decay_says_that_it_takes_its_own_rate(warned):
    nodes = grid(stock_app(), NODES)
    start(Decay(fedavg(), 0.2, 0.5), nodes)
    assert rates(nodes) == [{0.2}, {0.1}, {0.05}]
    assert warned().count("begins at rate=0.2, and train_config's {'lr': 0.1} is not used") == 1


def test_what_clients_do_not_do_is_said_once_with_the_lines_to_add(warned):
    start(FedHyper(SelectClients(fedavg(), HeteroSelect(), 3)), grid(stock_app(), NODES))
    said = warned()
    for once in (
        "report neither 'update-norm' nor 'local-rate'",
        "at the rate that they are sent as config['lr']",
        "local = local_training(message, model, optimizer, steps=len(batches))",
        "send no 'label-counts', by which HeteroSelect knows",
        "could not answer the query",
        '@app.query("selection")',
        "named no partition",
    ):
        assert said.count(once) == 1, once


def test_nothing_is_said_of_clients_that_do_it_all(warned):
    strategy = FedHyper(SelectClients(fedavg(), HeteroSelect(), 3))
    start(strategy, grid(client_app(labels=True), NODES))
    assert "FedHyper: " not in warned()
    assert "SelectClients: " not in warned()


@pytest.mark.parametrize(
    ("selector", "said"),
    [
        (Random, 0),
        (Oort, 1),
        (lambda: HeteroSelect(diversity="updates"), 0),
        (lambda: HeteroSelect(w_diversity=0.0), 0),
    ],
)
def test_only_what_a_selector_goes_by_is_missed(selector, said, warned):
    start(SelectClients(fedavg(), selector(), 3), grid(stock_app(), NODES))
    assert warned().count("part of its choice is neutral") == said


class Spy(Random):
    """Keeps the losses and sizes that it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[float, float]] = []

    def feedback(self, round, reports):
        self.told += [(r.loss, r.num_examples) for r in reports.values()]
        super().feedback(round, reports)


@pytest.mark.parametrize("loss", ["train-loss", "train_loss", "loss"])
@pytest.mark.parametrize("examples", ["num-examples", "num_examples"])
def test_flowers_names_of_metrics_are_understood(loss, examples, warned, caplog):
    caplog.set_level(logging.INFO, logger="flwr")
    spy = Spy()
    nodes = grid(stock_app(loss=loss, examples=examples), NODES)
    result = start(SelectClients(fedavg(), spy, NODES), nodes)
    assert len(spy.told) == 3 * NODES
    assert all(value > 0 for value, _ in spy.told)
    assert {number for _, number in spy.told} == {8 + 2 * p for p in range(NODES)}
    assert loss in result.train_metrics_clientapp[3]
    assert "left out" not in warned()
    messages = [r.getMessage() for r in dict.fromkeys(caplog.records)]
    taken = [m for m in messages if "is used as" in m]
    assert len(taken) == (loss != "train-loss") + (examples != "num-examples")


def test_q_fedavg_finds_its_loss_under_the_names_of_others(monkeypatch):
    monkeypatch.setattr("gc.collect", lambda *_: 0)
    for app in (stock_app(), stock_app(loss="train-loss"), client_app()):
        nodes = grid(app, NODES)
        result = start(FedHyper(QFedAvg(0.1, fraction_evaluate=0.0)), nodes, rounds=1)
        assert len(result.train_metrics_clientapp) == 1


def test_a_selector_without_answers_goes_on_blind():
    nodes = grid(stock_app(), NODES)
    result = start(SelectClients(fedavg(), PowerOfChoice(candidates=4), 2), nodes)
    assert [len(chosen) for chosen in nodes.trained()] == [2, 2, 2]
    assert len(result.train_metrics_clientapp) == 3
