"""The batched engine against torch's own modules, one client after the other."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.federated.engine import BatchedClients, Network
from benchmarks.federated.methods import Rule, Settings
from benchmarks.federated.tasks import Split, deal
from hdet.federated import ClientLocalRate, DeltaSGD
from hdet.federated.rounds import Order
from hdet.federated.server_optimizers import FedAvg
from hdet.seeding import generator

PIXELS, HIDDEN = 6, 5
PLAIN = Rule(FedAvg(), 1.0, 0.05)


@pytest.fixture(scope="module")
def data():
    draws = generator(0, "test data")
    images = torch.randn(200, PIXELS, generator=draws, dtype=torch.float64)
    labels = torch.randint(10, (200,), generator=draws)
    return Split(images, labels, images[:20], labels[:20], deal(labels, 7, 0.3, 1))


def module(flat):
    net = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10)).double()
    nn.utils.vector_to_parameters(flat, net.parameters())
    return net


def gradient_at(data, flat, batch, order, local):
    """The loss of a batch, and the gradient with FedProx's term."""
    net = module(flat)
    parameters = list(net.parameters())
    weights = nn.utils.parameters_to_vector(parameters)
    loss = F.cross_entropy(net(data.images[batch]), data.labels[batch])
    penalty = local.proximal_mu / 2 * (weights - order.weights).square().sum()
    gradients = torch.autograd.grad(loss + penalty, parameters)
    return loss, torch.cat([g.flatten() for g in gradients])


def one_client(data, batches, order, local, rates):
    """The same training by autograd and plain words; `batches` are indices, [K, B]."""
    net = module(order.weights.clone())
    momentum, losses = 0.0, []
    rule, before = None, None
    delta = None if rates.delta_sgd is None else DeltaSGD(order.rate, **rates.delta_sgd)
    if rates.client_rate is not None:
        rule = ClientLocalRate(
            order.rate, local.steps, previous_update=order.previous_update, **rates.client_rate
        )
    for batch in batches:
        flat = nn.utils.parameters_to_vector(net.parameters())
        loss, gradient = gradient_at(data, flat.detach(), batch, order, local)
        if delta is not None and before is not None:
            then = gradient_at(data, before, batch, order, local)[1]
            delta.update(flat.detach() - before, gradient - then)
        before = flat.detach()
        if local.max_norm is not None:
            gradient = gradient * min(1.0, local.max_norm / (float(gradient.norm()) + 1e-6))
        rate = order.rate if rule is None else rule.update(gradient)
        rate = rate if delta is None else delta.beta
        momentum = local.momentum * momentum + gradient
        nn.utils.vector_to_parameters(flat.detach() - rate * momentum, net.parameters())
        losses.append(float(loss.detach()))
    return nn.utils.parameters_to_vector(net.parameters()).detach() - order.weights, losses


HARD = {"momentum": 0.9, "proximal_mu": 0.5, "max_norm": 0.3}
CASES = {
    "sgd": ({}, {}),
    "momentum, prox, clipping": (HARD, {}),
    "rates": ({}, {"client_rate": {}}),
    "literal rates": ({}, {"client_rate": {"growth": math.inf}}),
    "rates and prox": ({"proximal_mu": 0.1}, {"client_rate": {"gamma": 2.0}}),
    "Delta-SGD": ({}, {"delta_sgd": {}}),
    "Delta-SGD, all": (HARD, {"delta_sgd": {"gamma": 0.1, "delta": 0.5}}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_batch_of_clients_trains_as_each_alone(data, case):
    local = Settings(clients=7, steps=6, batch=8, seed=3, **CASES[case][0])
    rates = replace(PLAIN, **CASES[case][1])
    network = Network(PIXELS, HIDDEN)
    clients = BatchedClients(data, network, local, rates)
    weights = network.initial(4, torch.float64)
    update = torch.randn(network.size, generator=generator(1, "u"), dtype=torch.float64) / 10
    order = Order(2, weights, 0.05, update)
    replies = clients.train([5, 0, 3], order)
    assert list(replies) == [5, 0, 3]
    for client, reply in replies.items():
        expected, losses = one_client(data, clients.batches(client, 2), order, local, rates)
        assert torch.allclose(reply.delta, expected, rtol=0, atol=1e-13)
        assert reply.report.loss == pytest.approx(sum(losses) / 6, abs=1e-12)
        squares = sum(loss**2 for loss in losses) / 6
        assert reply.report.squared_loss == pytest.approx(squares, abs=1e-12)
        assert reply.report.update_norm == pytest.approx(float(expected.norm()), abs=1e-12)
        assert reply.report.num_examples == len(data.parts[client])


def test_batches_visit_all_of_a_clients_examples_before_any_twice(data):
    local = Settings(clients=7, steps=30, batch=8)
    clients = BatchedClients(data, Network(PIXELS, HIDDEN), local, PLAIN)
    part = data.parts[2]
    order = clients.batches(2, 1).flatten()
    assert len(order) == 240
    assert torch.equal(order[: len(part)].sort().values, part)
    assert torch.equal(order[len(part) : 2 * len(part)].sort().values, part)
    assert not torch.equal(order, clients.batches(2, 2).flatten())
    assert torch.equal(order, clients.batches(2, 1).flatten())


def test_a_probe_is_the_loss_of_the_global_weights(data):
    network = Network(PIXELS, HIDDEN)
    weights = network.initial(0, torch.float64)
    for limit in (None, 9):
        clients = BatchedClients(data, network, Settings(clients=7, probe=limit), PLAIN)
        answers = clients.probe([1, 4], Order(1, weights, 0.1))
        for client, report in answers.items():
            part = data.parts[client][:limit]
            with torch.no_grad():
                loss = F.cross_entropy(module(weights)(data.images[part]), data.labels[part])
            assert report.loss == pytest.approx(float(loss), abs=1e-12)
            assert report.num_examples == len(data.parts[client])


def test_initial_weights_are_as_torch_draws_them():
    network = Network(PIXELS, HIDDEN)
    parts = network.views(network.initial(0))
    assert [tuple(p.shape) for p in parts] == [(5, 6), (5,), (10, 5), (10,)]
    for part, bound in zip(parts, [6**-0.5, 6**-0.5, 5**-0.5, 5**-0.5], strict=True):
        assert part.abs().max() <= bound
        assert part.abs().max() > 0.6 * bound
    assert not torch.equal(network.initial(0), network.initial(1))
