"""A client's round: rates, the proximal term, and the report."""

import math

import pytest
import torch
from torch import Tensor, nn

from hdet.federated import ClientLocalRate, DeltaSGD
from hdet.federated.local_training import LocalTraining
from tests.helpers import batch, small_model, two_groups

RATE, STEPS = 0.05, 5


def train(model: nn.Module, optimizer: torch.optim.Optimizer, **settings) -> LocalTraining:
    local = LocalTraining(model, optimizer, RATE, **settings)
    for step in range(STEPS):
        x, y = batch(step, 0)
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        (loss + local.proximal()).backward()
        local.step(loss)
    return local


def plain(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
    """Train without hdet; return the losses."""
    losses = []
    for step in range(STEPS):
        x, y = batch(step, 0)
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)


@pytest.mark.parametrize("client_rate", [False, True])
def test_without_any_of_it_training_is_plain_to_the_last_bit(client_rate):
    ours, theirs = small_model(), small_model()
    held = ClientLocalRate(RATE, STEPS, gamma=1.0) if client_rate else None
    train(ours, torch.optim.SGD(ours.parameters(), lr=1.0, momentum=0.9), client_rate=held)
    plain(theirs, torch.optim.SGD(theirs.parameters(), lr=RATE, momentum=0.9))
    assert same(ours, theirs)


def test_the_proximal_term_is_half_mu_times_the_squared_distance():
    model = small_model()
    local = LocalTraining(
        model, torch.optim.SGD(model.parameters(), lr=1.0), RATE, proximal_mu=0.3
    )
    assert torch.as_tensor(local.proximal()).detach() == 0.0
    with torch.no_grad():
        for p in model.parameters():
            p += 0.5
    count = sum(p.numel() for p in model.parameters())
    term = local.proximal()
    assert isinstance(term, Tensor)
    assert float(term.detach()) == pytest.approx(0.15 * 0.25 * count)
    term.backward()
    for p in model.parameters():
        assert p.grad is not None
        torch.testing.assert_close(p.grad, torch.full_like(p, 0.3 * 0.5))


def test_the_proximal_term_holds_the_client_back():
    near, far = small_model(), small_model()
    held = train(near, torch.optim.SGD(near.parameters(), lr=1.0), proximal_mu=5.0)
    free = train(far, torch.optim.SGD(far.parameters(), lr=1.0))
    assert held.update().norm() < free.update().norm()


def test_what_is_not_trained_has_no_part_in_it():
    model = small_model()
    first = next(model.parameters())
    first.requires_grad_(False)
    local = train(model, torch.optim.SGD(model.parameters(), lr=1.0), proximal_mu=1.0)
    assert local.update().numel() == sum(p.numel() for p in model.parameters()) - first.numel()


