"""A small federated problem for the tests of the Flower integration."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor, nn

from hdet.federated.selection import ClientReport
from hdet.integrations.flower import answer_query, local_training, reply
from hdet.integrations.flower.records import tensor
from hdet.seeding import generator

from .local_grid import LocalGrid, node_id

STEPS, RATE = 3, 0.05
# Changes a reply on its way out: (partition, round, reply) -> reply.
Tamper = Callable[[int, int, Message], Message]


def model(norm: bool = False, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a small network, always the same."""
    layers: list[nn.Module] = [nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)]
    if norm:
        layers.insert(1, nn.BatchNorm1d(6))
    net = nn.Sequential(*layers).to(dtype)
    source = generator(0, "weights")
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=source) / 2)
    return net


def data(partition: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return a client's examples: as many as its partition says, of its own distribution."""
    source = generator(1, "data", partition)
    x = torch.randn(8 + 2 * partition, 4, generator=source) + 0.3 * partition
    return x.to(dtype), x.sin().sum(1, keepdim=True).to(dtype)


def client_app(
    norm: bool = False,
    dtype: torch.dtype = torch.float32,
    tamper: Tamper | None = None,
    labels: bool = False,
) -> ClientApp:
    """Return an app that trains `model` on `data`."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        net = model(norm, dtype)
        x, y = data(abs(int(context.node_config.get("partition-id", 0))), dtype)
        optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
        local = local_training(message, net, optimizer, STEPS)
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = (net(x) - y).square().mean()
            (loss + local.proximal()).backward()
            local.step(loss)
        report = local.report(len(x), [len(x), 1] if labels else None)
        answer = reply(message, context, net, report, {"local-rate": local.rate})
        at = config(message)["server-round"]
        partition = int(context.node_config.get("partition-id", -1))
        return answer if tamper is None else tamper(partition, at, answer)

    @app.query("selection")
    def query(message: Message, context: Context) -> Message:
        def loss_of(weights: Mapping[str, Tensor], batches: int | None) -> ClientReport:
            net = model(norm, dtype)
            net.load_state_dict(weights)
            x, y = data(int(context.node_config["partition-id"]), dtype)
            loss = float((net.eval()(x) - y).square().mean().detach())
            return ClientReport(loss=loss, num_examples=len(x))

        return answer_query(message, context, loss_of)

    return app


def grid(app: ClientApp | None = None, count: int = 5, salt: int = 0) -> LocalGrid:
    """Return `count` nodes; another salt gives other ids and another order of replies."""
    nodes = {node_id(partition, salt): partition for partition in range(count)}
    return LocalGrid(app or client_app(), dict(sorted(nodes.items())), salt)


def run(
    strategy: Strategy,
    nodes: LocalGrid | None = None,
    rounds: int = 3,
    initial: ArrayRecord | None = None,
) -> Result:
    """Start a strategy on the small problem."""
    return strategy.start(
        nodes or grid(),
        initial or ArrayRecord(model().state_dict()),
        num_rounds=rounds,
        train_config=ConfigRecord({"lr": RATE}),
    )


def config(message: Message) -> dict[str, Any]:
    """Return what a message tells its client."""
    return dict(message.content.config_records["config"])


def metrics(result: Result, server_round: int) -> dict[str, Any]:
    """Return the mean of the clients' metrics in a round, and the wrappers' own."""
    return dict(result.train_metrics_clientapp[server_round])


def flat(arrays: ArrayRecord) -> Tensor:
    """Return a record as one vector, in float64."""
    return torch.cat([tensor(array).double().reshape(-1) for array in arrays.values()])


def bits(arrays: ArrayRecord) -> dict[str, bytes]:
    """Return a record's numbers, to compare bit for bit."""
    return {name: array.numpy().tobytes() for name, array in arrays.items()}
