"""A run within this process comes to the weights and selections that Flower comes to."""

import warnings
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("sklearn")
with warnings.catch_warnings():
    # Flower's own imports warn of what its dependencies will take away.
    warnings.simplefilter("ignore")
    flower = pytest.importorskip("flwr.serverapp.strategy")

from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.clientapp import ClientApp

from benchmarks.federated.federation import Federation
from benchmarks.federated.methods import SELECTORS, Settings, selector_of
from hdet.federated.selection import ClientReport
from hdet.integrations.flower import (
    FedHyper,
    SelectClients,
    answer_query,
    local_training,
    reply,
)
from tests.integrations.local_grid import LocalGrid, node_id

NAMES = ("0.weight", "0.bias", "2.weight", "2.bias")
TINY = Settings(
    clients=6,
    count=3,
    rounds=4,
    steps=4,
    batch=8,
    hidden=8,
    local_rate=0.05,
    momentum=0.5,
    proximal_mu=0.1,
    dtype="float64",
)


def state(run: Federation, flat: torch.Tensor) -> dict[str, torch.Tensor]:
    return {n: p.clone() for n, p in zip(NAMES, run.network.views(flat), strict=True)}


def client_app(run: Federation, s: Settings) -> ClientApp:
    """Return clients as a user of Flower would write them, on the run's data and batches."""
    app = ClientApp()
    clients, data = run.clients, run.data

    def model(weights: dict[str, torch.Tensor]) -> nn.Module:
        pixels = data.images.shape[1]
        net = nn.Sequential(nn.Linear(pixels, s.hidden), nn.ReLU(), nn.Linear(s.hidden, 10))
        net.double().load_state_dict(weights)
        return net

    def loss_on(net: nn.Module, indices: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(net(data.images[indices]), data.labels[indices])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        config = message.content.config_records["config"]
        net = model(message.content.array_records["arrays"].to_torch_state_dict())
        optimizer = torch.optim.SGD(net.parameters(), lr=1.0, momentum=s.momentum)
        local = local_training(message, net, optimizer, s.steps)
        for indices in clients.batches(client, int(str(config["server-round"]))):
            optimizer.zero_grad()
            loss = loss_on(net, indices)
            (loss + local.proximal()).backward()
            local.step(loss)
        counts = data.label_counts(client).tolist()
        report = local.report(len(data.parts[client]), counts)
        seconds = clients.seconds[client] * s.steps
        return reply(message, context, net, replace(report, duration=seconds))

    @app.query("selection")
    def query(message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])

        def probe(weights: Mapping[str, torch.Tensor], batches: int | None) -> ClientReport:
            indices = data.parts[client][: s.probe]
            loss = float(loss_on(model(dict(weights)), indices).detach())
            counts = data.label_counts(client).tolist()
            return ClientReport(loss, len(data.parts[client]), label_counts=counts)

        return answer_query(message, context, probe)

    return app


@pytest.mark.parametrize("selector", SELECTORS)
def test_weights_and_selections_are_flowers(selector: str) -> None:
    """FedHyper with all its rules: G, SL and CL, so the last update travels, too."""
    s = replace(TINY, strategy="fedhyper", selector=selector)
    run = Federation(s)
    start = state(run, run.rounds.weights)
    expected = [sorted(record.selected) for record in run.run()]
    few = {"min_train_nodes": 1, "min_available_nodes": 1, "fraction_evaluate": 0.0}
    selecting = SelectClients(
        flower.FedAvg(**few), selector_of(s), s.count, min_available_nodes=s.clients
    )
    nodes = LocalGrid(client_app(run, s), {node_id(k): k for k in range(s.clients)})
    result = FedHyper(selecting, alpha=s.global_rate, beta=s.local_rate).start(
        nodes,
        ArrayRecord(start),
        num_rounds=s.rounds,
        train_config=ConfigRecord({"lr": s.local_rate, "proximal-mu": s.proximal_mu}),
    )
    assert nodes.trained() == expected
    found = result.arrays.to_torch_state_dict()
    for name, weights in state(run, run.rounds.weights).items():
        torch.testing.assert_close(found[name], weights, rtol=0, atol=1e-9)