def test_groups_keep_their_ratios_as_the_rate_moves():
    model = small_model()
    matrices, vectors = two_groups(model)
    groups = [{**matrices, "lr": 0.2}, {**vectors, "lr": 0.1}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    local = train(model, optimizer, client_rate=ClientLocalRate(RATE, STEPS, growth=1.5))
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == [local.rate, local.rate / 2]
    assert local.rate != RATE


def test_the_rate_of_each_step_comes_from_that_steps_gradient():
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    previous = torch.linspace(-1.0, 1.0, sum(p.numel() for p in model.parameters())).double()
    rates = {"gamma": 10.0, "previous_update": previous, "growth": math.inf}
    rule = ClientLocalRate(RATE, STEPS, **rates)
    local = LocalTraining(
        model, optimizer, RATE, client_rate=ClientLocalRate(RATE, STEPS, **rates)
    )
    for step in range(STEPS):
        x, y = batch(step, 0)
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        gradient = torch.cat([p.grad.reshape(-1) for p in model.parameters()])  # pyright: ignore[reportOptionalMemberAccess]
        before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        local.step(loss)
        assert local.rate == rule.update(gradient)
        after = nn.utils.parameters_to_vector(model.parameters()).detach()
        torch.testing.assert_close(after, before - local.rate * gradient)


def test_gradients_are_clipped_before_the_rate_sees_them():
    model = small_model()
    local = LocalTraining(
        model, torch.optim.SGD(model.parameters(), lr=1.0), RATE, max_norm=1e-3
    )
    x, y = batch(0, 0)
    loss = (model(x) - y).square().mean()
    loss.backward()
    local.step(loss)
    assert float(local.update().norm()) == pytest.approx(RATE * 1e-3, rel=1e-3)


def test_a_parameter_without_a_gradient_counts_as_zero():
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    local = LocalTraining(model, optimizer, RATE, client_rate=ClientLocalRate(RATE, 2))
    first = next(model.parameters())
    loss = first.square().sum()
    loss.backward()
    local.step(loss)
    assert [p.grad is None for p in model.parameters()] == [False, True, True, True]
    assert float(local.update()[: first.numel()].abs().sum()) > 0


def test_the_report_has_the_statistics_of_the_round():
    ours, theirs = small_model(), small_model()
    local = train(ours, torch.optim.SGD(ours.parameters(), lr=1.0))
    losses = torch.tensor(plain(theirs, torch.optim.SGD(theirs.parameters(), lr=RATE)))
    report = local.report(num_examples=20, label_counts=[12, 8])
    assert report.loss == pytest.approx(float(losses.mean()))
    assert report.squared_loss == pytest.approx(float(losses.square().mean()))
    assert report.num_examples == 20
    assert report.label_counts == [12, 8]
    assert report.duration is not None
    assert report.duration > 0
    old = nn.utils.parameters_to_vector(small_model().parameters())
    new = nn.utils.parameters_to_vector(ours.parameters())
    torch.testing.assert_close(report.update, (new - old).detach())
    assert report.update_norm == pytest.approx(float((new - old).detach().norm()))


def test_losses_of_single_examples_weigh_alike():
    model = small_model()
    local = LocalTraining(model, torch.optim.SGD(model.parameters(), lr=1.0), RATE)
    every = []
    for size in (4, 2):
        x, y = batch(size, 0, size)
        losses = (model(x) - y).square()
        losses.mean().backward()
        local.step(losses)
        every.append(losses.detach().reshape(-1))
    report = local.report(6)
    assert report.loss == pytest.approx(float(torch.cat(every).mean()))
    assert report.squared_loss == pytest.approx(float(torch.cat(every).square().mean()))


def test_a_rate_in_a_tensor_is_changed_in_place():
    model = small_model()
    rate = torch.tensor(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    train(model, optimizer)
    assert optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == pytest.approx(RATE)


def test_delta_sgd_takes_both_gradients_of_one_batch():
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, 1.0)
    local = LocalTraining(
        model, sgd(model), 0.1, client_rate=DeltaSGD(0.1), proximal_mu=2.0, max_norm=0.5
    )
    # h_k(w) = c_k w^2 / 2 + (w - 1)^2: the curvature of a step's batch is c_k + 2.
    for curvature, rate in ((1.0, 0.1), (38.0, 1 / 40), (98.0, 1 / 100)):

        def loss(c: float = curvature) -> Tensor:
            return (c * model.weight.square() / 2).sum()

        def penalised(c: float = curvature) -> Tensor:
            return loss(c) + local.proximal()

        model.zero_grad()
        penalised().backward()
        with torch.no_grad():
            local.step(loss(), again=penalised)
        assert local.rate == pytest.approx(rate, rel=1e-12)


def test_the_second_gradient_leaves_the_model_as_it_is():
    norm = nn.BatchNorm1d(4)
    model = nn.Sequential(nn.Linear(3, 4), norm, nn.Linear(4, 1))
    held = [p.detach().clone() for p in model.state_dict().values()]
    local = LocalTraining(model, sgd(model), RATE, client_rate=DeltaSGD(RATE))
    x = torch.linspace(-1.0, 1.0, 24).reshape(8, 3)
    seen = []

    def loss() -> Tensor:
        seen.append([p.detach().clone() for p in model.parameters()])
        return model(x).square().mean()

    for _ in range(2):
        model.zero_grad()
        loss().backward()
        local.step(torch.tensor(1.0), again=loss)
    # Twice for the steps, and once at the first weights for the second step's rate.
    starts = [p.detach() for p in held[:2]]
    assert len(seen) == 3
    assert all(torch.equal(a, b) for a, b in zip(seen[2], starts, strict=False))
    assert norm.num_batches_tracked is not None
    assert int(norm.num_batches_tracked) == 2
    assert not any(p.requires_grad and p.grad is None for p in model.parameters())


def test_delta_sgd_without_the_function_is_refused_before_any_step():
    model = small_model()
    local = LocalTraining(model, sgd(model), RATE, client_rate=DeltaSGD(RATE))
    loss = model(batch(0, 0)[0]).sum()
    loss.backward()
    with pytest.raises(ValueError, match=r"step\(again=None\).*again=lambda"):
        local.step(loss)
    assert float(local.update().norm()) == 0.0


def sgd(model: nn.Module, **settings) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), **{"lr": 1.0, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 0.0}, "above 0"),
        ({"rate": math.nan}, "finite"),
        ({"proximal_mu": -0.1}, r"proximal_mu=-0.1.*at least 0"),
        ({"max_norm": 0.0}, r"max_norm=0.0.*above 0"),
        ({"client_rate": ClientLocalRate(0.1, 1)}, r"client_rate=0.1.*start at rate=0.05"),
        ({"optimizer": sgd(nn.Linear(2, 2))}, r"optimizer='SGD'.*2 trainable tensors"),
        ({"lr": 0.0}, r"optimizer=\[0.0\].*above 0 in its first"),
    ],
)
def test_bad_arguments_are_refused(settings, message):
    model = small_model()
    lr = settings.pop("lr", 1.0)
    arguments = {"rate": RATE, "optimizer": sgd(model, lr=lr), **settings}
    with pytest.raises(ValueError, match=message):
        LocalTraining(model, **arguments)


def test_a_step_without_gradients_is_refused():
    model = small_model()
    local = LocalTraining(model, sgd(model), RATE)
    with pytest.raises(ValueError, match="found no gradients"):
        local.step(torch.tensor(1.0))


def test_a_report_without_a_step_is_refused():
    model = small_model()
    with pytest.raises(ValueError, match="at least one step"):
        LocalTraining(model, sgd(model), RATE).report(3)


def test_gradients_that_are_not_finite_stop_the_client_before_its_step():
    model = small_model()
    optimizer = sgd(model)
    local = LocalTraining(model, optimizer, RATE, client_rate=ClientLocalRate(RATE, 3))
    for scale in (1.0, math.inf):
        optimizer.zero_grad()
        loss = model(batch(0, 0)[0]).sum() * scale
        loss.backward()
        before = [p.detach().clone() for p in model.parameters()]
        if scale == 1.0:
            local.step(loss)
    with pytest.raises(ValueError, match="not finite"):
        local.step(loss)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
