"""The client's helpers: what they read from a message, and what they send back."""

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from torch import Tensor

from hdet.federated.selection import ClientReport
from hdet.integrations.flower import answer_query, local_training, reply
from hdet.integrations.flower.client import _previous_update

from .flower_clients import grid, model

REPORT = ClientReport(loss=0.5, num_examples=7, duration=2.0, squared_loss=0.3, update_norm=1.5)
CL = {"lr": 0.001, "fedhyper-gamma": 10.0, "fedhyper-growth": 1.1}


def message(kind: str = "train", **records) -> Message:
    grid(count=1)  # which says who sends
    return Message(RecordDict(records), 5, kind)


def context(**config) -> Context:
    return Context(1, 5, config, RecordDict(), {})


def start(config: dict, **records):
    net = model()
    arrays = ArrayRecord({n: v + 1 for n, v in model().state_dict().items()})
    sent = message(arrays=arrays, config=ConfigRecord(config), **records)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    return net, optimizer, local_training(sent, net, optimizer, steps=2)


def test_the_message_brings_weights_rate_and_proximal_term():
    net, optimizer, local = start({"lr": 0.1, "proximal-mu": 2.0})
    for name, value in model().state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value + 1)
    assert optimizer.param_groups[0]["lr"] == local.rate == 0.1
    with torch.no_grad():
        next(net.parameters()).add_(1.0)
    term = local.proximal()
    assert isinstance(term, Tensor)
    assert float(term.detach()) == pytest.approx(24.0)


def test_the_last_update_comes_in_the_order_of_the_gradients():
    net = model()
    net.get_parameter("2.bias").requires_grad_(False)
    entries = {n: torch.full_like(p, i) for i, (n, p) in enumerate(net.named_parameters())}
    # What the server does not scale, it does not send.
    entries.pop("0.bias")
    record = ArrayRecord({n: Array(entries[n].numpy()) for n in reversed(entries)})
    sent = message("train", **{"previous-update": record})
    found = _previous_update(sent, net)
    expected = torch.cat([torch.full((24,), 0.0), torch.zeros(6), torch.full((6,), 2.0)])
    torch.testing.assert_close(found, expected)
    assert _previous_update(message(), net) is None


def test_with_fedhyper_cl_the_rate_moves():
    net, optimizer, local = start({**CL, "fedhyper-beta-max": 0.00105})
    for _ in range(2):
        optimizer.zero_grad()
        loss = net(torch.ones(3, 4)).square().mean()
        loss.backward()
        local.step(loss)
    assert local.rate == 0.00105


def test_a_message_without_a_rate_is_refused():
    with pytest.raises(ValueError, match=r"config\['lr'\].*train_config=ConfigRecord"):
        start({"server-round": 1})


@pytest.mark.parametrize("number", [0, 2])
def test_a_message_must_bring_one_config(number):
    configs = {f"config-{i}": ConfigRecord({"lr": 0.1}) for i in range(number)}
    sent = message("train", arrays=ArrayRecord(model().state_dict()), **configs)
    net = model()
    with pytest.raises(ValueError, match=f"one ConfigRecord.*sends {number}"):
        local_training(sent, net, torch.optim.SGD(net.parameters(), lr=1.0), 1)


def test_a_message_must_bring_one_model():
    with pytest.raises(ValueError, match=r"2 ArrayRecords, \['arrays', 'more'\]"):
        start({"lr": 0.1}, more=ArrayRecord(model().state_dict()))


@pytest.mark.parametrize(("config", "partition"), [({"partition-id": 3}, 3), ({}, -1)])
def test_a_reply_holds_the_model_and_one_record_of_metrics(config, partition):
    sent = message(config=ConfigRecord({"lr": 0.1}))
    answer = reply(sent, context(**config), model(), REPORT, {"local-rate": 0.2})
    assert list(answer.content.array_records["arrays"]) == list(model().state_dict())
    assert dict(answer.content.metric_records["metrics"]) == {
        "num-examples": 7,
        "train-loss": 0.5,
        "squared-loss": 0.3,
        "duration": 2.0,
        "update-norm": 1.5,
        "partition-id": partition,
        "local-rate": 0.2,
    }


def test_a_query_without_a_model_asks_for_the_name_alone():
    def never(weights, batches):
        raise AssertionError

    sent = message("query.selection", config=ConfigRecord())
    answer = answer_query(sent, context(**{"partition-id": 3}), never)
    assert dict(answer.content.metric_records["metrics"]) == {"partition-id": 3}


@pytest.mark.parametrize("batches", [None, 8])
def test_a_query_with_a_model_asks_for_its_loss(batches):
    asked = []

    def probe(weights, number):
        asked.append((list(weights), number))
        return ClientReport(loss=0.5, num_examples=7)

    config = ConfigRecord({} if batches is None else {"batches": batches})
    arrays = ArrayRecord(model().state_dict())
    sent = message("query.selection", arrays=arrays, config=config)
    answer = answer_query(sent, context(**{"partition-id": 3}), probe)
    assert asked == [(list(model().state_dict()), batches)]
    told = dict(answer.content.metric_records["metrics"])
    assert told == {"num-examples": 7, "loss": 0.5, "partition-id": 3}
