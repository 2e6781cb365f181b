"""`Explorer` under `torch.compile`: what a moving value costs in graphs."""

import re

import pytest
import torch
import torch._dynamo
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.optim.lr_scheduler import CosineAnnealingLR

import hdet
from tests.helpers import WIDTH, batch, loss_at, small_model, two_groups
from tests.rank_runner import run_ranks

pytestmark = [pytest.mark.ranks, pytest.mark.filterwarnings("ignore")]

STEPS, T = 24, 3
# Syncs after which nothing new may be compiled.
WARM = 2 * T


class Scaled(nn.Module):
    temperature = 1.0

    def forward(self, x):
        return torch.tanh(x / self.temperature)


def _compiled_step(tensors):
    """Train with a compiled optimizer step; return its graphs and the rate at each step."""
    model = small_model()
    rates = [0.01, 0.02]
    groups = [
        {**group, "lr": torch.tensor(rate) if tensors else rate}
        for group, rate in zip(two_groups(model), rates, strict=True)
    ]
    optimizer = torch.optim.AdamW(groups, lr=groups[0]["lr"])
    explorer = hdet.Explorer(
        optimizer,
        CosineAnnealingLR(optimizer, 100),
        sync_every=T,
        probe=lambda: loss_at(model, 1000, 0),
        search=False,
        model=model,
    )
    counter = CompileCounter()
    step = torch.compile(optimizer.step, backend=counter)
    mine = [group["lr"] for group in optimizer.param_groups]
    graphs, seen = [], []
    for t in range(STEPS):
        optimizer.zero_grad()
        loss = loss_at(model, t, dist.get_rank())
        loss.backward()
        seen.append(float(optimizer.param_groups[0]["lr"]))
        step()
        explorer.step(loss)
        graphs.append(counter.frame_count)
    same = all(g["lr"] is t for g, t in zip(optimizer.param_groups, mine, strict=True))
    return graphs, seen, same, explorer.metrics()


def test_with_tensor_rates_nothing_is_compiled_again():
    for graphs, rates, same, metrics in run_ranks(_compiled_step, 2, True):
        assert metrics["syncs"] == STEPS // T
        assert len(set(rates)) == STEPS
        assert graphs == [1] * STEPS
        assert same


def test_with_rates_that_are_numbers_the_step_is_compiled_twice():
    # The second graph takes the rate as an input: dynamo has then seen that it moves.
    for graphs, rates, _, _ in run_ranks(_compiled_step, 2, False):
        assert len(set(rates)) == STEPS
        assert graphs[0] == 1
        assert graphs[1:] == [2] * (STEPS - 1)


def _explored_attribute():
    """Explore a temperature in a compiled model; return its graphs, and its values."""
    model = nn.Sequential(nn.Linear(WIDTH, 8), Scaled(), nn.Linear(8, 1)).double()
    draw = torch.Generator().manual_seed(0)
    for p in model.parameters():
        nn.init.uniform_(p, -0.5, 0.5, generator=draw)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    counter = CompileCounter()
    forward = torch.compile(model, backend=counter)

    def loss_of(t, rank):
        x, y = batch(t, rank)
        return (forward(x) - y).square().mean()

    explorer = hdet.Explorer(
        optimizer,
        explore=[hdet.attribute(model[1], "temperature")],
        sync_every=T,
        probe=lambda: loss_of(1000, 0),
        search=False,
        model=model,
    )
    graphs, values = [], []
    for t in range(STEPS):
        optimizer.zero_grad()
        values.append(model[1].temperature)
        loss = loss_of(t, dist.get_rank())
        loss.backward()
        optimizer.step()
        explorer.step(loss)
        graphs.append(counter.frame_count)
    return graphs, values, explorer.metrics()


def test_an_explored_attribute_of_a_compiled_model_costs_a_graph_more_in_each_mode():
    for graphs, values, metrics in run_ranks(_explored_attribute, 2):
        assert len(set(values)) > 4
        # Train mode with gradients, and the probe's eval mode without: two graphs each,
        # one for the first value and one for any other.
        assert graphs[0] == 1
        assert graphs[-1] <= 4
        assert set(graphs[WARM:]) == {graphs[-1]}
        documented = re.findall(r"`(\w+)`", str(hdet.Explorer.metrics.__doc__))
        assert set(documented) - {"would_be"} == set(metrics)


# --- how many graphs a number of distinct values costs


class Smoothed(nn.Module):
    label_smoothing = 0.1

    def forward(self, x):
        target = torch.zeros(len(x), dtype=torch.long)
        return F.cross_entropy(x, target, label_smoothing=self.label_smoothing)


class OwnDropout(nn.Module):
    p = 0.1

    def forward(self, x):
        return x * (torch.rand_like(x) >= self.p) / (1 - self.p)


def graphs_for(module, name, values, **options):
    """Return how many graphs have been made after each of the values."""
    torch._dynamo.reset()
    counter = CompileCounter()
    model = nn.Sequential(nn.Linear(WIDTH, 8), module)
    forward = torch.compile(model, backend=counter, **options)
    counts = []
    for value in values:
        setattr(module, name, value)
        forward(torch.ones(2, WIDTH))
        counts.append(counter.frame_count)
    torch._dynamo.reset()
    return counts


VALUES = [0.05 * (k + 1) for k in range(12)]


@pytest.mark.parametrize(
    ("make", "name"), [(Scaled, "temperature"), (OwnDropout, "p")], ids=["scaled", "dropout"]
)
def test_an_attribute_in_plain_arithmetic_takes_two_graphs_for_any_number_of_values(make, name):
    assert graphs_for(make(), name, VALUES) == [1] + [2] * 11
    assert graphs_for(make(), name, VALUES, dynamic=True) == [1] * 12


@pytest.mark.parametrize("options", [{}, {"dynamic": True}], ids=["default", "dynamic"])
@pytest.mark.parametrize(
    ("make", "name"),
    [(nn.Dropout, "p"), (Smoothed, "label_smoothing")],
    ids=["dropout", "label smoothing"],
)
def test_an_argument_of_torchs_own_functions_takes_a_graph_for_each_value(make, name, options):
    counts = graphs_for(make(), name, VALUES[:6], **options)
    assert counts == [1, 2, 3, 4, 5, 6]
    # Beyond the limit nothing is compiled any more: the module runs uncompiled.
    limit = torch._dynamo.config.recompile_limit
    many = [0.5 + 0.01 * k for k in range(limit + 4)]
    assert graphs_for(make(), name, many, **options)[-5:] == [limit] * 5
