"""Parts of a model on the wire, such as adapters; and runs that could train nothing."""

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAdam, FedAvg, Result, Strategy
from torch import nn

from hdet.federated.selection import Random
from hdet.integrations.flower import FedHyper, SelectClients, local_training, reply
from hdet.integrations.flower.records import tensor

from .flower_clients import RATE, client_app, data, grid, model
from .local_grid import LocalGrid

ADAPTER = ("2.weight", "2.bias")


def adapters_of(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: net.state_dict()[name] for name in ADAPTER}


def adapter_app(freeze: bool = True) -> ClientApp:
    """Return an app that gets and sends the last layer alone."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        net = model()
        for name, p in net.named_parameters():
            p.requires_grad_(not freeze or name in ADAPTER)
        x, y = data(int(context.node_config["partition-id"]), torch.float32)
        trained = [p for p in net.parameters() if p.requires_grad]
        local = local_training(message, net, torch.optim.SGD(trained, lr=1.0), steps=2)
        for _ in range(2):
            net.zero_grad()
            loss = (net(x) - y).square().mean()
            loss.backward()
            local.step(loss)
        return reply(message, context, net, local.report(len(x)))

    return app


def start(strategy: Strategy, nodes: LocalGrid, state: dict, rounds: int = 3) -> Result:
    config = ConfigRecord({"lr": RATE})
    return strategy.start(nodes, ArrayRecord(state), rounds, train_config=config)


@pytest.mark.parametrize("inner", [FedAvg, FedAdam])
def test_adapters_that_both_sides_agree_on_are_trained(inner):
    nodes = grid(adapter_app())
    strategy = FedHyper(
        SelectClients(inner(fraction_evaluate=0.0), Random(), 4), beta=RATE, mode="g+sl+cl"
    )
    result = start(strategy, nodes, adapters_of(model()))
    assert list(result.arrays) == list(ADAPTER)
    assert sorted(result.train_metrics_clientapp) == [1, 2, 3]
    losses = [float(m["train-loss"]) for m in result.train_metrics_clientapp.values()]  # pyright: ignore[reportArgumentType]
    assert losses[-1] < losses[0]
    for name in ADAPTER:
        assert not tensor(result.arrays[name]).equal(model().state_dict()[name])


def test_what_is_trained_and_never_sent_is_said(warned):
    start(
        FedHyper(FedAvg(fraction_evaluate=0.0)), grid(adapter_app(False)), adapters_of(model())
    )
    assert "the message has no ['0.bias', '0.weight'], which are trained here" in warned()


def test_a_client_refuses_entries_that_its_model_does_not_have():
    state = {**model().state_dict(), "3.weight": torch.ones(2)}
    nodes = grid(client_app())
    result = start(FedHyper(FedAvg(fraction_evaluate=0.0)), nodes, state, rounds=1)
    assert not result.arrays
    said = nodes._reply(nodes.of_type("train")[0]).error.reason
    assert "the message has ['3.weight'], which `model` has not" in (said or "")


def whole(state: dict) -> dict:
    return {**state, **model().state_dict()}


def part(state: dict) -> dict:
    return {name: state[name] for name in ADAPTER}


def answering(change, partitions=range(5), rounds=(1, 2, 3)) -> LocalGrid:
    """Return nodes of which some change what they send back."""

    def tamper(partition: int, at: int, answer: Message) -> Message:
        if partition in partitions and at in rounds:
            state = answer.content.array_records["arrays"].to_torch_state_dict()
            answer.content["arrays"] = ArrayRecord(change(dict(state)))
        return answer

    return grid(client_app(tamper=tamper))


SELECTING = {
    "FedHyper": lambda: FedHyper(FedAvg(fraction_evaluate=0.0)),
    "SelectClients": lambda: SelectClients(FedAvg(fraction_evaluate=0.0), Random(), 3),
    "both": lambda: FedHyper(SelectClients(FedAvg(fraction_evaluate=0.0), Random(), 3)),
}


@pytest.mark.parametrize("name", SELECTING)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (part, r"sent a model that lacks \['0.bias', '0.weight'\]"),
        (lambda state: {**state, "x": torch.ones(1)}, r"lacks \[\] and has \['x'\] besides"),
        (
            lambda state: {name: value.long() for name, value in state.items()},
            "sent '0.weight' as int64, not float32",
        ),
        (lambda state: {**state, "0.bias": torch.ones(7)}, r"'0.bias' as \(7,\), not \(6,\)"),
    ],
)
def test_a_run_whose_replies_can_never_be_used_stops_with_the_reason(name, change, reason):
    nodes = answering(change)
    with pytest.raises(RuntimeError, match=rf"every reply .* was left out.*nodes .*{reason}"):
        start(SELECTING[name](), nodes, model().state_dict())
    # All nodes of a round of five, or of two rounds of three.
    assert len(nodes.trained()) <= 2


def test_it_stops_where_metrics_are_the_reason_too():
    app = ClientApp()
    trains = client_app()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        answer = trains(message, context)
        metrics = MetricRecord({"auc": float("nan"), "num-examples": 3})
        return Message(
            RecordDict({"arrays": answer.content["arrays"], "metrics": metrics}),
            reply_to=message,
        )

    with pytest.raises(RuntimeError, match="nodes sent 'auc' = nan, which must be one finite"):
        start(FedHyper(FedAvg(fraction_evaluate=0.0)), grid(app), model().state_dict())


@pytest.mark.parametrize(
    ("partitions", "rounds"),
    [
        # One usable reply, or one ever: the others are broken, and not the set-up.
        (range(1, 5), (1, 2, 3)),
        (range(5), (2, 3)),
    ],
)
def test_it_goes_on_where_some_reply_could_be_used(partitions, rounds):
    nodes = answering(part, partitions, rounds)
    result = start(FedHyper(FedAvg(fraction_evaluate=0.0)), nodes, model().state_dict())
    assert len(nodes.trained()) == 3
    assert sorted(result.train_metrics_clientapp) == ([1] if rounds == (2, 3) else [1, 2, 3])


def test_it_goes_on_where_replies_have_other_reasons():
    def either(state: dict) -> dict:
        either.calls += 1  # pyright: ignore[reportFunctionMemberAccess]
        return part(state) if either.calls % 2 else {**state, "x": torch.ones(1)}  # pyright: ignore[reportFunctionMemberAccess]

    either.calls = 0  # pyright: ignore[reportFunctionMemberAccess]
    nodes = answering(either)
    start(FedHyper(FedAvg(fraction_evaluate=0.0)), nodes, model().state_dict())
    assert len(nodes.trained()) == 3
